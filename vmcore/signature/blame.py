"""Whose stack a signature is made from: not always the panicking CPU's, and never another's than the one to blame."""

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from crashbeam.schemas.codes import BlamedWhy, CrashClass, GradeReason
from crashbeam.schemas.crash_report import Blamed, Cpu, CrashReport
from crashbeam.vmcore.oops import Oops
from crashbeam.vmcore.signature.classes import BLAMES_OTHERS, STALLS, rule_of
from crashbeam.vmcore.signature.points import Points, stack_of_cpu, stack_of_text
from crashbeam.vmcore.signature.rules import Rules
from crashbeam.vmcore.signature.walk import Start, Walk, find_start, walk

NO_STACK = Points((), reaches_end=False)


class BlamedStack(Struct, frozen=True):
    """The stack to blame, where the crash began on it, and what it says; ``reasons`` against it."""

    blamed: Blamed
    stack: Points
    start: Start | None
    walk: Walk
    reasons: tuple[GradeReason, ...]


def blame(report: CrashReport, oopses: Sequence[Oops], class_: CrashClass, rules: Rules) -> BlamedStack:
    """The stack to blame for a crash of the class; ``oopses`` are the reports of its log, the cause first."""
    oops = oopses[0] if oopses else None
    if class_ is CrashClass.HUNG_TASK:
        return _printed(Blamed(None, BlamedWhy.TASK_IN_LOG if oops else None), oops, class_, rules)
    if class_ in STALLS and oops is not None:
        if oops.blamed_cpus:
            return _named(report, oopses, class_, rules)
        why = None if oops.blamed_pid is None else BlamedWhy.TASK_IN_LOG
        return _printed(Blamed(None, why), oops, class_, rules)
    return _panicking(report, oops, class_, rules)


def panicking_cpu(report: CrashReport) -> Cpu | None:
    """The CPU that panicked, where it is known."""
    return _cpu(report, report.panic.cpu)


def _cpu(report: CrashReport, number: int | None) -> Cpu | None:
    return next((cpu for cpu in report.cpus if cpu.cpu == number), None)


def _panicking(report: CrashReport, oops: Oops | None, class_: CrashClass, rules: Rules) -> BlamedStack:
    cpu = panicking_cpu(report)
    is_anothers = cpu is not None and oops is not None and oops.cpu not in (None, cpu.cpu)
    if cpu is None or is_anothers:
        number = None if oops is None else oops.cpu
        blamed = Blamed(number, None if number is None else BlamedWhy.NAMED_IN_LOG)
        return _printed(blamed, oops, class_, rules)
    blamed = Blamed(cpu.cpu, BlamedWhy.PANICKING_CPU)
    stack = stack_of_cpu(cpu, rules, oops)
    if not stack.points:
        return _printed(blamed, oops, class_, rules, GradeReason.BLAMED_NOT_SAVED)
    if class_ in STALLS and oops is None and _speaks_of_others(stack):
        return BlamedStack(Blamed(None, None), NO_STACK, None, Walk(), (GradeReason.BLAMED_UNKNOWN,))
    nip = _nip(oops, class_)
    found = _unwound(blamed, stack, class_, nip, rules)
    if nip is not None and oops is not None and not (found.start and found.start.by_nip):
        # What the CPU did when it was saved is not what the text reports: the fault was survived, or is an older one.
        printed = _printed(blamed, oops, class_, rules, GradeReason.TEXT_DISAGREES)
        if printed.walk.names:
            return printed
        return replace(found, reasons=(*found.reasons, GradeReason.TEXT_DISAGREES))
    if found.walk.unnamed or not found.walk.ended or not found.walk.names:
        printed = _printed(blamed, oops, class_, rules)
        return printed if len(printed.walk.names) > len(found.walk.names) and not printed.walk.unnamed else found
    return found


