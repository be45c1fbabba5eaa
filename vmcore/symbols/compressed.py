"""Files of symbols as they are shipped: plain, or compressed with xz, gzip or zstd."""

import gzip
import lzma
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import zstandard

from crashbeam.vmcore.errors import SymbolError

MAX_UNPACKED_BYTES = 1 << 30
_KEPT_IN_MEMORY_BYTES = 192 << 20
_CHUNK_BYTES = 1 << 20
_MAGICS = {b"\xfd7zXZ\0": "xz", b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}

_Unreadable = (OSError, EOFError, lzma.LZMAError, zlib.error, zstandard.ZstdError)


@contextmanager
def open_unpacked(path: str) -> Iterator[IO[bytes]]:
    """The contents of a file as a seekable stream, unpacked if need be: in memory, beyond 192 MiB in a temporary file.

    Raises SymbolError if the file cannot be read or unpacked, or holds more than 1 GiB.
    """
    with _opened(path) as stream:
        if compression_of(path) is None:
            yield stream
            return
        with tempfile.SpooledTemporaryFile(_KEPT_IN_MEMORY_BYTES) as unpacked:
            for chunk in _chunks(stream, path, MAX_UNPACKED_BYTES + 1):
                unpacked.write(chunk)
                if unpacked.tell() > MAX_UNPACKED_BYTES:
                    raise SymbolError(f"{path} holds more than a kernel", size_bytes=unpacked.tell())
            unpacked.seek(0)
            yield unpacked


def read_start(path: str, size_bytes: int) -> bytes:
    """The first bytes of a file's contents, unpacked. Raises SymbolError if they cannot be read or unpacked."""
    with _opened(path) as stream:
        return b"".join(_chunks(stream, path, size_bytes))


def compression_of(path: str) -> str | None:
    """``xz``, ``gzip``, ``zstd``, or ``None``, by the file's first bytes. Raises SymbolError."""
    try:
        with open(path, "rb") as file:
            start = file.read(6)
    except OSError as error:
        raise _unreadable(path, error) from error
    return next((kind for magic, kind in _MAGICS.items() if start.startswith(magic)), None)


@contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    compression = compression_of(path)
    try:
        if compression == "xz":
            stream: IO[bytes] = lzma.open(path)
        elif compression == "gzip":
            stream = gzip.open(path)
        elif compression == "zstd":
            stream = zstandard.ZstdDecompressor().stream_reader(open(path, "rb"), read_across_frames=True, closefd=True)
        else:
            stream = open(path, "rb")
    except _Unreadable as error:
        raise _unreadable(path, error) from error
    with stream:
        yield stream


def _chunks(stream: IO[bytes], path: str, size_bytes: int) -> Iterator[bytes]:
    left = size_bytes
    while left > 0:
        try:
            chunk = stream.read(min(_CHUNK_BYTES, left))
        except _Unreadable as error:
            raise _unreadable(path, error) from error
        if not chunk:
            return
        left -= len(chunk)
        yield chunk


def _unreadable(path: str, error: Exception) -> SymbolError:
    return SymbolError(f"{path} cannot be read: {error}", hint="check the file: it may have been cut off or damaged")
