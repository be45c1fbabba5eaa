"""Dumps to records: each input to one CrashReport or one FailureRecord, as a JSON line.

Two forms with equal records. ``AnalyzeRuns`` is the default of ``crashbeam run``: runs of consecutive inputs are handed
to limited child processes. ``AnalyzeDumps`` is the four stages in a row, for embedding into a pipeline of one's own,
for reading and for debugging.
"""

import time
from collections.abc import Iterable, Iterator

import apache_beam as beam
from apache_beam.pvalue import PCollection

from crashbeam.schemas.crash_report import CrashReport
from crashbeam.schemas.encode import to_json_line
from crashbeam.transforms.build_report import BuildReport
from crashbeam.transforms.map_notes import MapNotes
from crashbeam.transforms.parse_headers import ParseHeaders
from crashbeam.transforms.records import Records, Run
from crashbeam.transforms.unwind_stacks import UnwindStacks
from crashbeam.vmcore.facts import AnalysisOptions, DumpInput, Failed
from crashbeam.vmcore.stages import to_record
from crashbeam.workers.pool import PoolSettings, record_lines

BATCH_RECORDS = 32
BATCH_SECONDS = 0.5
"""Records leave in batches of this many, or of this age, so that the runner's cost for an element is shared."""


class AnalyzeDumps(beam.PTransform[PCollection[DumpInput], PCollection[bytes]]):
    """``ParseHeaders -> MapNotes -> UnwindStacks -> BuildReport``: inputs to JSON lines, in the runner's process."""

    def __init__(self, options: AnalysisOptions) -> None:
        super().__init__()
        self._options = options

    def expand(self, inputs: PCollection[DumpInput]) -> PCollection[bytes]:
        """Inputs to JSON lines."""
        lines: PCollection[bytes] = (
            inputs
            | "ParseHeaders" >> ParseHeaders(self._options)
            | "MapNotes" >> MapNotes(self._options)
            | "UnwindStacks" >> UnwindStacks(self._options)
            | "BuildReport" >> BuildReport(self._options)
            | "ToJsonLine" >> beam.Map(_to_line)
        )
        return lines


class AnalyzeRuns(beam.PTransform[PCollection[Run], PCollection[Records]]):
    """Runs of inputs to their records, in input order; ``isolated`` ones in child processes, else in this one."""

    def __init__(self, settings: PoolSettings, isolated: bool = True) -> None:
        super().__init__()
        self._settings = settings
        self._isolated = isolated

    def expand(self, runs: PCollection[Run]) -> PCollection[Records]:
        """Runs to records."""
        records: PCollection[Records] = runs | "Analyze" >> beam.ParDo(_Analyze(self._settings, self._isolated))
        return records


class _Analyze(beam.DoFn):
    def __init__(self, settings: PoolSettings, isolated: bool) -> None:
        self._settings = settings
        self._isolated = isolated

    def process(self, run: Run) -> Iterator[Records]:
        yield from _batches(run.first, record_lines(run.inputs, self._settings, self._isolated))


def _batches(first: int, lines: Iterable[bytes | None]) -> Iterator[Records]:
    """Lines in batches; an empty batch where nothing came for a while."""
    batch: list[bytes] = []
    due = time.monotonic() + BATCH_SECONDS
    for line in lines:
        if line is not None:
            batch.append(line)
        if line is None or len(batch) >= BATCH_RECORDS or time.monotonic() >= due:
            yield Records(first, tuple(batch))
            first += len(batch)
            batch = []
            due = time.monotonic() + BATCH_SECONDS
    if batch:
        yield Records(first, tuple(batch))


def _to_line(made: CrashReport | Failed) -> bytes:
    return to_json_line(to_record(made) if isinstance(made, Failed) else made)
