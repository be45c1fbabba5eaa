"""A report as the text that kernel engineers know from crash.

The labels and the order of a register block are those of crash's ``bt`` for PowerPC; what crash has no words for (a
note that was not saved, a function whose return address was still in LR) is said in the same manner.
"""

from collections.abc import Callable, Iterator

from crashbeam.schemas.codes import NoteState, Trust
from crashbeam.schemas.crash_report import Cpu, CrashReport, Frame, Stack, UnassignedNote

_ROWS_32 = (
    *(tuple((f"R{first + place}", f"r{first + place}") for place in range(4)) for first in range(0, 32, 4)),
    (("NIP", "nip"), ("MSR", "msr"), ("OR3", "orig_r3"), ("CTR", "ctr")),
    (("LR", "lr"), ("XER", "xer"), ("CCR", "cr"), ("MQ", "mq")),
)
_ROWS_64 = (
    *(
        tuple((f"R{first + place}", f"r{first + place}") for place in range(min(3, 32 - first)))
        for first in range(0, 32, 3)
    ),
    (("NIP", "nip"), ("MSR", "msr"), ("OR3", "orig_r3")),
    (("CTR", "ctr"), ("LR", "lr"), ("XER", "xer")),
    (("CCR", "cr"), ("SOFTE", "softe")),
)
_NOTE_WORDS = {
    NoteState.NOT_SAVED: "(not saved)",
    NoteState.OFFLINE: "(offline)",
    NoteState.INVALID: "(invalid)",
    NoteState.UNREADABLE: "(unreadable)",
    NoteState.NOT_POPULATED: "(not populated)",
}

NameAt = Callable[[str], str | None]
"""The function at an address, which comes as the hex string of a report."""


def show_text(report: CrashReport, name_at: NameAt, cpu: int | None = None) -> str:
    """The whole report as text, the CPU that panicked first, or only what concerns one CPU."""
    lines = [*_summary(report), "", *_notes(report), ""] if cpu is None else []
    lines += _warnings(report, cpu)
    for entry in sorted(report.cpus, key=lambda entry: entry.cpu != report.panic.cpu):
        if (entry.registers is not None or entry.stack.frames) and cpu in (None, entry.cpu):
            lines += [*_cpu(entry, name_at), ""]
        elif cpu == entry.cpu:
            lines += [f"cpu {cpu}: no registers: {entry.note.state.sentence}", *_diagnoses(entry), ""]
    if cpu is not None and cpu not in [entry.cpu for entry in report.cpus]:
        known = ", ".join(str(entry.cpu) for entry in report.cpus)
        why = f"the kernel has no such CPU, only {known}" if known else "which CPUs the kernel has cannot be read"
        lines.append(f"cpu {cpu}: {why}")
    if cpu is None:
        for note in report.unassigned_notes:
            lines += [*_unassigned(note, name_at), ""]
    return "\n".join(lines)


def show_log_text(report: CrashReport) -> str:
    """The report of a log without a dump: what it is, and the lines of the cause."""
    lines = [*_summary(report)]
    if report.dmesg is not None and report.dmesg.reports:
        lines += ["", *report.dmesg.reports[0].lines]
    return "\n".join(lines)


def _summary(report: CrashReport) -> Iterator[str]:
    source, kernel = report.source, report.kernel
    container = " ".join(filter(None, (*source.wrapping, source.container or "log text", *source.page_codecs)))
    level = "" if source.dump_level is None else f", dump level {source.dump_level}"
    complete = "" if source.complete is not False else ", INCOMPLETE"
    yield f"    dump: {source.uri} ({container}{level}{complete})"
    if kernel.arch is None:
        yield f"  kernel: {kernel.release or 'unknown'}"
    else:
        yield from _kernel_and_system(report)
    yield from _crash(report)


def _kernel_and_system(report: CrashReport) -> Iterator[str]:
    kernel, system = report.kernel, report.system
    yield f"  kernel: {kernel.release or 'unknown'} {kernel.arch}, build id {kernel.build_id or 'unknown'}"
    matched = f", matched by {kernel.symbols.matched_by}" if kernel.symbols.matched_by else ""
    yield f" symbols: names from {kernel.symbols.names}, layouts from {kernel.symbols.layouts}{matched}"
    yield f"    host: {system.nodename or 'unknown'}, crashed {system.crash_time or 'at an unknown time'}"
    yield f"    cpus: {_count(system.cpus.possible)} possible, {_count(system.cpus.online)} online"


def _crash(report: CrashReport) -> Iterator[str]:
    panic, signature, taint = report.panic, report.signature, report.system.taint
    if panic.cpu is not None:
        task = "" if panic.comm is None else f', pid {panic.pid} "{panic.comm}"'
        yield f"   panic: cpu {panic.cpu}{task} (by {panic.found_by})"
    if panic.title is not None:
        yield f"   title: {panic.title}"
    if panic.message is not None:
        yield f" message: {panic.message}"
    if signature is not None:
        reasons = f" ({', '.join(signature.reasons)})" if signature.reasons else ""
        yield f"  bucket: {signature.id}, class {signature.class_}, grade {signature.grade}{reasons}"
    if taint is not None and taint.letters:
        was = "" if taint.before_crash is None else f", before the crash {taint.before_crash or 'none'}"
        yield f"   taint: {taint.letters}{was}"


