"""The manifest of a complete run: counts in and out, and every part's rows and digest."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import orjson
import zstandard
from msgspec import Struct

from crashbeam.pipeline.exit_codes import PromiseBrokenError
from crashbeam.pipeline.run_folder import RunFolder
from crashbeam.schemas.failure import FAILURE
from crashbeam.transforms.part_file import PartRange, read_part, write_whole

MANIFEST_SCHEMA = "crashbeam.manifest/1"
DIGEST_BYTES = 16
_FAILURE_LINE = b'{"schema":"' + FAILURE.encode() + b'"'


class Counts(Struct, frozen=True):
    """What the parts of a run hold: reports, and failures by code."""

    reports: int
    failures: Counter[str]

    @property
    def records(self) -> int:
        """All records."""
        return self.reports + self.failures.total()


def write_manifest(folder: RunFolder) -> Counts:
    """Reads every part, checks that they tile the inputs, and writes the manifest.

    Raises PromiseBrokenError for an input without a record or a damaged part, OutputError.
    """
    parts = folder.standing_parts()
    _check_tiling(folder, parts)
    reports = 0
    failures: Counter[str] = Counter()
    entries = []
    for part in parts:
        entry, counts = _read(folder.parts, part)
        entries.append(entry)
        reports += counts.reports
        failures += counts.failures
    manifest = {
        "schema": MANIFEST_SCHEMA,
        "created_us": folder.facts.created_us,
        "options_digest": folder.facts.options_digest,
        "inputs": len(folder.inputs),
        "skipped": folder.skipped,
        "reports": reports,
        "failures": dict(sorted(failures.items())),
        "parts": entries,
    }
    write_whole(folder.manifest, orjson.dumps(manifest, option=orjson.OPT_INDENT_2) + b"\n")
    return Counts(reports, failures)


def is_failure(line: bytes) -> bool:
    """Whether a line of a part is a FailureRecord."""
    return line.startswith(_FAILURE_LINE)


def read_records(path: str) -> bytes:
    """The lines of a part. Raises PromiseBrokenError for a part that is damaged."""
    try:
        return read_part(path)
    except (OSError, zstandard.ZstdError) as error:
        raise PromiseBrokenError(f"{path} is damaged: remove it and run again") from error


def _check_tiling(folder: RunFolder, parts: Sequence[PartRange]) -> None:
    reached = 0
    for part in [*parts, PartRange(len(folder.inputs), len(folder.inputs))]:
        if part.first != reached:
            raise PromiseBrokenError(f"inputs {reached} to {part.first - 1} of {folder.path} have no record: run again")
        reached = part.stop


def _read(parts: str, part: PartRange) -> tuple[dict[str, Any], Counts]:
    path = os.path.join(parts, part.name)
    lines = read_records(path).splitlines()
    if len(lines) != part.stop - part.first:
        raise PromiseBrokenError(f"{path} holds {len(lines)} records: remove it and run again")
    failures = Counter(orjson.loads(line)["code"] for line in lines if is_failure(line))
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    with open(path, "rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
    entry = {"name": part.name, "rows": len(lines), "bytes": os.stat(path).st_size, "blake2b_128": digest.hexdigest()}
    return entry, Counts(len(lines) - failures.total(), failures)
