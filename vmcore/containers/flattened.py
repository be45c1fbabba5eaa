"""Flattened files (``makedumpfile -F``, and every kdump file of QEMU), read in place.

A 4096-byte header (signature, type 1, version 1), then records: offset and size of the file they restore (64-bit,
big-endian whatever the dump's order), then the bytes. Offset -1 ends them. Records come in any order and may overwrite
each other: the last one wins; what none of them wrote is zero (makedumpfile ``write_start_flat_header``, libkdumpfile
``flatmap``).
"""

import heapq
import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from crashbeam.schemas.codes import FailureCode
from crashbeam.vmcore.byte_source import ByteSource
from crashbeam.vmcore.errors import FormatError, LimitError, TruncatedError
from crashbeam.vmcore.limits import Budget

FLATTENED_SIGNATURE: Final = b"makedumpfile\0\0\0\0"
MAX_RECORDS: Final = 1 << 20
MAX_OVERLAPPING: Final = 1 << 16
"""Records that overlap each other in one place: writers go back to headers and bitmaps only."""
_HEADER_BYTES: Final = 4096
_RECORD: Final = struct.Struct(">qq")
_SMALL_RECORD_BYTES: Final = 128
_WINDOW_BYTES: Final = 2048
_END: Final = -1

_Piece = tuple[int, int, int]
"""Start and end in the restored file, and where in the flattened file the bytes of the start stand."""


class FlattenedSource:
    """The restored file, as bytes at an offset.

    One pass over the record headers makes an index; ``cut_reason`` says why there may have been more records. Raises
    FormatError (``unsupported``, ``malformed``), TruncatedError inside the first header, LimitError beyond 1,048,576
    records.
    """

    def __init__(self, source: ByteSource, budget: Budget) -> None:
        self.name = source.name
        self.cut_reason: str | None = None
        self._source = source
        self._budget = budget
        self._starts = array("q")
        self._ends = array("q")
        self._places = array("q")
        _check_header(source)
        self._read_records()
        self._sort_records()
        self.size_bytes = self._ends[-1] if self._ends else 0

    def close(self) -> None:
        """Closes the flattened file."""
        self._source.close()

    def read(self, offset: int, size_bytes: int) -> bytes:
        """The bytes at ``offset`` of the restored file, fewer at its end.

        Bytes of holes are charged like those of the file.
        """
        end = min(offset + size_bytes, self.size_bytes)
        if offset >= end:
            return b""
        index = bisect_right(self._starts, offset) - 1
        if index >= 0 and end <= self._ends[index]:
            return self._source.read(self._places[index] + offset - self._starts[index], end - offset)
        return b"".join(self._pieces(max(index, 0), offset, end))

    def _pieces(self, index: int, position: int, end: int) -> Iterator[bytes]:
        while position < end:
            if index == len(self._starts) or self._starts[index] >= end:
                yield self._zeros(end - position)
                return
            start, stop = self._starts[index], self._ends[index]
            if position < start:
                yield self._zeros(start - position)
                position = start
            if position < stop:
                wanted = min(stop, end) - position
                piece = self._source.read(self._places[index] + position - start, wanted)
                yield piece
                if len(piece) < wanted:
                    return
                position += wanted
            index += 1

    def _zeros(self, size_bytes: int) -> bytes:
        self._budget.charge_read(size_bytes)
        return bytes(size_bytes)

    def _read_records(self) -> None:
        """Notes every record. Headers of small records are read many at a time, those of large ones alone."""
        source, file_end = self._source, self._source.size_bytes
        position = window_at = _HEADER_BYTES
        window = source.read(position, _RECORD.size)
        while True:
            if position + _RECORD.size > window_at + len(window):
                small = bool(self._starts) and self._ends[-1] - self._starts[-1] < _SMALL_RECORD_BYTES
                window_at, window = position, source.read(position, _WINDOW_BYTES if small else _RECORD.size)
            if len(window) - (position - window_at) < _RECORD.size:
                self.cut_reason = "the flattened file has no end record"
                return
            offset, size_bytes = _RECORD.unpack_from(window, position - window_at)
            if offset == _END:
                return
            if offset < 0 or size_bytes <= 0 or offset + size_bytes >= 1 << 63:
                raise FormatError(
                    "a flattened record makes no sense", at=position, offset=offset, size_bytes=size_bytes
                )
            if len(self._starts) == MAX_RECORDS:
                raise LimitError("the flattened file has too many records", records=MAX_RECORDS)
            position += _RECORD.size
            there = min(size_bytes, file_end - position)
            if there > 0:
                self._starts.append(offset)
                self._ends.append(offset + there)
                self._places.append(position)
            position += size_bytes

    def _sort_records(self) -> None:
        starts, ends, places = self._starts, self._ends, self._places
        self._budget.charge_steps(len(starts))
        self._starts, self._ends, self._places = array("q"), array("q"), array("q")
        cluster: list[int] = []
        reached = 0
        # Stable: records of equal start stay in file order. Only records that overlap need more than sorting.
        for record in sorted(range(len(starts)), key=starts.__getitem__):
            if starts[record] >= reached:
                self._add_pieces(_resolve(cluster, starts, ends, places))
                cluster = []
            elif len(cluster) == MAX_OVERLAPPING:
                raise LimitError("too many flattened records overlap", records=MAX_OVERLAPPING)
            cluster.append(record)
            reached = max(reached, ends[record])
        self._add_pieces(_resolve(cluster, starts, ends, places))

    def _add_pieces(self, pieces: Iterator[_Piece]) -> None:
        for start, end, place in pieces:
            self._starts.append(start)
            self._ends.append(end)
            self._places.append(place)


def _resolve(cluster: list[int], starts: "array[int]", ends: "array[int]", places: "array[int]") -> Iterator[_Piece]:
    """What is seen of records that overlap, given by start: at every byte the one that comes last in the file."""
    if len(cluster) <= 1:
        for record in cluster:
            yield starts[record], ends[record], places[record]
        return
    edges = sorted({edge for record in cluster for edge in (starts[record], ends[record])})
    waiting = iter(cluster)
    upcoming = next(waiting, None)
    open_records: list[int] = []
    for start, end in pairwise(edges):
        while upcoming is not None and starts[upcoming] <= start:
            heapq.heappush(open_records, -upcoming)
            upcoming = next(waiting, None)
        while ends[-open_records[0]] <= start:
            heapq.heappop(open_records)
        last = -open_records[0]
        yield start, end, places[last] + start - starts[last]


def _check_header(source: ByteSource) -> None:
    header = source.read(0, len(FLATTENED_SIGNATURE) + _RECORD.size)
    if len(header) < len(FLATTENED_SIGNATURE) + _RECORD.size or source.size_bytes <= _HEADER_BYTES:
        raise TruncatedError("the file ends inside its flattened header", size_bytes=source.size_bytes)
    kind, version = _RECORD.unpack_from(header, len(FLATTENED_SIGNATURE))
    if (kind, version) != (1, 1):
        raise FormatError(
            f"the flattened file is of type {kind}, version {version}; only type 1, version 1 is known",
            code=FailureCode.UNSUPPORTED,
        )
