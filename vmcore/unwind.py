"""Registers to a stack of frames.

A context (a saved CPU, an interrupted one) has exact registers: where its return address is, LR or memory, is asked
of the data flow of its function (``arch/code.py``). From there the back chain leads on: the frame at stack pointer S
has its caller's frame at the word in S, and that frame's LR save word is the return address. Exception frames give a
new context; interrupt stacks are left only by the link that their first frame holds. Nothing is followed by luck:
every step ends in a frame or in one stop reason.
"""

from __future__ import annotations

from collections.abc import Callable

from crashbeam.schemas.codes import StackKind, StopReason, Trust
from crashbeam.schemas.crash_report import ExceptionFrame, Frame, SourceLine
from crashbeam.schemas.crash_report import Stack as StackRecord
from crashbeam.vmcore.arch import find_return_address
from crashbeam.vmcore.arch.architecture import Architecture
from crashbeam.vmcore.arch.code import MAX_FUNCTION_BYTES, ReturnAddress
from crashbeam.vmcore.errors import VmcoreError
from crashbeam.vmcore.firmware import FirmwareAreas, kernel_address
from crashbeam.vmcore.limits import MAX_FRAMES
from crashbeam.vmcore.memory import KernelMemory
from crashbeam.vmcore.modules import Function, Text
from crashbeam.vmcore.registers import REGISTER_COUNT, Registers, decode_registers, name_registers
from crashbeam.vmcore.stacks import Stack, stack_of
from crashbeam.vmcore.symbols.line_table import INSTRUCTION_BYTES

_THREAD_STARTS = ("start_kernel_thread", "ret_from_")
_RETURNS = (Trust.LINK_REGISTER, Trust.BACK_CHAIN)
"""How a return address was found, which lies behind its call."""
_LIVE_LR = ReturnAddress(has_frame=False, in_lr=True, in_slot=False)
_SAVED_LR = ReturnAddress(has_frame=True, in_lr=False, in_slot=True)
COMPLETE_STOPS = frozenset(
    {
        StopReason.USER_MODE,
        StopReason.END_OF_STACK,
        StopReason.THREAD_START,
        StopReason.FIRMWARE,
        StopReason.VECTOR_ENTRY,
    }
)
"""The stop reasons of a stack that was followed to its end."""
NO_STACK = StackRecord(frames=(), stop_reason=None, recovered=False)


