"""What travels between the stages: small, picklable, typed values, each holding the one before.

``Opened`` says what the headers and the kernel say, ``Mapped`` whose each note is, ``Unwound`` has the stacks. No open file,
no profile and no page is held: a stage that finds itself in another process opens the dump again.
"""

from dataclasses import dataclass

from crashbeam.schemas.codes import FailureCode, Stage


@dataclass(frozen=True, slots=True)
class DumpInput:
    """One input: a file, or the files of a split set, as it was listed.

    ``uri`` is the canonical URI (of the part with the lowest start_pfn), ``paths`` the local files, that part first;
    ``size_bytes`` and ``version`` (mtime in ns as text; of a set, those of its parts joined) are ``None`` where the input
    cannot be stat'ed. ``input_id`` is made of uri, size and version (DESIGN.md section 2.4).
    """

    input_id: str
    uri: str
    paths: tuple[str, ...]
    size_bytes: int | None
    version: str | None
    modified_ns: int | None


@dataclass(frozen=True, slots=True)
class AnalysisOptions:
    """What a report may depend on beside the dump.

    ``symbols`` are the paths given with ``--symbols``; ``profiles`` is the folder of compiled kernel profiles.
    """

    symbols: tuple[str, ...] = ()
    profiles: str | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """An input that a stage could not go on with; later stages pass it through untouched."""

    input: DumpInput
    stage: Stage
    code: FailureCode
    message: str
    hint: str
    facts: dict[str, int | str]