def _count(cpus: tuple[int, ...] | None) -> str:
    return "unknown" if cpus is None else str(len(cpus))


def _notes(report: CrashReport) -> Iterator[str]:
    yield f"notes: {report.notes.in_file}"
    for cpu in report.cpus:
        note = cpu.note
        if note.index is not None:
            yield f"  notes[{cpu.cpu}]: NT_PRSTATUS {note.index}  pid {note.pid}"
        elif note.state is NoteState.SAVED:
            yield f"  notes[{cpu.cpu}]: NT_PRSTATUS (not in the file)  pid {note.pid}"
        else:
            yield f"  notes[{cpu.cpu}]: {_NOTE_WORDS[note.state]}"
    for left in report.unassigned_notes:
        yield f"  unassigned: NT_PRSTATUS {left.index}  pid {left.pid}"


def _warnings(report: CrashReport, cpu: int | None) -> list[str]:
    warnings = [f"WARNING: {warning.message}" for warning in report.warnings if cpu in (None, warning.cpu)]
    return [*warnings, ""] if warnings else []


def _cpu(cpu: Cpu, name_at: NameAt) -> Iterator[str]:
    task = cpu.task
    pid = "?" if task is None or task.pid is None else str(task.pid)
    address = "?" if task is None else task.address
    comm = "?" if task is None or task.comm is None else task.comm
    yield f' PID: {pid:<6} TASK: {address}  CPU: {cpu.cpu}   COMMAND: "{comm}"'
    yield from _diagnoses(cpu)
    yield ""
    if cpu.registers is None:
        how = "recovered" if cpu.registers_from is None else cpu.registers_from.sentence
        yield f" ({how}: no note was saved)"
    yield from _context(cpu.registers or cpu.recovered_registers, cpu.stack, name_at)


def _diagnoses(cpu: Cpu) -> Iterator[str]:
    for diagnosis in cpu.diagnosis:
        yield f"   {diagnosis.code}: {diagnosis.message}"


def _unassigned(note: UnassignedNote, name_at: NameAt) -> Iterator[str]:
    yield f" NT_PRSTATUS {note.index}   PID: {note.pid}   (no CPU could be shown to own it)"
    yield ""
    yield from _context(note.registers, note.stack, name_at)


def _context(registers: dict[str, str] | None, stack: Stack, name_at: NameAt) -> Iterator[str]:
    if registers is not None:
        yield from register_block(registers, name_at)
        yield ""
    for frame in stack.frames:
        if frame.exception is not None:
            yield f" --- {frame.exception.name or 'Exception'} [{frame.exception.vector}] ---"
            yield from register_block(frame.exception.registers, name_at)
        yield from _frame(frame)
    if stack.stop_reason is not None:
        yield f" ({stack.stop_reason.sentence})"


def register_block(registers: dict[str, str], name_at: NameAt) -> Iterator[str]:
    """Registers in rows, then NIP and LR with the functions they lie in. Those that are not known show as dashes."""
    unknown = "-" * max(map(len, registers.values()), default=8)
    for row in _ROWS_32 if len(unknown) == 8 else _ROWS_64:
        yield " " + "   ".join(f"{label + ':':<5}{registers.get(name, unknown)}" for label, name in row)
    dar, dsisr, result = (registers.get(name, unknown) for name in ("dar", "dsisr", "result"))
    yield f" DAR: {dar} DSISR: {dsisr}        Syscall Result: {result}"
    for label, name in (("NIP", "nip"), ("LR ", "lr")):
        if (address := registers.get(name)) is not None:
            yield f"  {label} [{address:0>16}] {name_at(address) or ''}".rstrip()


def _frame(frame: Frame) -> Iterator[str]:
    """The functions that were inlined where the frame is, innermost first, then the frame; each with its place."""
    module = f" [{frame.module}]" if frame.module else ""
    offset = f"+0x{frame.offset:x}" if frame.level and frame.offset is not None else ""
    name = f"{frame.symbol}{offset}{module} at " if frame.symbol else f"(unknown{module}) at "
    place = ""
    if frame.source is not None:
        place = f" ({frame.source.file}:{frame.source.line})"
        for inlined in frame.source.inlined:
            yield f"     [inlined] {inlined.function}{place}"
            place = f" ({inlined.file or '?'}:{inlined.line or '?'})"
    doubt = " (inferred)" if frame.trust is Trust.CALLEE else " (may have returned)" if frame.may_have_returned else ""
    yield f" #{frame.level} [{frame.stack_pointer}] {name}{frame.address}{place}{doubt}"