class _EndOfWalkError(Exception):
    """The walk is over, for this reason."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason)
        self.reason = reason


class Unwinder:
    """Unwinds the stacks of one dump; what it learns of a function's code serves all of them."""

    def __init__(self, memory: KernelMemory, arch: Architecture, text: Text, firmware: FirmwareAreas) -> None:
        self.memory = memory
        self.firmware = firmware
        self.arch = arch
        self.text = text
        self.quirks: set[str] = set()
        self._answers: dict[tuple[int, int], ReturnAddress] = {}
        self._calls: dict[int, int] = {}
        self._lr_savers = text.bounds_of(*arch.lr_savers) if arch.lr_savers else None

    def unwind(self, registers: Registers, stacks: tuple[Stack, ...]) -> StackRecord:
        """The stack of a CPU with these registers and these stacks of its own."""
        walk = _Walk(self, stacks)
        return walk.record(lambda: walk.follow(registers), recovered=False)

    def unwind_context(self, registers: Registers, stacks: tuple[Stack, ...]) -> StackRecord:
        """The stack of a context that an exception interrupted, whose registers were found elsewhere than in a note."""
        walk = _Walk(self, stacks)
        return walk.record(lambda: walk.follow_context(registers), recovered=True)

    def unwind_frame(self, stack_pointer: int, stacks: tuple[Stack, ...]) -> StackRecord:
        """The stack from the frame at ``stack_pointer``, whose LR save word is the first address."""
        walk = _Walk(self, stacks)
        return walk.record(lambda: walk.follow_frame(stack_pointer), recovered=True)

    def context_above(self, stack_pointer: int, stacks: tuple[Stack, ...]) -> Registers | None:
        """The first context that was interrupted, up the back chain from a frame; ``None`` if the chain has none."""
        try:
            return _Walk(self, stacks).find_context(stack_pointer)
        except (_EndOfWalkError, VmcoreError):
            return None

    def context_at(self, stack_pointer: int, stacks: tuple[Stack, ...]) -> Registers | None:
        """What was interrupted, if an exception frame lies at ``stack_pointer``, else ``None``."""
        try:
            found = _Walk(self, stacks).exception_at(stack_pointer)
        except (_EndOfWalkError, VmcoreError):
            return None
        return None if found is None else found[1]

    def return_address(self, function: Function, nip: int) -> ReturnAddress:
        """Where ``function`` keeps its return address before the instruction at ``nip``.

        Raises PageError, TranslationError.
        """
        key = (function.start, nip)
        answer = self._answers.get(key)
        if answer is None:
            code = self.memory.read_code(function.start, min(function.end - function.start, MAX_FUNCTION_BYTES))
            index = (nip - function.start) // 4
            savers = range(0)
            if self._lr_savers is not None:
                first, last = self._lr_savers
                savers = range((first - function.start) // 4, (last - function.start) // 4 + 1)
            answer = self._answers[key] = find_return_address(self.arch.name, code, index, savers)
        return answer

    def source_of(self, function: Function | None, place: int, trust: Trust) -> SourceLine | None:
        """The source of a frame's instruction: of a return address into ``function``, that of the call before it.

        Modules have no lines. Raises SymbolError.
        """
        if not self.text.lines or function is None or function.module is not None:
            return None
        is_call = trust in _RETURNS and place - INSTRUCTION_BYTES >= function.start
        return self.text.source_at(place - INSTRUCTION_BYTES if is_call else place)

    def call_before(self, address: int) -> int | None:
        """The instruction before a return address if it is a call, else ``None`` (also where it cannot be read)."""
        call = self._calls.get(address)
        if call is None:
            call = self._calls[address] = self._read_call(address - 4)
        return call or None

    def _read_call(self, address: int) -> int:
        """The call at ``address``, 0 if none stands there."""
        if self.text.function_at(address) is None:
            return 0
        try:
            (word,) = self.memory.code_words(address, 1)
        except VmcoreError:
            return 0
        return word if is_call(word) else 0


def is_call(word: int) -> bool:
    """Whether an instruction sets LR and goes elsewhere: ``bl``, ``bcl``, ``bctrl``, ``blrl``."""
    primary = word >> 26
    return bool(word & 1) and (primary in (16, 18) or (primary == 19 and (word >> 1) & 0x3FF in (16, 528)))


def call_target(address: int, word: int) -> int | None:
    """Where the ``bl`` at ``address`` goes; ``None`` for a call through a register."""
    if word >> 26 != 18:
        return None
    displacement = word & 0x3FFFFFC
    if displacement & 0x2000000:
        displacement -= 0x4000000
    return displacement if word & 2 else address + displacement


class _Walk:
    """One stack on the way."""

    def __init__(self, unwinder: Unwinder, stacks: tuple[Stack, ...]) -> None:
        self.frames: list[Frame] = []
        self._unwinder = unwinder
        self._memory = unwinder.memory
        self._arch = unwinder.arch
        self._text = unwinder.text
        self._firmware = unwinder.firmware
        self._stacks = stacks
        self._stack: Stack | None = None
        self._function: Function | None = None
        self._contexts: set[int] = set()

    def record(self, follow: Callable[[], None], *, recovered: bool) -> StackRecord:
        """The frames of a walk, and why it ended."""
        try:
            follow()
        except _EndOfWalkError as end:
            reason = end.reason
        except VmcoreError:
            reason = StopReason.UNREADABLE
        return StackRecord(frames=tuple(self.frames), stop_reason=reason, recovered=recovered)

    def follow_context(self, registers: Registers) -> None:
        """Walks from what an exception interrupted."""
        self.follow(registers, Trust.EXCEPTION, self._describe(registers))

    def follow_frame(self, stack_pointer: int) -> None:
        """Walks from a frame whose function was calling."""
        self._add_caller(self._saved_lr(stack_pointer), stack_pointer, Trust.BACK_CHAIN)
        found = self._next_exception(stack_pointer)
        self._check_context(*found)
        self.follow_context(found[1])

    def find_context(self, stack_pointer: int) -> Registers:
        """The first context up the back chain from a frame whose function was calling."""
        self._add_caller(self._saved_lr(stack_pointer), stack_pointer, Trust.BACK_CHAIN)
        return self._next_exception(stack_pointer)[1]

    def follow(
        self,
        registers: Registers,
        trust: Trust = Trust.REGISTERS,
        exception: ExceptionFrame | None = None,
    ) -> None:
        """Walks from a CPU's registers until the end, which is raised as ``_EndOfWalkError`` (or a VmcoreError)."""
        while True:
            below = len(self.frames)
            self._add_context(registers, trust, exception)
            self._check_stack_pointer(registers)
            found = self.exception_at(registers.stack_pointer)
            if found is None:
                found = self._follow_chain(registers, is_first=below == 0)
            self._check_context(*found)
            registers = found[1]
            trust, exception = Trust.EXCEPTION, self._describe(registers)

    def _add_context(self, registers: Registers, trust: Trust, exception: ExceptionFrame | None) -> None:
        if registers.is_user:
            self._function = None
            self._add(registers.nip, registers.stack_pointer, trust, exception)
            raise _EndOfWalkError(StopReason.USER_MODE)
        place = kernel_address(self._arch, registers, registers.nip)
        self._function = None if self._firmware.is_firmware(registers) else self._text.function_at(place)
        self._add(registers.nip, registers.stack_pointer, trust, exception, place=place)

    def _check_stack_pointer(self, registers: Registers) -> None:
        """Ends the walk of a kernel context that is not on a kernel stack: in firmware, or not yet off the user's."""
        stack_pointer, lowest = registers.stack_pointer, self._arch.lowest_kernel_address
        if lowest and stack_pointer >= lowest:
            return
        is_entry = self._text.is_vector(kernel_address(self._arch, registers, registers.nip))
        if not lowest:
            # No address of 32 bits is a user's for certain: one on none of the CPU's stacks is, in a vector.
            if is_entry and self._stack_of(stack_pointer) is None:
                raise _EndOfWalkError(StopReason.VECTOR_ENTRY)
            return
        if self._firmware.holds(stack_pointer):
            raise _EndOfWalkError(StopReason.FIRMWARE)
        raise _EndOfWalkError(StopReason.VECTOR_ENTRY if is_entry else StopReason.LEFT_KNOWN_STACKS)

    def _add(
        self,
        address: int,
        stack_pointer: int,
        trust: Trust,
        exception: ExceptionFrame | None = None,
        *,
        place: int | None = None,
    ) -> None:
        """Adds a frame; ``place`` is the kernel's own address of a physical one."""
        if len(self.frames) >= MAX_FRAMES:
            raise _EndOfWalkError(StopReason.LIMIT)
        function, hexadecimal = self._function, self._arch.hexadecimal
        stack = self._stack_of(stack_pointer)
        place = address if place is None else place
        self.frames.append(
            Frame(
                level=len(self.frames),
                stack_pointer=hexadecimal(stack_pointer),
                address=hexadecimal(address),
                symbol=function.name if function else None,
                offset=place - function.start if function and function.name else None,
                module=function.module if function else None,
                trust=trust,
                may_have_returned=False,
                on=stack.kind if stack else StackKind.UNKNOWN,
                exception=exception,
                source=self._unwinder.source_of(function, place, trust),
            )
        )

    def _stack_of(self, address: int) -> Stack | None:
        """The stack that an address lies in: mostly that of the address before it."""
        stack = self._stack
        if stack is None or not stack.low <= address < stack.high:
            stack = self._stack = stack_of(self._stacks, address)
        return stack

    def _describe(self, registers: Registers) -> ExceptionFrame:
        return ExceptionFrame(
            vector=f"{registers.trap & ~0xF:x}",
            name=self._arch.vector_name(registers.trap),
            registers=name_registers(self._arch, registers),
        )

    def exception_at(self, stack_pointer: int) -> tuple[int, Registers] | None:
        """The ``pt_regs`` of an exception frame at ``stack_pointer``: marker, back chain equal to its r1, trap in the
        table. It lies in one stack: behind that stack's end is somebody else's memory, or none.
        """
        arch, memory = self._arch, self._memory
        if stack_pointer % arch.stack_alignment:
            raise _EndOfWalkError(StopReason.UNALIGNED)
        stack = self._stack_of(stack_pointer)
        for marker_at, registers_at in arch.exception_places:
            end = stack_pointer + registers_at + REGISTER_COUNT * arch.word_bytes
            if stack is not None and end > stack.high:
                continue
            if memory.word(stack_pointer + marker_at) not in arch.markers:
                continue
            data = memory.read(stack_pointer + registers_at, REGISTER_COUNT * arch.word_bytes)
            registers = decode_registers(arch, memory.byte_order, data)
            same_stack_pointer = memory.word(stack_pointer) == registers.stack_pointer
            if same_stack_pointer and arch.vector_name(registers.trap) is not None:
                return stack_pointer, registers
        return None

    def _check_context(self, place: int, registers: Registers) -> None:
        """An interrupted kernel context lies above its exception frame, or on another stack; none is met twice."""
        if place in self._contexts:
            raise _EndOfWalkError(StopReason.CYCLE)
        self._contexts.add(place)
        if registers.is_user:
            return
        stack = self._stack_of(place)
        if registers.stack_pointer <= place and (stack is None or stack.low <= registers.stack_pointer):
            raise _EndOfWalkError(StopReason.NOT_ASCENDING)

    def _follow_chain(self, registers: Registers, *, is_first: bool) -> tuple[int, Registers]:
        """Walks from a context's function to the next exception frame on the back chain."""
        return self._next_exception(self._leave_context(registers, is_first=is_first))

    def _next_exception(self, stack_pointer: int) -> tuple[int, Registers]:
        """Walks up the back chain to the next exception frame."""
        while True:
            found = self.exception_at(stack_pointer)
            if found is not None:
                return found
            stack_pointer = self._leave_frame(stack_pointer)

    def _leave_context(self, registers: Registers, *, is_first: bool) -> int:
        """Adds the caller of a context's function; returns its stack pointer."""
        answer = self._return_address(registers, is_first=is_first)
        stack_pointer = registers.stack_pointer
        if answer.has_frame or (answer.switched and self._is_switch_frame(stack_pointer)):
            stack_pointer = self._next(stack_pointer)
        if answer.in_lr or not answer.in_slot:
            address = registers.lr if answer.in_register is None else registers.words[answer.in_register]
            if self._firmware.is_firmware(registers) and self._firmware.holds(address):
                # A call inside firmware: r1 is still that of the kernel's call.
                return stack_pointer
            place = kernel_address(self._arch, registers, address)
            self._add_caller(address, stack_pointer, Trust.LINK_REGISTER, place=place)
        else:
            self._add_caller(self._saved_lr(stack_pointer), stack_pointer, Trust.BACK_CHAIN)
        return stack_pointer

    def _return_address(self, registers: Registers, *, is_first: bool) -> ReturnAddress:
        if is_first and registers.is_self_saved and self._belongs_to_lr(registers):
            self._unwinder.quirks.add("r1_belongs_to_lr")
            return _LIVE_LR
        if self._function is None:
            return _LIVE_LR
        place = kernel_address(self._arch, registers, registers.nip)
        if self._text.is_vector(place) and self._is_saved(registers):
            return _SAVED_LR
        return self._unwinder.return_address(self._function, place)

    def _is_saved(self, registers: Registers) -> bool:
        """Whether the function that a vector interrupted has stored LR, and called nobody since: its return address
        is LR and the LR save word of its caller's frame, and stands on the stack once.
        """
        memory = self._memory
        try:
            caller = memory.word(registers.stack_pointer)
            return caller > registers.stack_pointer and memory.word(caller + self._arch.lr_slot) == registers.lr
        except VmcoreError:
            return False

    def _belongs_to_lr(self, registers: Registers) -> bool:
        """Whether ``ppc_save_regs`` stored r1 of its caller's caller, as kernels before 6.5 do.

        Since Linux 6.5 ("powerpc: update ppc_save_regs to save current r1 in pt_regs") r1 belongs to nip, and the
        saved link is the LR save word one frame up. Before, it is the LR save word at r1 itself. That says nothing if
        the link lies in nip's own function: the oldest kernels saved it as nip too, and in exact registers without a
        trap (a hypervisor's, firmware's) it stands there behind any call.
        """
        memory, slot, stack_pointer = self._memory, self._arch.lr_slot, registers.stack_pointer
        if self._function is not None and self._function.start < registers.lr <= self._function.end:
            return False
        try:
            if memory.word(memory.word(stack_pointer) + slot) == registers.lr:
                return False
            return memory.word(stack_pointer + slot) == registers.lr
        except VmcoreError:
            return False

    def _leave_frame(self, stack_pointer: int) -> int:
        """Adds the caller of the frame at ``stack_pointer``; returns the caller's stack pointer."""
        following = self._next(stack_pointer)
        self._add_caller(self._saved_lr(following), following, Trust.BACK_CHAIN)
        return following

    def _next(self, stack_pointer: int) -> int:
        """The stack pointer of the caller's frame: the back chain word, across an interrupt stack's link."""
        following = self._memory.word(stack_pointer)
        if following == 0:
            raise _EndOfWalkError(self._end_of_stack())
        if following % self._arch.stack_alignment:
            raise _EndOfWalkError(StopReason.UNALIGNED)
        stack = self._stack_of(stack_pointer)
        if stack is not None and not stack.low <= following < stack.high:
            if self._is_switch_frame(stack_pointer):
                return self._cross(stack_pointer, following)
            raise _EndOfWalkError(StopReason.LEFT_KNOWN_STACKS)
        if following == stack_pointer:
            raise _EndOfWalkError(StopReason.CYCLE)
        if following < stack_pointer:
            raise _EndOfWalkError(StopReason.NOT_ASCENDING)
        return following

    def _is_switch_frame(self, stack_pointer: int) -> bool:
        """Whether this is where the first frame of an interrupt stack lies."""
        stack = self._stack_of(stack_pointer)
        return (
            stack is not None
            and stack.kind is not StackKind.TASK
            and stack.high - stack_pointer in self._arch.switch_offsets
        )

    def _cross(self, stack_pointer: int, link: int) -> int:
        """Leaves an interrupt stack: ``link`` is r1 of the function that switched.

        The LR save word there is a return address only if that function has no frame of its own (older
        ``call_do_irq``); ``__do_IRQ`` has one, and its word is junk.
        """
        if stack_pointer in self._contexts:
            raise _EndOfWalkError(StopReason.CYCLE)
        self._contexts.add(stack_pointer)
        if self._stack_of(link) is None:
            raise _EndOfWalkError(StopReason.LEFT_KNOWN_STACKS)
        function = self._function
        if function is None:
            raise _EndOfWalkError(StopReason.NOT_CODE)
        call = int(self.frames[-1].address, 16) - 4
        if self._unwinder.return_address(function, call).has_frame:
            return self._next(link)
        return link

    def _end_of_stack(self) -> StopReason:
        name = self._function.name if self._function else None
        return StopReason.THREAD_START if name and name.startswith(_THREAD_STARTS) else StopReason.END_OF_STACK

    def _saved_lr(self, stack_pointer: int) -> int:
        return self._memory.word(stack_pointer + self._arch.lr_slot)

    def _add_caller(self, address: int, stack_pointer: int, trust: Trust, *, place: int | None = None) -> None:
        """Adds the frame of a return address, looked up at its call; raises ``_EndOfWalkError`` where it is none.

        ``place`` is the kernel's own address of a physical one.
        """
        place = address if place is None else place
        function = self._calling_function(place)
        is_bottom = self._memory.word(stack_pointer) == 0
        if is_bottom and not self._is_called(place):
            raise _EndOfWalkError(self._end_of_stack())
        if function is None:
            raise _EndOfWalkError(StopReason.NOT_CODE)
        if self._stack_of(stack_pointer) is None and not self._is_called(place, directly=True):
            raise _EndOfWalkError(StopReason.LEFT_KNOWN_STACKS)
        self._function = function
        self._add(address, stack_pointer, trust, place=place)

    def _calling_function(self, address: int) -> Function | None:
        """The function that a return address belongs to: that of its call, or, where none stands before it, its own.

        The code is read only where the two differ.
        """
        before = self._text.function_at(address - 4)
        if before is not None and before.start <= address < before.end:
            return before
        here = self._text.function_at(address)
        if before == here or self._text.is_freed_text(address - 4):
            return before
        return here if self._unwinder.call_before(address) is None else before

    def _is_called(self, address: int, *, directly: bool = False) -> bool:
        """Whether the call before ``address`` leads to the function below: by its target, or through a register."""
        call = self._unwinder.call_before(address)
        if call is None:
            return False
        target = call_target(address - 4, call)
        if target is None:
            return not directly
        below = self._function
        return below is not None and below.start <= target < min(below.end, below.start + 16)
