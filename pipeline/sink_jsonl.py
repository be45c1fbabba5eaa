"""All records of a run as one file of JSON lines, in input order: plain, ``.gz`` or ``.zst`` by its name."""

import gzip
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Protocol

import zstandard

from crashbeam.pipeline.exit_codes import PromiseBrokenError, WrongUseError
from crashbeam.pipeline.manifest import read_records
from crashbeam.pipeline.sinks import FinishedRun, Loaded
from crashbeam.transforms.part_file import LEVEL, sync_folder

GZIP_LEVEL = 6


class _Writer(Protocol):
    def write(self, data: bytes, /) -> object: ...


class JsonlSink:
    """A file that appears whole, in place of the one before."""

    def __init__(self, path: str) -> None:
        self._path = path
        folder, name = os.path.split(path)
        self._temporary = os.path.join(folder, f".writing-{name.replace('.', '-')}")

    def probe(self) -> None:
        """Tries the folder. Raises WrongUseError."""
        if os.path.isdir(self._path):
            raise WrongUseError(f"jsonl:{self._path} is a folder: name a file")
        try:
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            with open(self._temporary, "wb"):
                os.unlink(self._temporary)
        except OSError as error:
            raise WrongUseError(f"jsonl:{self._path} cannot be written: {error.strerror}") from error

    def claim(self, generation: int) -> None:
        """Takes any run."""

    def load(self, run: FinishedRun) -> Loaded:
        """Writes the file anew. Raises PromiseBrokenError."""
        written = 0
        try:
            with open(self._temporary, "wb") as file:
                with _compressing(file, self._path) as writer:
                    for part in run.parts:
                        lines = read_records(run.part_path(part))
                        writer.write(lines)
                        written += part.stop - part.first
                file.flush()
                os.fsync(file.fileno())
            os.rename(self._temporary, self._path)
            sync_folder(os.path.dirname(self._path))
        except OSError as error:
            with suppress(OSError):
                os.unlink(self._temporary)
            raise PromiseBrokenError(f"jsonl:{self._path} cannot be written: {error.strerror}") from error
        return Loaded(written)


@contextmanager
def _compressing(file: IO[bytes], path: str) -> Iterator[_Writer]:
    if path.endswith(".zst"):
        with zstandard.ZstdCompressor(level=LEVEL).stream_writer(file, closefd=False) as zstd_writer:
            yield zstd_writer
    elif path.endswith(".gz"):
        # Without name and time, so that equal records give equal bytes.
        with gzip.GzipFile(filename="", mode="wb", compresslevel=GZIP_LEVEL, fileobj=file, mtime=0) as gzip_writer:
            yield gzip_writer
    else:
        yield file
