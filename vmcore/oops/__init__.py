"""Lines of the kernel's log to the reports in it: oopses, panics, warnings that panicked, lockups, stalls.

What lines look like is data (``configs/signature/oops.toml``), which of them belong together is decided in
``oops_events.py``; here a report is made of its lines. Where the log tells who printed a line, a report has only those
of its own context.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

from msgspec import Struct

from crashbeam.schemas.codes import CrashClass, GradeReason
from crashbeam.vmcore.dmesg.text import parse_log_text
from crashbeam.vmcore.log_line import CALLER_IS_CPU, LogLine
from crashbeam.vmcore.oops.events import (
    MAX_LINE_LENGTH,
    Event,
    Start,
    context_of,
    details_of,
    find_events,
    find_starts,
    is_same_context,
)
from crashbeam.vmcore.oops.formats import Kind, OopsFormats, Pattern, shipped_formats
from crashbeam.vmcore.oops.log_facts import LogFacts, log_facts
from crashbeam.vmcore.oops.trace import Place, TraceLine, place_of, read_registers, read_trace

__all__ = ("LogFacts", "Oops", "TraceLine", "find_oopses", "has_report", "log_facts", "parse_lines")

MAX_OOPSES = 16
MAX_LINES = 200
"""Lines of one report."""
_MAX_SCANNED = 4000
_MAX_BODY_LINES = 60
_MAX_BLAMED = 64
_BANNER = "Linux version "
_PANIC = "Kernel panic - not syncing"
_END_OF_TRACE = "---[ end trace"
_END_OF_PANIC = "---[ end Kernel panic"
_AFTER_REPORT = ("Sending IPI to other", "IPI complete", "Rebooting in ", "Starting crashdump kernel", "Starting kdump")
_USER_FROM = 0x10000
_KERNEL_FROM_32, _KERNEL_FROM_64 = 0xB0000000, 0xC000000000000000
"""Where 32-bit kernels put modules at the lowest, and where the kernel's addresses begin on 64 bit."""
_LINEAR_END_64 = 0xC0003D0000000000
"""The lowest address that a 64-bit kernel maps modules at (hash, 4K pages); the linear map is below."""
_PROGRAM_CHECKS = ((0x100000, "floating point"), (0x80000, "illegal instruction"), (0x40000, "privileged instruction"))
"""Bits of SRR1 after a program check on 64 bit (Power ISA book III, 7.5.9)."""
_CLASS_BY_TRAP = {0x400: CrashClass.BAD_JUMP, 0x480: CrashClass.BAD_JUMP, 0x600: CrashClass.UNALIGNED}
_HEX_DETAILS = ("vector", "exit_code")
_OWN_FIELDS = ("function", "offset", "module", "cpu", "pid", "comm", "blamed_cpu", "blamed_cpus", "blamed_pid", "count")
_CPU_LINE = (
    r"(?:.*? )?CPU: (?P<cpu>\d{1,6}) (?:UID: \d+ )?PID: (?P<pid>\d{1,10}) "
    r"Comm: (?P<comm>.*?) (?:Kdump: loaded )?(?:Not tainted|Tainted: )"
)
_TASK_LINE = r"TASK = \S+\[(?P<pid>\d{1,10})\] '(?P<comm>.*)' THREAD: \S+(?: CPU: (?P<cpu>\d{1,6}))?"
"""How kernels before 3.15 named CPU and task below the registers."""
_STAMP_INSIDE = r"\[ *\d{1,8}\.\d{6}\]"
_JOURNAL = r"^(?:[A-Z][a-z]{2} [ \d]\d [\d:]{8}|\d{4}-\d\d-\d\dT[\d:.,+-]{8,26}Z?) \S{1,64} kernel: "
_LAST_UNLOADED = r".*\[last unloaded: (?P<unloaded>[\w-]+)"


class Oops(Struct, frozen=True):
    """One report in the log.

    ``at_line`` counts the lines given from 0; ``lines`` are those from its header (from the line that refines it, where
    one stands above), at most 200, the panic's among them: the same report can be read from them again. ``function``
    is where the text says it happened, ``link_function`` what LR lies in. ``registers`` go by the names of a report
    (``nip``, ``r1``, ``dar``, ...); ``trace`` is the kernel's own, of the CPU to blame where that one printed it.
    ``blamed_cpus`` are named or listed in the text, ``blamed_pid`` is the hung task. ``details`` are the other groups
    of the table's expressions (``file``, ``kind``, ``access``, ``text``, ...). ``epilogue`` is the text of the panic
    that ended it. ``is_fatal`` is false for one that no panic followed.
    """

    class_: CrashClass
    at_line: int
    lines: tuple[str, ...]
    message: str
    function: str | None
    offset: int | None
    module: str | None
    cpu: int | None
    pid: int | None
    comm: str | None
    registers: Mapping[str, int]
    trace: tuple[TraceLine, ...]
    blamed_cpus: tuple[int, ...]
    blamed_pid: int | None
    details: Mapping[str, str]
    epilogue: str | None
    problems: tuple[GradeReason, ...]
    format: str
    link_function: str | None
    link_module: str | None
    is_fatal: bool


