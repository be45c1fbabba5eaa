"""The four stages that turn a dump into a report, and their chain.

    DumpInput -> parse_headers -> Opened -> map_notes -> Mapped -> unwind_stacks -> Unwound -> build_report ->
    CrashReport

Each takes what the one before gave; what a stage cannot go on with becomes ``Failed``, which the later ones pass
through.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from crashbeam.schemas.crash_report import CrashReport, Source
from crashbeam.schemas.failure import FAILURE, FailureRecord
from crashbeam.vmcore import build_report as report_stage
from crashbeam.vmcore import map_notes as notes_stage
from crashbeam.vmcore import parse_headers as headers_stage
from crashbeam.vmcore import stage_mark
from crashbeam.vmcore import unwind_stacks as stacks_stage
from crashbeam.vmcore.dump import close_last, opened
from crashbeam.vmcore.errors import VmcoreError
from crashbeam.vmcore.facts import AnalysisOptions, DumpInput, Failed, Mapped, Opened, Unwound
from crashbeam.vmcore.parse_headers import source_without_headers
from crashbeam.vmcore.text import show_text

set_stage_hook = stage_mark.set_stage_hook
Before = TypeVar("Before", DumpInput, Opened, Mapped, Unwound)
After = TypeVar("After")


def parse_headers(dump_input: DumpInput, options: AnalysisOptions) -> Opened | Failed:
    """Opens the dump: what its headers and the kernel say of themselves."""
    return _run(headers_stage.parse_headers, dump_input, options, dump_input)


def map_notes(opened: Opened | Failed, options: AnalysisOptions) -> Mapped | Failed:
    """Decides whose each note is."""
    return opened if isinstance(opened, Failed) else _run(notes_stage.map_notes, opened, options, opened.input)


def unwind_stacks(mapped: Mapped | Failed, options: AnalysisOptions) -> Unwound | Failed:
    """Unwinds every CPU that has registers."""
    return (
        mapped if isinstance(mapped, Failed) else _run(stacks_stage.unwind_stacks, mapped, options, mapped.opened.input)
    )


def build_report(unwound: Unwound | Failed, options: AnalysisOptions) -> CrashReport | Failed:
    """The report of everything before it."""
    if isinstance(unwound, Failed):
        return unwound
    return _run(report_stage.build_report, unwound, options, unwound.mapped.opened.input)


STAGES: tuple[Callable[[Any, AnalysisOptions], Any], ...] = (parse_headers, map_notes, unwind_stacks, build_report)


def analyse(dump_input: DumpInput, options: AnalysisOptions) -> CrashReport | FailureRecord:
    """The record of one input: all stages in a row, and the dump closed behind them."""
    try:
        found = run_stages(dump_input, options)
        return to_record(found) if isinstance(found, Failed) else found
    finally:
        close_last()


def run_stages(dump_input: DumpInput, options: AnalysisOptions) -> CrashReport | Failed:
    """All stages in a row. The dump stays open in this thread until ``close_last``."""
    facts: Any = dump_input
    for stage in STAGES:
        facts = stage(facts, options)
    found: CrashReport | Failed = facts
    return found


def describe(dump_input: DumpInput, options: AnalysisOptions, cpu: int | None = None) -> str | FailureRecord:
    """One input as the text that ``show`` prints: the whole, or what concerns one CPU."""
    try:
        found = run_stages(dump_input, options)
        if isinstance(found, Failed):
            return to_record(found)
        return show_text(found, opened(dump_input, options).name_at, cpu)
    finally:
        close_last()


def to_record(failed: Failed) -> FailureRecord:
    """A failed input as its record."""
    source: Source = source_without_headers(failed.input)
    return FailureRecord(
        schema=FAILURE,
        input_id=failed.input.input_id,
        source=source,
        stage=failed.stage,
        code=failed.code,
        message=failed.message,
        hint=failed.hint,
        facts=failed.facts,
    )


def _run(
    step: Callable[[Before, AnalysisOptions], After], before: Before, options: AnalysisOptions, dump_input: DumpInput
) -> After | Failed:
    try:
        return step(before, options)
    except VmcoreError as error:
        close_last()
        message = _naming_file(dump_input, error.message)
        return Failed(dump_input, stage_mark.current(), error.code, message, error.hint, dict(error.facts))


def _naming_file(dump_input: DumpInput, message: str) -> str:
    """The message with the file that it is about, if it does not name one itself."""
    if any(path in message for path in dump_input.paths):
        return message
    return f"{dump_input.paths[0] if dump_input.paths else dump_input.uri}: {message}"
