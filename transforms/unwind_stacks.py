"""Registers of CPUs to stacks."""

import apache_beam as beam
from apache_beam.pvalue import PCollection

from crashbeam.vmcore.facts import AnalysisOptions, Failed, Mapped, Unwound
from crashbeam.vmcore.stages import unwind_stacks
from crashbeam.workers.analysis import run_stage


class UnwindStacks(beam.PTransform[PCollection[Mapped | Failed], PCollection[Unwound | Failed]]):
    """``Mapped`` to ``Unwound`` or ``Failed``; a ``Failed`` passes through untouched.

    The work is ``unwind_stacks`` of ``vmcore/stages.py``.
    """

    def __init__(self, options: AnalysisOptions) -> None:
        super().__init__()
        self._options = options

    def expand(self, mapped: PCollection[Mapped | Failed]) -> PCollection[Unwound | Failed]:
        """``Mapped`` to ``Unwound`` or ``Failed``."""
        unwound: PCollection[Unwound | Failed] = mapped | beam.Map(_run, self._options)
        return unwound


def _run(facts: Mapped | Failed, options: AnalysisOptions) -> Unwound | Failed:
    made: Unwound | Failed = run_stage(unwind_stacks, facts, options)
    return made
