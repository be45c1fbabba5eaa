"""A report made of the text of a log alone: a console, a ``dmesg``, a ``vmcore-dmesg.txt`` without its dump."""

import os
from dataclasses import replace

from crashbeam.schemas.clean import clean_text, int32, int64
from crashbeam.schemas.codes import LogSource, NoteMethod, PanicFoundBy, SymbolLayouts, SymbolNames
from crashbeam.schemas.crash_report import (
    CRASH_REPORT,
    CpuMasks,
    CrashReport,
    Kernel,
    Notes,
    Panic,
    Symbols,
    System,
)
from crashbeam.vmcore.crash_log import dmesg_of, rules_of
from crashbeam.vmcore.facts import AnalysisOptions, CrashLog, DumpInput
from crashbeam.vmcore.limits import MAX_NAME_BYTES
from crashbeam.vmcore.log_line import LogLine
from crashbeam.vmcore.oops import Oops, find_oopses, log_facts, parse_lines
from crashbeam.vmcore.parse_headers import source_without_headers
from crashbeam.vmcore.signature import sign
from crashbeam.vmcore.symbols.compiled import release_of

MAX_TEXT_BYTES = 16 << 20
_SNIFFED_BYTES = 4096
_BANNER = "Linux version "
_NO_SYMBOLS = Symbols(SymbolNames.NONE, SymbolLayouts.NONE, lines=False, matched_by=None)
_NO_MASKS = CpuMasks(None, None, None)
_NO_NOTES = Notes(0, 0, 0, 0, NoteMethod.NONE, order_would_mislead=False)


def report_of_text(dump_input: DumpInput, options: AnalysisOptions) -> CrashReport | None:
    """The report of a log's text, signed; ``None`` for a file that is none, or tells of no crash. Raises OSError."""
    text = _read_text(dump_input.paths[0])
    if text is None:
        return None
    rules = rules_of(options.rules)
    lines = parse_lines(text.splitlines())
    oopses = find_oopses(lines, rules.formats)
    if not oopses:
        return None
    facts = log_facts(lines[oopses[0].at_line :])
    log = CrashLog(lines, oopses, facts, whole=True, source=LogSource.TEXT)
    uptime = None if facts.uptime_seconds is None else int64(int(facts.uptime_seconds))
    hardware = None if facts.hardware is None else clean_text(facts.hardware, MAX_NAME_BYTES)
    report = CrashReport(
        schema=CRASH_REPORT,
        input_id=dump_input.input_id,
        crash_id=None,
        source=source_without_headers(dump_input),
        kernel=_kernel(lines),
        system=System(None, None, uptime, _NO_MASKS, None, hardware, None),
        panic=_panic(oopses[0]),
        notes=_NO_NOTES,
        cpus=(),
        unassigned_notes=(),
        signature=None,
        dmesg=dmesg_of(log, options.dmesg_lines, rules),
        quirks=(),
        warnings=(),
    )
    signed = sign(report, rules, oopses)
    panic = replace(report.panic, title=signed.title, alternative_titles=signed.alternative_titles)
    return replace(report, panic=panic, signature=signed.signature)


def _read_text(path: str) -> str | None:
    """The text of a file, its last 16 MiB; ``None`` if it is no text."""
    with open(path, "rb") as file:
        if b"\0" in file.read(_SNIFFED_BYTES):
            return None
        file.seek(max(file.seek(0, os.SEEK_END) - MAX_TEXT_BYTES, 0))
        return file.read(MAX_TEXT_BYTES).decode("utf-8", "replace")


def _kernel(lines: tuple[LogLine, ...]) -> Kernel:
    banner = next((line.text for line in lines if line.text.startswith(_BANNER)), None)
    return Kernel(release_of(banner), banner, None, None, None, None, _NO_SYMBOLS)


def _panic(cause: Oops) -> Panic:
    pid = None if cause.pid is None else int32(cause.pid)
    message = clean_text(cause.epilogue or cause.message, MAX_NAME_BYTES)
    return Panic(cause.cpu, pid, cause.comm, None, None, (), message, PanicFoundBy.DMESG)
