"""Writes small ELF files that look like a vmlinux: text, data, notes, a banner, a symbol table, and what is asked."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from crashbeam.vmcore.symbols.compiled import Arch

LOCAL, GLOBAL, WEAK = 0, 1, 2
NO_TYPE, OBJECT, FUNCTION, SECTION, FILE = 0, 1, 2, 3, 4
BUILD_ID = "0123456789abcdef0123456789abcdef01234567"
BANNER = "Linux version 6.12.0-test (builder@host) (gcc 12.2.0) #1 SMP Thu Jan  1 00:00:00 UTC 1970"

_MACHINES = {"ppc32": (20, 1, 2), "ppc64": (21, 2, 2), "ppc64le": (21, 2, 1)}
_PROGBITS, _SYMTAB, _STRTAB, _NOTE, _NOBITS = 1, 2, 3, 7, 8
_ALLOC, _EXECUTABLE = 2, 4


@dataclass(frozen=True)
class Symbol:
    """A symbol; ``section`` is the name of the section that it lies in."""

    name: str
    address: int
    section: str = ".text"
    kind: int = FUNCTION
    binding: int = GLOBAL


@dataclass(frozen=True)
class Vmlinux:
    """What to write. Text lies at ``base``, init text 0x10000 above, read-only data, notes and data higher up."""

    arch: Arch = "ppc32"
    base: int = 0xC0000000
    symbols: Sequence[Symbol] = ()
    build_id: str | None = BUILD_ID
    banner: str | None = BANNER
    text_bounds: bool = True
    sections: Mapping[str, bytes] = field(default_factory=dict)
    has_symtab: bool = True
    has_program_headers: bool = True
    elf_type: int = 2
    notes_type: Literal[7, 8] = 7

    @property
    def rodata(self) -> int:
        """The address of the read-only data; the banner stands at its start."""
        return self.base + 0x20000

    @property
    def data(self) -> int:
        """The address of the data."""
        return self.base + 0x40000

    def with_symbols(self, *symbols: Symbol) -> "Vmlinux":
        """The same with more symbols."""
        return replace(self, symbols=[*self.symbols, *symbols])

    def build(self) -> bytes:
        """The ELF file."""
        machine, elf_class, elf_data = _MACHINES[self.arch]
        order = "<" if elf_data == 1 else ">"
        wide = elf_class == 2
        notes = self._notes(order)
        banner = (self.banner or "").encode() + b"\n\0" if self.banner else bytes(8)
        sections: list[tuple[str, int, int, int, bytes, int]] = [
            (".text", _PROGBITS, _ALLOC | _EXECUTABLE, self.base, bytes(0x100), 0x8000),
            (".init.text", _PROGBITS, _ALLOC | _EXECUTABLE, self.base + 0x10000, bytes(0x40), 0x1000),
            (".rodata", _PROGBITS, _ALLOC, self.rodata, banner, len(banner)),
            (".notes", self.notes_type, _ALLOC, self.base + 0x30000, notes, len(notes)),
            (".data", _NOBITS, _ALLOC, self.data, b"", 0x1000),
            *((name, _PROGBITS, 0, 0, content, len(content)) for name, content in self.sections.items()),
        ]
        numbers = {name: number for number, (name, *_) in enumerate(sections, 1)}
        if self.has_symtab:
            table, strings = self._symtab(order, wide, numbers)
            sections.append((".symtab", _SYMTAB, 0, 0, table, len(table)))
            sections.append((".strtab", _STRTAB, 0, 0, strings, len(strings)))
        return _lay_out(sections, order, wide, (elf_class, elf_data, self.elf_type, machine), self.has_program_headers)

    def _notes(self, order: str) -> bytes:
        other = struct.pack(order + "III", 6, 4, 0x101) + b"Linux\0\0\0" + bytes(4)
        if self.build_id is None:
            return other
        build_id = bytes.fromhex(self.build_id)
        return other + struct.pack(order + "III", 4, len(build_id), 3) + b"GNU\0" + build_id

    def _symtab(self, order: str, wide: bool, numbers: Mapping[str, int]) -> tuple[bytes, bytes]:
        symbols = list(self.symbols)
        if self.text_bounds:
            symbols += [
                Symbol("_stext", self.base, kind=NO_TYPE),
                Symbol("_etext", self.base + 0x8000, ".rodata", NO_TYPE),
                Symbol("_sinittext", self.base + 0x10000, ".init.text", NO_TYPE),
                Symbol("_einittext", self.base + 0x11000, ".init.text", NO_TYPE),
            ]
        if self.banner is not None:
            symbols.append(Symbol("linux_banner", self.rodata, ".rodata", OBJECT))
        table = bytearray(24 if wide else 16)
        strings = bytearray(b"\0")
        for symbol in symbols:
            name_at = len(strings) if symbol.name else 0
            strings += symbol.name.encode() + b"\0" if symbol.name else b""
            info = symbol.binding << 4 | symbol.kind
            number = numbers.get(symbol.section, 0)
            if wide:
                table += struct.pack(order + "IBBHQQ", name_at, info, 0, number, symbol.address, 0)
            else:
                table += struct.pack(order + "IIIBBH", name_at, symbol.address, 0, info, 0, number)
        return bytes(table), bytes(strings)


def _lay_out(
    sections: Sequence[tuple[str, int, int, int, bytes, int]],
    order: str,
    wide: bool,
    identity: tuple[int, int, int, int],
    has_program_headers: bool,
) -> bytes:
    """Header, one PT_NOTE program header, the sections' contents, the section headers."""
    elf_class, elf_data, elf_type, machine = identity
    header_bytes, program_bytes, section_bytes = (64, 56, 64) if wide else (52, 32, 40)
    body = bytearray(bytes(header_bytes + program_bytes))
    word = "Q" if wide else "I"
    section_format = order + ("IIQQQQIIQQ" if wide else "10I")
    headers = bytearray(section_bytes)
    program = b""
    symtab_number = next((number for number, section in enumerate(sections, 1) if section[0] == ".symtab"), 0)
    all_names = b"\0" + b"".join(name.encode() + b"\0" for name in (*(section[0] for section in sections), ".shstrtab"))
    for name, kind, flags, address, content, size in [
        *sections,
        (".shstrtab", _STRTAB, 0, 0, all_names, len(all_names)),
    ]:
        body += bytes(-len(body) % 8)
        name_at = all_names.index(b"\0" + name.encode() + b"\0") + 1
        offset = len(body)
        entry = (24 if wide else 16) if kind == _SYMTAB else 0
        link = symtab_number + 1 if kind == _SYMTAB else 0
        body += content + bytes(max(0, size - len(content)) if kind != _NOBITS else 0)
        headers += struct.pack(section_format, name_at, kind, flags, address, offset, size, link, 0, 8, entry)
        if kind == _NOTE:
            fields = (4, offset, address, address, size, size, 4, 4)
            program = (
                struct.pack(order + "IIQQQQQQ", 4, 4, *fields[1:6], 4) if wide else struct.pack(order + "8I", *fields)
            )
    body += bytes(-len(body) % 8)
    count = len(sections) + 2
    program_at = header_bytes if has_program_headers and program else 0
    header = b"\x7fELF" + bytes((elf_class, elf_data, 1)) + bytes(9)
    header += struct.pack(f"{order}HHI{word}{word}{word}I", elf_type, machine, 1, 0, program_at, len(body), 0)
    header += struct.pack(
        order + "HHHHHH", header_bytes, program_bytes, 1 if program_at else 0, section_bytes, count, count - 1
    )
    body[:header_bytes] = header
    body[header_bytes : header_bytes + len(program)] = program
    return bytes(body + headers)
