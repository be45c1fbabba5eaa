"""The two headers of a kdump-compressed file (makedumpfile diskdump_mod.h, crash diskdump.h, QEMU
include/sysemu/dump.h).

Nothing in the file says which byte order, word size or padding its writer had: the one layout in which the numbers
agree with each other is taken.
"""

import struct
from typing import Final

from msgspec import Struct

from crashbeam.schemas.codes import FailureCode
from crashbeam.vmcore.containers import ByteOrder, Utsname
from crashbeam.vmcore.errors import FormatError, TruncatedError
from crashbeam.vmcore.limits import MAX_BLOCK_BYTES, MAX_CPUS, MAX_NOTE_BYTES

SIGNATURE: Final = b"KDUMP   "
MAIN_HEADER_BYTES: Final = 464
"""The longer of the two layouts; a file that has less than this has no block of its own."""
MAX_PFN: Final = 1 << 40
STATUS_INCOMPLETE: Final = 0x8

_MIN_BLOCK_BYTES: Final = 1024
_MAX_VERSION: Final = 6
_UTSNAME_AT: Final = 12
_UTSNAME_STRING_BYTES: Final = 65
_UTSNAME_PADDING: Final = slice(402, 408)


class MainHeader(Struct, frozen=True):
    """``struct disk_dump_header``.

    ``wide`` says that its timeval has 64-bit members (status at byte 424 instead of 412).
    """

    byte_order: ByteOrder
    wide: bool
    version: int
    utsname: Utsname
    timestamp_seconds: int
    status: int
    block_size: int
    sub_header_blocks: int
    bitmap_blocks: int
    max_mapnr: int
    cpus: int

    @property
    def bitmap_at(self) -> int:
        """Where the bitmaps begin."""
        return (1 + self.sub_header_blocks) * self.block_size

    @property
    def descriptors_at(self) -> int:
        """Where the page descriptors begin."""
        return (1 + self.sub_header_blocks + self.bitmap_blocks) * self.block_size


class SubHeader(Struct, frozen=True):
    """``struct kdump_sub_header``. Offsets are of the file; what the header's version does not have yet is zero."""

    word_bytes: int
    packed: bool
    dump_level: int | None
    split: bool
    start_pfn: int
    end_pfn: int
    vmcoreinfo_at: int
    vmcoreinfo_bytes: int
    notes_at: int
    notes_bytes: int
    max_pfn: int


class _MainLayout(Struct, frozen=True):
    wide: bool
    byte_order: ByteOrder
    time: struct.Struct
    time_at: int
    rest: struct.Struct
    rest_at: int


_MAIN_LAYOUTS: Final = (
    _MainLayout(False, "little", struct.Struct("<i"), 404, struct.Struct("<IiiI5Ii"), 412),
    _MainLayout(False, "big", struct.Struct(">i"), 404, struct.Struct(">IiiI5Ii"), 412),
    _MainLayout(True, "little", struct.Struct("<q"), 408, struct.Struct("<IiiI5Ii"), 424),
    _MainLayout(True, "big", struct.Struct(">q"), 408, struct.Struct(">IiiI5Ii"), 424),
)


class _SubLayout(Struct, frozen=True):
    word_bytes: int
    packed: bool
    fields: str
    size_bytes: int


# phys_base; dump_level, split, start_pfn, end_pfn; offset and size of vmcoreinfo, notes, eraseinfo; start, end, max in
# 64 bits.
_SUB_64: Final = _SubLayout(8, False, "Q i i Q Q q Q q Q q Q Q Q Q", 104)
_SUB_32: Final = _SubLayout(4, False, "I i i I I 4x q I 4x q I 4x q I 4x Q Q Q", 96)
_SUB_32_PACKED: Final = _SubLayout(4, True, "I i i I I q I q I q I Q Q Q", 80)
SUB_HEADER_BYTES: Final = _SUB_64.size_bytes


