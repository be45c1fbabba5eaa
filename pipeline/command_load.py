"""``crashbeam load``: a finished run into a store."""

import os

import click

from crashbeam.pipeline.exit_codes import OK
from crashbeam.pipeline.interrupts import end_on_signals
from crashbeam.pipeline.options import config_option, debug_option, option


@click.command("load")
@click.argument("folder", metavar="DIR")
@option("--sink", metavar="URI", multiple=True, required=True, help="jsonl:PATH, parquet:DIR or duckdb:PATH.")
@debug_option
@config_option
def load_command(folder: str, sink: tuple[str, ...]) -> int:
    """Loads the records of the finished run in DIR into a store; what the store holds already is left as it is."""
    from crashbeam.pipeline.load import load_into, read_finished_run
    from crashbeam.pipeline.sinks import open_sinks

    end_on_signals("the same command goes on")
    run = read_finished_run(os.path.abspath(folder))
    load_into(open_sinks(sink), run)
    return OK