def _named(report: CrashReport, oopses: Sequence[Oops], class_: CrashClass, rules: Rules) -> BlamedStack:
    """A CPU that the text names. Of several, the one whose functions sort first: CPU numbers decide nothing."""
    oops = oopses[0]
    found = []
    for number in oops.blamed_cpus:
        cpu = _cpu(report, number)
        why = BlamedWhy.NAMED_IN_LOG if len(oops.blamed_cpus) == 1 else BlamedWhy.LISTED_IN_LOG
        stack = NO_STACK if cpu is None else stack_of_cpu(cpu, rules, oops)
        if stack.points:
            nip = oops.registers.get("nip") if oops.cpu == number else None
            found.append(_unwound(Blamed(number, why), stack, class_, nip, rules))
    found = [candidate for candidate in found if candidate.walk.names]
    if found:
        return min(found, key=_order)
    number = oops.blamed_cpus[0]
    blamed = Blamed(number, BlamedWhy.NAMED_IN_LOG if len(oops.blamed_cpus) == 1 else BlamedWhy.LISTED_IN_LOG)
    lacking = (GradeReason.BLAMED_NOT_SAVED,) if _cpu(report, number) is not None else ()
    return _printed(blamed, _printed_by_blamed(oopses), class_, rules, *lacking)


def _order(candidate: BlamedStack) -> tuple[int, list[str]]:
    return candidate.stack.is_recovered, [name.function for name in candidate.walk.names]


def _printed_by_blamed(oopses: Sequence[Oops]) -> Oops | None:
    """The report with the trace of a CPU to blame: the first one, or that CPU's own."""
    blamed = oopses[0].blamed_cpus
    for oops in oopses:
        if oops.class_ in STALLS and oops.trace and (oops is oopses[0] or set(oops.blamed_cpus) & set(blamed)):
            return oops
    return oopses[0]


def _unwound(blamed: Blamed, stack: Points, class_: CrashClass, nip: int | None, rules: Rules) -> BlamedStack:
    start = find_start(stack, class_, nip, rules)
    found = walk(stack, start, class_, rules)
    reasons = []
    if stack.is_recovered:
        reasons.append(GradeReason.BLAMED_RECOVERED)
    if start is None and not _begins_in_crash_path(stack, class_, rules):
        reasons.append(GradeReason.NO_EXCEPTION_FRAME)
    return BlamedStack(blamed, stack, start, found, tuple(reasons))


def _begins_in_crash_path(stack: Points, class_: CrashClass, rules: Rules) -> bool:
    """Whether a crash that need not begin at an exception is seen to end in the crash path all the same."""
    if rule_of(class_).needs_exception:
        return False
    first = next((point.name for point in stack.points if point.name is not None), None)
    return first is not None and rules.has("crash_path", first)


def _printed(blamed: Blamed, oops: Oops | None, class_: CrashClass, rules: Rules, *reasons: GradeReason) -> BlamedStack:
    """The stack as the text has it, where there is a text."""
    stack = NO_STACK if oops is None else stack_of_text(oops, rules)
    if not any(point.name for point in stack.points):
        lacking = reasons or (GradeReason.BLAMED_UNKNOWN,)
        return BlamedStack(blamed, NO_STACK, None, Walk(), lacking)
    nip = None if oops is None else _nip(oops, class_)
    start = find_start(stack, class_, nip, rules)
    corrupt = oops is not None and GradeReason.TEXT_CORRUPTED in oops.problems
    more = (GradeReason.STACK_FROM_TEXT, *((GradeReason.TEXT_CORRUPTED,) if corrupt else ()))
    return BlamedStack(blamed, stack, start, walk(stack, start, class_, rules), (*reasons, *more))


def _nip(oops: Oops | None, class_: CrashClass) -> int | None:
    """The text's NIP, where the class has the crash begin at an exception."""
    return None if oops is None or not rule_of(class_).needs_exception else oops.registers.get("nip")


def _speaks_of_others(stack: Points) -> bool:
    return any(point.name is not None and point.name.function in BLAMES_OTHERS for point in stack.points)