def parse_main_header(data: bytes) -> MainHeader:
    """Reads the first ``MAIN_HEADER_BYTES`` of a kdump file. Raises TruncatedError, FormatError (``malformed``)."""
    if len(data) < MAIN_HEADER_BYTES:
        raise TruncatedError("the file ends inside its main header", size_bytes=len(data))
    for layout in _MAIN_LAYOUTS:
        header = _read_main(data, layout)
        if header is not None:
            return header
    raise FormatError("the main header makes no sense in any byte order or word size")


def _read_main(data: bytes, layout: _MainLayout) -> MainHeader | None:
    version = int.from_bytes(data[8:12], layout.byte_order, signed=True)
    status, block_size, sub_blocks, bitmap_blocks, max_mapnr, *_, cpus = layout.rest.unpack_from(data, layout.rest_at)
    sensible = (
        0 <= version <= _MAX_VERSION
        and _MIN_BLOCK_BYTES <= block_size <= MAX_BLOCK_BYTES
        and block_size & (block_size - 1) == 0
        and 1 <= sub_blocks <= 1 + MAX_NOTE_BYTES // block_size
        and bitmap_blocks >= 1
        and 8 * bitmap_blocks * block_size >= max_mapnr
        and 0 <= cpus <= 4 * MAX_CPUS
        and not (layout.wide and any(data[_UTSNAME_PADDING]))
    )
    if not sensible:
        return None
    return MainHeader(
        byte_order=layout.byte_order,
        wide=layout.wide,
        version=version,
        utsname=_read_utsname(data),
        timestamp_seconds=layout.time.unpack_from(data, layout.time_at)[0],
        status=status,
        block_size=block_size,
        sub_header_blocks=sub_blocks,
        bitmap_blocks=bitmap_blocks,
        max_mapnr=max_mapnr,
        cpus=cpus,
    )


def _read_utsname(data: bytes) -> Utsname:
    size = _UTSNAME_STRING_BYTES
    pieces = (data[at : at + size] for at in range(_UTSNAME_AT, _UTSNAME_AT + 6 * size, size))
    return Utsname(*[piece.partition(b"\0")[0].decode("utf-8", "replace") for piece in pieces])


def parse_sub_header(main: MainHeader, data: bytes) -> SubHeader:
    """Reads the sub header, whose bytes ``data`` begins with. Raises TruncatedError, FormatError (``malformed``)."""
    layout = _pick_sub_layout(main, data)
    values = _unpack_sub(main, layout, data)
    _, level, split, start_32, end_32, info_at, info_bytes, notes_at, notes_bytes, _, _, start, end, max_pfn = values
    if main.version < 6:
        start, end, max_pfn = start_32, end_32, main.max_mapnr
    is_split = main.version >= 2 and split == 1
    if max_pfn > MAX_PFN:
        raise FormatError("the sub header announces more memory than there can be", max_pfn=max_pfn)
    if is_split and not 0 <= start <= end <= max_pfn:
        raise FormatError("the part's page range makes no sense", start_pfn=start, end_pfn=end, max_pfn=max_pfn)
    has_info, has_notes = main.version >= 3, main.version >= 4
    return SubHeader(
        word_bytes=layout.word_bytes,
        packed=layout.packed,
        dump_level=level if main.version >= 1 and 0 <= level <= 0xFF else None,
        split=is_split,
        start_pfn=start if is_split else 0,
        end_pfn=end if is_split else max_pfn,
        vmcoreinfo_at=info_at if has_info else 0,
        vmcoreinfo_bytes=info_bytes if has_info else 0,
        notes_at=notes_at if has_notes else 0,
        notes_bytes=notes_bytes if has_notes else 0,
        max_pfn=max_pfn,
    )


