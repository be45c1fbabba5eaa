"""Frames on the pipes between the driver and a child: a length of four bytes, big endian, then as many bytes.

To the child go pickles (``ChildSettings`` first, then an input a frame): the driver is trusted. Back come only
bytes: ``READY`` or what kept the child from starting, then one JSON line for each input, in the order of the requests.
Before a line may go kernel profiles, made of that dump's own symbols: a child may not write them to the cache itself.
"""

import os
import pickle
import struct
from dataclasses import dataclass, fields
from operator import attrgetter

from crashbeam.vmcore.facts import AnalysisOptions, DumpInput
from crashbeam.workers.limits import Limits

LENGTH = struct.Struct(">I")
MAX_FRAME_BYTES = 64 << 20
"""No record is longer: a child that announces more has lost its mind."""
READY = b"ready"
EXIT_OUT_OF_MEMORY = 77
"""The exit status of a child whose input asked for more memory than its limit: it does not trust its heap any more."""


_FIELDS = attrgetter(*(field.name for field in fields(DumpInput)))


class ProtocolError(Exception):
    """A frame that no sane peer sends."""


@dataclass(frozen=True, slots=True)
class ChildSettings:
    """What a child must know before its first input.

    ``analyse`` is the dotted name (``module:function``) of what turns a DumpInput and AnalysisOptions into a record;
    ``stage_descriptor`` is the shared memory whose first byte holds the number of the stage that the child is in.
    """

    analyse: str
    options: AnalysisOptions
    limits: Limits
    stage_descriptor: int


def pack_input(dump_input: DumpInput) -> bytes:
    """An input as a request: its fields alone, which takes a quarter of the time that the dataclass would."""
    return pickle.dumps(_FIELDS(dump_input))


def unpack_input(request: bytes) -> DumpInput:
    """The input of a request."""
    return DumpInput(*pickle.loads(request))


def to_frame(payload: bytes) -> bytes:
    """``payload`` with its length in front."""
    return LENGTH.pack(len(payload)) + payload


def read_frame(descriptor: int) -> bytes | None:
    """The next frame of a blocking pipe, or ``None`` where the pipe ended. Raises ProtocolError."""
    header = _read_exactly(descriptor, LENGTH.size)
    if header is None:
        return None
    (size_bytes,) = LENGTH.unpack(header)
    if size_bytes > MAX_FRAME_BYTES:
        raise ProtocolError(f"a frame of {size_bytes} bytes")
    return _read_exactly(descriptor, size_bytes)


def write_frame(descriptor: int, payload: bytes) -> None:
    """Writes a whole frame to a blocking pipe. Raises OSError."""
    rest = memoryview(to_frame(payload))
    while rest:
        rest = rest[os.write(descriptor, rest) :]


class FrameBuffer:
    """Bytes as they come from a child, cut into frames."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that ``data`` completes. Raises ProtocolError."""
        self._bytes += data
        frames = []
        start = 0
        while len(self._bytes) - start >= LENGTH.size:
            (size_bytes,) = LENGTH.unpack_from(self._bytes, start)
            if size_bytes > MAX_FRAME_BYTES:
                raise ProtocolError(f"a frame of {size_bytes} bytes")
            end = start + LENGTH.size + size_bytes
            if len(self._bytes) < end:
                break
            frames.append(bytes(self._bytes[start + LENGTH.size : end]))
            start = end
        del self._bytes[:start]
        return frames


def _read_exactly(descriptor: int, size_bytes: int) -> bytes | None:
    data = bytearray()
    while len(data) < size_bytes:
        more = os.read(descriptor, min(size_bytes - len(data), 1 << 20))
        if not more:
            return None
        data += more
    return bytes(data)
