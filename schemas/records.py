"""The records by name: one class for each, from which everything else about it is derived."""

from crashbeam.schemas.crash_report import CrashReport
from crashbeam.schemas.failure import FailureRecord

Record = CrashReport | FailureRecord

RECORDS: dict[str, type[Record]] = {"crash_report": CrashReport, "failure": FailureRecord}
"""By the name that ``crashbeam schema NAME``, the files in ``schemas/json/`` and the tables use."""
