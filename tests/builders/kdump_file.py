"""kdump-compressed files of every version, layout and byte order, sound or not.

Offsets are those of ``struct disk_dump_header`` and ``struct kdump_sub_header`` as the compiler places them: ppc32 with
a 32-bit and a 64-bit time_t, ppc64, and QEMU's packed 32-bit sub header.
"""

import struct
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

ZLIB = 0x1
INCOMPLETE = 0x8

_STATUS_AT = {"ppc32": 412, "packed": 412, "time64": 424, "ppc64": 424}
_SUB_OFFSETS = {
    "ppc64": (8, 12, 16, 24, 32, 40, 48, 56, 80, 88, 96),
    "ppc32": (4, 8, 12, 16, 24, 32, 40, 48, 72, 80, 88),
    "time64": (4, 8, 12, 16, 24, 32, 40, 48, 72, 80, 88),
    "packed": (4, 8, 12, 16, 20, 28, 32, 40, 56, 64, 72),
}
SUB_HEADER_BYTES = {"ppc64": 104, "ppc32": 96, "time64": 96, "packed": 80}


def as_is(page: bytes) -> tuple[bytes, int]:
    """Page data and flags of a page that is stored raw."""
    return page, 0


@dataclass(frozen=True)
class KdumpFile:
    """What to write. ``poke`` overwrites bytes of the finished file; ``descriptors`` replaces a page's descriptor."""

    pages: Mapping[int, bytes]
    max_pfn: int = 64
    layout: str = "ppc32"
    byte_order: str = "big"
    block_size: int = 4096
    version: int = 6
    machine: str | None = None
    release: str = "6.12.0-test"
    status: int = 0
    dump_level: int = 31
    excluded: Collection[int] = ()
    split: tuple[int, int] | None = None
    notes: bytes = b""
    vmcoreinfo: bytes = b""
    timestamp: int = 0
    one_bitmap: bool = False
    pack: Callable[[bytes], tuple[bytes, int]] = as_is
    descriptors: Mapping[int, tuple[int, int, int]] = field(default_factory=dict)
    poke: Mapping[int, bytes] = field(default_factory=dict)

    def number(self, value: int, size_bytes: int) -> bytes:
        """A number in the file's byte order."""
        return struct.pack((">" if self.byte_order == "big" else "<") + {4: "I", 8: "Q"}[size_bytes], value)

    @property
    def bitmap_at(self) -> int:
        """Where the bitmaps begin."""
        return self.block_size * (1 + self._sub_blocks)

    @property
    def descriptors_at(self) -> int:
        """Where the page descriptors begin."""
        return self.bitmap_at + self.block_size * self._bitmap_blocks

    @property
    def _sub_blocks(self) -> int:
        return -(-(SUB_HEADER_BYTES[self.layout] + len(self.notes)) // self.block_size)

    @property
    def _bitmap_blocks(self) -> int:
        blocks = -(-self.max_pfn // (8 * self.block_size))
        return blocks if self.one_bitmap else 2 * blocks

    def build(self) -> bytes:
        """The bytes of the file."""
        data = bytearray(self.descriptors_at)
        self._put_main_header(data)
        self._put_sub_header(data)
        self._put_bitmaps(data)
        own = [pfn for pfn in sorted(self.pages) if self.split is None or self.split[0] <= pfn < self.split[1]]
        packed = [self.pack(self.pages[pfn]) for pfn in own]
        at = len(data) + 24 * len(own)
        for pfn, (bytes_of_page, flags) in zip(own, packed, strict=True):
            offset, size, flag = self.descriptors.get(pfn, (at, len(bytes_of_page), flags))
            data += self.number(offset % (1 << 64), 8) + self.number(size, 4) + self.number(flag, 4) + bytes(8)
            at += len(bytes_of_page)
        data += b"".join(bytes_of_page for bytes_of_page, _ in packed)
        for where, new in self.poke.items():
            data[where : where + len(new)] = new
        return bytes(data)

    def _put_main_header(self, data: bytearray) -> None:
        machine = self.machine if self.machine is not None else ("ppc64" if self.layout == "ppc64" else "ppc")
        names = ("Linux" if self.release else "", "host" if self.release else "", self.release, "", machine, "")
        data[:8] = b"KDUMP   "
        data[8:12] = self.number(self.version, 4)
        for place, name in enumerate(names):
            data[12 + 65 * place : 12 + 65 * place + len(name)] = name.encode()
        at = _STATUS_AT[self.layout]
        time_bytes = 4 if at == 412 else 8
        data[at - 2 * time_bytes : at - time_bytes] = self.number(self.timestamp, time_bytes)
        max_mapnr = min(self.max_pfn, (1 << 32) - 1)
        for value in (self.status, self.block_size, self._sub_blocks, self._bitmap_blocks, max_mapnr):
            data[at : at + 4] = self.number(value, 4)
            at += 4
        data[at + 16 : at + 20] = self.number(1, 4)

    def _put_sub_header(self, data: bytearray) -> None:
        size = SUB_HEADER_BYTES[self.layout]
        word = 8 if self.layout == "ppc64" else 4
        notes_at = self.block_size + size
        info_at = notes_at + self.notes.find(self.vmcoreinfo) if self.vmcoreinfo else 0
        start, end = self.split or (0, 0)
        fields = (
            (1, self.dump_level, 4),
            (2, int(self.split is not None), 4),
            (2, start, word),
            (2, end, word),
            (3, info_at, 8),
            (3, len(self.vmcoreinfo), word),
            (4, notes_at if self.notes else 0, 8),
            (4, len(self.notes), word),
            (6, start, 8),
            (6, end, 8),
            (6, self.max_pfn, 8),
        )
        for offset, (since, value, width) in zip(_SUB_OFFSETS[self.layout], fields, strict=True):
            if self.version >= since:
                at = self.block_size + offset
                data[at : at + width] = self.number(value, width)
        data[notes_at : notes_at + len(self.notes)] = self.notes

    def _put_bitmaps(self, data: bytearray) -> None:
        second = self.bitmap_at + (0 if self.one_bitmap else self.block_size * self._bitmap_blocks // 2)
        for pfn in (*self.pages, *self.excluded):
            data[self.bitmap_at + pfn // 8] |= 1 << pfn % 8
        for pfn in self.pages:
            data[second + pfn // 8] |= 1 << pfn % 8
