"""CPUs whose note was not saved: what they did, from their stacks.

In this order, the first that applies:

1. The CPU answered the crash IPI and the kernel skipped its note: the IPI's own exception frame is on its stacks, with
   all registers of what it interrupted. From there the walk is as good as from a note.
2. The CPU panicked itself: its oops text in the log has its registers.
3. The CPU was silent (interrupts off): the walk down from the bottom of its stacks (``recover_walk.py``).

Whether a CPU answered is in ``cpus_state_saved``, a static of ``crash_ipi_callback`` (arch/powerpc/kexec/crash.c), set
after ``crash_save_cpu()``. On 64-bit book3s the IPI is a system reset, which has a stack of its own.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from crashbeam.schemas.codes import CpuMode, RegistersFrom, StackKind
from crashbeam.schemas.crash_report import Stack as StackRecord
from crashbeam.vmcore.errors import VmcoreError
from crashbeam.vmcore.kernel import Kernel
from crashbeam.vmcore.limits import MAX_CPUS
from crashbeam.vmcore.paca import read_paca_address
from crashbeam.vmcore.recover.steps import FRAME_ALIGNMENT, Means, frames_with, read_stack
from crashbeam.vmcore.recover.walk import walk_down
from crashbeam.vmcore.registers import Registers
from crashbeam.vmcore.stacks import Stack
from crashbeam.vmcore.tasks import CurrentTask
from crashbeam.vmcore.unwind import Unwinder

_IPI_HANDLERS = ("crash_ipi_callback", "smp_handle_nmi_ipi")
"""Either may have been inlined, or left by a tail call, hence both."""
_CRASH_PATH = ("__crash_kexec", "crash_kexec")
_OOPS = frozenset(("die", "oops_end", "bad_page_fault", "__bad_page_fault", "___bad_page_fault"))
"""What leads from a fault to the crash path (arch/powerpc/kernel/traps.c, mm/fault.c)."""
_SYSTEM_RESET = 0x100
_NMI_TOP_BYTES = 2048
"""The first exception frame of an NMI stack lies within these (720 bytes from its end in 6.12)."""
_MOST_HITS = 16


class OopsRegisters(Struct, frozen=True):
    """What the kernel's log says of the CPU that crashed: registers in the order of ``pt_regs``, ``None`` for what the
    text lacks, and the lines of its call trace as (stack pointer, address), innermost first.
    """

    cpu: int
    words: tuple[int | None, ...]
    trace: tuple[tuple[int, int], ...] = ()


class LostCpu(Struct, frozen=True):
    """An online CPU without registers: its current task and its stacks, as far as they are known."""

    cpu: int
    task: CurrentTask | None
    stacks: tuple[Stack, ...]
    panicked: bool
    answered: bool | None
    oops: OopsRegisters | None = None


class Recovered(Struct, frozen=True):
    """What was recovered of one CPU. ``context`` has the registers of frame 0, where they are known; ``by_crash_ipi``:
    they are what the crash IPI interrupted, so the CPU answered it.
    """

    stack: StackRecord
    mode: CpuMode
    registers_from: RegistersFrom | None
    context: Registers | None
    by_crash_ipi: bool = False


def read_answered(kernel: Kernel) -> frozenset[int] | None:
    """The CPUs that ran ``crash_save_cpu()`` in the crash IPI; ``None`` where memory does not tell.

    A page that the dump left out is not taken for zeros: that would call every CPU silent.
    """
    word_bytes = kernel.arch.word_bytes
    try:
        address = kernel.address_of("cpus_state_saved")
        size_bytes = kernel.profile.size_of("cpumask") or word_bytes
        if not 0 < size_bytes <= MAX_CPUS // 8 or size_bytes % word_bytes:
            return None
        data = kernel.memory.read_code(address, size_bytes)
    except VmcoreError:
        return None
    words = _words_of(kernel.memory.byte_order, word_bytes, data)
    bits = 8 * word_bytes
    return frozenset(place * bits + bit for place, word in enumerate(words) for bit in range(bits) if word >> bit & 1)


def _words_of(byte_order: str, word_bytes: int, data: bytes) -> tuple[int, ...]:
    order = ">" if byte_order == "big" else "<"
    return struct.unpack(f"{order}{len(data) // word_bytes}{'I' if word_bytes == 4 else 'Q'}", data)


def recover(means: Means, lost: LostCpu) -> Recovered | None:
    """What a CPU without a note was doing; ``None`` if its stacks do not tell. Raises LimitError."""
    unwinder = means.unwinder
    context = None if lost.answered is False else find_crash_ipi(means, lost.cpu, lost.stacks)
    if context is not None:
        found = _of_context(unwinder, context, lost.stacks, RegistersFrom.EXCEPTION_FRAME)
        return replace(found, by_crash_ipi=True)
    if lost.oops is not None and lost.oops.cpu == lost.cpu:
        printed = _of_oops(means, lost.oops, lost.stacks)
        if printed is not None:
            return printed
    if lost.panicked:
        crashed = _of_crash_path(means, lost.stacks)
        if crashed is not None:
            return crashed
    stack = walk_down(means, lost.task, lost.stacks)
    return None if stack is None else Recovered(stack, CpuMode.KERNEL, None, None)


def find_crash_ipi(means: Means, cpu: int, stacks: tuple[Stack, ...]) -> Registers | None:
    """What the crash IPI interrupted on a CPU; ``None`` if no frame of its handler is on the CPU's stacks, or several
    that contradict each other. Raises LimitError.
    """
    found = set(_interrupted_by_reset(means, cpu, stacks)) or set(_above_handlers(means, stacks))
    return found.pop() if len(found) == 1 else None


def _interrupted_by_reset(means: Means, cpu: int, stacks: tuple[Stack, ...]) -> Iterator[Registers]:
    """The first system reset frame of a CPU's NMI stack, while the CPU is in it (``in_nmi`` of its PACA)."""
    nmi_stack = next((stack for stack in stacks if stack.kind is StackKind.NMI), None)
    if nmi_stack is None or read_in_nmi(means.kernel, cpu) != 1:
        return
    step = FRAME_ALIGNMENT
    for stack_pointer in range(nmi_stack.high - step, max(nmi_stack.low, nmi_stack.high - _NMI_TOP_BYTES) - 1, -step):
        context = means.unwinder.context_at(stack_pointer, stacks)
        if context is not None and context.trap & ~0xF == _SYSTEM_RESET:
            yield context
            return


