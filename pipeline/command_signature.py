"""``crashbeam signature explain``: how a stored report came to its signature, step by step."""

from pathlib import Path

import click

from crashbeam.pipeline.exit_codes import OK, WrongUseError
from crashbeam.pipeline.interrupts import end_with_reader
from crashbeam.pipeline.options import debug_option, option
from crashbeam.pipeline.stored_reports import read_reports
from crashbeam.vmcore.signature import sign
from crashbeam.vmcore.signature.overrides import RulesError
from crashbeam.vmcore.signature.rules import Rules, load_rules

rules_option = option(
    "--rules",
    metavar="DIR",
    type=click.Path(),
    help="A folder of lists that are added to crashbeam's own, and of overrides.",
)


def load_rules_of(folder: str | None) -> Rules:
    """The rules that a command was given. Raises WrongUseError."""
    try:
        return load_rules(None if folder is None else Path(folder))
    except RulesError as error:
        raise WrongUseError(str(error)) from error


@click.group("signature")
def signature_command() -> None:
    """Shows what crashes are filed under, and why."""


@signature_command.command("explain")
@click.argument("reports", metavar="REPORT...", nargs=-1, required=True, type=click.Path())
@rules_option
@debug_option
def explain_command(reports: tuple[str, ...], rules: str | None) -> int:
    """Tells for each report in REPORT how its signature is made: the class and how it is known, whose stack is blamed,
    where the crash began on it, which functions are left out and why, and the text of each key.
    """
    end_with_reader()
    loaded = load_rules_of(rules)
    found = False
    for report in read_reports(reports):
        found = True
        signed = sign(report, loaded)
        click.echo(f"{report.source.uri}\n  title: {signed.title}")
        for alternative in signed.alternative_titles:
            click.echo(f"  also: {alternative}")
        for step in signed.explanation:
            click.echo(f"  {step}")
        bucket = loaded.overrides.bucket_of(signed.signature.id)
        if bucket != signed.signature.id:
            override = loaded.overrides.merges[signed.signature.id]
            click.echo(f"  bucket: {bucket}, merged by {override.author}: {override.reason}")
        ignored = loaded.overrides.ignored(signed.signature.id)
        if ignored is not None:
            click.echo(f"  ignored: by {ignored.author}: {ignored.reason}")
    if not found:
        raise WrongUseError("no report in what was named, only other records")
    return OK