@cache
def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def find_oopses(lines: Sequence[LogLine], formats: OopsFormats | None = None) -> tuple[Oops, ...]:
    """The reports in the log, at most 16. The first one is the cause; further fatal ones follow in the log's order,
    then stalls and lockups that did not end in a panic of their own (they may stand before the cause).

    Of several boots in one text the last that has a fatal report counts. Other reports that nothing fatal followed are
    given only where nothing fatal is in the log at all.
    """
    starts = _of_last_boot(lines, find_starts(find_events(lines, formats or shipped_formats())))[:MAX_OOPSES]
    oopses = []
    for start in starts:
        following = (
            other for other in starts if other.header.at > start.header.at and (other.is_fatal or not start.is_fatal)
        )
        ends = [other.header.at for other in following if is_same_context(other.header.context, start.header.context)]
        oopses.append(_oops(lines, start, min(ends, default=len(lines)), is_first=start is starts[0]))
    return tuple(oopses)


def has_report(lines: Sequence[LogLine], formats: OopsFormats | None = None) -> bool:
    """Whether a line is one that begins or ends a report, of whatever kind: cheaper than to find them."""
    return next(find_events(lines, formats or shipped_formats()), None) is not None


def parse_lines(texts: Sequence[str]) -> tuple[LogLine, ...]:
    """Lines of a log as they were printed, or stored: stamp, printer (``[ T81]``), level and a journal's prefix are
    taken off. Empty lines are left out.
    """
    journal = _expression(_JOURNAL)
    text = "\n".join(journal.sub("", text, count=1) for text in texts)
    return tuple(parse_log_text(text.encode("utf-8", "replace")))


def _of_last_boot(lines: Sequence[LogLine], starts: list[Start]) -> list[Start]:
    """The reports of the boot that the last fatal one is in (the last one, where none is fatal)."""
    if len(starts) < 2:
        return starts
    banners = [number for number, line in enumerate(lines) if line.text.startswith(_BANNER)]
    last = max((start.header.at for start in starts if start.is_fatal), default=starts[-1].header.at)
    first = max((number for number in banners if number <= last), default=0)
    end = min((number for number in banners if number > last), default=len(lines))
    return [start for start in starts if first <= start.header.at < end]


def _oops(lines: Sequence[LogLine], start: Start, end: int, *, is_first: bool) -> Oops:
    header = start.header
    texts = [lines[number].text[:MAX_LINE_LENGTH] for number in _own_lines(lines, start, header.at, end)]
    details = dict(header.details)
    class_, refined_from = _refined_class(start)
    for refinement in refined_from:
        details = {**refinement.details, **details}
    blamed: dict[int, None] = dict.fromkeys(_cpus_of(header.details))
    for found in _body_details(header.format.body, texts):
        blamed.update(dict.fromkeys(_cpus_of(found)))
        details = {**found, **details}
    victim = _victim_lines(lines, start, end, tuple(blamed))
    account = [lines[number].text[:MAX_LINE_LENGTH] for number in victim] or texts
    block = read_registers(account)
    registers = block.registers if block else {}
    trace = read_trace(account)
    said = place_of(details)
    place = said if said.function else (block.nip if block else Place())
    link = block.lr if block else Place()
    cpu, pid, comm = _who(texts, details, header.context)
    class_ = _class_by_registers(start, class_, registers, place, details, texts)
    first = min([header.at, *(refinement.at for refinement in refined_from)])
    is_scattered = first < header.at or bool(victim) or start.epilogue is not None
    return Oops(
        class_=class_,
        at_line=first,
        lines=_stored_lines(lines, start, first, end, victim) if is_scattered else tuple(texts),
        message=header.text.strip(),
        function=place.function,
        offset=place.offset,
        module=place.module,
        cpu=cpu,
        pid=pid,
        comm=comm,
        registers=registers,
        trace=trace or (),
        blamed_cpus=tuple(blamed)[:_MAX_BLAMED],
        blamed_pid=_number(details.get("blamed_pid")),
        details=_details_for_titles(class_, details, registers),
        epilogue=start.epilogue,
        problems=_problems(start, texts, trace, has_registers=bool(registers), is_first=is_first),
        format=header.format.name,
        link_function=link.function,
        link_module=link.module,
        is_fatal=start.is_fatal,
    )


