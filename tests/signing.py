"""Reports to be signed: from a text of the log alone, from functions alone, and from real dumps with their console."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from crashbeam.pipeline.inputs import list_inputs
from crashbeam.schemas.codes import LogSource, NoteState, StackKind, StopReason, Trust
from crashbeam.schemas.crash_report import Cpu, CrashReport, Dmesg, ExceptionFrame, Frame, LogReport, Stack
from crashbeam.vmcore.facts import AnalysisOptions
from crashbeam.vmcore.oops import find_oopses, parse_lines
from crashbeam.vmcore.stages import analyse
from tests.sample_records import REPORT

LABELLED = Path(__file__).parent / "oops_texts" / "labelled"
KERNEL_MSR = "0000000000009033"
USER_MSR = "800000000280f033"
_SAVED = REPORT.cpus[1]
_LOST = REPORT.cpus[0]


def labels() -> dict[str, dict[str, str]]:
    """Of each labelled text, by file name: ``fault`` (the defect) and ``context`` (with what it ran in); those with
    ``held_out`` were written when the lists stood, and the lists were not changed for them.
    """
    found: dict[str, dict[str, str]] = json.loads((LABELLED / "labels.json").read_text(encoding="utf-8"))
    return found


def log_of(text: str) -> Dmesg:
    """A text as the log of a report."""
    reports = tuple(
        LogReport(oops.class_, oops.message, oops.at_line, oops.lines)
        for oops in find_oopses(parse_lines(text.splitlines()))
    )
    return Dmesg(reports, (), None, False, LogSource.SIDECAR)


def report_of_text(text: str) -> CrashReport:
    """A report that has a log and nothing else."""
    return replace(REPORT, cpus=(), panic=replace(REPORT.panic, cpu=None), dmesg=log_of(text))


def frame(
    name: str | None,
    *,
    vector: int | None = None,
    nip: int = 0,
    user: bool = False,
    trust: Trust = Trust.BACK_CHAIN,
    may_have_returned: bool = False,
    dar: int = 0,
    on: StackKind = StackKind.TASK,
) -> Frame:
    """One frame: ``name`` may have a module, ``vector`` makes it the context that an exception interrupted."""
    symbol, _, module = (name or "").partition(" [")
    exception = None
    if vector is not None:
        registers = {
            "nip": f"{nip:016x}",
            "msr": USER_MSR if user else KERNEL_MSR,
            "trap": f"{vector:016x}",
            "dar": f"{dar:016x}",
        }
        exception = ExceptionFrame(f"{vector:x}", None, registers)
    return Frame(
        level=0,
        stack_pointer="c000000001234560",
        address=f"{nip or 0xC000000000010000:016x}",
        symbol=symbol or None,
        offset=16,
        module=module.rstrip("]") or None,
        trust=Trust.EXCEPTION if vector is not None and trust is Trust.BACK_CHAIN else trust,
        may_have_returned=may_have_returned,
        on=on,
        exception=exception,
        source=None,
    )


def cpu_with(
    number: int,
    frames: Sequence[Frame | str],
    *,
    trap: int = 0,
    nip: int = 0,
    dar: int = 0,
    stop: StopReason = StopReason.USER_MODE,
    recovered: bool = False,
) -> Cpu:
    """A CPU with a stack, innermost first. ``trap``: of the registers that its note holds (0: saved by a function)."""
    made = [entry if isinstance(entry, Frame) else frame(entry) for entry in frames]
    registers = {
        "nip": f"{nip:016x}",
        "msr": KERNEL_MSR,
        "trap": f"{trap:016x}",
        "dar": f"{dar:016x}",
        "r1": "c000000001234560",
    }
    return replace(
        _SAVED,
        cpu=number,
        registers=None if recovered else registers,
        note=replace(_SAVED.note, state=NoteState.NOT_SAVED if recovered else NoteState.SAVED),
        stack=Stack(tuple(made), stop, recovered),
    )


def lost_cpu(number: int) -> Cpu:
    """A CPU that saved no note."""
    return replace(_LOST, cpu=number)


def report_with(cpus: Sequence[Cpu], panic_cpu: int | None = 0, text: str | None = None) -> CrashReport:
    """A report of the CPUs, and of a log if there is a text."""
    return replace(
        REPORT,
        kernel=replace(REPORT.kernel, arch="ppc64le", page_size=65536),
        cpus=tuple(cpus),
        panic=replace(REPORT.panic, cpu=panic_cpu),
        dmesg=None if text is None else log_of(text),
    )


def reports_of_dumps(folders: Sequence[Path], symbols: Path, profiles: Path) -> Iterator[tuple[str, CrashReport]]:
    """Every report of the dumps in the folders, with the name of its scenario; one without a log gets the console."""
    options = AnalysisOptions((str(symbols),), str(profiles))
    for dump in list_inputs([str(folder) for folder in folders]).inputs:
        report = analyse(dump, options)
        folder = Path(dump.paths[0]).parent
        if not isinstance(report, CrashReport) or report.panic.cpu is None:
            continue
        console = folder / "dmesg.txt"
        if report.dmesg is None and console.exists():
            report = replace(report, dmesg=log_of(console.read_text(encoding="utf-8", errors="replace")))
        yield folder.name, report
