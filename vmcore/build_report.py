"""Stage 4: the report of everything that was found."""

from dataclasses import replace

from crashbeam.schemas.clean import clean_text, int64
from crashbeam.schemas.codes import NoteState, RegistersFrom, WarningCode
from crashbeam.schemas.crash_report import (
    CRASH_REPORT,
    Cpu,
    CpuNote,
    CrashReport,
    Diagnosis,
    Notes,
    ReportWarning,
    System,
    Task,
    UnassignedNote,
)
from crashbeam.vmcore.arch.architecture import Architecture
from crashbeam.vmcore.crash_log import dmesg_of, rules_of
from crashbeam.vmcore.dump import opened
from crashbeam.vmcore.facts import AnalysisOptions, Mapped, MappedCpu, Opened, Unwound, UnwoundContext
from crashbeam.vmcore.note_map import CpuNoteMap
from crashbeam.vmcore.registers import name_registers
from crashbeam.vmcore.signature import sign
from crashbeam.vmcore.signature.rules import Rules
from crashbeam.vmcore.tasks import CurrentTask
from crashbeam.vmcore.trace_check import LineKind, compare_trace
from crashbeam.vmcore.unwind import NO_STACK

_MAX_MESSAGE_BYTES = 1024


def build_report(before: Unwound, options: AnalysisOptions) -> CrashReport:
    """The CrashReport; nothing is read for it any more."""
    mapped = before.mapped
    rules = rules_of(options.rules)
    report = _unsigned(before, options, rules)
    signed = sign(report, rules, None if mapped.log is None else mapped.log.oopses)
    cause = None if mapped.log is None else mapped.log.cause
    panic = replace(
        mapped.panic,
        title=signed.title,
        alternative_titles=signed.alternative_titles,
        message=None if cause is None else clean_text(cause.epilogue or cause.message, _MAX_MESSAGE_BYTES),
    )
    return replace(report, panic=panic, signature=signed.signature)


def _unsigned(before: Unwound, options: AnalysisOptions, rules: Rules) -> CrashReport:
    """The report before its signature, which is made from it."""
    mapped = before.mapped
    start = mapped.opened
    arch = opened(start.input, options).arch
    return CrashReport(
        schema=CRASH_REPORT,
        input_id=start.input.input_id,
        crash_id=start.crash_id,
        source=replace(start.source, page_codecs=tuple(sorted(before.pages.codecs))),
        kernel=start.kernel,
        system=_system(mapped),
        panic=mapped.panic,
        notes=_notes(mapped),
        cpus=tuple(
            _cpu(arch, cpu, found, diagnoses, start.source.written_by)
            for cpu, found, diagnoses in zip(mapped.cpus, before.cpus, before.diagnoses, strict=True)
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
        dmesg=None if mapped.log is None else dmesg_of(mapped.log, options.dmesg_lines, rules),
        quirks=_quirks(before),
        warnings=_warnings(start, before),
    )


def _system(mapped: Mapped) -> System:
    """The machine, with what the log adds: hardware, taint before the crash, uptime."""
    system, log = mapped.opened.system, mapped.log
    if log is None:
        return system
    facts, taint = log.facts, system.taint
    if taint is not None:
        taint = replace(taint, before_crash=facts.taint_before)
    uptime = None if facts.uptime_seconds is None else int64(int(facts.uptime_seconds))
    hardware = None if facts.hardware is None else clean_text(facts.hardware, _MAX_MESSAGE_BYTES)
    return replace(system, hardware=hardware, uptime_seconds=uptime, taint=taint)


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


def _cpu(
    arch: Architecture,
    cpu: MappedCpu,
    found: UnwoundContext | None,
    diagnoses: tuple[Diagnosis, ...],
    written_by: str | None,
) -> Cpu:
    """Registers that were recovered stand apart: saved ones are never mixed with them."""
    is_recovered = found is not None and found.stack.recovered
    note, registers = cpu.note, None if is_recovered else cpu.note.registers
    stack = NO_STACK if found is None else found.stack
    recovered_registers = None
    if is_recovered and stack.frames and (context := stack.frames[0].exception) is not None:
        # No exception led to this frame from another: what interrupted it is not on the stack that is shown.
        recovered_registers = context.registers
        stack = replace(stack, frames=(replace(stack.frames[0], exception=None), *stack.frames[1:]))
    return Cpu(
        cpu=cpu.cpu,
        online=cpu.online,
        note=CpuNote(state=note.state, index=note.index, evidence=note.evidence, pid=note.pid),
        registers_from=found.recovered_from if found and is_recovered else _registers_from(note, written_by),
        task=_task(arch, cpu.task),
        mode=None if found is None else found.mode,
        registers=None if registers is None else name_registers(arch, registers),
        recovered_registers=recovered_registers,
        stack=stack,
        diagnosis=diagnoses,
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


def _trace_warnings(unwound: Unwound) -> list[ReportWarning]:
    """Lines of the kernel's own trace that the stack of that CPU contradicts, if its registers were saved before. A CPU
    whose report was not fatal went on.
    """
    log = unwound.mapped.log
    cause = None if log is None else log.cause
    for cpu, found in zip(unwound.mapped.cpus, unwound.cpus, strict=True):
        if cause is None or not cause.is_fatal or found is None or cpu.cpu != cause.cpu or found.stack.recovered:
            continue
        count = compare_trace(cause.trace, found.stack).count(LineKind.UNEXPLAINED)
        if count:
            message = f"cpu {cpu.cpu}: {count} lines of the trace that the kernel printed are not in its stack"
            return [ReportWarning(WarningCode.TRACE_DIFFERS, cpu.cpu, message)]
    return []


def _warnings(start: Opened, unwound: Unwound) -> tuple[ReportWarning, ...]:
    """All warnings, ordered by CPU and code, those about the whole dump first."""
    warnings = [*start.warnings, *unwound.mapped.warnings, *unwound.warnings, *_trace_warnings(unwound)]
    count = len(unwound.pages.unreadable)
    if count:
        message = f"{count} pages that were needed cannot be read"
        warnings.append(ReportWarning(WarningCode.PAGES_UNREADABLE, None, message))
    return tuple(sorted(warnings, key=lambda warning: (-1 if warning.cpu is None else warning.cpu, warning.code.value)))