def _own_lines(lines: Sequence[LogLine], start: Start, first: int, end: int) -> Iterator[int]:
    """The numbers of a report's lines: those of its context from ``first``, to its end mark or that of its panic."""
    count = 0
    context, last_caller = start.header.context, start.header.context
    for number in range(first, min(end, first + _MAX_SCANNED)):
        line = lines[number]
        last_caller = line.caller if line.caller is not None else last_caller
        if not is_same_context(context, last_caller):
            continue
        if line.text.startswith(_AFTER_REPORT):
            return
        yield number
        count += 1
        is_ended = start.epilogue_at is None or number >= start.epilogue_at
        if count == MAX_LINES or line.text.startswith(_END_OF_PANIC):
            return
        if is_ended and line.text.startswith(_END_OF_TRACE):
            return


def _stored_lines(
    lines: Sequence[LogLine], start: Start, first: int, end: int, victim: Sequence[int]
) -> tuple[str, ...]:
    """The texts to keep: the own lines and those of the victim, in the log's order; the panic's line in any case."""
    numbers = sorted({*_own_lines(lines, start, first, end), *victim})[:MAX_LINES]
    epilogue_at = start.epilogue_at
    if epilogue_at is not None and epilogue_at not in numbers:
        numbers = sorted([*numbers[: MAX_LINES - 1], epilogue_at])
    return tuple(lines[number].text[:MAX_LINE_LENGTH] for number in numbers)


def _body_details(patterns: Sequence[Pattern], texts: Sequence[str]) -> Iterator[Mapping[str, str]]:
    if not patterns:
        return
    for text in texts[1:_MAX_BODY_LINES]:
        for pattern in patterns:
            if match := pattern.match(text):
                yield details_of(match)
                break


def _victim_lines(lines: Sequence[LogLine], start: Start, end: int, blamed: Sequence[int]) -> list[int]:
    """The numbers of the lines in which the first blamed CPU itself tells where it is, in its own context."""
    patterns = start.header.format.victims
    if not patterns:
        return []
    for number in range(start.header.at + 1, min(end, start.header.at + _MAX_SCANNED)):
        text = lines[number].text[:MAX_LINE_LENGTH]
        match = next((found for pattern in patterns if (found := pattern.match(text))), None)
        if match is None or (blamed and _number(match["blamed_cpu"]) not in blamed):
            continue
        context = context_of(lines, number)
        return list(_until_next_account(lines, number, min(end, number + MAX_LINES), context, patterns))
    return []


def _until_next_account(
    lines: Sequence[LogLine], first: int, end: int, context: int | None, patterns: Sequence[Pattern]
) -> Iterator[int]:
    for number in range(first, end):
        line = lines[number]
        if not is_same_context(context, line.caller):
            continue
        is_another = number > first and any(pattern.match(line.text[:MAX_LINE_LENGTH]) for pattern in patterns)
        if is_another or line.text.startswith(_PANIC):
            return
        yield number


def _cpus_of(details: Mapping[str, str]) -> list[int]:
    """The CPUs of ``blamed_cpu`` and of the list ``blamed_cpus`` (``1-3,5`` or ``1 3``)."""
    cpus: list[int] = []
    for part in f"{details.get('blamed_cpu', '')} {details.get('blamed_cpus', '')}".replace(",", " ").split():
        first, dash, last = part.partition("-")
        low, high = _number(first), _number(last) if dash else _number(first)
        if low is not None and high is not None:
            cpus.extend(range(low, min(high, low + _MAX_BLAMED) + 1))
    return cpus[:_MAX_BLAMED]


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) <= 10 else None


def _who(
    texts: Sequence[str], details: Mapping[str, str], context: int | None
) -> tuple[int | None, int | None, str | None]:
    """CPU, pid and comm: of the header, else of the lines below it, else of who printed it."""
    cpu, pid, comm = _number(details.get("cpu")), _number(details.get("pid")), details.get("comm")
    if "blamed_pid" in details:
        comm = None
    for text in texts:
        match = None
        if "PID: " in text:
            match = _expression(_CPU_LINE).match(text)
        elif text.startswith("TASK = "):
            match = _expression(_TASK_LINE).match(text)
        if match:
            cpu = cpu if cpu is not None else _number(match["cpu"])
            pid = pid if pid is not None else _number(match["pid"])
            comm = comm if comm is not None else match["comm"]
            break
    if context is not None and context & CALLER_IS_CPU:
        cpu = cpu if cpu is not None else context & ~CALLER_IS_CPU
    elif context is not None:
        pid = pid if pid is not None else context
    return cpu, pid, comm


