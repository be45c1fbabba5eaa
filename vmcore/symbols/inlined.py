"""Inlined calls from a vmlinux's DWARF: which functions the compiler put where, and from which line.

Of a unit only the entries are looked at that inlined calls lie in: functions with code, blocks, other inlined calls
(DWARF 5, section 3.3.8).
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping

from msgspec import Struct, field

from crashbeam.vmcore.errors import SymbolError
from crashbeam.vmcore.symbols import entries
from crashbeam.vmcore.symbols.entries import Abbreviation, EntryReader, Unit
from crashbeam.vmcore.symbols.leb128 import uleb
from crashbeam.vmcore.symbols.line_program import FILE_SHIFT, text_at
from crashbeam.vmcore.symbols.line_table import INSTRUCTION_BYTES

_INLINED, _FUNCTION = 0x1D, 0x2E
"""DW_TAG_inlined_subroutine, subprogram."""
_ENTERED = frozenset((0x0B, 0x11, _INLINED, 0x1E, 0x39, 0x3C))
"""DW_TAG_lexical_block, compile_unit, inlined_subroutine, module, namespace, partial_unit."""
_MAX_REFERENCES = 8
_MAX_DEPTH = 4096
_MAX_SHORT_CODE = 0x7F
_MAX_CALLS = 1 << 22
_MAX_U32 = (1 << 32) - 1
_END_OF_LIST, _BASE_INDEX, _START_END_INDEXES, _START_INDEX_LENGTH, _OFFSETS, _BASE, _START_END, _START_LENGTH = range(
    8
)
"""DW_RLE_end_of_list to start_length (DWARF 5, section 7.25)."""


class EntrySections(Struct, frozen=True):
    """The sections that entries refer to, each empty if the file lacks it."""

    info: bytes
    strings: bytes
    line_strings: bytes
    string_offsets: bytes
    addresses: bytes
    ranges: bytes
    range_lists: bytes


class InlinedCalls(Struct):
    """The inlined calls of a kernel, and which is the innermost at each place of its text.

    A call is (the call that it lies in, function, file, line), numbered from 1; ``innermost`` holds numbers, 0 for
    none, ``marks`` is 1 where that may change.
    """

    start: int
    innermost: array[int]
    marks: bytearray
    calls: list[tuple[int, int, int, int]] = field(default_factory=list)
    _known: dict[tuple[int, int, int, int], int] = field(default_factory=dict)

    def add(self, call: tuple[int, int, int, int], ranges: Iterable[tuple[int, int]]) -> int:
        """Adds a call that is inlined at these addresses, [start, end) each; gives its number."""
        number = self._known.get(call)
        if number is None:
            if len(self.calls) >= _MAX_CALLS:
                raise SymbolError("DWARF has more inlined calls than a kernel's", calls=_MAX_CALLS)
            self.calls.append(call)
            number = self._known[call] = len(self.calls)
        innermost, marks, last = self.innermost, self.marks, len(self.innermost) - 1
        for low, high in ranges:
            first, end = (low - self.start) // INSTRUCTION_BYTES, -((self.start - high) // INSTRUCTION_BYTES)
            if 0 <= first < end <= last:
                marks[first] = marks[end] = 1
                if end - first == 1:
                    innermost[first] = number
                else:
                    innermost[first:end] = array("I", (number,)) * (end - first)
        return number


class UnitEntries:
    """The entries of one compile unit."""

    def __init__(self, sections: EntrySections, unit: Unit, table: Mapping[int, Abbreviation]) -> None:
        """Raises SymbolError, and what is raised where the unit's first entry is damaged."""
        self._sections = sections
        self._unit = unit
        self._table = table
        self._reader = EntryReader(sections.info, unit.shape)
        self._word_bytes = unit.shape.word_bytes
        order = ">" if unit.shape.byte_order == "big" else "<"
        self._reference = struct.Struct(order + "I")
        self._pair = struct.Struct(order + ("II" if self._word_bytes == 4 else "QQ"))
        code, at = uleb(sections.info, unit.entry)
        if code not in table:
            raise SymbolError("DWARF has a unit without entries", offset=unit.start)
        self._forms = table[code].forms
        self._top = self._reader.values(table[code], at)
        self._low = self._address(self._forms, self._top, entries.LOW)

    @property
    def name(self) -> bytes:
        """The unit's file."""
        return self._text(self._forms, self._top, entries.NAME)

    @property
    def folder(self) -> bytes:
        """The folder that the unit was compiled in."""
        return self._text(self._forms, self._top, entries.FOLDER)

    @property
    def line_program(self) -> int | None:
        """Where the unit's line program is in ``.debug_line``."""
        return self._top.get(entries.STATEMENTS)

    def find_inlined(
        self, calls: InlinedCalls, function_of: Callable[[bytes], int], file_of: Callable[[int], int]
    ) -> None:
        """Adds the unit's inlined calls. ``function_of`` gives the number of a name, ``file_of`` that of a file."""
        data, table, reader = self._sections.info, self._table, self._reader
        at, start, end = self._unit.entry, self._unit.start, self._unit.end
        steps, siblings = self._shortcuts()
        reference = self._reference.unpack_from
        functions: dict[int, int] = {}
        parents: list[int] = []
        parent = 0
        while at < end:
            code = data[at]
            step = steps[code]
            if step:
                at += step
                continue
            sibling_at = siblings[code]
            if sibling_at:
                sibling_at += at
                at = start + reference(data, sibling_at)[0]
                if at <= sibling_at:
                    raise SymbolError("DWARF has entries that go round", offset=sibling_at)
                continue
            if code == 0:
                if not parents:
                    return
                parent = parents.pop()
                at += 1
                continue
            code, at = uleb(data, at)
            abbreviation = table[code]
            inner = parent
            if abbreviation.tag == _INLINED:
                values = reader.values(abbreviation, at)
                origin = self._origin(abbreviation, values)
                function = functions.get(origin)
                if function is None:
                    function = functions[origin] = function_of(self._name_at(origin))
                if function:
                    file = file_of(values[entries.CALL_FILE]) >> FILE_SHIFT if entries.CALL_FILE in values else 0
                    line = values.get(entries.CALL_LINE, 0) & _MAX_U32
                    inner = calls.add((parent, function, file, line), self._ranges(abbreviation, values))
            elif abbreviation.tag == _FUNCTION and abbreviation.has_code:
                inner = 0
            size = abbreviation.size_bytes
            at = reader.end_of(abbreviation, at) if size is None else at + size
            if abbreviation.has_children:
                if len(parents) > _MAX_DEPTH:
                    raise SymbolError("DWARF nests entries too deeply", offset=at)
                parents.append(parent)
                parent = inner

    def _shortcuts(self) -> tuple[list[int], list[int]]:
        """By an entry's first byte, its size if it is passed over, and where its DW_AT_sibling is if its children are
        too; 0 for others, and for codes that are longer than a byte (compilers give the frequent ones short codes).
        """
        steps, siblings = [0] * 256, [0] * 256
        for code, abbreviation in self._table.items():
            tag = abbreviation.tag
            if code > _MAX_SHORT_CODE or tag in _ENTERED or (tag == _FUNCTION and abbreviation.has_code):
                continue
            if not abbreviation.has_children:
                steps[code] = 0 if abbreviation.size_bytes is None else 1 + abbreviation.size_bytes
            elif abbreviation.sibling_at is not None:
                siblings[code] = 1 + abbreviation.sibling_at
        return steps, siblings

    def _origin(self, abbreviation: Abbreviation, values: Mapping[int, int]) -> int:
        """Where the entry is that an entry is an instance of, or 0."""
        attribute = entries.ORIGIN if entries.ORIGIN in values else entries.SPECIFICATION
        if attribute not in values:
            return 0
        is_in_unit = abbreviation.forms[attribute] in entries.UNIT_REFERENCES
        return values[attribute] + (self._unit.start if is_in_unit else 0)

    def _name_at(self, at: int) -> bytes:
        """The name of the function at a place of ``.debug_info``, empty if that is not in this unit."""
        for _ in range(_MAX_REFERENCES):
            if not self._unit.entry <= at < self._unit.end:
                return b""
            code, at = uleb(self._sections.info, at)
            abbreviation = self._table.get(code)
            if abbreviation is None:
                return b""
            values = self._reader.values(abbreviation, at)
            if entries.NAME in values:
                return self._text(abbreviation.forms, values, entries.NAME)
            at = self._origin(abbreviation, values)
        return b""

    def _text(self, forms: Mapping[int, int], values: Mapping[int, int], attribute: int) -> bytes:
        """A string; empty if it is not there, or in another file."""
        if attribute not in values:
            return b""
        form, offset = forms[attribute], values[attribute]
        if form == entries.FORM_STRING:
            return text_at(self._sections.info, offset)
        if form == entries.FORM_LINE_STRP:
            return text_at(self._sections.line_strings, offset)
        if form in entries.STRING_INDEXES:
            size = self._unit.shape.offset_bytes
            offset = self._indexed(self._sections.string_offsets, entries.STRINGS_BASE, offset, size)
        elif form != entries.FORM_STRP:
            return b""
        return text_at(self._sections.strings, offset)

    def _address(self, forms: Mapping[int, int], values: Mapping[int, int], attribute: int) -> int:
        number = values.get(attribute, 0)
        if attribute in values and forms[attribute] in entries.ADDRESS_INDEXES:
            return self._indexed(self._sections.addresses, entries.ADDRESSES_BASE, number, self._word_bytes)
        return number

    def _indexed(self, section: bytes, base: int, index: int, size: int) -> int:
        """The number at an index into the unit's part of a section. Raises IndexError outside it."""
        at = self._top.get(base, 0) + index * size
        if at + size > len(section):
            raise IndexError(index)
        return int.from_bytes(section[at : at + size], self._unit.shape.byte_order)

    def _ranges(self, abbreviation: Abbreviation, values: Mapping[int, int]) -> Iterable[tuple[int, int]]:
        """The addresses of an entry, [start, end) each."""
        forms = abbreviation.forms
        if entries.RANGES in values:
            if self._unit.shape.version < 5:
                return self._ranges_before_5(values[entries.RANGES])
            return self._range_list(forms[entries.RANGES], values[entries.RANGES])
        if entries.LOW not in values or entries.HIGH not in values:
            return ()
        low, high = self._address(forms, values, entries.LOW), self._address(forms, values, entries.HIGH)
        form = forms[entries.HIGH]
        is_address = form == entries.FORM_ADDR or form in entries.ADDRESS_INDEXES
        return ((low, high if is_address else low + high),)

    def _ranges_before_5(self, at: int) -> Iterator[tuple[int, int]]:
        """Pairs of ``.debug_ranges``, from the unit's address or one that a pair of its own gives."""
        ranges, unpack = self._sections.ranges, self._pair.unpack_from
        base, largest = self._low, (1 << 8 * self._word_bytes) - 1
        while True:
            start, end = unpack(ranges, at)
            at += 2 * self._word_bytes
            if start == largest:
                base = end
            elif start or end:
                yield base + start, base + end
            else:
                return

    def _range_list(self, form: int, at: int) -> Iterator[tuple[int, int]]:
        """The list at a place of ``.debug_rnglists``, or at an index into the unit's table of them."""
        data, base = self._sections.range_lists, self._low
        if form == entries.FORM_RNGLISTX:
            at = self._top.get(entries.RANGES_BASE, 0) + self._indexed(
                data, entries.RANGES_BASE, at, self._unit.shape.offset_bytes
            )
        while (kind := data[at]) != _END_OF_LIST:
            at += 1
            if kind in (_BASE, _START_END, _START_LENGTH):
                first, at = self._word_at(data, at)
            else:
                first, at = uleb(data, at)
            if kind in (_BASE_INDEX, _START_END_INDEXES, _START_INDEX_LENGTH):
                first = self._indexed(self._sections.addresses, entries.ADDRESSES_BASE, first, self._word_bytes)
            if kind in (_BASE, _BASE_INDEX):
                base = first
                continue
            second, at = self._word_at(data, at) if kind == _START_END else uleb(data, at)
            if kind == _OFFSETS:
                yield base + first, base + second
            elif kind == _START_END:
                yield first, second
            elif kind == _START_END_INDEXES:
                yield first, self._indexed(self._sections.addresses, entries.ADDRESSES_BASE, second, self._word_bytes)
            elif kind in (_START_INDEX_LENGTH, _START_LENGTH):
                yield first, first + second
            else:
                raise SymbolError(f"DWARF has a range of kind {kind}, which is not known", offset=at)

    def _word_at(self, data: bytes, at: int) -> tuple[int, int]:
        end = at + self._word_bytes
        return int.from_bytes(data[at:end], self._unit.shape.byte_order), end
