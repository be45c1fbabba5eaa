"""The way down: the frames from the bottom of a CPU's stacks to its innermost one, found without any register.

Below the current stack pointer lie the remains of calls that have returned, so the chain cannot be followed from
below. From the bottom it can: a frame C is that of a call from frame P if the word at C is P, the LR save word of P
lies in P's function, the call before it leads to C's function, and that function has frames of P - C bytes. An
exception frame whose r1 is P goes before a call, and an interrupt stack's link is followed only where P's function is
the one that switches.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from crashbeam.schemas.codes import StackKind
from crashbeam.vmcore.errors import VmcoreError
from crashbeam.vmcore.kernel import Kernel
from crashbeam.vmcore.limits import MAX_FRAMES, Budget
from crashbeam.vmcore.memory import KernelMemory
from crashbeam.vmcore.modules import Function
from crashbeam.vmcore.recover.code import CodeFacts, Owners
from crashbeam.vmcore.registers import Registers
from crashbeam.vmcore.stacks import Stack, stack_of
from crashbeam.vmcore.tasks import CurrentTask
from crashbeam.vmcore.unwind import Unwinder, call_target

FRAME_ALIGNMENT = 16
"""Of every stack frame (32-bit and 64-bit ELF ABI supplements, "stack frame")."""
_MOST_PLACES = 64
"""Remains of frames below one parent that are looked at; the corpus has at most 8."""
_BOTTOM_BYTES = 1024
"""The first frame of a task's stack lies within these, exception frames of 720 bytes among them."""
_DECODED_BYTES = 128 << 20
"""Of stacks that recovery reads: those of 3,000 CPUs with pages of 4 KiB."""
_STEPS, _BYTES_PER_STEP = 400_000, 4096
"""Of looking for frames in stacks: a CPU needs about 100."""
_IN_INTERRUPT = 0xFF0000 | 0x100
"""``preempt_count``: NMI_MASK, HARDIRQ_MASK, and the bit of a softirq that is being served (linux/preempt.h)."""
_ASYNCHRONOUS = frozenset((0x280, 0x500, 0x900, 0x980, 0xA00, 0xE80, 0xEA0, 0x1010, 0x2070))
"""Vectors whose handlers count as an interrupt in ``preempt_count``."""
_IDLE_THREADS = ("start_kernel", "start_secondary")
_THREADFN_CALLER = "kthread"
_NOBODY = Owners((), is_open=False)
_ANYBODY = Owners((), is_open=True)


class Step(Struct, frozen=True):
    """A frame on the way down: its function and the return address of its last call that left a trace (``None`` where
    there was none), and the exception frame's registers if it is one. ``is_proven`` says that no other remains of a
    frame lie there which could be those of the same call.
    """

    stack_pointer: int
    function: Function | None
    behind: int | None
    exception: Registers | None = None
    is_switch: bool = False
    is_proven: bool = True


class Means:
    """What recovery works with, for all CPUs of one dump: the kernel, an unwinder, what is known of the code, and an
    allowance of its own, so that it never uses up that of the report.
    """

    def __init__(self, kernel: Kernel, unwinder: Unwinder, allowance: Budget | None = None) -> None:
        self.kernel = kernel
        self.unwinder = unwinder
        self.code = CodeFacts(unwinder.memory, unwinder.arch, unwinder.text)
        self.allowance = allowance or Budget(decoded_bytes=_DECODED_BYTES, steps=_STEPS)


def read_preempt_count(kernel: Kernel, task: CurrentTask | None) -> int | None:
    """``preempt_count`` of a task, or ``None`` if it cannot be read."""
    if task is None:
        return None
    try:
        if kernel.profile.field("task_struct", "thread_info.preempt_count"):
            return kernel.number_at(task.address, "task_struct", "thread_info.preempt_count")
        return kernel.number_at(task.stack_base or 0, "thread_info", "preempt_count")
    except VmcoreError:
        return None


