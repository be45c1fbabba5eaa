"""The kernel's own trace of a crash against the unwound stack.

The kernel prints, for each frame, the word in its LR save slot, alive or stale. So lines may differ in four ways that
are no contradiction: that of a frame whose return address was still in LR; that of the function that switched stacks,
whose slot nobody filled; one inside ``panic()``, which went on after it printed; and the stale bottom line of an idle
CPU.
"""

from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise

from crashbeam.schemas.codes import StackKind, Trust
from crashbeam.schemas.crash_report import Stack
from crashbeam.vmcore.oops import TraceLine

_INTERRUPT_STACKS = (StackKind.HARDIRQ, StackKind.SOFTIRQ)


class LineKind(StrEnum):
    """What a line of a trace is to the unwound stack."""

    EQUAL = "equal"
    UNRELIABLE = "flagged unreliable by the kernel"
    LR_WAS_LIVE = "stale: LR was live"
    SWITCHING_FUNCTION = "the switching function's frame"
    INSIDE_PANIC = "inside panic()"
    IDLE_BOTTOM = "bottom of an idle CPU"
    UNEXPLAINED = "unexplained"


def compare_trace(lines: Sequence[TraceLine], stack: Stack) -> list[LineKind]:
    """What each line of a trace is; lines of exceptions, which have no stack pointer, are left out."""
    frames = [line for line in lines if line.stack_pointer is not None]
    kinds = []
    for place, line in enumerate(frames):
        before = frames[place - 1] if place else None
        kinds.append(_kind_of(line, before, place == len(frames) - 1, stack))
    return kinds


def _kind_of(line: TraceLine, before: TraceLine | None, is_last: bool, stack: Stack) -> LineKind:
    here = [frame for frame in stack.frames if int(frame.stack_pointer, 16) == line.stack_pointer]
    if any(int(frame.address, 16) == line.address for frame in here):
        return LineKind.EQUAL
    if line.is_unreliable:
        return LineKind.UNRELIABLE
    if any(frame.trust is Trust.LINK_REGISTER for frame in here):
        return LineKind.LR_WAS_LIVE
    if before is not None and not here and _leaves_stack(stack, before):
        return LineKind.SWITCHING_FUNCTION
    if any(frame.symbol == line.function == "panic" for frame in here):
        return LineKind.INSIDE_PANIC
    if is_last and not here:
        return LineKind.IDLE_BOTTOM
    return LineKind.UNEXPLAINED


def _leaves_stack(stack: Stack, line: TraceLine) -> bool:
    """Whether the frame of a line is the first of an interrupt stack: the next one lies elsewhere."""
    for frame, following in pairwise(stack.frames):
        if int(frame.stack_pointer, 16) == line.stack_pointer:
            return frame.on in _INTERRUPT_STACKS and following.on != frame.on
    return False