def read_in_nmi(kernel: Kernel, cpu: int) -> int | None:
    """How deep a CPU is in NMIs, by its PACA; ``None`` where there is none, or it cannot be read."""
    if kernel.arch.paca_register is None:
        return None
    try:
        return kernel.number_at(read_paca_address(kernel, cpu), "paca_struct", "in_nmi")
    except VmcoreError:
        return None


def _above_handlers(means: Means, stacks: tuple[Stack, ...]) -> Iterator[Registers]:
    """What was interrupted above the frames of the crash IPI's handler, which lie on one stack."""
    for stack in stacks:
        places = _frames_called_from(means, _IPI_HANDLERS, stack)
        contexts = [means.unwinder.context_above(place, stacks) for place in places]
        found = [context for context in contexts if context is not None]
        if found:
            yield from found
            return


def _frames_called_from(means: Means, names: tuple[str, ...], stack: Stack) -> list[int]:
    """The places of a stack that look like frames whose LR save word lies in a function of these names."""
    unwinder, arch = means.unwinder, means.unwinder.arch
    bounds = [unwinder.text.bounds_of(name, name) for name in names]
    functions = [unwinder.text.function_at(start) for start, _ in filter(None, bounds)]
    ranges = [(function.start, function.end) for function in functions if function is not None]
    if not ranges:
        return []
    content = read_stack(unwinder.memory, stack, means.allowance)
    words = _words_of(unwinder.memory.byte_order, arch.word_bytes, content)
    slots = words[arch.lr_slot // arch.word_bytes :: FRAME_ALIGNMENT // arch.word_bytes]
    lowest, highest = min(start for start, _ in ranges), max(end for _, end in ranges)
    near = [(place, word) for place, word in enumerate(slots) if lowest < word <= highest]
    hits = [place for place, word in near if any(start < word <= end for start, end in ranges)]
    return [stack.low + place * FRAME_ALIGNMENT for place in hits[:_MOST_HITS]]


def _of_context(unwinder: Unwinder, context: Registers, stacks: tuple[Stack, ...], source: RegistersFrom) -> Recovered:
    mode = unwinder.firmware.mode_of(context)
    return Recovered(unwinder.unwind_context(context, stacks), mode, source, context)


def _of_crash_path(means: Means, stacks: tuple[Stack, ...]) -> Recovered | None:
    """From the call that starts the crash kernel: what an oops began with, or, if it was none, that call itself."""
    unwinder = means.unwinder
    for place in (place for stack in stacks for place in _frames_called_from(means, _CRASH_PATH, stack)):
        found = unwinder.unwind_frame(place, stacks)
        end = next((frame.level for frame in found.frames if frame.exception), len(found.frames))
        if any(frame.symbol in _OOPS for frame in found.frames[:end]):
            context = unwinder.context_above(place, stacks)
            if context is not None:
                return _of_context(unwinder, context, stacks, RegistersFrom.EXCEPTION_FRAME)
        if found.frames:
            return Recovered(found, CpuMode.KERNEL, None, None)
    return None


def _of_oops(means: Means, oops: OopsRegisters, stacks: tuple[Stack, ...]) -> Recovered | None:
    """From the registers in the log, if a frame of the CPU's stacks has them too, else from the words in the text;
    without registers (``panic()`` prints none) from the outermost lines of the trace that memory still bears out.
    """
    unwinder = means.unwinder
    registers = Registers(tuple(word or 0 for word in oops.words))
    if registers.stack_pointer and registers.nip:
        whole = _same_context(means, registers, stacks)
        if whole is not None:
            return _of_context(unwinder, whole, stacks, RegistersFrom.EXCEPTION_FRAME)
        found = _of_context(unwinder, registers, stacks, RegistersFrom.DMESG)
        return replace(found, stack=_with_known_registers(found.stack, unwinder, oops))
    start = None
    for stack_pointer, address in reversed(oops.trace):
        if _word_at(unwinder, stack_pointer + unwinder.arch.lr_slot) != address:
            break
        start = stack_pointer
    if start is None:
        return None
    return Recovered(unwinder.unwind_frame(start, stacks), CpuMode.KERNEL, None, None)


def _same_context(means: Means, registers: Registers, stacks: tuple[Stack, ...]) -> Registers | None:
    """The exception frame that holds the registers of the log: its back chain word is their r1."""
    unwinder = means.unwinder
    for stack in stacks:
        word = registers.stack_pointer.to_bytes(unwinder.arch.word_bytes, unwinder.arch.byte_order)
        for place in frames_with(read_stack(unwinder.memory, stack, means.allowance), stack, word):
            context = unwinder.context_at(place, stacks)
            if context is not None and (context.nip, context.lr) == (registers.nip, registers.lr):
                return context
    return None


def _with_known_registers(stack: StackRecord, unwinder: Unwinder, oops: OopsRegisters) -> StackRecord:
    """The stack with those registers in frame 0 that the text has."""
    known = dict(zip(unwinder.arch.registers, oops.words, strict=True))
    first, *others = stack.frames
    if first.exception is None:
        return stack
    registers = {name: text for name, text in first.exception.registers.items() if known[name] is not None}
    exception = dataclasses.replace(first.exception, registers=registers)
    return dataclasses.replace(stack, frames=(dataclasses.replace(first, exception=exception), *others))


def _word_at(unwinder: Unwinder, address: int) -> int | None:
    try:
        return unwinder.memory.word(address)
    except VmcoreError:
        return None
