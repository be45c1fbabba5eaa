"""The line table of a kernel profile: the source line of each instruction, and the calls that were inlined there.

    line_blocks     u32, for each block of 16 rows the place of its first, in instructions from the start of text
    line_starts     u32, where each block begins in line_rows, and the end
    line_rows       the rows
    line_calls      4 u32 for each inlined call: the call that it lies in, function, file and line that it is made from
    line_strings    u32, where each file or function begins in line_text, and the end
    line_text       files and functions, joined

Calls and strings are numbered from 1, 0 is none; the call that another lies in has the lower number. A row holds from
its place to the next row's: file, line and innermost inlined call, as differences from the row before (in a block's
first row, from 0). It is a byte, then the numbers that this announces, as ULEB128:

    bits 0 to 2     instructions since the row before; 7: a number, the rest of them, follows
    bit 3           the file's difference follows, signed (as 2n, or -2n-1)
    bit 4           the call's difference follows, signed
    bits 5 to 7     the line's difference, plus 3; 7: it follows, signed

File 0 is text without a line. All integers are little endian. A look-up reads a few pages of the blocks, one block, and
the calls and strings that it leads to.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from msgspec import Struct

from crashbeam.schemas.crash_report import Inlined, SourceLine
from crashbeam.vmcore.errors import SymbolError
from crashbeam.vmcore.symbols.leb128 import uleb

INSTRUCTION_BYTES = 4
MAX_LINE = (1 << 31) - 1
MAX_INLINED = 64
"""Calls inlined into each other at one address; beyond it the outermost are left out."""

_ROWS_OF_BLOCK = 16
_MAX_BLOCK_BYTES = _ROWS_OF_BLOCK * 21
_WORDS_OF_CALL = 4
_MANY_PLACES = 7
_NEW_FILE = 8
_NEW_CALL = 16
_LINE_SHIFT = 5
_LINE_MIDDLE = 3
_FAR_LINE = 7


class PackedLines(Struct, frozen=True):
    """A line table as the sections of a profile hold it: four columns of u32, and two of bytes."""

    blocks: Sequence[int]
    starts: Sequence[int]
    rows: bytes | memoryview
    calls: Sequence[int]
    strings: Sequence[int]
    text: bytes | memoryview


def pack_lines(
    rows: Iterable[tuple[int, int, int, int]], calls: Sequence[tuple[int, int, int, int]], strings: Sequence[str]
) -> PackedLines:
    """Packs (place, file, line, call) rows in ascending order of places, (parent, function, file, line) calls, strings.

    The first call and the first string, which are none, are not among those given.
    """
    packed = bytearray()
    put = packed.append
    blocks: list[int] = []
    starts: list[int] = []
    place = file = line = call = 0
    for number, (new_place, new_file, new_line, new_call) in enumerate(rows):
        if number % _ROWS_OF_BLOCK == 0:
            blocks.append(new_place)
            starts.append(len(packed))
            place, file, line, call = new_place, 0, 0, 0
        places, far = new_place - place, new_line - line + _LINE_MIDDLE
        kind_at, kind = len(packed), places
        put(0)
        if places >= _MANY_PLACES:
            kind = _MANY_PLACES
            _put_number(packed, places - _MANY_PLACES)
        if new_file != file:
            kind |= _NEW_FILE
            _put_signed(packed, new_file - file)
        if new_call != call:
            kind |= _NEW_CALL
            _put_signed(packed, new_call - call)
        if 0 <= far < _FAR_LINE:
            kind |= far << _LINE_SHIFT
        else:
            kind |= _FAR_LINE << _LINE_SHIFT
            _put_signed(packed, new_line - line)
        packed[kind_at] = kind
        place, file, line, call = new_place, new_file, new_line, new_call
    starts.append(len(packed))
    texts = [text.encode("utf-8", "replace") for text in strings]
    places_of_strings = [0]
    for text in texts:
        places_of_strings.append(places_of_strings[-1] + len(text))
    flat = [number for call_words in calls for number in call_words]
    return PackedLines(blocks, starts, bytes(packed), flat, places_of_strings, b"".join(texts))


class LineTable:
    """Look-ups in a packed line table."""

    def __init__(self, packed: PackedLines, name: str) -> None:
        """Raises SymbolError if the columns do not belong together."""
        self._packed = packed
        self._name = name
        if len(packed.starts) != len(packed.blocks) + 1 or len(packed.calls) % _WORDS_OF_CALL or not packed.strings:
            raise SymbolError(f"{name} has a line table of columns that do not fit")

    def source_at(self, place: int) -> SourceLine | None:
        """The source of the instruction at a place; ``None`` where there is none. Raises SymbolError if damaged."""
        try:
            file, line, call = self._row_at(place)
            if not file:
                return None
            if not 0 < line <= MAX_LINE or call < 0:
                raise IndexError(line)
            return SourceLine(self._string(file), line, self._inlined(call))
        except (IndexError, ValueError) as error:
            raise SymbolError(f"{self._name} has a damaged line table") from error

    def _row_at(self, place: int) -> tuple[int, int, int]:
        """File, line and call of the last row at or before a place."""
        packed = self._packed
        block = bisect_right(packed.blocks, place) - 1
        if block < 0:
            return 0, 0, 0
        start = packed.starts[block]
        data = bytes(packed.rows[start : min(packed.starts[block + 1], start + _MAX_BLOCK_BYTES)])
        at, end, place_of_row = 0, len(data), packed.blocks[block]
        file = line = call = 0
        while at < end:
            kind = data[at]
            places, at = kind & 7, at + 1
            if places == _MANY_PLACES:
                number, at = uleb(data, at)
                places += number
            place_of_row += places
            if place_of_row > place:
                break
            if kind & _NEW_FILE:
                number, at = uleb(data, at)
                file += _signed(number)
            if kind & _NEW_CALL:
                number, at = uleb(data, at)
                call += _signed(number)
            far = kind >> _LINE_SHIFT
            if far == _FAR_LINE:
                number, at = uleb(data, at)
                line += _signed(number)
            else:
                line += far - _LINE_MIDDLE
        return file, line, call

    def _inlined(self, call: int) -> tuple[Inlined, ...]:
        """The inlined calls around an instruction, innermost first."""
        found: list[Inlined] = []
        while call and len(found) < MAX_INLINED:
            at = (call - 1) * _WORDS_OF_CALL
            parent, function, file, line = self._packed.calls[at : at + _WORDS_OF_CALL]
            if parent >= call:
                raise IndexError(parent)
            found.append(
                Inlined(self._string(function), self._string(file) if file else None, min(line, MAX_LINE) or None)
            )
            call = parent
        return tuple(found)

    def _string(self, number: int) -> str:
        if number < 1:
            raise IndexError(number)
        start, end = self._packed.strings[number - 1], self._packed.strings[number]
        return str(self._packed.text[start:end], "utf-8", "replace")


def _put_number(packed: bytearray, number: int) -> None:
    while number > 0x7F:
        packed.append(number & 0x7F | 0x80)
        number >>= 7
    packed.append(number)


def _put_signed(packed: bytearray, number: int) -> None:
    number = number << 1 if number >= 0 else ~number << 1 | 1
    while number > 0x7F:
        packed.append(number & 0x7F | 0x80)
        number >>= 7
    packed.append(number)


def _signed(number: int) -> int:
    return ~(number >> 1) if number & 1 else number >> 1
