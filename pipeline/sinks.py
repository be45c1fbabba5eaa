"""Where the records of a run can go beside its parts: ``jsonl:PATH``, ``parquet:DIR``, ``duckdb:PATH``.

A sink is probed before the first dump is read, and filled from the parts after the last one stands.
"""

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Protocol

from msgspec import Struct

from crashbeam.pipeline.exit_codes import WrongUseError
from crashbeam.transforms.part_file import PartRange


class FinishedRun(Struct, frozen=True):
    """A run whose parts all stand; ``generation`` is its creation time in microseconds since 1970."""

    path: str
    parts_folder: str
    parts: tuple[PartRange, ...]
    generation: int

    def part_path(self, part: PartRange) -> str:
        """The path of a part."""
        return os.path.join(self.parts_folder, part.name)


class Loaded(Struct, frozen=True):
    """What a sink did: records written, records that it held already (or in a newer form), records that it refused."""

    written: int
    skipped: int = 0
    refused: int = 0
    first_refusal: str = ""


class Sink(Protocol):
    """A place for records."""

    def probe(self) -> None:
        """Finds out whether records can be written. Raises WrongUseError."""
        ...

    def claim(self, generation: int) -> None:
        """Learns which run will be loaded. Raises WrongUseError where the sink holds another run and takes but one."""
        ...

    def load(self, run: FinishedRun) -> Loaded:
        """Takes every record of a run; a repeat changes nothing. Raises PromiseBrokenError."""
        ...


_SINKS = {
    "jsonl": ("crashbeam.pipeline.sink_jsonl", "JsonlSink"),
    "parquet": ("crashbeam.pipeline.sink_parquet", "ParquetSink"),
    "duckdb": ("crashbeam.pipeline.sink_duckdb", "DuckdbSink"),
}


def open_sinks(uris: Sequence[str]) -> list[tuple[str, Sink]]:
    """The probed sinks of these URIs, each with its URI. Raises WrongUseError."""
    sinks = [(uri, _open_sink(uri)) for uri in dict.fromkeys(uris)]
    for _, sink in sinks:
        sink.probe()
    return sinks


def _open_sink(uri: str) -> Sink:
    scheme, colon, path = uri.partition(":")
    if scheme not in _SINKS or not colon or not path:
        raise WrongUseError(f"--sink {uri}: write jsonl:PATH, parquet:DIR or duckdb:PATH")
    module, name = _SINKS[scheme]
    make: Callable[[str], Sink] = getattr(import_module(module), name)
    return make(os.path.abspath(path))
