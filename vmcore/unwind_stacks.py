"""Stage 3: the stack of every CPU that has registers, and of every note that nobody owns."""

from collections.abc import Iterator

from msgspec.structs import replace

from crashbeam.schemas.codes import CpuMode, StackKind, StopReason, TaskFoundBy, Trust, WarningCode
from crashbeam.schemas.crash_report import Diagnosis, Frame, ReportWarning
from crashbeam.schemas.crash_report import Stack as StackRecord
from crashbeam.vmcore.dump import Dump, opened
from crashbeam.vmcore.facts import AnalysisOptions, Mapped, Unwound, UnwoundContext
from crashbeam.vmcore.lost_cpus import LostCpus
from crashbeam.vmcore.note_map import FileNote
from crashbeam.vmcore.recover import OopsRegisters
from crashbeam.vmcore.registers import Registers
from crashbeam.vmcore.stacks import Stack, infer_task_stack, thread_bytes
from crashbeam.vmcore.tasks import current_of_registers, read_task
from crashbeam.vmcore.unwind import COMPLETE_STOPS


def unwind_stacks(before: Mapped, options: AnalysisOptions) -> Unwound:
    """Unwinds what has registers. A stack that cannot be followed to its end says so in a warning."""
    dump = opened(before.opened.input, options)
    stacks = before.stacks
    contexts: list[UnwoundContext | None] = []
    for cpu in before.cpus:
        if cpu.note.registers is None:
            contexts.append(None)
            continue
        own = _stacks_of(dump, stacks.get(cpu.cpu, ()), cpu.note.registers)
        contexts.append(_unwind(dump, cpu.note.registers, own))
    everywhere = tuple(stack for own in stacks.values() for stack in own)
    unassigned = tuple(_unwind_unassigned(dump, note, everywhere) for note in before.unassigned)
    problems = sorted(dump.kernel.text.problems) if dump.kernel is not None else []
    warnings = [ReportWarning(WarningCode.PAGES_UNREADABLE, None, problem) for problem in problems]
    quirks = tuple(sorted(dump.kernel.unwinder.quirks)) if dump.kernel else ()
    pages_met = dump.pages_met
    cpus = tuple(contexts)
    diagnoses: tuple[tuple[Diagnosis, ...], ...] = ((),) * len(cpus)
    if dump.kernel is not None:
        lost = LostCpus(dump.kernel, stacks, before.panic.cpu, _oops_registers(dump, before))
        cpus, diagnoses = lost.find(before.cpus, contexts)
        if lost.given_up_at is not None:
            message = f"too many cpus saved no note to recover all of them: none was from cpu {lost.given_up_at} on"
            warnings.append(ReportWarning(WarningCode.BUDGET_REACHED, None, message))
    # A page that only recovery asked for may be missing without a warning: nothing was promised of it.
    pages_met = replace(pages_met, codecs=dump.pages_met.codecs)
    return Unwound(
        mapped=before,
        cpus=cpus,
        unassigned=unassigned,
        diagnoses=diagnoses,
        quirks=quirks,
        warnings=(*_cut_stacks(before, cpus), *warnings),
        pages=before.pages.joined(pages_met),
    )


def _cut_stacks(before: Mapped, contexts: tuple[UnwoundContext | None, ...]) -> Iterator[ReportWarning]:
    """A warning for each stack of saved registers that was not followed to its end."""
    for cpu, context in zip(before.cpus, contexts, strict=True):
        reason = None if context is None or context.stack.recovered else context.stack.stop_reason
        if reason is not None and reason not in COMPLETE_STOPS:
            message = f"cpu {cpu.cpu}: its stack was not followed to its end: {reason.sentence}"
            yield ReportWarning(WarningCode.STACK_CUT, cpu.cpu, message)


def _stacks_of(dump: Dump, stacks: tuple[Stack, ...], registers: Registers) -> tuple[Stack, ...]:
    """A CPU's stacks, with the task stack that its registers are on where nothing names its task."""
    if dump.kernel is None or registers.is_user:
        return stacks
    inferred = infer_task_stack(dump.kernel.kernel, stacks, registers.stack_pointer)
    return stacks if inferred is None else (inferred, *stacks)


def _oops_registers(dump: Dump, before: Mapped) -> OopsRegisters | None:
    """What the log says of the registers of the CPU that panicked."""
    cause = None if before.log is None else before.log.cause
    if cause is None or cause.cpu is None or cause.cpu != before.panic.cpu:
        return None
    words = tuple(cause.registers.get(name) for name in dump.arch.registers)
    trace = tuple(
        (line.stack_pointer, line.address)
        for line in cause.trace
        if line.stack_pointer is not None and line.address is not None
    )
    return OopsRegisters(cause.cpu, words, trace) if trace or any(words) else None


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
