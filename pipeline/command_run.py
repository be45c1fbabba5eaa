"""``crashbeam run``: dumps to records in a run folder, and from there into stores."""

import logging
import os

import click

from crashbeam.pipeline.exit_codes import FAILURES, OK
from crashbeam.pipeline.options import (
    config_option,
    debug_option,
    option,
    report_options,
    symbols_options,
)
from crashbeam.pipeline.rules import absolute_rules
from crashbeam.pipeline.run_options import ISOLATIONS, RunOptions
from crashbeam.pipeline.symbols import absolute_profiles, absolute_symbols
from crashbeam.workers.limits import DEFAULT_LIMITS, Limits


@click.command("run")
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@option("-o", "--output", metavar="DIR", required=True, help="The run folder: a new one, or one to go on with.")
@symbols_options
@report_options
@option("--sink", metavar="URI", multiple=True, help="Where the records go too: jsonl:PATH, parquet:DIR, duckdb:PATH.")
@option("--workers", metavar="N", type=click.IntRange(1, 1024), help="Child processes. [default: one for each CPU]")
@option("--runner", metavar="NAME", default="FnApiRunner", show_default=True, help="The Beam runner.")
@option(
    "--isolation",
    type=click.Choice(ISOLATIONS),
    default=ISOLATIONS[0],
    show_default=True,
    help="Analyse in limited child processes, or (none) in the runner's own process.",
)
@option(
    "--deadline",
    metavar="SECONDS",
    type=click.IntRange(1, 86400),
    default=DEFAULT_LIMITS.cpu_seconds,
    show_default=True,
    help="Processor time for one dump; three times as much may pass on the clock.",
)
@option(
    "--memory",
    metavar="MIB",
    type=click.IntRange(16, 1 << 20),
    default=DEFAULT_LIMITS.memory_bytes >> 20,
    show_default=True,
    help="Memory for one dump.",
)
@option("--fail-on-failures", is_flag=True, help="Exit with 4 if any dump ended in a FailureRecord.")
@option("--retry-failures", is_flag=True, help="On a repeated run, try again what ended in a FailureRecord.")
@debug_option
@config_option
def run_command(
    inputs: tuple[str, ...],
    output: str,
    symbols: tuple[str, ...],
    profiles: str | None,
    dmesg_lines: int,
    rules: str | None,
    sink: tuple[str, ...],
    workers: int | None,
    runner: str,
    isolation: str,
    deadline: int,
    memory: int,
    fail_on_failures: bool,
    retry_failures: bool,
) -> int:
    """Reads every INPUT (files, folders, globs, file:// URIs) and writes one record for each dump into the folder DIR.

    The same command again goes on where a killed run stopped.
    """
    options = RunOptions(
        inputs=inputs,
        output=os.path.abspath(output),
        symbols=absolute_symbols(symbols),
        profiles=absolute_profiles(profiles),
        sinks=sink,
        workers=workers or len(os.sched_getaffinity(0)),
        runner=runner,
        isolation=isolation,
        limits=Limits(deadline, 3 * deadline, memory << 20),
        fail_on_failures=fail_on_failures,
        retry_failures=retry_failures,
        debug=logging.getLogger().isEnabledFor(logging.DEBUG),
        dmesg_lines=dmesg_lines,
        rules=absolute_rules(rules),
    )
    return run(options)


def run(options: RunOptions) -> int:
    """Does what ``options`` say; the exit code. Raises WrongUseError, PromiseBrokenError."""
    from crashbeam.pipeline.run import run_to_parts

    if not options.debug:
        logging.basicConfig(level=logging.CRITICAL)
    counts = run_to_parts(options)
    if options.fail_on_failures and counts.failures:
        return FAILURES
    return OK
