"""Compares a report with what is known of its crash (the corpus' truth.json), fact by fact."""

from collections.abc import Iterator, Mapping
from typing import Any

from crashbeam.schemas.codes import NoteState, Trust
from crashbeam.schemas.crash_report import Cpu, CrashReport, Frame, Stack

REGISTER_NAMES = {"link": "lr", "ccr": "cr", "orig_gpr3": "orig_r3"} | {f"gpr{n}": f"r{n}" for n in range(32)}
STACK_NAMES = {"process": "task", "mc": "machine_check"}
WITH_REGISTERS = (NoteState.SAVED, NoteState.NOT_POPULATED)
BELOW_THE_FIRST_FUNCTION = frozenset(
    {
        *("start_here", "start_secondary_resume", "__secondary_start", "set_ivor", "_start", "__start"),
        *("start_here_common", "start_secondary_prolog"),
    }
)
"""Assembly entries that stand below the first kernel function: they may be missing on either side."""


def differences(report: CrashReport, truth: Mapping[str, Any]) -> Iterator[str]:
    """Every fact of the truth that the report has otherwise."""
    panic, task = report.panic, truth["panic_task"]
    expected = (truth["panic_cpu"], task["pid"], task["comm"])
    if expected != (panic.cpu, panic.pid, panic.comm):
        yield f"panic: expected {expected}, got {panic}"
    if [cpu["cpu"] for cpu in truth["cpus"]] != [cpu.cpu for cpu in report.cpus]:
        yield f"cpus: got {[cpu.cpu for cpu in report.cpus]}"
    for known, cpu in zip(truth["cpus"], report.cpus, strict=False):
        for difference in cpu_differences(cpu, known):
            yield f"cpu {cpu.cpu}: {difference}"
    if order_misleads(truth) != report.notes.order_would_mislead:
        yield f"order_would_mislead: got {report.notes.order_would_mislead}"


def cpu_differences(cpu: Cpu, known: Mapping[str, Any]) -> Iterator[str]:
    """The same for one CPU."""
    if known["state"] != cpu.note.state:
        yield f"state: expected {known['state']}, got {cpu.note.state}"
    if cpu.task is None:
        yield "no task"
    elif known["state"] != "offline" and (known["pid"], known["comm"], int(known["task"], 16)) != (
        cpu.task.pid,
        cpu.task.comm,
        int(cpu.task.address, 16),
    ):
        yield f"task: got {cpu.task}"
    if known["state"] not in WITH_REGISTERS:
        if cpu.registers is not None or (cpu.stack.frames and not cpu.stack.recovered):
            yield "registers of a CPU that saved none, or frames that were not recovered"
        if known.get("chain"):
            yield from recovered_differences(cpu.stack, known["chain"])
        return
    registers = {REGISTER_NAMES.get(name, name): number(value) for name, value in known["registers"].items()}
    got = {name: number(value) for name, value in (cpu.registers or {}).items()}
    if registers != {name: got.get(name) for name in registers}:
        yield "registers differ"
    if known.get("mode") is not None and known["mode"] != cpu.mode:
        yield f"mode: expected {known['mode']}, got {cpu.mode}"
    yield from stack_differences(cpu.stack, known["frames"])


def recovered_differences(stack: Stack, chain: list[str]) -> Iterator[str]:
    """What is given as certain of a stack that was recovered must be the outer end of the true one."""
    certain = [f for f in stack.frames if f.trust not in (Trust.SCAN, Trust.CALLEE) and not f.may_have_returned]
    names = [f"{f.symbol} [{f.module}]" if f.module else f.symbol for f in certain if f.symbol is not None]
    true = [part for part in chain if not part.startswith(("---", "(user"))]
    for end in (names, true):
        while end and end[-1] in BELOW_THE_FIRST_FUNCTION:
            end.pop()
    outer = true[max(len(true) - len(names), 0) :]
    if len(outer) < len(names) or any(n not in k.split("|") for n, k in zip(names, outer, strict=True)):
        yield f"recovered: expected the end of {true}, got {names}"


def stack_differences(stack: Stack, frames: list[dict[str, Any]]) -> Iterator[str]:
    """A stack against the known frames: names, addresses, stack pointers, stacks, and each exception's nip, msr and
    lr.
    """
    have = list(stack.frames)
    while have and have[-1].symbol in BELOW_THE_FIRST_FUNCTION:
        have.pop()
    exceptions: list[dict[str, Any]] = []
    expected: list[dict[str, Any]] = []
    for entry in frames:
        if "interrupt" in entry:
            exceptions.append(entry)
        elif "user" in entry or ("fn" in entry and entry["fn"] not in BELOW_THE_FIRST_FUNCTION):
            expected.append(entry)
    if len(expected) != len(have):
        yield f"{len(have)} frames instead of {len(expected)}"
    for known, frame in zip(expected, have, strict=False):
        yield from frame_differences(frame, known)
    interrupted = [frame.exception for frame in have if frame.exception]
    known_contexts = [tuple(number(entry[name]) for name in ("interrupt", "nip", "msr", "lr")) for entry in exceptions]
    contexts = [
        (int(found.vector, 16), *(number(found.registers[name]) for name in ("nip", "msr", "lr")))
        for found in interrupted
    ]
    if known_contexts != contexts:
        yield f"exceptions: expected {known_contexts}, got {contexts}"
    if ("user" in frames[-1]) != (stack.stop_reason == "user_mode"):
        yield f"stop reason {stack.stop_reason}"


def frame_differences(frame: Frame, known: Mapping[str, Any]) -> Iterator[str]:
    """One frame."""
    if "user" in known:
        if (number(known["user"]), None) != (number(frame.address), frame.symbol):
            yield f"#{frame.level}: not the user's {known['user']}"
        return
    name = f"{frame.symbol} [{frame.module}]" if frame.module else frame.symbol or frame.address
    names = known["fn"].split("|")
    if known["fn"].startswith("(firmware ") and frame.symbol is not None:
        yield f"#{frame.level}: firmware has no symbol, got {name}"
    if name not in names and number(known["pc"]) != number(frame.address):
        yield f"#{frame.level}: expected {known['fn']}, got {name}"
    if frame.symbol is not None and name not in names:
        yield f"#{frame.level}: expected {known['fn']}, got {name}"
    places = (number(known["pc"]), number(known["sp"]), STACK_NAMES.get(known["stack"], known["stack"]))
    got = (number(frame.address), number(frame.stack_pointer), frame.on)
    if places != got:
        yield f"#{frame.level} {name}: expected {places}, got {got}"


def order_misleads(truth: Mapping[str, Any]) -> bool:
    """Whether taking the k-th note for CPU k's gives a CPU another CPU's registers."""
    saved = [cpu["cpu"] for cpu in truth["cpus"] if cpu["state"] == "saved"]
    return any(index != cpu for index, cpu in enumerate(saved))


def number(value: str | int) -> int:
    """A number of truth.json or of a report."""
    return value if isinstance(value, int) else int(value.removeprefix("0x"), 16)
