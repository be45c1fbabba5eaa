"""Notes to CPUs."""

import apache_beam as beam
from apache_beam.pvalue import PCollection

from crashbeam.vmcore.facts import AnalysisOptions, Failed, Mapped, Opened
from crashbeam.vmcore.stages import map_notes
from crashbeam.workers.analysis import run_stage


class MapNotes(beam.PTransform[PCollection[Opened | Failed], PCollection[Mapped | Failed]]):
    """``Opened`` to ``Mapped`` or ``Failed``; a ``Failed`` passes through untouched.

    The work is ``map_notes`` of ``vmcore/stages.py``.
    """

    def __init__(self, options: AnalysisOptions) -> None:
        super().__init__()
        self._options = options

    def expand(self, opened: PCollection[Opened | Failed]) -> PCollection[Mapped | Failed]:
        """``Opened`` to ``Mapped`` or ``Failed``."""
        mapped: PCollection[Mapped | Failed] = opened | beam.Map(_run, self._options)
        return mapped


def _run(facts: Opened | Failed, options: AnalysisOptions) -> Mapped | Failed:
    made: Mapped | Failed = run_stage(map_notes, facts, options)
    return made
