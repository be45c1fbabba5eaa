"""Bytes at an offset of something that holds a dump: a file, a flattened file's contents, a buffer.

Files are read by ``pread``, never mapped: a file that shrinks while it is read must give an error, not a SIGBUS.
"""

import errno
import os
import stat
from typing import Protocol

from crashbeam.schemas.codes import FailureCode
from crashbeam.vmcore.errors import SourceError
from crashbeam.vmcore.limits import Budget


class ByteSource(Protocol):
    """What containers read from."""

    @property
    def name(self) -> str:
        """What to call it in messages (a path)."""
        ...

    @property
    def size_bytes(self) -> int:
        """Its length."""
        ...

    def read(self, offset: int, size_bytes: int) -> bytes:
        """The bytes at ``offset``: fewer than asked for, or none, at the end of the source. Raises SourceError."""
        ...

    def close(self) -> None:
        """Closes what is held open; a second call does nothing."""
        ...


class BufferSource:
    """A dump in memory."""

    def __init__(self, data: bytes, name: str = "<memory>") -> None:
        self.name = name
        self.size_bytes = len(data)
        self._data = data

    def read(self, offset: int, size_bytes: int) -> bytes:
        """The bytes at ``offset``, fewer at the end."""
        return self._data[offset : offset + size_bytes]

    def close(self) -> None:
        """Nothing is held open."""


class FileSource:
    """A regular file, held open until ``close``. Every read is charged to the budget.

    Raises SourceError: ``not_regular`` for a directory, FIFO, socket or device (opened without blocking), ``empty`` for
    an empty file, ``io_error`` for anything that the operating system refuses.
    """

    def __init__(self, path: str, budget: Budget) -> None:
        self.name = path
        self.bytes_read = 0
        self._budget = budget
        self._descriptor = _open(path)
        try:
            status = os.fstat(self._descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise SourceError(f"{path} is no regular file", code=FailureCode.NOT_REGULAR)
            if status.st_size == 0:
                raise SourceError(f"{path} is empty", code=FailureCode.EMPTY)
        except SourceError:
            os.close(self._descriptor)
            raise
        self.size_bytes = status.st_size
        self.modified_ns = status.st_mtime_ns

    def read(self, offset: int, size_bytes: int) -> bytes:
        """The bytes at ``offset``, fewer at the end of the file."""
        try:
            data = os.pread(self._descriptor, size_bytes, offset)
        except OSError as error:
            raise _refused(self.name, error) from error
        self.bytes_read += len(data)
        self._budget.charge_read(len(data))
        return data

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _refused(path, error) from error


def _refused(path: str, error: OSError) -> SourceError:
    name = errno.errorcode.get(error.errno or 0, "EIO")
    code = FailureCode.NOT_REGULAR if error.errno in (errno.ENXIO, errno.EISDIR) else FailureCode.IO_ERROR
    return SourceError(f"{path} cannot be read: {os.strerror(error.errno or errno.EIO)}", code=code, errno=name)
