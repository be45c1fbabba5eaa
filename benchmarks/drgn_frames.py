"""Runs inside a Python that has drgn, for bench_drgn: a job on stdin, for each dump one line of JSON on stdout.

The job: ``dumps`` [{``path``, ``vmcoreinfo``: a file or null}], ``debug`` (files with debug information), ``registers``
(``note``: drgn reads the CPU's own crash_notes; ``pt_regs``: it is handed the pt_regs in them, which is the only way to
tell it LR), ``values`` (count the arguments and locals that have a value) and ``words`` (addresses to read).
"""

import json
import sys
import time
from importlib import import_module
from typing import Any

# Not importable where crashbeam is checked: it is no dependency.
drgn = import_module("drgn")
linux = import_module("drgn.helpers.linux")

# struct elf_note with its name "CORE" padded to 8, then pr_reg of struct elf_prstatus.
PT_REGS_IN_NOTE = 12 + 8 + 112


def main() -> None:
    job = json.load(sys.stdin)
    for dump in job["dumps"]:
        wall, cpu = time.perf_counter(), time.process_time()
        answer = read_dump(dump, job)
        answer["wall_seconds"] = time.perf_counter() - wall
        answer["cpu_seconds"] = time.process_time() - cpu
        answer["peak_kb"] = peak_kb()
        print(json.dumps(answer), flush=True)


def read_dump(dump: dict[str, Any], job: dict[str, Any]) -> dict[str, Any]:
    """drgn's own words where it gives up: ``refused`` at opening, ``stopped`` after it."""
    answer: dict[str, Any] = {"path": dump["path"], "refused": None, "stopped": None, "cpus": [], "words": {}}
    start = time.process_time()
    try:
        program = opened(dump)
    except Exception as error:
        answer["refused"] = f"{type(error).__name__}: {error}"
        return answer
    answer["open_seconds"] = time.process_time() - start
    try:
        read_stacks(program, job, answer)
    except Exception as error:
        answer["stopped"] = f"{type(error).__name__}: {error}"
    return answer


def read_stacks(program: Any, job: dict[str, Any], answer: dict[str, Any]) -> None:
    start = time.process_time()
    program.load_debug_info(job["debug"])
    answer["debug_seconds"], start = time.process_time() - start, time.process_time()
    answer["modules"] = [module.name for module in program.modules()]
    answer["crashed"] = program.crashed_thread().tid
    for cpu in linux.for_each_possible_cpu(program):
        answer["cpus"].append(stack_of(program, cpu, job))
    answer["stacks_seconds"] = time.process_time() - start
    answer["words"] = {f"{address:x}": word_at(program, address) for address in job["words"]}


def opened(dump: dict[str, Any]) -> Any:
    if dump["vmcoreinfo"] is None:
        program = drgn.Program()
    else:
        flags = drgn.PlatformFlags.IS_64_BIT | drgn.PlatformFlags.IS_LITTLE_ENDIAN
        with open(dump["vmcoreinfo"], "rb") as file:
            program = drgn.Program(drgn.Platform(drgn.Architecture.PPC64, flags), vmcoreinfo=file.read())
    program.set_core_dump(dump["path"])
    return program


def stack_of(program: Any, cpu: int, job: dict[str, Any]) -> dict[str, Any]:
    """By the task that runs on the CPU: an idle CPU's cannot be asked for by its pid, which is 0 on all of them."""
    task = linux.cpu_curr(program, cpu)
    answer = {"cpu": cpu, "pid": task.pid.value_(), "error": None, "frames": []}
    try:
        of = task
        if job["registers"] == "pt_regs":
            note = linux.per_cpu_ptr(program["crash_notes"], cpu).value_()
            if word_at(program, note) is None or int(word_at(program, note) or "0", 16) == 0:
                answer["error"] = "its crash_notes are empty"
                return answer
            of = drgn.Object(program, "struct pt_regs", address=note + PT_REGS_IN_NOTE)
        answer["frames"] = [frame_of(frame, job) for frame in program.stack_trace(of)]
    except (LookupError, ValueError, drgn.FaultError) as error:
        answer["error"] = f"{type(error).__name__}: {error}"
    return answer


def frame_of(frame: Any, job: dict[str, Any]) -> dict[str, Any]:
    answer = {
        "name": frame.name,
        "symbol": asked(lambda: frame.symbol().name),
        "pc": frame.pc,
        "sp": asked(lambda: frame.sp),
        "inlined": frame.is_inline,
        "source": asked(lambda: "{}:{}".format(*frame.source()[:2])),
    }
    if job["values"]:
        names = asked(frame.locals) or []
        answer["values"] = sum(bool(asked(lambda name=name: not frame[name].absent_)) for name in names)
    return answer


def asked(question: Any) -> Any:
    """``None`` is drgn's answer that it does not know."""
    try:
        return question()
    except LookupError:
        return None


def word_at(program: Any, address: int) -> "str | None":
    try:
        return f"{program.read_u64(address):016x}"
    except drgn.FaultError:
        return None


def peak_kb() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
