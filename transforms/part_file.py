"""The parts of a run folder: the records of consecutive inputs as one zstd frame of JSON lines.

A part appears whole or not at all: temporary name, fsync, rename, fsync of the folder, size checked.
"""

import os
import re
from collections.abc import Sequence

import zstandard
from msgspec import Struct

SUFFIX = ".jsonl.zst"
_NAME = re.compile(r"(\d{8,})-(\d{8,})\.jsonl\.zst")
_TEMPORARY_PREFIX = ".writing-"
"""Begins with a dot and ends without a suffix, so that no reader globs it."""
LEVEL = 3


class OutputError(Exception):
    """An output that cannot be written any more: one line that says which and why."""


class PartRange(Struct, frozen=True, order=True):
    """The inputs ``first`` to ``stop - 1``."""

    first: int
    stop: int

    @property
    def name(self) -> str:
        """The file name of the part that holds their records."""
        return f"{self.first:08d}-{self.stop:08d}{SUFFIX}"


def parse_part_name(name: str) -> PartRange | None:
    """The range of a part's file name; ``None`` for any other name."""
    match = _NAME.fullmatch(name)
    if match is None or int(match[1]) >= int(match[2]):
        return None
    return PartRange(int(match[1]), int(match[2]))


def write_part(folder: str, first: int, lines: Sequence[bytes]) -> PartRange:
    """Writes the records of the inputs from ``first`` on; a part of the same range is replaced. Raises OutputError."""
    part = PartRange(first, first + len(lines))
    write_whole(os.path.join(folder, part.name), zstandard.ZstdCompressor(level=LEVEL).compress(b"".join(lines)))
    return part


def read_part(path: str) -> bytes:
    """The lines of a part. Raises OSError, and zstandard.ZstdError for one that is damaged."""
    with open(path, "rb") as file:
        return zstandard.ZstdDecompressor().decompress(file.read())


def write_whole(path: str, data: bytes) -> None:
    """Puts a file in its place in one step, durably. Raises OutputError."""
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, _TEMPORARY_PREFIX + name.partition(".")[0])
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
        sync_folder(folder)
        size_bytes = os.stat(path).st_size
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error
    if size_bytes != len(data):
        raise OutputError(f"{path} holds {size_bytes} bytes where {len(data)} were written")


def sync_folder(folder: str) -> None:
    """Makes the names in a folder durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_temporary(name: str) -> bool:
    """Whether a file is what a killed writer left behind."""
    return name.startswith(_TEMPORARY_PREFIX)
