"""Stage 3: the stack of every CPU that has registers, and of every note that nobody owns."""

from crashbeam.schemas.codes import CpuMode, StackKind, StopReason, TaskFoundBy, Trust, WarningCode
from crashbeam.schemas.crash_report import Frame, ReportWarning
from crashbeam.schemas.crash_report import Stack as StackRecord
from crashbeam.vmcore.dump import Dump, opened
from crashbeam.vmcore.facts import AnalysisOptions, Mapped, Unwound, UnwoundContext
from crashbeam.vmcore.note_map import FileNote
from crashbeam.vmcore.registers import Registers
from crashbeam.vmcore.stacks import Stack, find_stacks, thread_bytes
from crashbeam.vmcore.tasks import current_of_registers, read_task
from crashbeam.vmcore.unwind import COMPLETE_STOPS


def unwind_stacks(before: Mapped, options: AnalysisOptions) -> Unwound:
    """Unwinds what has registers. A stack that cannot be followed to its end says so in a warning."""
    dump = opened(before.opened.input, options)
    stacks = {}
    if dump.kernel is not None and before.cpus:
        stacks = find_stacks(dump.kernel.kernel, {cpu.cpu: cpu.task for cpu in before.cpus})
    contexts: list[UnwoundContext | None] = []
    warnings = []
    for cpu in before.cpus:
        if cpu.note.registers is None:
            contexts.append(None)
            continue
        context = _unwind(dump, cpu.note.registers, stacks.get(cpu.cpu, ()))
        contexts.append(context)
        reason = context.stack.stop_reason
        if reason is not None and reason not in COMPLETE_STOPS:
            message = f"cpu {cpu.cpu}: its stack was not followed to its end: {reason.sentence}"
            warnings.append(ReportWarning(WarningCode.STACK_CUT, cpu.cpu, message))
    everywhere = tuple(stack for own in stacks.values() for stack in own)
    unassigned = tuple(_unwind_unassigned(dump, note, everywhere) for note in before.unassigned)
    problems = sorted(dump.kernel.text.problems) if dump.kernel is not None else []
    warnings += [ReportWarning(WarningCode.PAGES_UNREADABLE, None, problem) for problem in problems]
    return Unwound(
        mapped=before,
        cpus=tuple(contexts),
        unassigned=unassigned,
        quirks=tuple(sorted(dump.kernel.unwinder.quirks)) if dump.kernel else (),
        warnings=tuple(warnings),
        pages=before.pages.joined(dump.pages_met),
    )


def _unwind(dump: Dump, registers: Registers, stacks: tuple[Stack, ...]) -> UnwoundContext:
    if dump.kernel is not None:
        return UnwoundContext(dump.kernel.firmware.mode_of(registers), dump.kernel.unwinder.unwind(registers, stacks))
    frame = Frame(
        level=0,
        stack_pointer=dump.arch.hexadecimal(registers.stack_pointer),
        address=dump.arch.hexadecimal(registers.nip),
        symbol=None,
        offset=None,
        module=None,
        trust=Trust.REGISTERS,
        may_have_returned=False,
        on=StackKind.UNKNOWN,
        exception=None,
        source=None,
    )
    reason = StopReason.USER_MODE if registers.is_user else StopReason.LEFT_KNOWN_STACKS
    mode = CpuMode.USER if registers.is_user else CpuMode.KERNEL
    return UnwoundContext(mode, StackRecord(frames=(frame,), stop_reason=reason, recovered=False))


def _unwind_unassigned(dump: Dump, note: FileNote, stacks: tuple[Stack, ...]) -> UnwoundContext:
    """A note that nobody owns stands on one of the known stacks, or on that of the task that its registers name."""
    if dump.kernel is not None and not note.registers.is_user:
        kernel = dump.kernel.kernel
        current = current_of_registers(kernel, note.registers)
        base = None if current is None else read_task(kernel, current, TaskFoundBy.REGISTER).stack_base
        if base:
            stacks = (*stacks, Stack(StackKind.TASK, base, base + thread_bytes(kernel, (0,))))
    return _unwind(dump, note.registers, stacks)
