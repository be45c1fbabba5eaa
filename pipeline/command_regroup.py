"""``crashbeam regroup``: signatures and buckets made anew from stored reports. No dump is read."""

import os

import click
import msgspec

from crashbeam.pipeline.command_signature import load_rules_of, rules_option
from crashbeam.pipeline.exit_codes import OK, PromiseBrokenError, WrongUseError
from crashbeam.pipeline.interrupts import end_on_signals, end_with_reader
from crashbeam.pipeline.options import debug_option
from crashbeam.pipeline.regroup import Regrouping
from crashbeam.pipeline.stored_reports import read_reports
from crashbeam.schemas.encode import to_json_line
from crashbeam.transforms.part_file import OutputError, write_part, write_whole

REPORTS = "parts"
HISTORY = "history.jsonl"
PART_REPORTS = 256


@click.command("regroup")
@click.argument("reports", metavar="REPORTS...", nargs=-1, required=True, type=click.Path())
@rules_option
@click.option("-o", "--output", metavar="DIR", type=click.Path(), help="Write the reports there, signed anew.")
@click.option("--dry-run", is_flag=True, help="Tell what would move and write nothing: so it is without -o.")
@debug_option
def regroup_command(reports: tuple[str, ...], rules: str | None, output: str | None, dry_run: bool) -> int:
    """Signs stored REPORTS anew by the rules in --rules and tells which buckets merge, split or change their name.

    REPORTS are files of JSON lines, parts, or the folder of a run. Nothing is written without -o, and no file there is
    ever replaced: DIR must be new. It gets the reports with their new signatures, and history.jsonl with the signature
    of each before and after.
    """
    end_with_reader()
    loaded = load_rules_of(rules)
    writes = output is not None and not dry_run
    if output is not None and writes:
        end_on_signals("the same command begins anew")
        _make_folder(output)
    regrouping = Regrouping()
    lines, rows = [], []
    for report in read_reports(reports):
        signed, row = regrouping.add(report, loaded)
        if writes:
            lines.append(to_json_line(signed))
            rows.append(msgspec.json.encode(row) + b"\n")
    if not regrouping.reports:
        raise WrongUseError("no report in what was named, only other records")
    if output is not None and writes:
        _write(output, lines, rows)
    for line in regrouping.lines():
        click.echo(line)
    if not writes:
        click.echo("(nothing was written: -o DIR writes the reports with their new signatures)")
    return OK


def _make_folder(output: str) -> None:
    try:
        os.makedirs(os.path.join(output, REPORTS))
    except FileExistsError as error:
        raise WrongUseError(f"{output} holds reports already: name a new folder") from error
    except OSError as error:
        raise WrongUseError(f"{output} cannot be made: {error.strerror}") from error


def _write(output: str, lines: list[bytes], rows: list[bytes]) -> None:
    try:
        for first in range(0, len(lines), PART_REPORTS):
            write_part(os.path.join(output, REPORTS), first, lines[first : first + PART_REPORTS])
        write_whole(os.path.join(output, HISTORY), b"".join(rows))
    except OutputError as error:
        raise PromiseBrokenError(str(error)) from error
