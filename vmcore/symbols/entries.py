"""Debugging information entries as raw bytes: DWARF 2 to 5, sections 7.5 and 7.5.6 of DWARF 5.

A kernel has millions of entries, of which few are wanted. An abbreviation is compiled once into how its entries are
passed over, however many units have it: at a fixed size, past all children by DW_AT_sibling, or piece by piece.
"""

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from msgspec import Struct, field

from crashbeam.vmcore.errors import SymbolError
from crashbeam.vmcore.symbols.leb128 import uleb

SIBLING, NAME, STATEMENTS, LOW, HIGH, FOLDER = 0x01, 0x03, 0x10, 0x11, 0x12, 0x1B
INLINE, ORIGIN, SPECIFICATION, RANGES = 0x20, 0x31, 0x47, 0x55
CALL_FILE, CALL_LINE, STRINGS_BASE, ADDRESSES_BASE, RANGES_BASE = 0x58, 0x59, 0x72, 0x73, 0x74
"""DW_AT_sibling, name, stmt_list, low_pc, high_pc, comp_dir, inline, abstract_origin, specification, ranges,
call_file, call_line, str_offsets_base, addr_base, rnglists_base.
"""
_READ_OF_UNITS = frozenset((NAME, STATEMENTS, LOW, FOLDER, STRINGS_BASE, ADDRESSES_BASE, RANGES_BASE))
_READ = _READ_OF_UNITS | {HIGH, ORIGIN, SPECIFICATION, RANGES, CALL_FILE, CALL_LINE}

FORM_ADDR, FORM_STRING, FORM_STRP, FORM_LINE_STRP, FORM_RNGLISTX = 0x01, 0x08, 0x0E, 0x1F, 0x23
ADDRESS_INDEXES = frozenset((0x1B, 0x29, 0x2A, 0x2B, 0x2C))
"""DW_FORM_addrx, addrx1 to addrx4."""
STRING_INDEXES = frozenset((0x1A, 0x25, 0x26, 0x27, 0x28))
"""DW_FORM_strx, strx1 to strx4."""
UNIT_REFERENCES = frozenset((0x11, 0x12, 0x13, 0x14, 0x15))
"""DW_FORM_ref1, ref2, ref4, ref8, ref_udata."""
_REF4, _REF_ADDR, _FLAG_PRESENT, _IMPLICIT = 0x13, 0x10, 0x19, 0x21
_ADDRESS_BYTES, _OFFSET_BYTES = -1, -2
_SIZES = (
    {0x05: 2, 0x06: 4, 0x07: 8, 0x0B: 1, 0x0C: 1, 0x19: 0, 0x1E: 16, 0x21: 0}
    | {0x11: 1, 0x12: 2, 0x13: 4, 0x14: 8, 0x1C: 4, 0x20: 8, 0x24: 8}
    | {0x25: 1, 0x26: 2, 0x27: 3, 0x28: 4, 0x29: 1, 0x2A: 2, 0x2B: 3, 0x2C: 4, 0x01: _ADDRESS_BYTES}
    | dict.fromkeys((0x0E, 0x10, 0x17, 0x1D, 0x1F, 0x1F20, 0x1F21), _OFFSET_BYTES)
)
"""Bytes of the forms that have a fixed size."""
_LETTERS = {1: "B", 2: "H", 4: "I", 8: "Q"}
_BLOCK_LENGTHS = {0x03: 2, 0x04: 4, 0x0A: 1}
"""Bytes of the length of DW_FORM_block2, block4, block1."""
_ULEBS = frozenset((0x0D, 0x0F, 0x15, 0x1A, 0x1B, 0x22, 0x23, 0x1F01, 0x1F02))
_BLOCKS = frozenset((0x09, 0x18))

_DECLARED = re.compile(
    rb"([\x80-\xff]*[\x01-\x7f])"
    rb"((?:[\x80-\xff]*[\x00-\x7f])[\x00\x01]"
    rb"(?:[\x80-\xff]*[\x01-\x7f](?:\x21[\x80-\xff]*[\x00-\x7f]|[\x80-\xff]*[\x01-\x7f]))*)\0\0"
)
"""An abbreviation: its code; tag, whether there are children, and (attribute, form) pairs; the end."""
_DW_UT_COMPILE, _DW_UT_PARTIAL = 1, 3


class Shape(Struct, frozen=True):
    """What a unit's header says of the entries in it."""

    version: int
    word_bytes: int
    offset_bytes: int
    byte_order: Literal["big", "little"]


