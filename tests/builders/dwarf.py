"""Writes small DWARF: compile units of named types, with abbreviations made as they are needed."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

COMPILE_UNIT, STRUCT, UNION, MEMBER, TYPEDEF, POINTER = 0x11, 0x13, 0x17, 0x0D, 0x16, 0x0F
ARRAY, SUBRANGE, BASE, CONST, VOLATILE, FUNCTION = 0x01, 0x21, 0x24, 0x26, 0x35, 0x2E
_NAME, _BYTE_SIZE, _BIT_SIZE, _LOCATION, _TYPE, _UPPER, _COUNT, _DECLARATION = (
    0x03,
    0x0B,
    0x0D,
    0x38,
    0x49,
    0x2F,
    0x37,
    0x3C,
)
_DATA4, _STRING, _BLOCK1, _REF4, _FLAG = 0x06, 0x08, 0x0A, 0x13, 0x0C


@dataclass
class Entry:
    """A debugging information entry. ``location`` is an offset, or the bytes of an expression (DWARF 2)."""

    tag: int
    name: str = ""
    size: int | None = None
    type: "Entry | None" = None
    location: int | bytes | None = None
    upper: int | None = None
    count: int | None = None
    bits: int | None = None
    declaration: bool = False
    children: Sequence["Entry"] = field(default_factory=list)


def member(name: str, type_: Entry | None, location: int | bytes | None, bits: int | None = None) -> Entry:
    """A member of a struct."""
    return Entry(MEMBER, name, type=type_, location=location, bits=bits)


@dataclass(frozen=True)
class Unit:
    """A compile unit: its source file, the function whose address leads to it, and its entries."""

    file: str
    address: int
    entries: Sequence[Entry]


class Dwarf:
    """The sections of several units, in DWARF 4 or 5."""

    def __init__(self, byte_order: Literal["big", "little"], word_bytes: int, version: Literal[4, 5] = 4) -> None:
        self._order = ">" if byte_order == "big" else "<"
        self._word = "I" if word_bytes == 4 else "Q"
        self._word_bytes = word_bytes
        self._version = version
        self._abbreviations: dict[tuple[int, bool, tuple[tuple[int, int], ...]], int] = {}

    def sections(self, units: Sequence[Unit], *, aranges: bool = True) -> dict[str, bytes]:
        """``.debug_info``, ``.debug_abbrev`` and, unless left out, ``.debug_aranges``."""
        info = bytearray()
        ranges = bytearray()
        for unit in units:
            ranges += self._ranges(unit, len(info))
            info += self._unit(unit)
        sections = {".debug_info": bytes(info), ".debug_abbrev": self._abbreviation_table()}
        return sections | ({".debug_aranges": bytes(ranges)} if aranges else {})

    def _unit(self, unit: Unit) -> bytes:
        """Twice: offsets of forward references are known after the first time."""
        places: dict[int, int] = {}
        for _ in range(2):
            header_bytes = 12 if self._version == 5 else 11
            body = bytearray()
            top = Entry(COMPILE_UNIT, unit.file, children=unit.entries)
            self._write(top, body, header_bytes, places)
        length = header_bytes - 4 + len(body)
        if self._version == 5:
            return struct.pack(self._order + "IHBBI", length, 5, 1, self._word_bytes, 0) + body
        return struct.pack(self._order + "IHIB", length, 4, 0, self._word_bytes) + body

    def _write(self, entry: Entry, body: bytearray, base: int, places: dict[int, int]) -> None:
        places[id(entry)] = base + len(body)
        attributes: list[tuple[int, int]] = []
        values = bytearray()

        def put(attribute: int, form: int, value: bytes) -> None:
            nonlocal values
            attributes.append((attribute, form))
            values += value

        def number(value: int) -> bytes:
            return struct.pack(self._order + "I", value & 0xFFFFFFFF)

        if entry.name:
            put(_NAME, _STRING, entry.name.encode() + b"\0")
        for attribute, value in ((_BYTE_SIZE, entry.size), (_BIT_SIZE, entry.bits), (_UPPER, entry.upper)):
            if value is not None:
                put(attribute, _DATA4, number(value))
        if entry.count is not None:
            put(_COUNT, _DATA4, number(entry.count))
        if isinstance(entry.location, int):
            put(_LOCATION, _DATA4, number(entry.location))
        elif entry.location is not None:
            put(_LOCATION, _BLOCK1, bytes((len(entry.location),)) + entry.location)
        if entry.type is not None:
            put(_TYPE, _REF4, number(places.get(id(entry.type), 0)))
        if entry.declaration:
            put(_DECLARATION, _FLAG, b"\1")
        key = (entry.tag, bool(entry.children), tuple(attributes))
        body += bytes((self._abbreviations.setdefault(key, len(self._abbreviations) + 1),)) + values
        for child in entry.children:
            self._write(child, body, base, places)
        if entry.children:
            body += b"\0"

    def _abbreviation_table(self) -> bytes:
        table = bytearray()
        for (tag, has_children, attributes), code in self._abbreviations.items():
            table += bytes((code, tag, int(has_children)))
            for attribute, form in attributes:
                table += bytes((attribute, form))
            table += b"\0\0"
        return bytes(table + b"\0")

    def _ranges(self, unit: Unit, offset: int) -> bytes:
        """One set of .debug_aranges: the header padded to twice a word, the range, the terminator."""
        header = struct.pack(self._order + "HIBB", 2, offset, self._word_bytes, 0)
        padding = bytes(-(4 + len(header)) % (2 * self._word_bytes))
        tuples = struct.pack(f"{self._order}4{self._word}", unit.address, 0x100, 0, 0)
        return struct.pack(self._order + "I", len(header) + len(padding) + len(tuples)) + header + padding + tuples
