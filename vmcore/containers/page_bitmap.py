"""The bitmap of stored pages: whether a page is in the file, and how many are before it.

Bit n of byte k stands for page 8k + n, the least significant bit first, on every architecture. It is read up to the
highest page asked for, a chunk at a time; chunks that are looked into get a count for every 256 bytes.
"""

from typing import Final

from crashbeam.vmcore.byte_source import ByteSource
from crashbeam.vmcore.errors import PageError, PageStatus

CHUNK_BYTES: Final = 1 << 14
_CHUNKS_KEPT: Final = 64
_PIECE_BYTES: Final = 256
_ZERO_CHUNK: Final = bytes(CHUNK_BYTES)


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
        self._chunks: dict[int, tuple[bytes, tuple[int, ...]]] = {}

    def index_of(self, pfn: int) -> int | None:
        """How many stored pages are before ``pfn``, or ``None`` if it is not stored.

        Raises PageError where the file is cut.
        """
        place = (pfn >> 3) - self._base
        number = place // CHUNK_BYTES
        chunk, counts = self._chunks.get(number) or self._load(number)
        place -= number * CHUNK_BYTES
        if place >= len(chunk):
            raise _cut(pfn)
        if not chunk[place] >> (pfn & 7) & 1:
            return None
        return self._before[number] + counts[place // _PIECE_BYTES] + _bits_before(chunk, place, pfn & 7)

    def count_before(self, pfn: int) -> int:
        """How many pages from ``first_pfn`` to before ``pfn`` are stored. Raises PageError where the file is cut."""
        if pfn <= self._first_pfn:
            return 0
        last = pfn - 1
        place = (last >> 3) - self._base
        number = place // CHUNK_BYTES
        chunk, counts = self._chunks.get(number) or self._load(number)
        place -= number * CHUNK_BYTES
        if place >= len(chunk):
            raise _cut(last)
        return self._before[number] + counts[place // _PIECE_BYTES] + _bits_before(chunk, place, (last & 7) + 1)

    def _load(self, number: int) -> tuple[bytes, tuple[int, ...]]:
        while len(self._before) <= number:
            passed = self._read(len(self._before) - 1)
            if len(passed) < CHUNK_BYTES:
                return b"", ()
            ones = 0 if passed == _ZERO_CHUNK else int.from_bytes(passed, "little").bit_count()
            self._before.append(self._before[-1] + ones)
        chunk = self._read(number)
        counts = [0]
        for start in range(0, len(chunk) - _PIECE_BYTES, _PIECE_BYTES):
            counts.append(counts[-1] + int.from_bytes(chunk[start : start + _PIECE_BYTES], "little").bit_count())
        if len(self._chunks) >= _CHUNKS_KEPT:
            self._chunks.clear()
        self._chunks[number] = loaded = chunk, tuple(counts)
        return loaded

    def _read(self, number: int) -> bytes:
        start = number * CHUNK_BYTES
        chunk = self._source.read(self._at + start, min(CHUNK_BYTES, self._size_bytes - start))
        if number or not self._first_pfn & 7 or not chunk:
            return chunk
        # Pages before the first one share its byte and must not be counted.
        return bytes((chunk[0] & (0xFF << (self._first_pfn & 7)) & 0xFF,)) + chunk[1:]


def _bits_before(chunk: bytes, place: int, bit: int) -> int:
    """Set bits from the start of the piece that ``place`` is in, to before bit ``bit`` of byte ``place``."""
    start = place - place % _PIECE_BYTES
    bits = int.from_bytes(chunk[start : place + 1], "little")
    return (bits & ((1 << (8 * (place - start) + bit)) - 1)).bit_count()


def _cut(pfn: int) -> PageError:
    return PageError(
        f"the file ends before the bitmap says whether page {pfn:#x} is stored", status=PageStatus.TRUNCATED
    )
