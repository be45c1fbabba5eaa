"""ELF core files, sound or not (System V ABI, chapters 4 and 5)."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

PT_LOAD = 1
PT_NOTE = 4
PPC = 20
PPC64 = 21


@dataclass(frozen=True)
class Segment:
    """A program header and its bytes. ``file_bytes`` and ``offset`` default to what ``data`` takes."""

    kind: int
    data: bytes = b""
    physical: int = 0
    memory_bytes: int | None = None
    file_bytes: int | None = None
    offset: int | None = None


@dataclass(frozen=True)
class ElfFile:
    """What to write.

    ``lying_data`` stores the other byte order in EI_DATA; ``extended`` counts segments as PN_XNUM does.
    """

    segments: Sequence[Segment]
    bits: int = 32
    machine: int = PPC
    byte_order: str = "big"
    lying_data: bool = False
    extended: bool = False
    flags: int = 0
    kind: int = 4
    version: int = 1
    count: int | None = None
    entry_bytes: int | None = None
    headers_at: int | None = None

    def build(self) -> bytes:
        """The bytes of the file: header, program headers, one section header if need be, data."""
        order = ">" if self.byte_order == "big" else "<"
        header_bytes, entry_bytes, section_bytes = (52, 32, 40) if self.bits == 32 else (64, 56, 64)
        table_at = header_bytes
        sections_at = table_at + entry_bytes * len(self.segments)
        at = sections_at + (section_bytes if self.extended else 0)
        word = "I" if self.bits == 32 else "Q"
        order_byte = 2 if (self.byte_order == "big") != self.lying_data else 1
        count = self.count if self.count is not None else (0xFFFF if self.extended else len(self.segments))
        head = b"\x7fELF" + bytes((1 if self.bits == 32 else 2, order_byte, 1)) + bytes(9)
        head += struct.pack(
            f"{order}HHI3{word}IHHHHHH",
            *(self.kind, self.machine, self.version, 0),
            *(table_at if self.headers_at is None else self.headers_at, sections_at if self.extended else 0),
            *(self.flags, header_bytes, self.entry_bytes or entry_bytes, count, section_bytes, 0, 0),
        )
        table, body = b"", b""
        for segment in self.segments:
            table += self._program_header(segment, at + len(body), order)
            body += segment.data
        section = b""
        if self.extended:
            info_at = 28 if self.bits == 32 else 44
            section = bytes(info_at) + struct.pack(f"{order}I", len(self.segments))
            section = section.ljust(section_bytes, b"\0")
        return head + table + section + body

    def _program_header(self, segment: Segment, at: int, order: str) -> bytes:
        offset = at if segment.offset is None else segment.offset
        file_bytes = len(segment.data) if segment.file_bytes is None else segment.file_bytes
        memory_bytes = file_bytes if segment.memory_bytes is None else segment.memory_bytes
        if self.bits == 32:
            values = (segment.kind, offset, 0, segment.physical, file_bytes, memory_bytes, 7, 0)
            return struct.pack(f"{order}8I", *values)
        return struct.pack(f"{order}II6Q", segment.kind, 7, offset, 0, segment.physical, file_bytes, memory_bytes, 0)
