"""Writes small DWARF: compile units of named types and functions, with abbreviations made as they are needed; line
programs.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

COMPILE_UNIT, STRUCT, UNION, MEMBER, TYPEDEF, POINTER = 0x11, 0x13, 0x17, 0x0D, 0x16, 0x0F
ARRAY, SUBRANGE, BASE, CONST, VOLATILE, FUNCTION = 0x01, 0x21, 0x24, 0x26, 0x35, 0x2E
INLINED, BLOCK, VARIABLE = 0x1D, 0x0B, 0x34
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
_STATEMENTS, _LOW, _HIGH, _FOLDER, _INLINE, _ORIGIN, _RANGES, _CALL_FILE, _CALL_LINE, _SIBLING = (
    0x10,
    0x11,
    0x12,
    0x1B,
    0x20,
    0x31,
    0x55,
    0x58,
    0x59,
    0x01,
)
_ADDR, _DATA4, _STRING, _BLOCK1, _REF4, _FLAG, _SEC_OFFSET = 0x01, 0x06, 0x08, 0x0A, 0x13, 0x0C, 0x17


@dataclass
class Entry:
    """A debugging information entry. ``location`` is an offset, or the bytes of an expression (DWARF 2).

    Code has ``at``, its (start, end), or several of them. ``origin`` is what it is an instance of, ``call`` the (file
    number, line) that it was inlined from; ``is_inline`` marks what has instances.
    """

    tag: int
    name: str = ""
    size: int | None = None
    type: "Entry | None" = None
    location: int | bytes | None = None
    upper: int | None = None
    count: int | None = None
    bits: int | None = None
    declaration: bool = False
    at: Sequence[tuple[int, int]] = ()
    origin: "Entry | None" = None
    call: tuple[int, int] | None = None
    is_inline: bool = False
    has_sibling: bool = False
    children: Sequence["Entry"] = field(default_factory=list)


def member(name: str, type_: Entry | None, location: int | bytes | None, bits: int | None = None) -> Entry:
    """A member of a struct."""
    return Entry(MEMBER, name, type=type_, location=location, bits=bits)


@dataclass(frozen=True)
class Unit:
    """A compile unit: its source file, the function whose address leads to it, its entries, the folder it was compiled
    in, and where its line program is.
    """

    file: str
    address: int
    entries: Sequence[Entry]
    folder: str = ""
    statements: int | None = None


class Dwarf:
    """The sections of several units, in DWARF 4 or 5."""

    def __init__(self, byte_order: Literal["big", "little"], word_bytes: int, version: Literal[4, 5] = 4) -> None:
        self._order = ">" if byte_order == "big" else "<"
        self._word = "I" if word_bytes == 4 else "Q"
        self._word_bytes = word_bytes
        self._version = version
        self._abbreviations: dict[tuple[int, bool, tuple[tuple[int, int], ...]], int] = {}
        self._ranges_section = bytearray()

    def sections(self, units: Sequence[Unit], *, aranges: bool = True) -> dict[str, bytes]:
        """``.debug_info``, ``.debug_abbrev`` and, unless left out, ``.debug_aranges``."""
        info = bytearray()
        ranges = bytearray()
        for unit in units:
            ranges += self._ranges(unit, len(info))
            info += self._unit(unit)
        sections = {".debug_info": bytes(info), ".debug_abbrev": self._abbreviation_table()}
        sections[".debug_rnglists" if self._version == 5 else ".debug_ranges"] = bytes(self._ranges_section)
        return sections | ({".debug_aranges": bytes(ranges)} if aranges else {})

    def _unit(self, unit: Unit) -> bytes:
        """Twice: offsets of forward references are known after the first time."""
        places: dict[int, int] = {}
        for _ in range(2):
            header_bytes = 12 if self._version == 5 else 11
            body = bytearray()
            top = Entry(COMPILE_UNIT, unit.file, children=unit.entries)
            self._write(top, body, header_bytes, places, unit)
        length = header_bytes - 4 + len(body)
        if self._version == 5:
            return struct.pack(self._order + "IHBBI", length, 5, 1, self._word_bytes, 0) + body
        return struct.pack(self._order + "IHIB", length, 4, 0, self._word_bytes) + body

    def _write(
        self, entry: Entry, body: bytearray, base: int, places: dict[int, int], unit: Unit | None = None
    ) -> None:
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
        if unit is not None and unit.folder:
            put(_FOLDER, _STRING, unit.folder.encode() + b"\0")
        if unit is not None and unit.statements is not None:
            put(_STATEMENTS, _SEC_OFFSET, number(unit.statements))
        if entry.is_inline:
            put(_INLINE, _FLAG, b"\1")
        if entry.origin is not None:
            put(_ORIGIN, _REF4, number(places.get(id(entry.origin), 0)))
        if len(entry.at) == 1:
            put(_LOW, _ADDR, struct.pack(self._order + self._word, entry.at[0][0]))
            put(_HIGH, _DATA4, number(entry.at[0][1] - entry.at[0][0]))
        elif entry.at:
            put(_RANGES, _SEC_OFFSET, number(self._code_ranges(entry.at)))
        if entry.call is not None:
            put(_CALL_FILE, _DATA4, number(entry.call[0]))
            put(_CALL_LINE, _DATA4, number(entry.call[1]))
        if entry.has_sibling:
            put(_SIBLING, _REF4, number(places.get(-id(entry), 0)))
        key = (entry.tag, bool(entry.children), tuple(attributes))
        body += bytes((self._abbreviations.setdefault(key, len(self._abbreviations) + 1),)) + values
        for child in entry.children:
            self._write(child, body, base, places)
        if entry.children:
            body += b"\0"
        places[-id(entry)] = base + len(body)

    def _code_ranges(self, ranges: Sequence[tuple[int, int]]) -> int:
        """Where the list of these addresses is in ``.debug_ranges``, or ``.debug_rnglists``."""
        at = len(self._ranges_section)
        for start, end in ranges:
            if self._version == 5:
                self._ranges_section += b"\x07" + struct.pack(self._order + self._word, start) + _uleb(end - start)
            else:
                self._ranges_section += struct.pack(self._order + 2 * self._word, start, end)
        self._ranges_section += b"\0" if self._version == 5 else bytes(2 * self._word_bytes)
        return at

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


@dataclass(frozen=True)
class Rows:
    """Rows of a line program, (address, number of the file, line) each, and the address where they end."""

    rows: Sequence[tuple[int, int, int]]
    end: int


@dataclass(frozen=True)
class LineProgram:
    """A line program of DWARF 2 to 5. ``files`` holds (number of the folder, name).

    Folders and files are numbered from 1 before DWARF 5, where folder 0 is that of the unit; since then from 0.
    """

    folders: Sequence[str]
    files: Sequence[tuple[int, str]]
    sequences: Sequence[Rows]
    version: int = 4
    has_digests: bool = False

    def write(self, byte_order: Literal["big", "little"], word_bytes: int) -> bytes:
        """The unit of ``.debug_line``."""
        order = ">" if byte_order == "big" else "<"
        header = bytes((4, 1, 1)) if self.version >= 4 else bytes((4, 1))
        header += struct.pack("bBB", -5, 14, 13) + bytes((0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1)) + self._names()
        program = b"".join(self._program(sequence, order, word_bytes) for sequence in self.sequences)
        before = struct.pack(order + "H", self.version) + (bytes((word_bytes, 0)) if self.version == 5 else b"")
        body = before + struct.pack(order + "I", len(header)) + header + program
        return struct.pack(order + "I", len(body)) + body

    def _names(self) -> bytes:
        if self.version < 5:
            folders = b"".join(folder.encode() + b"\0" for folder in self.folders)
            files = b"".join(name.encode() + b"\0" + _uleb(folder) + b"\x81\x01\0" for folder, name in self.files)
            return folders + b"\0" + files + b"\0"
        folders = b"".join(folder.encode() + b"\0" for folder in self.folders)
        digest, digests = (bytes((5, 0x1E)), b"\0MD5" * 4) if self.has_digests else (b"", b"")
        files = b"".join(name.encode() + b"\0" + _uleb(folder) + digests for folder, name in self.files)
        columns = bytes((3 if digest else 2, 1, 0x08, 2, 0x0F)) + digest
        return bytes((1, 1, 0x08)) + _uleb(len(self.folders)) + folders + columns + _uleb(len(self.files)) + files

    def _program(self, sequence: Rows, order: str, word_bytes: int) -> bytes:
        """The operations: special ones where they fit, among what compilers put in between."""
        address, file, line = sequence.rows[0][0] if sequence.rows else sequence.end, 1, 1
        program = (
            b"\0" + _uleb(1 + word_bytes) + b"\2" + struct.pack(order + ("I" if word_bytes == 4 else "Q"), address)
        )
        for new_address, new_file, new_line in sequence.rows:
            program += b"\5\x85\1" + b"\6" + b"\0\2\4\7" + b"\x0a"
            if new_file != file:
                program += b"\4" + _uleb(new_file)
            advance, far = (new_address - address) // 4, new_line - line
            special = far + 5 + 14 * advance + 13
            if -5 <= far < 9 and special <= 255:
                program += bytes((special,))
            else:
                program += b"\2" + _uleb(advance) + b"\3" + _sleb(far) + b"\1"
            address, file, line = new_address, new_file, new_line
        return program + b"\x09" + struct.pack(order + "H", sequence.end - address) + b"\0\1\1"


def _uleb(number: int) -> bytes:
    packed = bytearray()
    while number > 0x7F:
        packed.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*packed, number))


def _sleb(number: int) -> bytes:
    packed = bytearray()
    while not -0x40 <= number < 0x40:
        packed.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*packed, number & 0x7F))
