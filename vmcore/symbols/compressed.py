"""Files of symbols as they are shipped: plain, or compressed with xz, gzip or zstd."""

import gzip
import lzma
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Protocol, cast

import zstandard

from crashbeam.vmcore.errors import SymbolError

MAX_UNPACKED_BYTES = 1 << 30
_KEPT_IN_MEMORY_BYTES = 192 << 20
_CHUNK_BYTES = 1 << 20
_MAGIC_BYTES = 6
_NO_ROOM = "unpack it beforehand, or make room in the folder of temporary files"
_UNREADABLE = (OSError, EOFError, lzma.LZMAError, zlib.error, zstandard.ZstdError)


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _open_zstd(file: IO[bytes]) -> _Readable:
    return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)


def _open_gzip(file: IO[bytes]) -> _Readable:
    return gzip.GzipFile(fileobj=file, mode="rb")


_UNPACK: dict[bytes, Callable[[IO[bytes]], _Readable]] = {
    b"\xfd7zXZ\0": lzma.LZMAFile,
    b"\x1f\x8b": _open_gzip,
    b"\x28\xb5\x2f\xfd": _open_zstd,
}
"""By the first bytes of the file."""


@contextmanager
def open_unpacked(path: str) -> Iterator[IO[bytes]]:
    """The contents of a file as a seekable stream, unpacked if need be: in memory, beyond 192 MiB in a temporary file.

    Raises SymbolError if the file cannot be read or unpacked, or holds more than 1 GiB.
    """
    with _opened(path) as (stream, compressed):
        if not compressed:
            yield cast(IO[bytes], stream)
            return
        with tempfile.SpooledTemporaryFile(_KEPT_IN_MEMORY_BYTES) as unpacked:
            for chunk in _chunks(stream, path, MAX_UNPACKED_BYTES + 1):
                try:
                    unpacked.write(chunk)
                except OSError as error:
                    raise SymbolError(f"{path} cannot be unpacked: {error.strerror}", hint=_NO_ROOM) from error
            if unpacked.tell() > MAX_UNPACKED_BYTES:
                raise SymbolError(f"{path} holds more than a kernel", size_bytes=unpacked.tell())
            unpacked.seek(0)
            yield unpacked


def read_start(path: str, size_bytes: int) -> bytes:
    """The first bytes of a file's contents, unpacked. Raises SymbolError if they cannot be read or unpacked."""
    with _opened(path) as (stream, _):
        return b"".join(_chunks(stream, path, size_bytes))


@contextmanager
def _opened(path: str) -> Iterator[tuple[_Readable, bool]]:
    """The contents of a file as a stream, and whether they are compressed."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open(path, "rb"))
            start = file.read(_MAGIC_BYTES)
            file.seek(0)
        except OSError as error:
            raise _unreadable(path, error) from error
        unpack = next((_UNPACK[magic] for magic in _UNPACK if start.startswith(magic)), None)
        yield (file, False) if unpack is None else (unpack(file), True)


def _chunks(stream: _Readable, path: str, size_bytes: int) -> Iterator[bytes]:
    left = size_bytes
    while left > 0:
        try:
            chunk = stream.read(min(_CHUNK_BYTES, left))
        except _UNREADABLE as error:
            raise _unreadable(path, error) from error
        if not chunk:
            return
        left -= len(chunk)
        yield chunk


def _unreadable(path: str, error: Exception) -> SymbolError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return SymbolError(f"{path} cannot be read: {reason}", hint="check the file: it may have been cut off or damaged")