def _pick_sub_layout(main: MainHeader, data: bytes) -> _SubLayout:
    """The layout whose offsets fit:

    writers put the notes (before version 4, VMCOREINFO) right behind the sub header.
    """
    candidates = _sub_candidates(main)
    if len(candidates) == 1 or main.version < 3:
        return candidates[0]
    fitting: _SubLayout | None = None
    for layout in candidates:
        values = _unpack_sub(main, layout, data)
        at, size_bytes = (values[7], values[8]) if main.version >= 4 else (values[5], values[6])
        if at == main.block_size + layout.size_bytes:
            return layout
        inside = main.block_size <= at and at + size_bytes <= main.bitmap_at
        counted = main.version < 6 or values[-1] >= main.max_mapnr
        if fitting is None and counted and (inside or (at, size_bytes) == (0, 0)):
            fitting = layout
    if fitting is None:
        raise FormatError("the sub header makes no sense, padded or packed")
    return fitting


def _sub_candidates(main: MainHeader) -> tuple[_SubLayout, ...]:
    machine = main.utsname.machine
    if machine.startswith("ppc64"):
        return (_SUB_64,)
    if machine not in ("ppc", "", "Unknown"):
        raise FormatError(f"the dump is of a machine that is no PowerPC ({machine!r})", code=FailureCode.UNSUPPORTED)
    if machine == "ppc" or not main.wide:
        return (_SUB_32, _SUB_32_PACKED)
    return (_SUB_64, _SUB_32, _SUB_32_PACKED)


def _unpack_sub(main: MainHeader, layout: _SubLayout, data: bytes) -> tuple[int, ...]:
    if len(data) < layout.size_bytes:
        raise TruncatedError("the file ends inside its sub header", offset=main.block_size, size_bytes=len(data))
    return struct.unpack_from((">" if main.byte_order == "big" else "<") + layout.fields, data)


def pack_main_header(header: MainHeader) -> bytes:
    """The bytes of a main header: 452, or 464 of a wide one."""
    layout = next(each for each in _MAIN_LAYOUTS if (each.wide, each.byte_order) == (header.wide, header.byte_order))
    data = bytearray(layout.rest_at + layout.rest.size)
    data[: len(SIGNATURE)] = SIGNATURE
    data[8:12] = header.version.to_bytes(4, header.byte_order, signed=True)
    for place, name in enumerate(("sysname", "nodename", "release", "version", "machine", "domainname")):
        at = _UTSNAME_AT + place * _UTSNAME_STRING_BYTES
        text = getattr(header.utsname, name).encode("utf-8", "replace")[: _UTSNAME_STRING_BYTES - 1]
        data[at : at + len(text)] = text
    layout.time.pack_into(data, layout.time_at, header.timestamp_seconds)
    layout.rest.pack_into(
        data,
        layout.rest_at,
        header.status,
        header.block_size,
        header.sub_header_blocks,
        header.bitmap_blocks,
        header.max_mapnr,
        *(0, 0, 0, 0),
        header.cpus,
    )
    return bytes(data)


def sub_header_bytes(word_bytes: int, packed: bool) -> int:
    """The length of a sub header: the notes follow it."""
    return _sub_layout(word_bytes, packed).size_bytes


def pack_sub_header(byte_order: ByteOrder, sub: SubHeader) -> bytes:
    """The bytes of a sub header of version 6; ``start_pfn`` and ``end_pfn`` are written for a split part only."""
    limit = (1 << 8 * sub.word_bytes) - 1
    start, end = (sub.start_pfn, sub.end_pfn) if sub.split else (0, 0)
    return struct.pack(
        (">" if byte_order == "big" else "<") + _sub_layout(sub.word_bytes, sub.packed).fields,
        0,
        sub.dump_level or 0,
        int(sub.split),
        min(start, limit),
        min(end, limit),
        *(sub.vmcoreinfo_at, sub.vmcoreinfo_bytes),
        *(sub.notes_at, sub.notes_bytes),
        *(0, 0),
        *(start, end, sub.max_pfn),
    )


def _sub_layout(word_bytes: int, packed: bool) -> _SubLayout:
    if word_bytes == 8:
        return _SUB_64
    return _SUB_32_PACKED if packed else _SUB_32
