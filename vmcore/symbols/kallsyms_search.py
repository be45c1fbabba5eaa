"""Finds kallsyms in a kernel's image by what they look like, for kernels whose VMCOREINFO does not name them.

The token table holds the single letters of names one after the other, which nothing else does. Its index proves it and
tells where it starts. Below it lie the markers, with or without ``seqs_of_names`` between; below them the names; and
before those their number, which the markers prove. Where the addresses are is tried: the one of the search's start must
be among them. The tables are described in ``kallsyms.py``.
"""

from array import array
from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple

from crashbeam.vmcore.errors import SymbolError, VmcoreError
from crashbeam.vmcore.symbols.image_search import MAX_IMAGE_BYTES, ReadMemory, find_bytes, read_with_gaps
from crashbeam.vmcore.symbols.kallsyms import (
    INDEX_BYTES,
    MAX_SYMBOLS,
    MAX_TABLE_BYTES,
    RECORDS_PER_MARKER,
    TOKENS,
    Kallsyms,
    KallsymsTables,
    WordFormat,
    read_kallsyms,
    split_tokens,
)

_BLOCK_BYTES: Final = 1 << 16
_PIECE_BYTES: Final = 1 << 12
_LETTERS: Final = b"".join(bytes((letter, 0)) for letter in range(ord("a"), ord("z") + 1))
_MIN_RECORD_BYTES: Final = 2
_MAX_RECORD_BYTES: Final = 2 + 512
_MIN_STEP: Final = RECORDS_PER_MARKER * _MIN_RECORD_BYTES
_MAX_STEP: Final = RECORDS_PER_MARKER * _MAX_RECORD_BYTES
_SEQUENCE_BYTES: Final = 3
_MAX_BELOW_BYTES: Final = _SEQUENCE_BYTES * MAX_SYMBOLS + 8 * MAX_SYMBOLS // RECORDS_PER_MARKER
_MAX_LETTERS_TRIED: Final = 4096
_MAX_TOKEN_TABLES: Final = 4
_MAX_MARKERS_TRIED: Final = 16
_MAX_NAMES_TRIED: Final = 64
_MAX_TABLES_TRIED: Final = 16


class _Markers(NamedTuple):
    """A row that may be the markers: its address, the last marker, the size of one, bounds of the number of symbols."""

    address: int
    last: int
    size_bytes: int
    min_symbols: int
    max_symbols: int


def search_kallsyms(read: ReadMemory, scan: ReadMemory, form: WordFormat, start: int) -> Kallsyms:
    """Every symbol of the kernel whose image begins at ``start``, which is the address of one of them (``_stext``).

    ``scan`` reads the image to look through, of which most is of no further use; ``read`` what was found. Raises
    SymbolError if no tables are found.
    """
    places = _find_token_tables(read, scan, form, start)
    tables = (found for place in places for found in _tables_of(scan, form, start, place))
    for tried in islice(tables, _MAX_TABLES_TRIED):
        try:
            # The number of symbols was only seen by the scan, but is needed as the tables are.
            read(tried.names - form.word_bytes, form.word_bytes)
            found = read_kallsyms(read, form, tried)
        except VmcoreError:
            continue
        if start in found.addresses:
            return found
    raise SymbolError("no kallsyms were found in the kernel's image", start=start)


def _find_token_tables(read: ReadMemory, scan: ReadMemory, form: WordFormat, start: int) -> Iterator[tuple[int, int]]:
    """Addresses of token tables, each with that of its index."""
    letters = islice(find_bytes(scan, _LETTERS, start, MAX_IMAGE_BYTES), _MAX_LETTERS_TRIED)
    found = (_token_table(read, scan, form, address) for address in letters)
    return islice((place for place in found if place is not None), _MAX_TOKEN_TABLES)


def _token_table(read: ReadMemory, scan: ReadMemory, form: WordFormat, letters: int) -> tuple[int, int] | None:
    """Address of the token table that has its letters at ``letters``, and of its index; ``None`` if there is none."""
    first = ord("a")
    try:
        for size_bytes in (_PIECE_BYTES, MAX_TABLE_BYTES):
            tokens = read_with_gaps(scan, letters, size_bytes).split(b"\0", TOKENS - first)
            if len(tokens) > TOKENS - first:
                break
        else:
            return None
        index_at = form.aligned(letters + size_bytes - len(tokens[-1]))
        index = read(index_at, INDEX_BYTES)
        table_at = letters - form.numbers(index, 2)[first]
        if form.aligned(table_at) != table_at:
            return None
        split_tokens(form, read(table_at, index_at - table_at), index)
    except VmcoreError:
        return None
    return table_at, index_at


def _tables_of(scan: ReadMemory, form: WordFormat, start: int, place: tuple[int, int]) -> Iterator[KallsymsTables]:
    table_at, index_at = place
    for markers in islice(_find_markers(scan, form, start, table_at), _MAX_MARKERS_TRIED):
        for count, names in _find_names(scan, form, start, markers):
            for values, relative_base in _places_of_values(form, count, names, index_at):
                yield KallsymsTables(count, names, table_at, index_at, values, relative_base)


