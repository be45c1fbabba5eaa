"""Frames on the pipes between the driver and a child: a length of four bytes, big endian, then as many bytes.

To the child go pickles (``ChildSettings`` first, then an input a frame): the driver is trusted. Back come only
bytes: ``READY`` or what kept the child from starting, then one JSON line for each input, in the order of the requests.
Before a line may go kernel profiles, made of that dump's own symbols: a child may not write them to the cache itself.
"""

import os
import pickle
import struct
from operator import attrgetter
from typing import BinaryIO

from msgspec import Struct

from crashbeam.vmcore.facts import AnalysisOptions, DumpInput
from crashbeam.workers.limits import Limits

LENGTH = struct.Struct(">I")
MAX_FRAME_BYTES = 64 << 20
"""No record is longer: a child that announces more has lost its mind."""
READY = b"ready"
EXIT_OUT_OF_MEMORY = 77
"""The exit status of a child whose input asked for more memory than its limit: it does not trust its heap any more."""


_FIELDS = attrgetter(*DumpInput.__struct_fields__)


class ProtocolError(Exception):
    """A frame that no sane peer sends."""


class ChildSettings(Struct, frozen=True):
    """What a child must know before its first input.

    ``analyse`` is the dotted name (``module:function``) of what turns a DumpInput and AnalysisOptions into a record;
    ``stage_descriptor`` is the shared memory whose first byte holds the number of the stage that the child is in.
    """

    analyse: str
    options: AnalysisOptions
    limits: Limits
    stage_descriptor: int


def pack_input(dump_input: DumpInput) -> bytes:
    """An input as a request: its fields alone, which takes a quarter of the time that the whole of it would."""
    return pickle.dumps(_FIELDS(dump_input))


def unpack_input(request: bytes) -> DumpInput:
    """The input of a request."""
    return DumpInput(*pickle.loads(request))


def to_frame(payload: bytes) -> bytes:
    """``payload`` with its length in front."""
    return LENGTH.pack(len(payload)) + payload


def read_frame(requests: BinaryIO) -> bytes | None:
    """The next frame of a blocking, buffered pipe, or ``None`` where the pipe ended. Raises ProtocolError."""
    header = requests.read(LENGTH.size)
    if len(header) < LENGTH.size:
        return None
    (size_bytes,) = LENGTH.unpack(header)
    if size_bytes > MAX_FRAME_BYTES:
        raise ProtocolError(f"a frame of {size_bytes} bytes")
    payload = requests.read(size_bytes)
    return payload if len(payload) == size_bytes else None


def write_frame(descriptor: int, payload: bytes) -> None:
    """Writes a whole frame to a blocking pipe. Raises OSError."""
    rest = memoryview(to_frame(payload))
    while rest:
        rest = rest[os.write(descriptor, rest) :]


class FrameBuffer:
    """Bytes as they come from a child, cut into frames."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that ``data`` completes. Raises ProtocolError."""
        if not self._rest:
            frames, end = _cut(data)
            self._rest += data[end:]
            return frames
        self._rest += data
        frames, end = _cut(self._rest)
        del self._rest[:end]
        return frames


def _cut(data: bytes | bytearray) -> tuple[list[bytes], int]:
    """The whole frames that ``data`` begins with, and where they end. Raises ProtocolError."""
    frames = []
    start = 0
    while len(data) - start >= LENGTH.size:
        (size_bytes,) = LENGTH.unpack_from(data, start)
        if size_bytes > MAX_FRAME_BYTES:
            raise ProtocolError(f"a frame of {size_bytes} bytes")
        end = start + LENGTH.size + size_bytes
        if len(data) < end:
            break
        frames.append(bytes(data[start + LENGTH.size : end]))
        start = end
    return frames, start
