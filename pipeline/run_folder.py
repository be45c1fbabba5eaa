"""The run folder: what was asked, what the inputs are, and which of their records stand.

Its listing is the ledger: a part stands whole or not at all, so that a killed run goes on where its parts end.
"""

import fcntl
import os
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson
from msgspec import Struct

from crashbeam.pipeline.exit_codes import PromiseBrokenError, WrongUseError
from crashbeam.pipeline.inputs import Listing, from_uri, to_uri
from crashbeam.pipeline.version import find_version
from crashbeam.transforms.part_file import (
    OutputError,
    PartRange,
    is_temporary,
    parse_part_name,
    sync_folder,
    write_whole,
)
from crashbeam.vmcore.facts import DumpInput

RUN_SCHEMA = "crashbeam.run/1"
INPUTS_SCHEMA = "crashbeam.inputs/1"
MANIFEST = "manifest.json"
_RUN = "run.json"
_LOCK = ".lock"
_PARTS = "parts"


class RunFacts(Struct, frozen=True):
    """``created_us`` (microseconds since 1970) is the generation of the run's records in every store."""

    created_us: int
    options_digest: str
    version: str


class RunFolder:
    """A run folder that this process holds, until ``close`` or its death."""

    def __init__(self, path: str, facts: RunFacts, lock: int) -> None:
        self.path = path
        self.facts = facts
        self._lock = lock
        self._inputs_files = len(_inputs_files(path))
        self.skipped = 0

    @property
    def inputs(self) -> tuple[DumpInput, ...]:
        """All inputs, in the order of their numbers. Raises PromiseBrokenError."""
        return read_inputs(self.path, self._inputs_files)

    @property
    def inputs_files(self) -> int:
        """How many ``inputs-NNNN.json`` there are."""
        return self._inputs_files

    @property
    def parts(self) -> str:
        """The folder of the parts."""
        return os.path.join(self.path, _PARTS)

    @property
    def manifest(self) -> str:
        """The path of the manifest, which stands only when the run is complete."""
        return os.path.join(self.path, MANIFEST)

    def close(self) -> None:
        """Gives the folder free."""
        os.close(self._lock)

    def add_inputs(self, listing: Listing) -> int:
        """Adds the inputs of a listing that are new, and gives their number. Raises OutputError."""
        known = {dump_input.input_id for dump_input in self.inputs}
        new = [dump_input for dump_input in listing.inputs if dump_input.input_id not in known]
        self.skipped = listing.skipped
        if new or not known:
            self.remove_manifest()
            _write_inputs(os.path.join(self.path, f"inputs-{self._inputs_files:04d}.json"), len(known), new)
            self._inputs_files += 1
        return len(new)

    def remove_manifest(self) -> None:
        """Says that the run is not complete."""
        _remove(self.manifest)

    def standing_parts(self) -> list[PartRange]:
        """The ranges whose records stand, in order.

        Raises PromiseBrokenError where two overlap, or one has no inputs.
        """
        _, ranges = read_parts(self.path)
        if ranges and ranges[-1].stop > len(self.inputs):
            raise PromiseBrokenError(f"{self.parts}/{ranges[-1].name} has no inputs: remove it and run again")
        return ranges

    def open_ranges(self, longest: int) -> list[PartRange]:
        """The ranges of inputs without a record, none longer than ``longest``."""
        gaps = []
        reached = 0
        for part in [*self.standing_parts(), PartRange(len(self.inputs), len(self.inputs))]:
            gaps += [
                PartRange(first, min(first + longest, part.first)) for first in range(reached, part.first, longest)
            ]
            reached = part.stop
        return gaps


def open_run_folder(path: str, options: dict[str, Any], options_digest: str) -> RunFolder:
    """Makes the run folder, or takes up one that stands.

    Raises WrongUseError: it cannot be made, is something else, is held by another run, or was begun with other options.
    """
    _make_folder(path)
    lock = _take_lock(path)
    try:
        facts = _read_or_write_run(path, options, options_digest)
        folder = RunFolder(path, facts, lock)
        for name in os.listdir(folder.parts):
            if is_temporary(name):
                _remove(os.path.join(folder.parts, name))
    except BaseException:
        os.close(lock)
        raise
    return folder