class Abbreviation(Struct, frozen=True):
    """The form of some entries. ``attributes`` holds (attribute, form), ``constants`` what DW_FORM_implicit_const says.

    Places in an entry are counted from the end of its code.
    """

    tag: int
    has_children: bool
    attributes: tuple[tuple[int, int], ...]
    forms: Mapping[int, int]
    constants: dict[int, int]
    size_bytes: int | None
    """Of an entry; ``None`` if that differs from entry to entry."""
    pieces: tuple[tuple[int, int], ...]
    """Of an entry of another kind, (bytes of fixed size, form that follows)."""
    sibling_at: int | None
    """Where DW_AT_sibling is, if it is a 4-byte reference and all before it has a fixed size."""
    numbers: struct.Struct | None
    """The numbers that are read of an entry, if it has a fixed size."""
    names: tuple[int, ...]
    """The attributes that these are."""
    has_code: bool
    """Whether it has addresses, and is not what others are instances of (DW_AT_inline)."""


class Abbreviations(Struct):
    """The abbreviations of a file, by their section and by the bytes of each."""

    section: bytes
    _tables: dict[tuple[int, Shape], Mapping[int, Abbreviation]] = field(default_factory=dict)
    _known: dict[Shape, dict[bytes, Abbreviation]] = field(default_factory=dict)

    def table(self, at: int, shape: Shape) -> Mapping[int, Abbreviation]:
        """The abbreviations at an offset into ``.debug_abbrev``, by code."""
        table = self._tables.get((at, shape))
        if table is None:
            table = self._tables[at, shape] = self._read(at, shape)
        return table

    def _read(self, at: int, shape: Shape) -> dict[int, Abbreviation]:
        table: dict[int, Abbreviation] = {}
        known = self._known.setdefault(shape, {})
        while found := _DECLARED.match(self.section, at):
            encoded, body = found.groups()
            abbreviation = known.get(body)
            if abbreviation is None:
                abbreviation = known[body] = _compile(body, shape)
            table[uleb(encoded, 0)[0]] = abbreviation
            at = found.end()
        return table


def _compile(body: bytes, shape: Shape) -> Abbreviation:
    tag, at = uleb(body, 0)
    has_children = bool(body[at])
    at += 1
    attributes: list[tuple[int, int]] = []
    constants: dict[int, int] = {}
    while at < len(body):
        attribute, at = uleb(body, at)
        form, at = uleb(body, at)
        attributes.append((attribute, form))
        if form == _IMPLICIT:
            constants[attribute], at = uleb(body, at)
    sizes = [_size_of(form, shape) for _, form in attributes]
    before_sibling = sizes[: attributes.index((SIBLING, _REF4))] if (SIBLING, _REF4) in attributes else [None]
    names = {attribute for attribute, _ in attributes}
    numbers, names_of_numbers = _numbers(attributes, sizes, shape)
    return Abbreviation(
        tag=tag,
        has_children=has_children,
        attributes=tuple(attributes),
        forms=dict(attributes),
        constants=constants,
        size_bytes=_sum(sizes),
        pieces=_pieces(attributes, sizes),
        sibling_at=_sum(before_sibling),
        numbers=numbers,
        names=names_of_numbers,
        has_code=INLINE not in names and not names.isdisjoint((LOW, RANGES)),
    )


def _numbers(
    attributes: Sequence[tuple[int, int]], sizes: Sequence[int | None], shape: Shape
) -> tuple[struct.Struct | None, tuple[int, ...]]:
    """What unpacks the numbers that are read of entries of fixed size, and which attributes they are."""
    pattern, names = ">" if shape.byte_order == "big" else "<", []
    for (attribute, form), size in zip(attributes, sizes, strict=True):
        if size is None:
            return None, ()
        if attribute not in _READ or form == _IMPLICIT:
            pattern += f"{size}x"
        elif size in _LETTERS:
            pattern += _LETTERS[size]
            names.append(attribute)
        else:
            return None, ()
    return struct.Struct(pattern), tuple(names)


def _pieces(attributes: Sequence[tuple[int, int]], sizes: Sequence[int | None]) -> tuple[tuple[int, int], ...]:
    """(bytes of fixed size, form that follows), the last followed by nothing: DW_FORM_flag_present."""
    pieces, before = [], 0
    for (_, form), size in zip(attributes, sizes, strict=True):
        if size is None:
            pieces.append((before, form))
            before = 0
        else:
            before += size
    return (*pieces, (before, _FLAG_PRESENT)) if before else tuple(pieces)


