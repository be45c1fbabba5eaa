"""The signature of a crash: what it is filed under. Made from the stored report alone, so that it can be made again.

The steps and the lists are told in ``docs/signatures.md``; ``explanation`` tells them for one report.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence

from msgspec import Struct

from crashbeam.schemas.clean import clean_text
from crashbeam.schemas.codes import CrashClass, Grade, GradeReason, StackKind
from crashbeam.schemas.crash_report import CrashReport, Signature
from crashbeam.vmcore.log_line import LogLine
from crashbeam.vmcore.oops import Oops, find_oopses
from crashbeam.vmcore.signature.blame import BlamedStack, blame, panicking_cpu
from crashbeam.vmcore.signature.classes import STALLS, Key, class_of_stack, rule_of
from crashbeam.vmcore.signature.grade import KEY_FRAMES, grade_of, reason_for_d, reasons_against
from crashbeam.vmcore.signature.names import FunctionName
from crashbeam.vmcore.signature.points import stack_of_cpu
from crashbeam.vmcore.signature.rules import ALGORITHM, Rules
from crashbeam.vmcore.title import titles_of

MAX_SHOWN_FRAMES = 6
"""The key ``id`` may hold so many functions: three, and the wrappers of the list ``prefix`` among them."""
MAX_FRAMES = 64
"""The functions of ``narrow``, and of ``Signature.frames``."""
NEIGHBOUR_BYTES = 64 << 10
"""A stack pointer so far below its task's stack has run out of it."""
_ID_DIGITS = 16
_MAX_DETAIL_CHARACTERS = 200
_NUMBERS = re.compile(r"\b(?:0x)?[0-9a-f]{6,}\b|\b\d+\b", re.ASCII)


class Signed(Struct, frozen=True):
    """A signature with the titles of its crash, and the steps that led to it, one a line."""

    signature: Signature
    title: str
    alternative_titles: tuple[str, ...]
    explanation: tuple[str, ...]


def sign(report: CrashReport, rules: Rules, oopses: Sequence[Oops] | None = None) -> Signed:
    """Signs a report. Pure: of the report only stacks, registers and the reports of its log are looked at.

    ``oopses`` are the latter where they are at hand already (as ``find_oopses`` gave them), so that their lines are not
    read again; the outcome is the same.
    """
    if oopses is None:
        oopses = _oopses(report, rules)
    decided = _class(report, oopses[0] if oopses else None, rules)
    oops, class_, whence = decided.oops, decided.class_, decided.whence
    oopses = oopses if oops is not None else ()
    found = blame(report, oopses, class_, rules)
    if _is_sysrq(class_, found):
        class_, whence = CrashClass.SYSRQ_CRASH, "its culprit is the function that sysrq calls"
        found = blame(report, oopses, class_, rules)
    culprit = found.walk.names[found.walk.culprit] if found.walk.names else None
    title, alternatives = titles_of(
        oops,
        class_,
        None if culprit is None else culprit.function,
        None if culprit is None else culprit.module,
        formats=rules.formats,
    )
    keys = _keys(class_, oops, found, title, rules)
    has_key = bool(keys.id) or rule_of(class_).key is not Key.FRAMES
    reasons = reasons_against(class_, found, has_text=decided.by_text, has_key=bool(keys.id))
    reasons = _with_text_problems(report, oops, found, reasons)
    grade = grade_of(reasons, has_key)
    if grade is Grade.D:
        keys = _Keys(*((f"({reason_for_d(reasons).value})",) for _ in range(3)))
    texts = [key_text(class_, elements) for elements in (keys.id, keys.wide, keys.narrow)]
    signature = Signature(
        algorithm=ALGORITHM,
        rules=rules.digest,
        class_=class_,
        culprit=None if culprit is None else culprit.function,
        module=None if culprit is None else culprit.module,
        frames=tuple(element(name, rules) for name in found.walk.names[:MAX_FRAMES]),
        blamed=found.blamed,
        id=signature_id(texts[0]),
        wide=signature_id(texts[1]),
        narrow=signature_id(texts[2]),
        grade=grade,
        reasons=reasons,
        intentional=_is_intentional(class_, oopses, found, rules),
        recursive=found.walk.recursive,
    )
    explanation = tuple(_explain(whence, found, signature, texts, rules))
    return Signed(signature, title, alternatives, explanation)


def key_text(class_: CrashClass, elements: Sequence[str]) -> str:
    """The text that an id is the digest of: the algorithm's name, the class, and the key's elements, one a line."""
    return "\n".join((ALGORITHM, class_.value, *elements))


