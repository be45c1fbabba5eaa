"""The walk down to a stack: what the way down found, as frames, with what is not certain marked.

What was found is not always still running: behind the last call that left a trace, a function may have gone round by
itself, or in a callee that leaves none. Frames that may have returned so are marked, such a callee is an inference.
"""

from __future__ import annotations

from dataclasses import replace

from crashbeam.schemas.codes import StackKind, Trust
from crashbeam.schemas.crash_report import Frame
from crashbeam.schemas.crash_report import Stack as StackRecord
from crashbeam.vmcore.limits import MAX_FRAMES
from crashbeam.vmcore.modules import Function
from crashbeam.vmcore.recover.code import Reach
from crashbeam.vmcore.recover.steps import Means, Step, Way, is_interrupt
from crashbeam.vmcore.stacks import Stack, stack_of
from crashbeam.vmcore.tasks import CurrentTask
from crashbeam.vmcore.unwind import Unwinder

_SLEEPERS = ("__schedule", "schedule", "schedule_", "__switch_to", "_switch", "io_schedule", "preempt_schedule")
"""What puts a task to sleep; with an underscore at the end, what a name begins with."""
_NEVER_LEFT = ("panic", "vpanic", "nmi_panic")
"""What a kernel enters once and never leaves: such a frame is no remainder."""
_LOCKS = ("_raw_spin_", "_raw_read_", "_raw_write_", "arch_spin_", "queued_spin_")


def walk_down(means: Means, task: CurrentTask | None, stacks: tuple[Stack, ...]) -> StackRecord | None:
    """The stack of a CPU that was silent; ``None`` if its task's stack does not tell. Raises LimitError."""
    task_stack = next((stack for stack in stacks if stack.kind is StackKind.TASK), None)
    if task_stack is None:
        return None
    way = Way(means, task, stacks)
    steps = way.descend(task_stack)
    return _to_record(means.unwinder, stacks, steps, _Doubts(way, steps)) if steps else None


def _to_record(unwinder: Unwinder, stacks: tuple[Stack, ...], steps: list[Step], doubts: _Doubts) -> StackRecord | None:
    """The frames of the way, innermost first: those whose function called on are the unwinder's, from the innermost
    of them outward.
    """
    inner = [] if steps[-1].behind is not None else steps[-1:]
    last = steps[-2] if inner and len(steps) > 1 else steps[-1]
    if last.behind is not None:
        found = unwinder.unwind_frame(last.stack_pointer, stacks)
    elif last.exception is not None:
        found, inner = unwinder.unwind_context(last.exception, stacks), []
    else:
        return None
    inferred = [_infer(unwinder, stacks, step.function, step.stack_pointer) for step in inner if step.function]
    frames = [*inferred, *found.frames]
    pointers = [int(frame.stack_pointer, 16) for frame in frames]
    over = max((place + 1 for place, pointer in enumerate(pointers) if pointer in doubts.returned), default=0)
    if doubts.all_over:
        over = len(frames)
    returned = range(over)
    if doubts.guess is not None:
        frames.insert(0, _infer(unwinder, stacks, *doubts.guess))
        returned = range(1, over + 1)
    numbered = (
        frame
        if frame.level == level and level not in returned
        else replace(frame, level=level, may_have_returned=level in returned)
        for level, frame in enumerate(frames[:MAX_FRAMES])
    )
    return replace(found, frames=tuple(numbered))


def _infer(unwinder: Unwinder, stacks: tuple[Stack, ...], function: Function, stack_pointer: int) -> Frame:
    """A function that is running, or may be, at an address that nothing tells: its first one stands for it."""
    stack = stack_of(stacks, stack_pointer)
    hexadecimal = unwinder.arch.hexadecimal
    return Frame(
        level=0,
        stack_pointer=hexadecimal(stack_pointer),
        address=hexadecimal(function.start),
        symbol=function.name,
        offset=0 if function.name else None,
        module=function.module,
        trust=Trust.CALLEE,
        may_have_returned=False,
        on=stack.kind if stack else StackKind.UNKNOWN,
        exception=None,
        source=None,
    )


class _Doubts:
    """What of a way down is not certain."""

    def __init__(self, way: Way, steps: list[Step]) -> None:
        self._way = way
        self._steps = steps
        self._anchor = self._find_anchor()
        self._awake = self._find_awake()
        certain = self._count_certain()
        self.all_over = certain == 0
        """Even the exception that led into the kernel may be over."""
        self.returned = frozenset(step.stack_pointer for step in steps[certain:])
        """The stack pointers of the frames that may have returned."""
        self.guess = self._find_guess()
        """The one function without a trace that may be running, and its stack pointer."""

    def _find_anchor(self) -> int:
        """The place of the innermost step that must still be there: an interrupt that is being handled, else the
        bottom.
        """
        for place in range(len(self._steps) - 1, 0, -1):
            registers = self._steps[place].exception
            if registers is not None and self._way.in_interrupt and is_interrupt(registers):
                return place
        return 0

    def _find_awake(self) -> int:
        """The number of steps that did not sleep: a task that runs is in no call that put it to sleep."""
        for place in range(self._anchor + 1, len(self._steps)):
            if _is_named(self._steps[place], _SLEEPERS):
                return place
        return len(self._steps)

    def _count_certain(self) -> int:
        """The number of steps, from the bottom, that are still running.

        Those inward of a function are not certain where it may go on behind their call without a trace, and all of
        them may return without one too.
        """
        steps = self._steps
        certain = self._awake
        for place in range(self._awake - 1, self._anchor - 1, -1):
            reach = self._reach(steps[place])
            if reach.may_stay:
                certain = place + 1
            registers = steps[place].exception
            if not reach.returns or (registers is not None and place == self._anchor and place):
                break
            if registers is None:
                continue
            # The handler may be over, and what it interrupted gone on.
            function = None if registers.is_user else self._way.function_of(registers)
            if function is None:
                certain = place
                break
            interrupted = self._way.code.behind(function, registers.nip)
            if interrupted.may_stay:
                certain = place
            if not interrupted.returns:
                break
        certain = next((place for place in range(self._anchor, certain) if not steps[place].is_proven), certain)
        bottom = steps[0].exception
        if bottom is not None and self._way.in_interrupt is False and is_interrupt(bottom):
            # The interrupt that brought the task into the kernel is over.
            certain = min(certain, 1)
        last_words = [place + 1 for place, step in enumerate(steps) if _is_named(step, _NEVER_LEFT)]
        return max([certain, *last_words])

    def _reach(self, step: Step) -> Reach:
        if step.function is None:
            return Reach(loops=False, returns=False)
        return self._way.code.behind(step.function, step.function.start if step.behind is None else step.behind)

    def _find_guess(self) -> tuple[Function, int] | None:
        """``None`` if there is none, or several. The innermost frame that may call such functions decides, lock
        functions only where there are no others: nearly every function takes locks.
        """
        locks: list[tuple[Function, int]] = []
        for step in reversed(self._steps[self._anchor : self._awake]):
            reach = self._reach(step)
            others = [callee for callee in reach.callees if not (callee.name or "").startswith(_LOCKS)]
            if others:
                return (others[0], step.stack_pointer) if len(others) == 1 else None
            locks += [(callee, step.stack_pointer) for callee in reach.callees]
            if not reach.returns:
                break
        return locks[0] if len(locks) == 1 else None


def _is_named(step: Step, names: tuple[str, ...]) -> bool:
    name = step.function.name if step.function else None
    return name is not None and any(name == one or (one.endswith("_") and name.startswith(one)) for one in names)
