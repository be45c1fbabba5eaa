"""The bitmap of stored pages: whether a page is in the file, and how many are before it.

Bit n of byte k stands for page 8k + n, the least significant bit first, on every architecture. It is read up to the
highest page asked for, a chunk at a time; chunks that are looked into are cut into pieces of 256 bytes, with a count
before each.
"""

from itertools import accumulate
from typing import Final

from crashbeam.vmcore.byte_source import ByteSource
from crashbeam.vmcore.errors import PageError, PageStatus

CHUNK_BYTES: Final = 1 << 14
_CHUNKS_KEPT: Final = 64
_PIECE_BYTES: Final = 256
_CHUNK_BITS: Final = 8 * CHUNK_BYTES
_PIECE_BITS: Final = 8 * _PIECE_BYTES
_ZERO_CHUNK: Final = bytes(CHUNK_BYTES)

_Chunk = tuple[int, tuple[int, ...], tuple[int, ...]]
"""A chunk's length in bits, its pieces as numbers, and how many bits are set before each."""


class PageBitmap:
    """Counts the set bits from page ``first_pfn`` on.

    ``offset`` is where the bit of page 0 stands in the source; pages from ``end_pfn`` on are never asked for.
    """

    def __init__(self, source: ByteSource, offset: int, first_pfn: int, end_pfn: int) -> None:
        self._source = source
        self._base = first_pfn >> 3
        self._at = offset + self._base
        self._size_bytes = max(0, ((end_pfn + 7) >> 3) - self._base)
        self._first_pfn = first_pfn
        self._before = [0]
        self._chunks: dict[int, _Chunk] = {}

    def index_of(self, pfn: int) -> int | None:
        """How many stored pages are before ``pfn``, or ``None`` if it is not stored.

        Raises PageError where the file is cut.
        """
        number, place = divmod(pfn - 8 * self._base, _CHUNK_BITS)
        size_bits, pieces, counts = self._chunks.get(number) or self._load(number)
        if place >= size_bits:
            raise _cut(pfn)
        piece, bit = divmod(place, _PIECE_BITS)
        bits = pieces[piece]
        if not bits >> bit & 1:
            return None
        return self._before[number] + counts[piece] + (bits & ((1 << bit) - 1)).bit_count()

    def count_before(self, pfn: int) -> int:
        """How many pages from ``first_pfn`` to before ``pfn`` are stored. Raises PageError where the file is cut."""
        if pfn <= self._first_pfn:
            return 0
        number, place = divmod(pfn - 1 - 8 * self._base, _CHUNK_BITS)
        size_bits, pieces, counts = self._chunks.get(number) or self._load(number)
        if place >= size_bits:
            raise _cut(pfn - 1)
        piece, bit = divmod(place, _PIECE_BITS)
        return self._before[number] + counts[piece] + (pieces[piece] & ((2 << bit) - 1)).bit_count()

    def _load(self, number: int) -> _Chunk:
        while len(self._before) <= number:
            passed = self._read(len(self._before) - 1)
            if len(passed) < CHUNK_BYTES:
                return 0, (), ()
            ones = 0 if passed == _ZERO_CHUNK else int.from_bytes(passed, "little").bit_count()
            self._before.append(self._before[-1] + ones)
        chunk = self._read(number)
        starts = range(0, len(chunk), _PIECE_BYTES)
        pieces = tuple([int.from_bytes(chunk[start : start + _PIECE_BYTES], "little") for start in starts])
        counts = tuple(accumulate(map(int.bit_count, pieces), initial=0))
        if len(self._chunks) >= _CHUNKS_KEPT:
            self._chunks.clear()
        self._chunks[number] = loaded = 8 * len(chunk), pieces, counts
        return loaded

    def _read(self, number: int) -> bytes:
        start = number * CHUNK_BYTES
        chunk = self._source.read(self._at + start, min(CHUNK_BYTES, self._size_bytes - start))
        if number or not self._first_pfn & 7 or not chunk:
            return chunk
        # Pages before the first one share its byte and must not be counted.
        return bytes((chunk[0] & (0xFF << (self._first_pfn & 7)) & 0xFF,)) + chunk[1:]


def _cut(pfn: int) -> PageError:
    return PageError(
        f"the file ends before the bitmap says whether page {pfn:#x} is stored", status=PageStatus.TRUNCATED
    )
