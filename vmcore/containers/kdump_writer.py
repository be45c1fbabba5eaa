"""Writes kdump-compressed files, version 6, in makedumpfile's layout (IMPLEMENTATION, ``write_kdump_header``)."""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import BinaryIO, Final

from crashbeam.vmcore.containers import ContainerFacts, Utsname
from crashbeam.vmcore.containers.codecs import FLAG_ZLIB, FLAG_ZSTD
from crashbeam.vmcore.containers.kdump import DESCRIPTOR_BYTES
from crashbeam.vmcore.containers.kdump_header import (
    STATUS_INCOMPLETE,
    MainHeader,
    SubHeader,
    pack_main_header,
    pack_sub_header,
    sub_header_bytes,
)
from crashbeam.vmcore.notes import parse_notes, prstatus
from crashbeam.vmcore.vmcoreinfo import Vmcoreinfo

_ZLIB_LEVEL: Final = 9
_ZSTD_LEVEL: Final = 19
_DROPS_ZERO_PAGES: Final = 1
_MAX_MAPNR_32: Final = (1 << 32) - 1


def _zlib(page: bytes) -> bytes:
    return zlib.compress(page, _ZLIB_LEVEL)


def _zstd(page: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(page)


ENCODERS: Final[Mapping[str, tuple[int, Callable[[bytes], bytes]]]] = {
    "zlib": (FLAG_ZLIB, _zlib),
    "zstd": (FLAG_ZSTD, _zstd),
}
"""Name of a codec to its flag and its encoder."""


def write_kdump(
    target: BinaryIO,
    facts: ContainerFacts,
    pages: Mapping[int, bytes],
    *,
    excluded_pfns: Iterable[int] = (),
    lost_pfns: Iterable[int] = (),
    codec: str = "zlib",
) -> None:
    """Writes a dump that says of itself what ``facts`` says, with the given pages, to an empty seekable file.

    ``pages`` has the ``block_size`` bytes of each page number. ``excluded_pfns`` exist, but were left out by the dump
    level; ``lost_pfns`` should be there, but were never written; every other page is no memory. Where nothing is to be
    written the file has holes. Raises ValueError for a page of another size or beyond ``max_pfn``, and OSError.
    """
    block_size = facts.block_size
    lost = frozenset(lost_pfns) - pages.keys()
    stored = sorted(pages.keys() | lost)
    excluded = frozenset(excluded_pfns) - pages.keys() - lost
    _check(facts, pages, (*stored, *excluded))
    main, sub, notes = _headers(facts, codec)
    target.write(pack_main_header(main))
    target.seek(block_size)
    target.write(pack_sub_header(main.byte_order, sub) + notes)
    data_at = main.descriptors_at + len(stored) * DESCRIPTOR_BYTES
    # The file reaches to the end of its tables even where nothing of them is to be written.
    target.seek(data_at - 1)
    target.write(b"\0")
    _write_bitmap(target, main.bitmap_at, block_size, (*stored, *excluded))
    _write_bitmap(target, main.bitmap_at + main.bitmap_blocks // 2 * block_size, block_size, stored)
    target.seek(data_at)
    places = list(_write_pages(target, data_at, stored, pages, codec))
    target.seek(main.descriptors_at)
    for offset, size_bytes, flags in places:
        target.write(
            offset.to_bytes(8, main.byte_order)
            + size_bytes.to_bytes(4, main.byte_order)
            + flags.to_bytes(4, main.byte_order)
            + bytes(8)
        )


def _check(facts: ContainerFacts, pages: Mapping[int, bytes], pfns: Iterable[int]) -> None:
    for pfn in pfns:
        if not 0 <= pfn < facts.max_pfn:
            raise ValueError(f"page {pfn:#x} is beyond the dump's memory ({facts.max_pfn:#x} pages)")
    for pfn, page in pages.items():
        if len(page) != facts.block_size:
            raise ValueError(f"page {pfn:#x} has {len(page)} bytes, not {facts.block_size}")


def _headers(facts: ContainerFacts, codec: str) -> tuple[MainHeader, SubHeader, bytes]:
    block_size = facts.block_size
    packed = "qemu_packed_sub_header" in facts.quirks
    notes = b"".join(facts.notes)
    notes_at = block_size + sub_header_bytes(facts.word_bytes, packed)
    info_at = notes.find(facts.vmcoreinfo) if facts.vmcoreinfo else -1
    bitmap_bytes = (facts.max_pfn + 7) // 8
    main = MainHeader(
        byte_order=facts.byte_order,
        wide=facts.word_bytes == 8 or "time64_header" in facts.quirks,
        version=6,
        utsname=_utsname(facts),
        timestamp_seconds=facts.timestamp_seconds or 0,
        status=ENCODERS[codec][0] | (0 if facts.complete else STATUS_INCOMPLETE),
        block_size=block_size,
        sub_header_blocks=_blocks(notes_at + len(notes) - block_size, block_size),
        bitmap_blocks=2 * max(1, _blocks(bitmap_bytes, block_size)),
        max_mapnr=min(facts.max_pfn, _MAX_MAPNR_32),
        cpus=len(prstatus(parse_notes((notes,), facts.byte_order))),
    )
    sub = SubHeader(
        word_bytes=facts.word_bytes,
        packed=packed,
        dump_level=_DROPS_ZERO_PAGES if facts.container == "elf" else facts.dump_level,
        split=False,
        start_pfn=0,
        end_pfn=facts.max_pfn,
        vmcoreinfo_at=notes_at + info_at if info_at >= 0 else 0,
        vmcoreinfo_bytes=len(facts.vmcoreinfo or b"") if info_at >= 0 else 0,
        notes_at=notes_at,
        notes_bytes=len(notes),
        max_pfn=facts.max_pfn,
    )
    return main, sub, notes


def _utsname(facts: ContainerFacts) -> Utsname:
    """The kernel's names; an ELF file has none but the release in VMCOREINFO."""
    if facts.utsname is not None:
        return facts.utsname
    if facts.written_by == "qemu":
        return Utsname("", "", "", "", "Unknown", "")
    release = Vmcoreinfo.parse(facts.vmcoreinfo or b"").osrelease or ""
    wide = "ppc64" if facts.byte_order == "big" else "ppc64le"
    return Utsname("Linux", "", release, "", "ppc" if facts.word_bytes == 4 else wide, "")


def _blocks(size_bytes: int, block_size: int) -> int:
    return (size_bytes + block_size - 1) // block_size


def _write_bitmap(target: BinaryIO, at: int, block_size: int, pfns: Iterable[int]) -> None:
    """Sets the bits of ``pfns``, block by block; blocks without any are not written."""
    blocks: dict[int, bytearray] = {}
    for pfn in pfns:
        number, place = divmod(pfn >> 3, block_size)
        blocks.setdefault(number, bytearray(block_size))[place] |= 1 << (pfn & 7)
    for number, block in sorted(blocks.items()):
        target.seek(at + number * block_size)
        target.write(block)


def _write_pages(
    target: BinaryIO, at: int, stored: Iterable[int], pages: Mapping[int, bytes], codec: str
) -> Iterator[tuple[int, int, int]]:
    """Writes page data from ``at`` on and gives each page's offset, size and flags; zero pages share one page of zeros.

    A page that does not shrink is stored as it is. Offset 0 stands for a page that was never written.
    """
    flag, encode = ENCODERS[codec]
    zeros: tuple[int, int, int] | None = None
    for pfn in stored:
        page = pages.get(pfn)
        if page is None:
            yield 0, 0, 0
            continue
        is_zero = not any(page)
        if is_zero and zeros is not None:
            yield zeros
            continue
        packed = b"" if is_zero else encode(page)
        shrinks = 0 < len(packed) < len(page)
        data, flags = (packed, flag) if shrinks else (page, 0)
        place = at, len(data), flags
        target.write(data)
        at += len(data)
        zeros = place if is_zero else zeros
        yield place
