"""``crashbeam show``: one dump as text, or as its CrashReport. Beam is never imported on this way."""

import os

import click

from crashbeam.pipeline.exit_codes import FAILURES, OK, WrongUseError
from crashbeam.pipeline.inputs import list_one
from crashbeam.pipeline.interrupts import end_with_reader
from crashbeam.pipeline.options import config_option, debug_option, report_options, symbols_options
from crashbeam.pipeline.rules import absolute_rules, load_rules_of
from crashbeam.pipeline.symbols import absolute_profiles, absolute_symbols
from crashbeam.schemas.encode import to_json_line
from crashbeam.schemas.failure import FailureRecord
from crashbeam.vmcore.containers.detect import SNIFFED_BYTES, looks_like_dump
from crashbeam.vmcore.facts import AnalysisOptions, DumpInput
from crashbeam.vmcore.stages import analyse, describe


@click.command("show")
@click.argument("dump", metavar="DUMP")
@click.option("--json", "as_json", is_flag=True, help="Print the CrashReport instead.")
@click.option("--cpu", metavar="N", type=click.IntRange(0), help="Only what concerns this CPU.")
@symbols_options
@report_options
@debug_option
@config_option
def show_command(
    dump: str,
    as_json: bool,
    cpu: int | None,
    symbols: tuple[str, ...],
    profiles: str | None,
    dmesg_lines: int,
    rules: str | None,
) -> int:
    """Shows what is known of the crash in DUMP: what it was, who panicked, which CPUs saved their registers, and every
    stack. Of a file with the text of a log (a console, dmesg): what crash it tells of.
    """
    end_with_reader()
    if as_json and cpu is not None:
        raise WrongUseError("--cpu is for the text: a report holds all CPUs (drop --cpu or --json)")
    load_rules_of(rules)
    options = AnalysisOptions(
        absolute_symbols(symbols), absolute_profiles(profiles), dmesg_lines, absolute_rules(rules)
    )
    dump_input = list_one(dump)
    if _is_text(dump_input) and _show_log(dump_input, options, as_json):
        return OK
    if as_json:
        record = analyse(dump_input, options)
        click.echo(to_json_line(record), nl=False)
        return say_failure(record) if isinstance(record, FailureRecord) else OK
    shown = describe(dump_input, options, cpu)
    if isinstance(shown, FailureRecord):
        return say_failure(shown)
    click.echo(shown)
    return OK


def _is_text(dump_input: DumpInput) -> bool:
    """Whether a file is no dump, so that it may be a log. What cannot be read is left to the analysis."""
    path = dump_input.paths[0]
    try:
        if len(dump_input.paths) > 1 or not os.path.isfile(path):
            return False
        with open(path, "rb") as file:
            first = file.read(SNIFFED_BYTES)
    except OSError:
        return False
    return bool(first) and not looks_like_dump(first) and b"\0" not in first


def _show_log(dump_input: DumpInput, options: AnalysisOptions, as_json: bool) -> bool:
    """Shows the crash that a log tells of; whether it tells of one."""
    from crashbeam.vmcore.text import show_log_text
    from crashbeam.vmcore.text_report import report_of_text

    report = report_of_text(dump_input, options)
    if report is None:
        return False
    click.echo(to_json_line(report) if as_json else show_log_text(report), nl=not as_json)
    return True


def say_failure(record: FailureRecord) -> int:
    """Says on standard error why there is no report; the exit code."""
    click.echo(f"crashbeam: {record.message} ({record.code}): {record.hint}", err=True)
    return FAILURES