def read_stack(memory: KernelMemory, stack: Stack, allowance: Budget) -> bytes:
    """The bytes of a stack; pages that cannot be read are zeros, which are no frame. Raises LimitError."""
    data = bytearray()
    allowance.charge_decoded(max(stack.high - stack.low, memory.physical.page_bytes))
    step = memory.physical.page_bytes
    while len(data) < stack.high - stack.low:
        at = stack.low + len(data)
        count = min(step - at % step, stack.high - at)
        try:
            data += memory.read(at, count)
        except VmcoreError:
            data += bytes(count)
    return bytes(data)


def frames_with(content: bytes, stack: Stack, pattern: bytes, offset: int = 0) -> list[int]:
    """The highest places of a stack, in that order, that have this word ``offset`` bytes on, as far as frames may lie
    there.
    """
    found: list[int] = []
    end = len(content)
    while len(found) < _MOST_PLACES and (at := content.rfind(pattern, 0, end)) >= 0:
        place = stack.low + at - offset
        if place % FRAME_ALIGNMENT == 0 and place >= stack.low:
            found.append(place)
        end = at + len(pattern) - 1
    return found


def is_interrupt(registers: Registers) -> bool:
    """Whether a context was interrupted by what counts as an interrupt in ``preempt_count``."""
    return registers.trap & ~0xF in _ASYNCHRONOUS