def read_run(path: str) -> RunFacts:
    """What ``run.json`` of a run folder says. Raises WrongUseError for a folder that is none."""
    try:
        with open(os.path.join(path, _RUN), "rb") as file:
            run = orjson.loads(file.read())
        if run["schema"] != RUN_SCHEMA:
            raise WrongUseError(f"{path} was written by another version of crashbeam ({run['schema']})")
        return RunFacts(run["created_us"], run["options_digest"], run["version"])
    except (OSError, KeyError, TypeError, orjson.JSONDecodeError) as error:
        raise WrongUseError(f"{path} is no run folder: it holds no readable {_RUN}") from error


@lru_cache(maxsize=1)
def read_inputs(path: str, files: int) -> tuple[DumpInput, ...]:
    """The inputs of the first ``files`` inputs files of a run folder; they never change.

    Raises PromiseBrokenError for a damaged one.
    """
    inputs: list[DumpInput] = []
    for name in _inputs_files(path)[:files]:
        try:
            with open(os.path.join(path, name), "rb") as file:
                inputs += map(_to_input, orjson.loads(file.read())["inputs"])
        except (OSError, KeyError, TypeError, orjson.JSONDecodeError) as error:
            raise PromiseBrokenError(f"{path}/{name} is damaged: run into a new folder") from error
    return tuple(inputs)


def read_parts(path: str) -> tuple[str, list[PartRange]]:
    """The parts folder of a run folder, and the ranges whose records stand, in order.

    Raises PromiseBrokenError for an overlap.
    """
    folder = os.path.join(path, _PARTS)
    try:
        ranges = sorted(filter(None, map(parse_part_name, os.listdir(folder))))
    except OSError as error:
        raise PromiseBrokenError(f"{folder} cannot be read: {error.strerror}") from error
    reached = 0
    for part in ranges:
        if part.first < reached:
            raise PromiseBrokenError(f"{folder}/{part.name} overlaps another part: remove it and run again")
        reached = part.stop
    return folder, ranges


def _make_folder(path: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
        names = os.listdir(path)
        if _RUN not in names and set(names) - {_LOCK, _PARTS}:
            raise WrongUseError(f"{path} is not empty and no run folder: give -o a new or empty folder")
        os.makedirs(os.path.join(path, _PARTS), exist_ok=True)
    except OSError as error:
        raise WrongUseError(f"{path} cannot be made or read: {error.strerror}") from error


def _take_lock(path: str) -> int:
    try:
        lock = os.open(os.path.join(path, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise WrongUseError(f"{path} cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise WrongUseError(f"{path} is in use by another crashbeam: wait for it, or give -o another folder") from error
    return lock


def _read_or_write_run(path: str, options: dict[str, Any], options_digest: str) -> RunFacts:
    if os.path.exists(os.path.join(path, _RUN)):
        facts = read_run(path)
        if facts.options_digest != options_digest:
            raise WrongUseError(
                f"{path} was begun with other options or symbols (see its {_RUN}): "
                "repeat them, or give -o another folder"
            )
        return facts
    created_us = time.time_ns() // 1000
    created = datetime.fromtimestamp(created_us // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    version = find_version()
    run = {
        "schema": RUN_SCHEMA,
        "version": version,
        "created": created,
        "created_us": created_us,
        "options_digest": options_digest,
        "options": options,
    }
    try:
        write_whole(os.path.join(path, _RUN), orjson.dumps(run, option=orjson.OPT_INDENT_2) + b"\n")
    except OutputError as error:
        raise WrongUseError(str(error)) from error
    return RunFacts(created_us, options_digest, version)


def _inputs_files(path: str) -> list[str]:
    return sorted(name for name in os.listdir(path) if name.startswith("inputs-") and name.endswith(".json"))


def _write_inputs(path: str, first: int, inputs: Sequence[DumpInput]) -> None:
    entries = [
        {
            "input_id": dump_input.input_id,
            "uri": dump_input.uri,
            "files": [to_uri(part) for part in dump_input.paths],
            "size_bytes": dump_input.size_bytes,
            "version": dump_input.version,
            "modified_ns": dump_input.modified_ns,
        }
        for dump_input in inputs
    ]
    write_whole(path, orjson.dumps({"schema": INPUTS_SCHEMA, "first": first, "inputs": entries}))


def _to_input(entry: dict[str, Any]) -> DumpInput:
    return DumpInput(
        input_id=entry["input_id"],
        uri=entry["uri"],
        paths=tuple(map(from_uri, entry["files"])),
        size_bytes=entry["size_bytes"],
        version=entry["version"],
        modified_ns=entry["modified_ns"],
    )


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    sync_folder(os.path.dirname(path))


def count_ranges(ranges: Iterable[PartRange]) -> int:
    """How many inputs the ranges hold."""
    return sum(part.stop - part.first for part in ranges)
