"""From a stack to the functions that tell one defect from another: where the crash began, what is left out, where the
walk ends, which function is the culprit.
"""

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from crashbeam.schemas.codes import CrashClass
from crashbeam.vmcore.signature.classes import ASYNCHRONOUS, rule_of
from crashbeam.vmcore.signature.names import FunctionName
from crashbeam.vmcore.signature.points import Context, Point, Points, kernel_contexts
from crashbeam.vmcore.signature.rules import Rules

MAX_PERIOD = 8
"""The longest cycle of functions that is looked for."""
RECURSIVE_PERIODS = 3
MAX_SEQUENCE = 4096
_PANIC = ("panic", "vpanic")


class Start(Struct, frozen=True):
    """Where a crash began on a stack: ``place`` counts its functions from 0. ``by_nip``: the text's NIP decided."""

    place: int
    context: Context | None
    by_nip: bool


class Walk(Struct, frozen=True):
    """The relevant functions from the start outward, and of them the ``culprit`` and the key's (by their place).

    ``ended``: the walk came to where something new begins. ``fell_back``: no function is relevant, so that the first
    one stands for all. ``unnamed``: a function before the culprit has no name. ``weak``: only uncertain functions.
    ``recursive``: a cycle of functions went round often; ``cycle``: where it stands in ``names``, once. ``left_out``:
    what was passed over, and why, for people.
    """

    names: tuple[FunctionName, ...] = ()
    culprit: int = 0
    key_ends: int | None = None
    ended: bool = False
    fell_back: bool = False
    unnamed: bool = False
    weak: bool = False
    by_link_register: bool = False
    recursive: bool = False
    cycle: tuple[int, int] | None = None
    left_out: tuple[tuple[str, str], ...] = ()
    stopped_at: str | None = None


def find_start(stack: Points, class_: CrashClass, nip: int | None, rules: Rules) -> Start | None:
    """The exception at which the crash began: the one with the text's NIP, else the innermost of the class' own to
    which only functions of the crash path lead. ``None`` where the class begins at none, or it is not on the stack.
    """
    contexts = list(kernel_contexts(stack))
    if nip is not None:
        for place, context in contexts:
            if context.nip == nip and context.vector:
                return Start(place, context, by_nip=True)
    rule = rule_of(class_)
    for place, context in contexts:
        if any(point.name and not rules.has("crash_path", point.name) for point in stack.points[:place]):
            return None
        if rule.begins_at(context.vector):
            return Start(place, context, by_nip=False)
    return None


def walk(stack: Points, start: Start | None, class_: CrashClass, rules: Rules) -> Walk:
    """The functions of the stack that say something, from the start outward."""
    place = _panic_on(stack) if start is None else start.place
    found = _outward(stack, place, class_, rules, certain=True)
    if not found.names:
        weak = _outward(stack, place, class_, rules, certain=False)
        found = replace(weak, weak=True, names=weak.names[:1]) if weak.names else _fallen_back(stack, place, found)
    if class_ is CrashClass.STACK_OVERFLOW:
        return _cycle_first(found)
    if class_ is CrashClass.HUNG_TASK:
        return _at_victim(found, rules)
    return _at_anchor(found, rules) if rule_of(class_).uses_anchors else found


def _panic_on(stack: Points) -> int:
    """The place of the outermost ``panic()`` on the stack, 0 without one: what runs inside of it, delays and interrupts
    as long as nothing starts another kernel, is no part of the crash.
    """
    places = [
        place
        for place, point in enumerate(stack.points)
        if point.is_certain and point.name is not None and point.name.function in _PANIC
    ]
    return places[-1] if places else 0


def collapse(names: Sequence[FunctionName]) -> tuple[list[FunctionName], int, tuple[int, int] | None]:
    """The names with each repeated cycle once; the most periods that one had, and where that one then stands.

    What a cycle leaves over, a part of it, is left out with it: A B A B A is A B.
    """
    left: list[FunctionName] = []
    most, longest, at = 1, None, 0
    names = names[:MAX_SEQUENCE]
    while at < len(names):
        period, periods = _cycle_at(names, at)
        if periods < 2:
            left.append(names[at])
            at += 1
            continue
        cycle = names[at : at + period]
        if periods > most:
            most, longest = periods, (len(left), len(left) + period)
        left += cycle
        at += period * periods
        over = 0
        while over < period - 1 and at + over < len(names) and names[at + over] == cycle[over]:
            over += 1
        at += over
    return left, most, longest


def _cycle_at(names: Sequence[FunctionName], at: int) -> tuple[int, int]:
    """The shortest cycle that begins at a place, and how often it goes round."""
    if names[at] not in names[at + 1 : at + 1 + MAX_PERIOD]:
        return 1, 1
    for period in range(1, MAX_PERIOD + 1):
        cycle, periods = names[at : at + period], 1
        while len(cycle) == period and names[at + period * periods : at + period * (periods + 1)] == cycle:
            periods += 1
        if periods > 1:
            return period, periods
    return 1, 1


