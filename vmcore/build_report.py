"""Stage 4: the report of everything that was found."""

from dataclasses import replace

from crashbeam.schemas.codes import NoteState, RegistersFrom, WarningCode
from crashbeam.schemas.crash_report import (
    CRASH_REPORT,
    Cpu,
    CpuNote,
    CrashReport,
    Notes,
    ReportWarning,
    Task,
    UnassignedNote,
)
from crashbeam.vmcore.arch.architecture import Architecture
from crashbeam.vmcore.dump import opened
from crashbeam.vmcore.facts import AnalysisOptions, Mapped, MappedCpu, Opened, Unwound, UnwoundContext
from crashbeam.vmcore.note_map import CpuNoteMap
from crashbeam.vmcore.registers import name_registers
from crashbeam.vmcore.tasks import CurrentTask
from crashbeam.vmcore.unwind import NO_STACK


def build_report(before: Unwound, options: AnalysisOptions) -> CrashReport:
    """The CrashReport; nothing is read for it any more."""
    mapped = before.mapped
    start = mapped.opened
    arch = opened(start.input, options).arch
    return CrashReport(
        schema=CRASH_REPORT,
        input_id=start.input.input_id,
        crash_id=start.crash_id,
        source=replace(start.source, page_codecs=tuple(sorted(before.pages.codecs))),
        kernel=start.kernel,
        system=start.system,
        panic=mapped.panic,
        notes=_notes(mapped),
        cpus=tuple(
            _cpu(arch, cpu, found, start.source.written_by) for cpu, found in zip(mapped.cpus, before.cpus, strict=True)
        ),
        unassigned_notes=tuple(
            UnassignedNote(
                index=note.index,
                pid=note.pid,
                mode=found.mode,
                registers=name_registers(arch, note.registers),
                stack=found.stack,
            )
            for note, found in zip(mapped.unassigned, before.unassigned, strict=True)
        ),
        signature=None,
        dmesg=None,
        quirks=_quirks(before),
        warnings=_warnings(start, before),
    )


def _notes(mapped: Mapped) -> Notes:
    states = [cpu.note.state for cpu in mapped.cpus]
    return Notes(
        in_file=mapped.notes_in_file,
        saved=states.count(NoteState.SAVED),
        not_saved=states.count(NoteState.NOT_SAVED),
        unassigned=len(mapped.unassigned),
        method=mapped.method,
        order_would_mislead=mapped.order_would_mislead,
    )


def _cpu(arch: Architecture, cpu: MappedCpu, found: UnwoundContext | None, written_by: str | None) -> Cpu:
    note, registers = cpu.note, cpu.note.registers
    return Cpu(
        cpu=cpu.cpu,
        online=cpu.online,
        note=CpuNote(state=note.state, index=note.index, evidence=note.evidence, pid=note.pid),
        registers_from=_registers_from(note, written_by),
        task=_task(arch, cpu.task),
        mode=None if found is None else found.mode,
        registers=None if registers is None else name_registers(arch, registers),
        stack=NO_STACK if found is None else found.stack,
        diagnosis=(),
    )


def _task(arch: Architecture, task: CurrentTask | None) -> Task | None:
    if task is None:
        return None
    return Task(
        address=arch.hexadecimal(task.address),
        pid=task.pid,
        comm=task.comm,
        found_by=task.found_by,
        stack_base=None if task.stack_base is None else arch.hexadecimal(task.stack_base),
    )


def _registers_from(note: CpuNoteMap, written_by: str | None) -> RegistersFrom | None:
    """Notes that the crashing kernel did not write itself are a hypervisor's, or, in what it or a tool copied, those
    of firmware (fadump).
    """
    if note.registers is None:
        return None
    if note.index is None:
        return RegistersFrom.CRASH_NOTES
    if written_by == "qemu":
        return RegistersFrom.HYPERVISOR
    return RegistersFrom.FIRMWARE if note.state is NoteState.NOT_POPULATED else RegistersFrom.NOTE


def _quirks(unwound: Unwound) -> tuple[str, ...]:
    zeros = ("zero_page_excluded",) if unwound.pages.zeros_assumed else ()
    return tuple(sorted((*unwound.quirks, *zeros)))


def _warnings(start: Opened, unwound: Unwound) -> tuple[ReportWarning, ...]:
    """All warnings, ordered by CPU and code, those about the whole dump first."""
    warnings = [*start.warnings, *unwound.mapped.warnings, *unwound.warnings]
    count = len(unwound.pages.unreadable)
    if count:
        message = f"{count} pages that were needed cannot be read"
        warnings.append(ReportWarning(WarningCode.PAGES_UNREADABLE, None, message))
    return tuple(sorted(warnings, key=lambda warning: (-1 if warning.cpu is None else warning.cpu, warning.code.value)))
