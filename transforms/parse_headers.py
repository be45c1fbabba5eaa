"""Inputs to what their headers and their kernels say."""

import apache_beam as beam
from apache_beam.pvalue import PCollection

from crashbeam.vmcore.facts import AnalysisOptions, DumpInput, Failed, Opened
from crashbeam.vmcore.stages import parse_headers
from crashbeam.workers.analysis import run_stage


class ParseHeaders(beam.PTransform[PCollection[DumpInput], PCollection[Opened | Failed]]):
    """``DumpInput`` to ``Opened`` or ``Failed``.

    The work is ``parse_headers`` of ``vmcore/stages.py``.
    """

    def __init__(self, options: AnalysisOptions) -> None:
        super().__init__()
        self._options = options

    def expand(self, inputs: PCollection[DumpInput]) -> PCollection[Opened | Failed]:
        """``DumpInput`` to ``Opened`` or ``Failed``."""
        opened: PCollection[Opened | Failed] = inputs | beam.Map(_run, self._options)
        return opened


def _run(facts: DumpInput, options: AnalysisOptions) -> Opened | Failed:
    made: Opened | Failed = run_stage(parse_headers, facts, options)
    return made