def signature_id(text: str) -> str:
    """The first 16 hex digits of SHA-256 over the text's UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()[:_ID_DIGITS]


def element(name: FunctionName, rules: Rules) -> str:
    """A function as it stands in a key: alone, but for a name that many modules have."""
    generic = name.module is not None and rules.has_in_any_module("generic_names", name)
    return f"{name.function} [{name.module}]" if generic else name.function


class _Keys(Struct, frozen=True):
    """What stands in the three keys beside the class."""

    id: tuple[str, ...]
    wide: tuple[str, ...]
    narrow: tuple[str, ...]


def _oopses(report: CrashReport, rules: Rules) -> tuple[Oops, ...]:
    """The reports of the stored log: the cause, then the others, as far as their lines still tell."""
    if report.dmesg is None:
        return ()
    found = []
    for stored in report.dmesg.reports:
        lines = [LogLine(number, None, None, None, text) for number, text in enumerate(stored.lines)]
        oops = next(iter(find_oopses(lines, rules.formats)), None)
        if oops is not None and oops.at_line == 0:
            found.append(oops)
        elif not found:
            return ()
        if found[0].class_ not in STALLS and found[0].class_ is not CrashClass.SYSTEM_RESET:
            break
    return tuple(found)


class _Decided(Struct, frozen=True):
    """The class, and how it is known; ``oops`` is the log's report where that tells of the cause."""

    oops: Oops | None
    class_: CrashClass
    whence: str
    by_text: bool


def _class(report: CrashReport, oops: Oops | None, rules: Rules) -> _Decided:
    stored = report.dmesg.reports[0] if report.dmesg is not None and report.dmesg.reports else None
    if oops is None and stored is not None:
        return _Decided(None, stored.class_, "the log said so when the dump was read", by_text=True)
    if oops is not None and GradeReason.CAUSE_LOST not in oops.problems:
        if oops.class_ in _OVERFLOWS and _overflowed(report):
            return _Decided(oops, CrashClass.STACK_OVERFLOW, "the stack pointer had left the stack", by_text=True)
        return _Decided(oops, oops.class_, f'the log says "{oops.message}"', by_text=True)
    cpu = panicking_cpu(report)
    class_ = CrashClass.EMPTY
    if cpu is not None and _overflowed(report):
        class_ = CrashClass.STACK_OVERFLOW
    elif cpu is not None:
        is_book_e = report.kernel.arch == "ppc32"
        class_ = class_of_stack(stack_of_cpu(cpu, rules), rules, report.kernel.page_size, is_book_e)
    if oops is not None and class_ in _TELLS_NOTHING:
        return _Decided(oops, oops.class_, "the log has the last words alone", by_text=True)
    whence = "the log does not tell" if class_ in _TELLS_NOTHING else "the log does not tell, the stack does"
    return _Decided(None, class_, whence, by_text=False)


_TELLS_NOTHING = frozenset({CrashClass.PANIC, CrashClass.UNCLASSIFIED, CrashClass.EMPTY})
"""A class that a stack has for want of anything better."""
_OVERFLOWS = frozenset({CrashClass.BAD_ACCESS, CrashClass.BAD_STACK, CrashClass.UNKNOWN_OOPS, CrashClass.UNRECOVERABLE})
"""What a stack that overflows may end as."""


def _overflowed(report: CrashReport) -> bool:
    """Whether the panicking CPU's r1 lies below its task's stack, in no other, after a function that calls itself."""
    cpu = panicking_cpu(report)
    if cpu is None or cpu.task is None or cpu.task.stack_base is None or not cpu.stack.frames:
        return False
    frames = cpu.stack.frames
    below = int(cpu.task.stack_base, 16) - int(frames[0].stack_pointer, 16)
    if frames[0].on is not StackKind.UNKNOWN or not 0 < below <= NEIGHBOUR_BYTES or cpu.mode != "kernel":
        return False
    symbols = [frame.symbol for frame in frames]
    return any(frame.on is StackKind.TASK for frame in frames) or max(map(symbols.count, set(symbols))) >= 3


def _is_sysrq(class_: CrashClass, found: BlamedStack) -> bool:
    """Before 5.4 sysrq c wrote to address 0, and its text may be gone."""
    if class_ is CrashClass.SYSRQ_CRASH or not found.walk.names:
        return False
    return found.walk.names[0] == FunctionName("sysrq_handle_crash", None)


