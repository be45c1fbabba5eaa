"""What differs from machine to machine and from build to build changes no id."""

import random
import re
from collections.abc import Callable
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from crashbeam.schemas.crash_report import Cpu, CrashReport, Frame, Signature
from crashbeam.vmcore.signature import sign
from crashbeam.vmcore.signature.rules import shipped_rules
from tests.signing import LABELLED, cpu_with, frame, labels, lost_cpu, report_of_text, report_with

RULES = shipped_rules()
SUFFIXES = ("", ".isra.0", ".part.3", ".constprop.1", ".cold", ".isra.0.cold", ".llvm.123456")
FUNCTIONS = (
    "panic",
    "die",
    "f_a",
    "f_b",
    "memcpy",
    "vfs_write",
    "ksys_write",
    "f_c",
    "_raw_spin_lock",
    "dev_queue_xmit",
)
STACKS = st.lists(st.sampled_from(FUNCTIONS), min_size=1, max_size=12)
TEXTS = st.sampled_from(sorted(labels()))


def keys(signature: Signature) -> tuple[object, ...]:
    """What must stay."""
    return signature.id, signature.wide, signature.narrow, signature.class_, signature.grade, signature.frames


def signed(report: CrashReport) -> tuple[object, ...]:
    """The keys of a report."""
    return keys(sign(report, RULES).signature)


def crash(names: list[str], trap: int = 0x300) -> CrashReport:
    """A crash of CPU 0 in these functions, beside two others."""
    return report_with([cpu_with(0, [*names, "kthread"], trap=trap, nip=0x1000), cpu_with(1, ["x"]), lost_cpu(2)])


def with_frames(report: CrashReport, change: Callable[[Frame], Frame]) -> CrashReport:
    """The report with every frame changed."""
    cpus = tuple(
        replace(cpu, stack=replace(cpu.stack, frames=tuple(map(change, cpu.stack.frames)))) for cpu in report.cpus
    )
    return replace(report, cpus=cpus)


@given(STACKS, st.randoms(use_true_random=False))
def test_suffixes_of_compilers_change_nothing(names: list[str], chance: random.Random) -> None:
    suffixed = [name + chance.choice(SUFFIXES) for name in names]
    assert signed(crash(suffixed)) == signed(crash(names))


@given(STACKS, st.integers(1, 1 << 40))
def test_load_addresses_change_nothing(names: list[str], moved: int) -> None:
    def shift(entry: Frame) -> Frame:
        return replace(entry, address=f"{int(entry.address, 16) + moved:016x}", stack_pointer=f"{moved:016x}")

    report = crash(names)
    other = with_frames(report, shift)
    registers = other.cpus[0].registers
    assert registers is not None
    registers["nip"] = f"{moved:016x}"
    assert signed(other) == signed(report)


@given(STACKS, st.sampled_from(["ppc32", "ppc64", "ppc64le"]))
def test_word_size_and_byte_order_change_nothing(names: list[str], arch: str) -> None:
    report = crash(names)
    digits = 8 if arch == "ppc32" else 16

    def narrowed(entry: Frame) -> Frame:
        return replace(entry, address=entry.address[-digits:], stack_pointer=entry.stack_pointer[-digits:])

    def of_words(cpu: Cpu) -> Cpu:
        registers = {name: value[-digits:] for name, value in (cpu.registers or {}).items()}
        return replace(cpu, registers=registers if cpu.registers else None)

    other = with_frames(replace(report, cpus=tuple(map(of_words, report.cpus))), narrowed)
    assert signed(replace(other, kernel=replace(report.kernel, arch=arch))) == signed(report)


@given(STACKS, st.permutations([0, 1, 2]))
def test_cpu_numbers_change_nothing(names: list[str], numbers: list[int]) -> None:
    report = crash(names)
    cpus = sorted((replace(cpu, cpu=numbers[cpu.cpu]) for cpu in report.cpus), key=lambda cpu: cpu.cpu)
    other = replace(report, cpus=tuple(cpus), panic=replace(report.panic, cpu=numbers[0]))
    assert signed(other) == signed(report)


@given(STACKS, st.integers(1, 4))
def test_offline_cpus_change_nothing(names: list[str], more: int) -> None:
    report = crash(names)
    assert signed(replace(report, cpus=(*report.cpus, *map(lost_cpu, range(3, 3 + more))))) == signed(report)


@given(STACKS, st.integers(0, 1 << 22), st.text(max_size=15))
def test_pids_commands_hosts_taint_and_releases_change_nothing(names: list[str], pid: int, word: str) -> None:
    report = crash(names)
    assert report.system.taint is not None
    other = replace(
        report,
        panic=replace(report.panic, pid=pid, comm=word),
        system=replace(report.system, nodename=word, taint=replace(report.system.taint, mask=pid, letters="DW")),
        kernel=replace(report.kernel, release=word, build_id=None),
    )
    assert signed(other) == signed(report)


@given(STACKS, st.sampled_from(["one", "two", None]))
def test_the_module_of_a_function_changes_nothing(names: list[str], module: str | None) -> None:
    plain = [name for name in names if name.startswith("f_")] or ["f_a"]
    in_module = [f"{name} [{module}]" if module else name for name in plain]
    assert signed(crash(in_module))[:3] == signed(crash(plain))[:3]


@given(
    st.lists(st.sampled_from(["f_a", "f_b", frame("f_c", vector=0x300), frame(None)]), max_size=8),
    st.integers(0, 0xFFF),
)
def test_any_stack_is_signed(frames: list[Frame | str], trap: int) -> None:
    found = sign(report_with([cpu_with(0, frames, trap=trap & 0xFF0)]), RULES)
    assert re.fullmatch("[0-9a-f]{16}", found.signature.id)
    assert found.title
    assert found.explanation


@given(TEXTS, st.integers(0, 10**7))
def test_time_stamps_change_nothing(name: str, seconds: int) -> None:
    text = (LABELLED / name).read_text(encoding="utf-8")
    moved = re.sub(r"^\[ *(\d+)(\.\d+)\]", lambda stamp: f"[{int(stamp[1]) + seconds:5}{stamp[2]}]", text, flags=re.M)
    assert signed(report_of_text(moved)) == signed(report_of_text(text))


@given(TEXTS, st.sampled_from(["Not tainted", "Tainted: G        W  O    ", "Tainted: P      D    E   "]))
def test_the_taint_of_a_text_changes_nothing(name: str, taint: str) -> None:
    text = (LABELLED / name).read_text(encoding="utf-8")
    other = re.sub(r"Not tainted|Tainted: [A-Z ]+(?=[ (])", taint, text)
    assert signed(report_of_text(other)) == signed(report_of_text(text))


@given(TEXTS, st.integers(1, 0xFFFF))
def test_the_addresses_of_a_text_change_nothing(name: str, moved: int) -> None:
    text = (LABELLED / name).read_text(encoding="utf-8")

    def shift(found: re.Match[str]) -> str:
        return f"{int(found[0], 16) + (moved << 4):0{len(found[0])}x}"

    other = re.sub(r"\bc0[0-9a-f]{14}\b|\b[cf][01][0-9a-f]{6}\b", shift, text)
    assert signed(report_of_text(other)) == signed(report_of_text(text))