def _refined_class(start: Start) -> tuple[CrashClass, list[Event]]:
    """The class of the header's format as the refinements correct it, and those that do."""
    class_ = start.header.format.class_ or CrashClass.UNKNOWN_OOPS
    applied = []
    for refinement in start.refinements:
        is_about_it = not refinement.format.user_address or _is_user_address(refinement, start.header)
        if class_ in refinement.format.refines and is_about_it:
            class_ = refinement.format.refines[class_]
            applied.append(refinement)
    return class_, applied


def _is_user_address(refinement: Event, header: Event) -> bool:
    """Whether the address of a refinement is a user's, above the first pages, and the header's, if that has one."""
    text = refinement.details.get("address", "0")
    address = int(text, 16)
    is_the_same = int(header.details.get("address", text), 16) == address
    return is_the_same and _USER_FROM <= address < (_KERNEL_FROM_32 if len(text) <= 8 else _KERNEL_FROM_64)


def _class_by_registers(
    start: Start,
    class_: CrashClass,
    registers: Mapping[str, int],
    place: Place,
    details: dict[str, str],
    texts: Sequence[str],
) -> CrashClass:
    """The class where the registers know better: an access whose header is lost, a jump into a module that is gone."""
    if start.header.format.kind is Kind.OOPS and class_ is CrashClass.BAD_ACCESS and registers:
        class_ = _CLASS_BY_TRAP.get(registers.get("trap", 0) & ~0xF, class_)
        if class_ is CrashClass.BAD_ACCESS and registers.get("dar", _USER_FROM) < _USER_FROM:
            class_ = CrashClass.NULL_DEREF
    if class_ is CrashClass.BAD_JUMP and place.function is None and _may_be_module(registers.get("nip", 0)):
        for text in texts[:_MAX_BODY_LINES]:
            if "[last unloaded: " in text and (match := _expression(_LAST_UNLOADED).match(text)):
                details["unloaded"] = match["unloaded"].replace("-", "_")
                return CrashClass.BAD_MODULE
    return class_


def _may_be_module(nip: int) -> bool:
    return nip >= _LINEAR_END_64 if nip >> 32 else nip >= _KERNEL_FROM_32


def _details_for_titles(class_: CrashClass, details: Mapping[str, str], registers: Mapping[str, int]) -> dict[str, str]:
    found = {name: value for name, value in details.items() if name not in _OWN_FIELDS}
    for name in _HEX_DETAILS:
        if name in found:
            found[name] = f"{int(found[name], 16):#x}"
    if class_ is CrashClass.PROGRAM_CHECK and registers.get("nip", 0) >> 32:
        kinds = [kind for bit, kind in _PROGRAM_CHECKS if registers.get("msr", 0) & bit]
        if kinds:
            found["kind"] = kinds[0]
    return found


def _problems(
    start: Start, texts: Sequence[str], trace: Sequence[TraceLine] | None, *, has_registers: bool, is_first: bool
) -> tuple[GradeReason, ...]:
    format_ = start.header.format
    problems = []
    if format_.cause_lost and format_.kind is Kind.PANIC:
        problems.append(GradeReason.CAUSE_LOST)
    if is_first and start.count is not None and start.count > 1:
        problems.append(GradeReason.FIRST_OOPS_LOST)
    is_without = trace is None and not has_registers and format_.kind is not Kind.PANIC
    is_trace_lost = format_.has_trace and (is_without or (trace is not None and not trace))
    is_header_lost = format_.cause_lost and format_.kind is Kind.OOPS
    if is_trace_lost or is_header_lost or start.is_cut or _is_mixed(texts, start.header.context):
        problems.append(GradeReason.TEXT_CORRUPTED)
    return tuple(problems)


def _is_mixed(texts: Sequence[str], context: int | None) -> bool:
    """Whether lines of another CPU, or a time stamp, stand where none belong."""
    if _expression(_STAMP_INSIDE).search("\n".join(texts[:_MAX_BODY_LINES])):
        return True
    if context is not None:
        return False
    cpus = set()
    for text in texts[:_MAX_BODY_LINES]:
        if text.startswith("CPU: ") and (match := _expression(_CPU_LINE).match(text)):
            cpus.add(match["cpu"])
        elif cpus and text.startswith("Call Trace:"):
            break
    return len(cpus) > 1