def _is_intentional(class_: CrashClass, oopses: Sequence[Oops], found: BlamedStack, rules: Rules) -> bool:
    if class_ is CrashClass.SYSRQ_CRASH:
        return True
    if class_ is CrashClass.SYSTEM_RESET:
        return not any(oops.class_ in STALLS for oops in oopses)
    return any(rules.has_in_any_module("intentional", name) for name in found.walk.names[:KEY_FRAMES])


def _keys(class_: CrashClass, oops: Oops | None, found: BlamedStack, title: str, rules: Rules) -> _Keys:
    rule = rule_of(class_)
    if rule.key is Key.NOTHING:
        return _Keys((), (), ())
    if rule.key is Key.DETAILS:
        details = () if oops is None else tuple(filter(None, map(oops.details.get, rule.details)))
        words = tuple(_plain(detail) for detail in details)
        return _Keys(words, words, words)
    names = [element(name, rules) for name in found.walk.names]
    if not names:
        words = (f"({_plain(title)})",) if class_ is CrashClass.PANIC and oops is not None else ()
        return _Keys(words, words, words)
    culprit = found.walk.culprit
    shown: list[str] = []
    counted = 0
    for place in range(culprit, found.walk.key_ends or len(names)):
        shown.append(names[place])
        counted += not rules.has("prefix", found.walk.names[place])
        if counted == KEY_FRAMES or len(shown) == MAX_SHOWN_FRAMES:
            break
    return _Keys(tuple(shown), (names[culprit],), tuple(names[:MAX_FRAMES]))


def _plain(text: str) -> str:
    """Words of a text without what differs from machine to machine."""
    return clean_text(" ".join(_NUMBERS.sub("N", text).split()), _MAX_DETAIL_CHARACTERS)


def _with_text_problems(
    report: CrashReport, oops: Oops | None, found: BlamedStack, reasons: tuple[GradeReason, ...]
) -> tuple[GradeReason, ...]:
    """The reasons, with what the text itself says against it, and a stack that had overflowed under another class."""
    more = set(reasons)
    if oops is not None:
        more |= set(oops.problems) & {GradeReason.FIRST_OOPS_LOST, GradeReason.CAUSE_LOST}
    if found.start is not None and found.walk.names and _overflowed(report):
        more.add(GradeReason.STACK_OVERFLOWED)
    return tuple(reason for reason in GradeReason if reason in more)


def _explain(
    whence: str, found: BlamedStack, signature: Signature, texts: Sequence[str], rules: Rules
) -> Iterator[str]:
    walk = found.walk
    yield f"class: {signature.class_.value}: {whence}"
    blamed = signature.blamed
    whose = "no CPU is known" if blamed.cpu is None else f"cpu {blamed.cpu}"
    yield f"blamed: {whose if blamed.why is None else f'{whose}: {blamed.why.sentence}'}"
    source = "the log's trace" if found.stack.is_printed else "recovered" if found.stack.is_recovered else "unwound"
    yield f"stack: {len(found.stack.points)} functions, {source}" if found.stack.points else "stack: none"
    if found.start is not None and found.start.context is not None:
        how = "the text's NIP" if found.start.by_nip else "the class' exception"
        vector = found.start.context.vector
        yield f"cut: at function {found.start.place}, exception {vector:x} ({how}); what is inward is the crash path"
    elif found.stack.points:
        yield "cut: no exception; the crash path is left out by its list"
    for name, why in walk.left_out:
        yield f"left out: {name} ({why})"
    for place, function in enumerate(walk.names):
        mark = " <- culprit" if place == walk.culprit else ""
        prefix = " (prefix: does not count)" if rules.has("prefix", function) else ""
        module = f" (in {function.module})" if function.module else ""
        yield f"function: {element(function, rules)}{module}{prefix}{mark}"
    if walk.stopped_at:
        yield f"stopped: {walk.stopped_at}"
    if walk.recursive:
        yield "recursive: a cycle of functions was taken once"
    for reason in signature.reasons:
        yield f"reason: {reason.value}: {reason.sentence}"
    yield f"grade: {signature.grade.value}: {signature.grade.sentence}"
    for key, text, value in zip(("id", "wide", "narrow"), texts, _ids(signature), strict=True):
        yield f"{key}: {value} of {text.encode('unicode_escape').decode()}"


def _ids(signature: Signature) -> tuple[str, str, str]:
    return signature.id, signature.wide, signature.narrow
