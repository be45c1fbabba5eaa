"""One run from its inputs to its manifest: what stands is kept, what is open is analysed."""

import time

from crashbeam.pipeline.exit_codes import PromiseBrokenError, WrongUseError
from crashbeam.pipeline.inputs import list_inputs
from crashbeam.pipeline.interrupts import end_on_signals
from crashbeam.pipeline.load import load_into, read_finished_run
from crashbeam.pipeline.manifest import Counts, write_manifest
from crashbeam.pipeline.progress import print_summary, progress_bar
from crashbeam.pipeline.quiet_beam import import_quietly
from crashbeam.pipeline.retry import retry_failures
from crashbeam.pipeline.rules import load_rules_of
from crashbeam.pipeline.run_folder import RunFolder, count_ranges, open_run_folder
from crashbeam.pipeline.run_options import RunOptions, options_digest
from crashbeam.pipeline.sinks import open_sinks
from crashbeam.pipeline.symbols import prepare_symbols
from crashbeam.transforms.part_file import OutputError
from crashbeam.workers.child_process import ChildStartError
from crashbeam.workers.pool import PoolSettings, close_pools

RUN_INPUTS = 1024
"""The longest run of consecutive inputs that goes through the pipeline as one element."""


def run_to_parts(options: RunOptions) -> Counts:
    """Makes the run folder complete, and says so on standard error. Raises WrongUseError, PromiseBrokenError."""
    end_on_signals(f"the same command goes on with {options.output}")
    began = time.monotonic()
    listing = list_inputs(options.inputs)
    sinks = open_sinks(options.sinks)
    rules = load_rules_of(options.rules)
    digest = options_digest(options, prepare_symbols(options.analysis), rules.digest)
    folder = open_run_folder(options.output, _shown(options), digest)
    try:
        for _, sink in sinks:
            sink.claim(folder.facts.created_us)
        folder.add_inputs(listing)
        if not folder.inputs:
            raise WrongUseError(f"{' '.join(options.inputs)}: no dump among {listing.skipped} files")
        analysed = _analyse_open(folder, options)
        counts = write_manifest(folder)
    except (OutputError, ChildStartError) as error:
        raise PromiseBrokenError(str(error)) from error
    finally:
        close_pools()
        folder.close()
    print_summary(counts, analysed, listing.skipped, time.monotonic() - began, folder.parts)
    if sinks:
        load_into(sinks, read_finished_run(options.output))
    return counts


def _analyse_open(folder: RunFolder, options: RunOptions) -> int:
    """Analyses what has no record yet, and what failed if that is asked for; how many inputs that were."""
    settings = PoolSettings(options.workers, options.analysis, options.limits, options.analyse, options.debug)
    isolated = options.isolation == "children"
    retried = retry_failures(folder, settings, isolated) if options.retry_failures else 0
    ranges = folder.open_ranges(RUN_INPUTS)
    if not ranges:
        return retried
    import_quietly()
    from crashbeam.pipeline.assemble import run_pipeline

    total = count_ranges(ranges)
    with progress_bar(total, lambda: total - count_ranges(folder.open_ranges(RUN_INPUTS))):
        run_pipeline(folder, ranges, settings, isolated, options.runner)
    return total + retried


def _shown(options: RunOptions) -> dict[str, object]:
    """The options as ``run.json`` shows them."""
    return {
        "symbols": list(options.symbols),
        "deadline_seconds": options.limits.cpu_seconds,
        "memory_bytes": options.limits.memory_bytes,
        "workers": options.workers,
        "runner": options.runner,
        "isolation": options.isolation,
    }
