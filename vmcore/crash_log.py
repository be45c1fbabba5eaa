"""What the kernel's log tells of the crash: its reports, and what stands around them.

The log is read backwards, up to the header of the report and 50 lines before it; more only if lines were asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from msgspec.structs import replace

from crashbeam.schemas.codes import GradeReason, LogSource, WarningCode
from crashbeam.schemas.crash_report import Dmesg, LogReport, ReportWarning
from crashbeam.vmcore.dmesg import LogReader, find_log
from crashbeam.vmcore.dmesg.text import format_line
from crashbeam.vmcore.dump import Dump
from crashbeam.vmcore.errors import VmcoreError
from crashbeam.vmcore.facts import CrashLog
from crashbeam.vmcore.log_line import LogLine
from crashbeam.vmcore.oops import Oops, find_oopses, has_report, log_facts
from crashbeam.vmcore.oops.formats import OopsFormats
from crashbeam.vmcore.signature.rules import Rules, load_rules, shipped_rules
from crashbeam.vmcore.title import titles_of

LINES_BEFORE = 50
_MAX_LINES_SEARCHED = 4096
_MAX_LINE_CHARACTERS = 1024
_NO_FACTS = log_facts(())


@cache
def rules_of(folder: str | None) -> Rules:
    """The rules in a user's folder beside those that ship; these alone without one. Raises RulesError, FormatError."""
    return shipped_rules() if folder is None else load_rules(Path(folder))


def read_crash_log(dump: Dump, wanted_lines: int, rules: Rules) -> tuple[CrashLog | None, list[ReportWarning]]:
    """The log of a dump, or of the file beside it; ``None`` and a warning if there is none that can be read."""
    kernel = None if dump.kernel is None else dump.kernel.kernel
    try:
        reader = find_log(dump.input.paths[0], kernel, dump.memory, dump.vmcoreinfo)
        lines, oopses, whole = _newest_lines(reader, wanted_lines, rules.formats)
    except VmcoreError as error:
        message = f"the kernel's log cannot be read: {error.message}"
        return None, [ReportWarning(WarningCode.LOG_UNREADABLE, None, message)]
    facts = log_facts(lines[oopses[0].at_line :]) if oopses else _NO_FACTS
    source = LogSource.DUMP if reader.sidecar_because is None else LogSource.SIDECAR
    warnings = []
    if reader.problem is not None:
        warnings.append(ReportWarning(WarningCode.LOG_UNREADABLE, None, f"the log is not whole: {reader.problem}"))
    return CrashLog(tuple(lines), oopses, facts, whole and reader.problem is None, source), warnings


def _newest_lines(reader: LogReader, wanted: int, formats: OopsFormats) -> tuple[list[LogLine], tuple[Oops, ...], bool]:
    """The lines from 50 before the first report on, at least ``wanted`` of them; the reports in them; whether that is
    all there are.

    Where the text says that it is not the first report, older ones are looked for. Raises LimitError.
    """
    lines: list[LogLine] = []
    oopses: tuple[Oops, ...] = ()
    moved = 0
    for batch in reader.batches_backwards():
        lines[:0] = batch
        if has_report(batch, formats):
            oopses, moved = find_oopses(lines, formats), 0
        else:
            # What stands before a report and is none itself only moves it.
            moved += len(batch)
        if len(lines) >= max(wanted, _MAX_LINES_SEARCHED) or (len(lines) >= wanted and _is_enough(oopses, moved)):
            return lines, _moved(oopses, moved), False
    return lines, _moved(oopses, moved), True


def _moved(oopses: tuple[Oops, ...], moved: int) -> tuple[Oops, ...]:
    return tuple(replace(oops, at_line=oops.at_line + moved) for oops in oopses) if moved else oopses


def _is_enough(oopses: Sequence[Oops], moved: int) -> bool:
    if not oopses or not oopses[0].is_fatal or GradeReason.FIRST_OOPS_LOST in oopses[0].problems:
        return False
    return oopses[0].at_line + moved >= LINES_BEFORE


def dmesg_of(log: CrashLog, wanted_lines: int, rules: Rules) -> Dmesg:
    """The log as it stands in a report."""
    first = log.oopses[0].at_line if log.oopses else 0
    before = log.lines[max(first - LINES_BEFORE, 0) : first]
    lines = None
    if wanted_lines:
        lines = tuple(map(_text_of, log.lines[-wanted_lines:]))
    return Dmesg(
        reports=tuple(_report_of(oops, log, rules) for oops in log.oopses),
        before=tuple(map(_text_of, before)),
        lines=lines,
        truncated=not log.whole,
        from_=log.source,
    )


def _report_of(oops: Oops, log: CrashLog, rules: Rules) -> LogReport:
    at_line = log.lines[oops.at_line].sequence
    title, _ = titles_of(oops, oops.class_, oops.function, oops.module, formats=rules.formats)
    return LogReport(oops.class_, title, at_line, tuple(line[:_MAX_LINE_CHARACTERS] for line in oops.lines))


def _text_of(line: LogLine) -> str:
    return format_line(line)[:_MAX_LINE_CHARACTERS]
