"""The FailureRecord: why an input has no report."""

from __future__ import annotations

from dataclasses import dataclass

from crashbeam.schemas.codes import FailureCode, Stage
from crashbeam.schemas.crash_report import Source
from crashbeam.schemas.privacy import Internal, Public
from crashbeam.schemas.words import Digest

FAILURE = "crashbeam.failure/1"


@dataclass(frozen=True, slots=True)
class FailureRecord:
    """One sentence of what and where, and what a person can do; never a traceback."""

    schema: Public[str]
    input_id: Public[Digest]
    source: Public[Source]
    stage: Public[Stage]
    code: Public[FailureCode]
    message: Internal[str]
    hint: Internal[str]
    facts: Internal[dict[str, int | str]]
