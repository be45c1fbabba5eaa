"""The Beam pipeline of ``crashbeam run``: ranges of listed inputs to parts of the run folder.

Only ranges pass through ``Create``: the inputs themselves are read from the run folder, so that 300,000 of them cost
the graph nothing. The runner is always named: Beam's default would look for another engine on the net and fall back
without a word.
"""

import logging
from collections.abc import Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pvalue import PCollection

from crashbeam.pipeline.exit_codes import PromiseBrokenError, WrongUseError
from crashbeam.pipeline.run_folder import RunFolder, read_inputs
from crashbeam.transforms.analyze_dumps import AnalyzeRuns
from crashbeam.transforms.part_file import OutputError, PartRange
from crashbeam.transforms.records import Run
from crashbeam.transforms.write_parts import WriteParts
from crashbeam.workers.child_process import ChildStartError
from crashbeam.workers.pool import PoolSettings

DEFAULT_RUNNER = "FnApiRunner"
_EXPECTED_ERRORS = (OutputError, ChildStartError, PromiseBrokenError)


def run_pipeline(
    folder: RunFolder, ranges: Sequence[PartRange], settings: PoolSettings, isolated: bool, runner: str = DEFAULT_RUNNER
) -> None:
    """Analyses the inputs of ``ranges`` and writes their records into the parts of ``folder``.

    Raises OutputError, ChildStartError, PromiseBrokenError, and WrongUseError for a runner that Beam does not know.
    """
    logging.getLogger("apache_beam").setLevel(logging.ERROR if settings.debug else logging.CRITICAL)
    try:
        pipeline = beam.Pipeline(runner=runner, options=PipelineOptions([]))
    except (ImportError, ValueError) as error:
        raise WrongUseError(f"--runner {runner}: Beam knows no such runner") from error
    _ = (
        pipeline
        | "Ranges" >> beam.Create(ranges, reshuffle=False)
        | "TakeInputs" >> TakeInputs(folder.path, folder.inputs_files)
        | "AnalyzeDumps" >> AnalyzeRuns(settings, isolated)
        | "WriteParts" >> WriteParts(folder.parts)
    )
    try:
        pipeline.run().wait_until_finish()
    except Exception as error:
        raise _find_expected(error) or error from None


class TakeInputs(beam.PTransform[PCollection[PartRange], PCollection[Run]]):
    """Ranges to runs of the inputs that stand in a run folder's first ``files`` inputs files."""

    def __init__(self, path: str, files: int) -> None:
        super().__init__()
        self._path = path
        self._files = files

    def expand(self, ranges: PCollection[PartRange]) -> PCollection[Run]:
        """Ranges to runs."""
        runs: PCollection[Run] = ranges | beam.Map(_take_inputs, self._path, self._files)
        return runs


def _take_inputs(part: PartRange, path: str, files: int) -> Run:
    return Run(part.first, read_inputs(path, files)[part.first : part.stop])


def _find_expected(error: BaseException) -> Exception | None:
    """The exception that was meant, out of what Beam made of it: of some kinds it keeps the text alone."""
    found = None
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, _EXPECTED_ERRORS):
            found = link
        link = link.__cause__ or link.__context__
    return found
