"""Everything known of a crash to its report."""

import apache_beam as beam
from apache_beam.pvalue import PCollection

from crashbeam.schemas.crash_report import CrashReport
from crashbeam.vmcore.facts import AnalysisOptions, Failed, Unwound
from crashbeam.vmcore.stages import build_report
from crashbeam.workers.analysis import run_stage


class BuildReport(beam.PTransform[PCollection[Unwound | Failed], PCollection[CrashReport | Failed]]):
    """``Unwound`` to ``CrashReport`` or ``Failed``; a ``Failed`` passes through untouched.

    The work is ``build_report`` of ``vmcore/stages.py``.
    """

    def __init__(self, options: AnalysisOptions) -> None:
        super().__init__()
        self._options = options

    def expand(self, unwound: PCollection[Unwound | Failed]) -> PCollection[CrashReport | Failed]:
        """``Unwound`` to ``CrashReport`` or ``Failed``."""
        reports: PCollection[CrashReport | Failed] = unwound | beam.Map(_run, self._options)
        return reports


def _run(facts: Unwound | Failed, options: AnalysisOptions) -> CrashReport | Failed:
    made: CrashReport | Failed = run_stage(build_report, facts, options)
    return made