def _find_markers(scan: ReadMemory, form: WordFormat, start: int, table_at: int) -> Iterator[_Markers]:
    """Rows of rising numbers from 0 that end where the token table, or the ``seqs_of_names`` before it, begin."""
    below = b""
    block_bytes = _PIECE_BYTES
    most_bytes = min(table_at - form.aligned(start), _MAX_BELOW_BYTES)
    while len(below) < most_bytes:
        block_bytes = min(block_bytes, most_bytes - len(below))
        below = read_with_gaps(scan, table_at - len(below) - block_bytes, block_bytes) + below
        for size_bytes in sorted({4, form.word_bytes}):
            numbers = form.numbers(below, size_bytes)
            last = min(block_bytes // size_bytes, len(numbers) - 1) - 1
            for index in range(last, -1, -1):
                if numbers[index] == 0 and _MIN_STEP <= numbers[index + 1] <= _MAX_STEP:
                    yield from _markers_at(form, numbers, index, table_at)
        block_bytes = _BLOCK_BYTES


def _markers_at(form: WordFormat, numbers: "array[int]", first: int, table_at: int) -> Iterator[_Markers]:
    """The row that begins with number ``first`` of ``numbers``, which end at ``table_at``."""
    end = first + 1
    while end < len(numbers) and _MIN_STEP <= numbers[end] - numbers[end - 1] <= _MAX_STEP:
        end += 1
    size_bytes = numbers.itemsize
    gap_bytes = size_bytes * (len(numbers) - first)
    rising = end - first
    if gap_bytes - size_bytes * rising < form.word_bytes:
        most = RECORDS_PER_MARKER * rising
        yield _Markers(table_at - gap_bytes, numbers[end - 1], size_bytes, most - RECORDS_PER_MARKER + 1, most)
    fewest_markers = gap_bytes // (size_bytes + _SEQUENCE_BYTES * RECORDS_PER_MARKER)
    for count in (fewest_markers, fewest_markers + 1):
        sequences_bytes = gap_bytes - form.aligned(size_bytes * count)
        most = min(RECORDS_PER_MARKER * count, sequences_bytes // _SEQUENCE_BYTES)
        least = max(RECORDS_PER_MARKER * (count - 1) + 1, (sequences_bytes - form.word_bytes) // _SEQUENCE_BYTES + 1)
        if 2 <= count <= rising and least <= most:
            yield _Markers(table_at - gap_bytes, numbers[first + count - 1], size_bytes, least, most)


def _find_names(scan: ReadMemory, form: WordFormat, start: int, markers: _Markers) -> Iterator[tuple[int, int]]:
    """Numbers of symbols, each with the address of its names, that the row of markers allows.

    The records behind the last marker end, but for padding, where the markers begin.
    """
    word_bytes = form.word_bytes
    window_bytes = min(form.aligned(_MAX_STEP) + word_bytes, markers.address - markers.last - form.aligned(start))
    window_bytes -= window_bytes % word_bytes
    if window_bytes <= word_bytes:
        return
    first = form.aligned(markers.address - markers.last - window_bytes)
    numbers = form.numbers(read_with_gaps(scan, first, window_bytes), markers.size_bytes)[
        :: word_bytes // markers.size_bytes
    ]
    records = read_with_gaps(scan, markers.address - window_bytes, window_bytes)
    possible = (
        (number, first + (index + 1) * word_bytes)
        for index, number in reversed(list(enumerate(numbers)))
        if markers.min_symbols <= number <= markers.max_symbols
    )
    for count, names in islice(possible, _MAX_NAMES_TRIED):
        at = names + markers.last - (markers.address - window_bytes)
        end = _end_of_records(records, at, (count - 1) % RECORDS_PER_MARKER + 1)
        if end is not None and form.aligned(end) == window_bytes:
            yield count, names


def _end_of_records(records: bytes, at: int, count: int) -> int | None:
    """Where ``count`` records from ``at`` end; ``None`` if that is outside ``records``."""
    for _ in range(count):
        if at + 2 > len(records):
            return None
        length = records[at]
        if length > 0x7F:
            at += 1
            length += (records[at] << 7) - 0x80
        at += length + 1
    return at


def _places_of_values(form: WordFormat, count: int, names: int, index_at: int) -> Iterator[tuple[int, int | None]]:
    """Where the addresses may be, with the relative base: behind the index, before the number of symbols, and there as
    words.
    """
    behind, before = index_at + INDEX_BYTES, names - form.word_bytes
    yield behind, form.aligned(behind + 4 * count)
    yield before - form.word_bytes - form.aligned(4 * count), before - form.word_bytes
    yield before - form.word_bytes * count, None
