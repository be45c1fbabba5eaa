"""A finished run into stores: the same for ``run --sink`` and ``crashbeam load``."""

import os
from collections.abc import Sequence

import click

from crashbeam.pipeline.exit_codes import PromiseBrokenError, WrongUseError
from crashbeam.pipeline.run_folder import MANIFEST, read_parts, read_run
from crashbeam.pipeline.sinks import FinishedRun, Sink


def read_finished_run(path: str) -> FinishedRun:
    """The parts of a run folder whose manifest stands. Raises WrongUseError."""
    facts = read_run(path)
    if not os.path.exists(os.path.join(path, MANIFEST)):
        raise WrongUseError(f"{path} is not finished (no {MANIFEST}): repeat its run first")
    folder, parts = read_parts(path)
    return FinishedRun(path, folder, tuple(parts), facts.created_us)


def load_into(sinks: Sequence[tuple[str, Sink]], run: FinishedRun) -> None:
    """Fills every sink, and says on standard error what each took.

    Raises PromiseBrokenError if one refused anything.
    """
    refused = []
    for uri, sink in sinks:
        sink.claim(run.generation)
        loaded = sink.load(run)
        line = f"crashbeam: {uri}: {loaded.written:,} records written"
        if loaded.skipped:
            line += f", {loaded.skipped:,} stood already"
        click.echo(line, err=True)
        if loaded.refused:
            refused.append(f"{uri} refused {loaded.refused} records ({loaded.first_refusal})")
    if refused:
        raise PromiseBrokenError("; ".join(refused))
