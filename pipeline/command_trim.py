"""``crashbeam trim``: a small dump that gives the same report."""

import os

import click

from crashbeam.pipeline.command_show import say_failure
from crashbeam.pipeline.exit_codes import OK, PromiseBrokenError, WrongUseError
from crashbeam.pipeline.inputs import list_one
from crashbeam.pipeline.options import config_option, debug_option, option, symbols_options
from crashbeam.pipeline.symbols import absolute_profiles, absolute_symbols
from crashbeam.schemas.failure import FailureRecord
from crashbeam.vmcore.facts import AnalysisOptions


@click.command("trim")
@click.argument("dump", metavar="DUMP")
@option("-o", "--output", metavar="SMALL", required=True, help="The file to write; it must not exist.")
@symbols_options
@debug_option
@config_option
def trim_command(dump: str, output: str, symbols: tuple[str, ...], profiles: str | None) -> int:
    """Writes a dump SMALL that holds only what the report of DUMP needs: headers, notes and pages."""
    from crashbeam.vmcore.trim import trim

    path = os.path.abspath(output)
    if os.path.lexists(path):
        raise WrongUseError(f"{output} exists: give -o a new name")
    if not os.access(os.path.dirname(path), os.W_OK | os.X_OK):
        raise WrongUseError(f"{output} cannot be written: its folder is missing or read-only")
    options = AnalysisOptions(absolute_symbols(symbols), absolute_profiles(profiles))
    try:
        failure = trim(list_one(dump), options, path)
    except OSError as error:
        raise PromiseBrokenError(f"{output} cannot be written: {error.strerror}") from error
    return say_failure(failure) if isinstance(failure, FailureRecord) else OK
