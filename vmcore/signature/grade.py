"""How much a signature can be relied on: the worst of the reasons against it decides."""

from collections.abc import Iterable

from crashbeam.schemas.codes import CrashClass, Grade, GradeReason
from crashbeam.vmcore.signature.blame import BlamedStack
from crashbeam.vmcore.signature.classes import Key, rule_of

WORST_OF: dict[GradeReason, Grade] = {
    GradeReason.NO_LOG: Grade.B,
    GradeReason.CAUSE_LOST: Grade.D,
    GradeReason.FIRST_OOPS_LOST: Grade.C,
    GradeReason.TEXT_CORRUPTED: Grade.D,
    GradeReason.TEXT_DISAGREES: Grade.B,
    GradeReason.BLAMED_NOT_SAVED: Grade.B,
    GradeReason.BLAMED_RECOVERED: Grade.B,
    GradeReason.BLAMED_UNKNOWN: Grade.B,
    GradeReason.STACK_FROM_TEXT: Grade.B,
    GradeReason.STACK_CUT: Grade.B,
    GradeReason.STACK_OVERFLOWED: Grade.B,
    GradeReason.NO_EXCEPTION_FRAME: Grade.B,
    GradeReason.FEW_FRAMES: Grade.C,
    GradeReason.WEAK_FRAMES: Grade.C,
    GradeReason.CULPRIT_BY_LINK_REGISTER: Grade.C,
    GradeReason.SYMBOLS_MISSING: Grade.C,
    GradeReason.KIND_UNKNOWN: Grade.C,
}
"""What a signature with the reason is worth at best. Without a key of its own (no function, no words) it is a D."""

KEY_FRAMES = 3
"""The functions of the key ``id``."""


def reasons_against(class_: CrashClass, found: BlamedStack, has_text: bool, has_key: bool) -> tuple[GradeReason, ...]:
    """What speaks against a signature, in the order of the closed list. ``has_key``: a key has more than the class."""
    reasons = {*found.reasons}
    if not has_text:
        reasons.add(GradeReason.NO_LOG)
    if rule_of(class_).key is Key.FRAMES:
        reasons |= _of_frames(class_, found)
        if not has_key and not reasons & _LACKING:
            reasons.add(GradeReason.SYMBOLS_MISSING if found.stack.points else GradeReason.BLAMED_UNKNOWN)
    else:
        reasons.discard(GradeReason.NO_EXCEPTION_FRAME)
        if rule_of(class_).key is Key.DETAILS and not has_key:
            reasons.add(GradeReason.KIND_UNKNOWN)
    return tuple(reason for reason in GradeReason if reason in reasons)


def grade_of(reasons: Iterable[GradeReason], has_key: bool) -> Grade:
    """``A`` where nothing speaks against the signature, ``D`` where it has no key of its own."""
    return max((WORST_OF[reason] for reason in reasons), default=Grade.A) if has_key else Grade.D


def reason_for_d(reasons: Iterable[GradeReason]) -> GradeReason:
    """The reason that stands in the key of a ``D``: the one that weighs most, of those the first in the closed list."""
    given = tuple(reasons)
    order = tuple(GradeReason)
    return min(given, key=lambda reason: (reason not in _LACKING, -ord(WORST_OF[reason]), order.index(reason)))


_LACKING = frozenset({GradeReason.BLAMED_NOT_SAVED, GradeReason.BLAMED_UNKNOWN, GradeReason.SYMBOLS_MISSING})
"""Why there is no function at all."""


def _of_frames(class_: CrashClass, found: BlamedStack) -> set[GradeReason]:
    walk, stack = found.walk, found.stack
    reasons = set()
    key_length = walk.key_ends or len(walk.names) - walk.culprit
    if walk.names and not walk.ended and key_length < KEY_FRAMES:
        reasons.add(GradeReason.STACK_CUT)
    if walk.names and (walk.fell_back or (key_length < 2 and not walk.ended)):
        reasons.add(GradeReason.FEW_FRAMES)
    if walk.weak:
        reasons.add(GradeReason.WEAK_FRAMES)
    # In memory LR is followed only where the code proves that it holds the return address.
    if (
        stack.is_printed
        and walk.by_link_register
        and walk.culprit == 0
        and class_ not in (CrashClass.BAD_JUMP, CrashClass.EXEC_USER)
    ):
        reasons.add(GradeReason.CULPRIT_BY_LINK_REGISTER)
    if stack.points and (walk.unnamed or not walk.names):
        reasons.add(GradeReason.SYMBOLS_MISSING)
    return reasons