def _outward(stack: Points, place: int, class_: CrashClass, rules: Rules, certain: bool) -> Walk:
    names: list[FunctionName] = []
    left_out: list[tuple[str, str]] = []
    unnamed = by_link_register = False
    stopped_at: str | None = None
    for at, point in enumerate(stack.points[place:], start=place):
        stopped_at = _ends_at(point, is_start=at == place)
        if stopped_at is not None:
            break
        if point.name is None:
            is_bad_target = at == place and class_ in (CrashClass.BAD_JUMP, CrashClass.EXEC_USER)
            unnamed = unnamed or not (names or is_bad_target)
            left_out.append(("?", "no name"))
            continue
        why = _why_left_out(point, point.name, class_, rules, is_leading=not names, certain=certain)
        if why == "terminators":
            stopped_at = f"{point.name.function} begins something new"
            break
        if why is not None:
            left_out.append((point.name.function, why))
            continue
        by_link_register = by_link_register or (not names and point.is_by_link_register)
        names.append(point.name)
    collapsed, periods, cycle = collapse(names)
    return Walk(
        names=tuple(collapsed),
        ended=stopped_at is not None or stack.reaches_end,
        unnamed=unnamed,
        by_link_register=by_link_register,
        recursive=periods >= RECURSIVE_PERIODS,
        cycle=cycle,
        left_out=tuple(left_out),
        stopped_at=stopped_at,
    )


def _ends_at(point: Point, is_start: bool) -> str | None:
    if point.is_user:
        return "user mode"
    if not is_start and point.context is not None and point.context.vector in ASYNCHRONOUS:
        return f"interrupt {point.context.vector:x}"
    return None


def _why_left_out(
    point: Point, name: FunctionName, class_: CrashClass, rules: Rules, *, is_leading: bool, certain: bool
) -> str | None:
    """The list that a function is left out by, or ``None``. A terminator that is also of the crash path ends no walk
    that has not left that path yet.
    """
    if is_leading and rules.has("crash_path", name):
        return "crash_path"
    if rules.has("terminators", name):
        return "terminators"
    if rule_of(class_).uses_anchors and (rules.has("anchors", name) or rules.has("anchors_named", name)):
        return None if point.is_certain or not certain else "uncertain"
    if certain and not point.is_certain:
        return "uncertain"
    if class_ is CrashClass.HUNG_TASK and rules.has("victims", name):
        return None
    if class_ in (CrashClass.HUNG_TASK, CrashClass.ATOMIC_SLEEP) and rules.has("waits", name):
        return "waits"
    return next((name_list for name_list in ("crash_path", "irrelevant") if rules.has(name_list, name)), None)


def _fallen_back(stack: Points, place: int, found: Walk) -> Walk:
    """Where all functions are helpers or plumbing, the innermost one stands for them."""
    for point in stack.points[place:]:
        if point.is_user:
            break
        if point.name is not None:
            return replace(found, names=(point.name,), fell_back=True, weak=not point.is_certain)
    return found


def _cycle_first(found: Walk) -> Walk:
    """A stack that overflowed by recursion: the cycle alone, begun at the same function wherever the stack ran out."""
    if found.cycle is None or not found.recursive:
        return found
    first, stop = found.cycle
    cycle = found.names[first:stop]
    turns = [cycle[turn:] + cycle[:turn] for turn in range(len(cycle))]
    least = min(turns, key=lambda turn: [(name.function, name.module or "") for name in turn])
    return replace(found, names=least + found.names[stop:], culprit=0, key_ends=len(least))


def _at_victim(found: Walk, rules: Rules) -> Walk:
    for place, name in enumerate(found.names):
        if rules.has("victims", name):
            return replace(found, culprit=place, key_ends=place + 1)
    return found


def _at_anchor(found: Walk, rules: Rules) -> Walk:
    """The function just inside of what many tasks come through; anchors that say nothing else are left out then."""
    culprit, key_ends = _anchored(found, rules)
    kept = [place for place, name in enumerate(found.names) if place == culprit or not rules.has("irrelevant", name)]
    names = tuple(found.names[place] for place in kept)
    culprit = kept.index(culprit) if names else 0
    return replace(found, names=names, culprit=culprit, key_ends=None if key_ends is None else culprit + 1)


def _anchored(found: Walk, rules: Rules) -> tuple[int, int | None]:
    for place, name in enumerate(found.names):
        if rules.has("anchors_named", name):
            return place, place + 1
        if place and rules.has("anchors", name):
            return place - 1, None
    return (len(found.names) - 1 if found.stopped_at and found.names else 0), None