def _sum(sizes: Sequence[int | None]) -> int | None:
    return sum(size for size in sizes if size is not None) if None not in sizes else None


def _size_of(form: int, shape: Shape) -> int | None:
    size = _SIZES.get(form)
    if size == _ADDRESS_BYTES or (form == _REF_ADDR and shape.version == 2):
        return shape.word_bytes
    return shape.offset_bytes if size == _OFFSET_BYTES else size


class Unit(Struct, frozen=True):
    """A compile unit in ``.debug_info``: [start, end), its first entry, and where its abbreviations are."""

    start: int
    end: int
    entry: int
    abbreviations: int
    shape: Shape


def iter_units(data: bytes, byte_order: Literal["big", "little"]) -> Iterator[Unit]:
    """The compile and partial units of ``.debug_info``; those of other versions and kinds are passed over.

    Raises SymbolError, struct.error and IndexError for a section that is damaged.
    """
    order = ">" if byte_order == "big" else "<"
    start = 0
    while start < len(data):
        offset_bytes, at = 4, start + 4
        (size_bytes,) = struct.unpack_from(order + "I", data, start)
        if size_bytes == 0xFFFFFFFF:
            offset_bytes, at = 8, start + 12
            (size_bytes,) = struct.unpack_from(order + "Q", data, start + 4)
        end = at + size_bytes
        if end > len(data):
            raise SymbolError("DWARF has a unit that was cut off", offset=start)
        (version,) = struct.unpack_from(order + "H", data, at)
        kind, word_bytes, abbreviations_at = _DW_UT_COMPILE, data[at + 2 + offset_bytes], at + 2
        if version == 5:
            kind, word_bytes, abbreviations_at = data[at + 2], data[at + 3], at + 4
        if 2 <= version <= 5 and word_bytes in (4, 8) and kind in (_DW_UT_COMPILE, _DW_UT_PARTIAL):
            abbreviations = int.from_bytes(data[abbreviations_at : abbreviations_at + offset_bytes], byte_order)
            entry = abbreviations_at + offset_bytes + (0 if version == 5 else 1)
            yield Unit(start, end, entry, abbreviations, Shape(version, word_bytes, offset_bytes, byte_order))
        start = end


class EntryReader:
    """Reads the entries of one unit."""

    def __init__(self, data: bytes, shape: Shape) -> None:
        self._data = data
        self._shape = shape

    def end_of(self, abbreviation: Abbreviation, at: int) -> int:
        """Where an entry ends whose attributes begin at ``at``. Raises SymbolError for a form that is not known."""
        if abbreviation.size_bytes is not None:
            return at + abbreviation.size_bytes
        for size, form in abbreviation.pieces:
            at = self._after(form, at + size)
        return at

    def values(self, abbreviation: Abbreviation, at: int) -> dict[int, int]:
        """What is read of an entry whose attributes begin at ``at``: numbers by attribute (of a string, where it is).

        Raises SymbolError for a form that is not known.
        """
        if abbreviation.numbers is not None:
            values = dict(zip(abbreviation.names, abbreviation.numbers.unpack_from(self._data, at), strict=True))
        else:
            values = {}
            for attribute, form in abbreviation.attributes:
                end = self._after(form, at)
                if attribute in _READ and form != _IMPLICIT:
                    values[attribute] = self._number(form, at, end)
                at = end
        return values | abbreviation.constants if abbreviation.constants else values

    def _number(self, form: int, at: int, end: int) -> int:
        if form == FORM_STRING:
            return at
        if form in _ULEBS:
            return uleb(self._data, at)[0]
        return int.from_bytes(self._data[at : min(end, at + 16)], self._shape.byte_order)

    def _after(self, form: int, at: int) -> int:
        """Where a value of a form ends."""
        data = self._data
        if form in _BLOCKS:
            size, at = uleb(data, at)
            return at + size
        fixed = _size_of(form, self._shape)
        if fixed is not None:
            return at + fixed
        if form in _ULEBS:
            while data[at] > 0x7F:
                at += 1
            return at + 1
        if form == FORM_STRING:
            return data.index(0, at) + 1
        if form in _BLOCK_LENGTHS:
            length = _BLOCK_LENGTHS[form]
            return at + length + int.from_bytes(data[at : at + length], self._shape.byte_order)
        raise SymbolError(f"DWARF has a value of form {form:#x}, which is not known", offset=at)