class Way:
    """The way down the stacks of one CPU.

    ``in_interrupt`` tells whether ``preempt_count`` says so, ``None`` where it cannot be read.
    """

    def __init__(self, means: Means, task: CurrentTask | None, stacks: tuple[Stack, ...]) -> None:
        kernel, unwinder = means.kernel, means.unwinder
        self._kernel = kernel
        self._unwinder = unwinder
        self._memory = unwinder.memory
        self._arch = unwinder.arch
        self._text = unwinder.text
        self._task = task
        self._stacks = stacks
        self.code = means.code
        self._allowance = means.allowance
        self._contents: dict[Stack, bytes] = {}
        self._found: dict[int, list[int]] = {}
        self._links: dict[int, list[tuple[Stack, int]]] | None = None
        order = ">" if unwinder.memory.byte_order == "big" else "<"
        self._word = struct.Struct(order + ("I" if unwinder.arch.word_bytes == 4 else "Q"))
        count = read_preempt_count(kernel, task)
        self.in_interrupt = None if count is None else bool(count & _IN_INTERRUPT)

    def descend(self, task_stack: Stack) -> list[Step]:
        """The frames from the bottom, outermost first."""
        for bottom in self._bottoms(task_stack):
            steps = [bottom]
            while len(steps) < MAX_FRAMES:
                following = self._below(steps)
                if following is None:
                    break
                steps.append(following)
            if len(steps) > 1 or bottom.exception is not None:
                return steps
        return []

    def function_of(self, registers: Registers) -> Function | None:
        """The function of a kernel context."""
        return self._text.function_at(registers.nip)

    def _word_at(self, address: int) -> int:
        """A word of one of the stacks; 0, which is no frame, for what is none or cannot be read."""
        if stack_of(self._stacks, address) is None:
            return 0
        try:
            return self._memory.word(address)
        except VmcoreError:
            return 0

    def _content(self, stack: Stack) -> bytes:
        if stack not in self._contents:
            self._contents[stack] = read_stack(self._memory, stack, self._allowance)
        return self._contents[stack]

    def _bottoms(self, stack: Stack) -> Iterator[Step]:
        """Where a task's stack may begin: at an exception frame from user mode, or with a back chain of 0."""
        lowest = max(stack.low, stack.high - _BOTTOM_BYTES)
        for place in self._marked_places(stack, lowest):
            registers = self._context_at(place)
            if registers is not None and registers.is_user:
                yield self._exception_step(place, registers)
                return
        for place in range(stack.high - FRAME_ALIGNMENT, lowest - 1, -FRAME_ALIGNMENT):
            if self._word_at(place) == 0:
                function, behind = self._caller_at(place)
                if behind is not None and self._children(place, stack):
                    yield Step(place, function, behind)

    def _marked_places(self, stack: Stack, lowest: int) -> list[int]:
        """The places from ``lowest`` on that may be exception frames by their marker, highest first."""
        end = Stack(stack.kind, lowest, stack.high)
        content = self._content(stack)[lowest - stack.low :]
        markers = [self._word.pack(marker) for marker in self._arch.markers]
        patterns = [(at, marker) for at, _ in self._arch.exception_places for marker in markers]
        found = {place for at, pattern in patterns for place in frames_with(content, end, pattern, at)}
        return sorted(found, reverse=True)

    def _context_at(self, place: int) -> Registers | None:
        arch = self._arch
        if not any(self._word_at(place + marker) in arch.markers for marker, _ in arch.exception_places):
            return None
        return self._unwinder.context_at(place, self._stacks)

    def _exception_step(self, place: int, registers: Registers) -> Step:
        function, behind = self._caller_at(place)
        return Step(place, function, behind, registers)

    def _caller_at(self, place: int) -> tuple[Function | None, int | None]:
        """The function whose call wrote the LR save word at ``place``, and that word; nothing if it is no return
        address.
        """
        address = self._word_at(place + self._arch.lr_slot)
        function = self._text.function_at(address - 4)
        if function is None or address % 4:
            return None, None
        if self._text.is_freed_text(address - 4) or self._unwinder.call_before(address) is not None:
            return function, address
        return None, None

    def _children(self, parent: int, stack: Stack) -> list[int]:
        """The places of a stack below ``parent``, nearest first, whose word it is."""
        if parent not in self._found:
            self._allowance.charge_steps(1 + len(self._content(stack)) // _BYTES_PER_STEP)
            places = frames_with(self._content(stack), stack, self._word.pack(parent))
            self._found[parent] = [place for place in places if place < parent]
        return self._found[parent]

    def _below(self, steps: list[Step]) -> Step | None:
        """The next frame inward."""
        step = steps[-1]
        stack = stack_of(self._stacks, step.stack_pointer)
        if stack is None:
            return None
        targets = self._targets(step)
        if len(steps) == 1 and step.exception is None:
            idle = self._idle_thread_below(step, stack)
            if idle is not None:
                return idle
        return (
            self._exception_below(step, stack)
            or self._switch_below(step, targets)
            or self._call_below(step, targets, stack)
        )

    def _idle_thread_below(self, step: Step, stack: Stack) -> Step | None:
        """What an idle thread began in. The save word that is first on its stack is a stale one, of the boot code's
        last call; its function never returns, and may lie in init text, which was given away.
        """
        for place in self._children(step.stack_pointer, stack):
            function, behind = self._caller_at(place)
            if function is None or function.name not in _IDLE_THREADS:
                continue
            sizes = self.code.frame_sizes(function)
            if step.stack_pointer - place in sizes or self._text.is_freed_text(function.start):
                return Step(place, function, behind)
        return None

    def _targets(self, step: Step) -> Owners:
        """The functions that may own the frame of the call at a step."""
        if step.behind is None:
            return _NOBODY
        call = self._unwinder.call_before(step.behind)
        target = None if call is None else call_target(step.behind - 4, call)
        function = self._thread_function(step) if target is None else self._text.function_at(target)
        if function is None or (target is not None and function.module and not _begins_at(function, target)):
            # A call through a register, into freed text, or into a stub of a module.
            return _ANYBODY
        return self.code.owners(function)

    def _thread_function(self, step: Step) -> Function | None:
        """What ``kthread()`` calls: ``threadfn`` of the task's ``struct kthread``."""
        if self._task is None or step.function is None or step.function.name != _THREADFN_CALLER:
            return None
        kernel = self._kernel
        # Before Linux 5.17 the pointer stood in set_child_tid (to_kthread of kernel/kthread.c).
        for member in ("worker_private", "set_child_tid"):
            try:
                info = kernel.number_at(self._task.address, "task_struct", member)
                address = kernel.number_at(info, "kthread", "threadfn") if info else 0
            except VmcoreError:
                continue
            function = self._text.function_at(address) or self._descriptor(address)
            if function is not None:
                return function
        return None

    def _descriptor(self, address: int) -> Function | None:
        """The function of an ELFv1 descriptor, which a pointer to a function leads to."""
        try:
            return self._text.function_at(self._memory.word(address)) if address else None
        except VmcoreError:
            return None

    def _exception_below(self, step: Step, stack: Stack) -> Step | None:
        """The exception that interrupted the frame at a step, or a callee of it whose frame left no trace, if it may
        still be handled.
        """
        places = self._children(step.stack_pointer, stack)
        for place in places:
            registers = self._interrupted_at(place)
            if registers is not None:
                return self._exception_step(place, registers)
        for frame in places:
            for place in self._children(frame, stack):
                registers = self._interrupted_at(place)
                if registers is not None and self._is_callee(step, step.stack_pointer - frame, registers):
                    return self._exception_step(place, registers)
        return None

    def _interrupted_at(self, place: int) -> Registers | None:
        """The kernel context of an exception frame whose handler may still be running."""
        registers = self._context_at(place)
        if registers is None or registers.is_user or self._text.function_at(registers.nip) is None:
            return None
        is_over = self.in_interrupt is False and is_interrupt(registers)
        return None if is_over else registers

    def _is_callee(self, step: Step, frame_bytes: int, registers: Registers) -> bool:
        """Whether a context is in a function with a frame of this size that the one at a step called."""
        function = self._text.function_at(registers.nip)
        if function is None or frame_bytes not in self.code.frame_sizes(function):
            return False
        return step.function is not None and self._text.function_at(registers.lr - 4) == step.function

    def _switch_below(self, step: Step, targets: Owners) -> Step | None:
        """The first frame of an interrupt stack that links to the frame at a step, whose function switched to it, or
        called one without a frame that did.
        """
        for stack, place in self._links_to(step.stack_pointer):
            function, behind = self._caller_at(place)
            if function is None or behind is None or stack.low <= step.stack_pointer < stack.high:
                continue
            if function != step.function and function not in targets.functions:
                continue
            if self._switches(function, behind - 4):
                return Step(place, function, behind, is_switch=True)
        return None

    def _links_to(self, stack_pointer: int) -> list[tuple[Stack, int]]:
        """The first frames of interrupt stacks whose back chain is ``stack_pointer``."""
        if self._links is None:
            self._links = {}
            for stack in self._stacks:
                if stack.kind is not StackKind.TASK:
                    for place in (stack.high - offset for offset in self._arch.switch_offsets):
                        self._links.setdefault(self._word_at(place), []).append((stack, place))
        return self._links.get(stack_pointer, [])

    def _switches(self, function: Function, call: int) -> bool:
        try:
            return self._unwinder.return_address(function, call).switched
        except VmcoreError:
            return False

    def _call_below(self, step: Step, targets: Owners, stack: Stack) -> Step | None:
        """The frame of the call at a step: of one that called on itself, else of one that has not yet."""
        callers: list[Step] = []
        strangers: list[Step] = []
        others: list[Step] = []
        places = self._children(step.stack_pointer, stack)
        for place in places:
            size = step.stack_pointer - place
            function, behind = self._caller_at(place)
            if function is not None and size in self.code.frame_sizes(function):
                if function in targets.functions:
                    callers.append(Step(place, function, behind))
                elif targets.is_open:
                    strangers.append(Step(place, function, behind))
            others += [
                Step(place, target, None) for target in targets.functions if size in self.code.frame_sizes(target)
            ]
        if len(strangers) > 1 and step.function is not None:
            # A function that is called by its name elsewhere is hardly the one that is called through a register here.
            named = self.code.callees(step.function)
            strangers = [stranger for stranger in strangers if stranger.function not in named]
        for found in (callers, strangers, others):
            if found:
                newest = self._newest(step.stack_pointer, found)
                if len(newest) != 1:
                    return None
                rivals = places if targets.is_open else [rival.stack_pointer for rival in (*callers, *others)]
                is_proven = all(rival == newest[0].stack_pointer for rival in rivals)
                return newest[0] if is_proven else replace(newest[0], is_proven=False)
        return None

    def _newest(self, parent: int, found: list[Step]) -> list[Step]:
        """The frames below one parent, smallest first, without those that are older than a smaller one: had the larger
        come later, its function would have stored a register over the smaller one's back chain word.
        """
        newest: list[Step] = []
        for step in found:
            saved = self.code.saved_places(step.function) if step.function and newest else frozenset()
            if not any(smaller.stack_pointer - parent in saved for smaller in newest):
                newest.append(step)
        return newest


def _begins_at(function: Function, target: int) -> bool:
    return function.start <= target < function.start + 16
