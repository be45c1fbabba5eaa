"""kdump-compressed files, versions 0 to 6, as makedumpfile and QEMU write them (makedumpfile IMPLEMENTATION,
diskdump_mod.h).

A file is: main header, sub header and notes, two bitmaps (which pages exist, which are stored), a table of 24-byte page
descriptors in page order, page data. Everything but the headers is read when a page asks for it, in small pieces.
"""

import struct
from typing import Final

from crashbeam.vmcore.byte_source import ByteSource
from crashbeam.vmcore.containers import ContainerFacts
from crashbeam.vmcore.containers.codecs import CODECS
from crashbeam.vmcore.containers.kdump_header import (
    MAIN_HEADER_BYTES,
    STATUS_INCOMPLETE,
    SUB_HEADER_BYTES,
    MainHeader,
    SubHeader,
    parse_main_header,
    parse_sub_header,
)
from crashbeam.vmcore.containers.page_bitmap import PageBitmap
from crashbeam.vmcore.errors import FormatError, PageError, PageStatus, TruncatedError
from crashbeam.vmcore.limits import MAX_NOTE_BYTES
from crashbeam.vmcore.notes import parse_notes, vmcoreinfo_text

DESCRIPTOR_BYTES: Final = 24
_BATCH: Final = 32
"""Page descriptors in one read: neighbours in memory are neighbours in the table."""
_BATCH_BYTES: Final = _BATCH * DESCRIPTOR_BYTES
_BATCHES_KEPT: Final = 2048
_FIRST_READ_BYTES: Final = 6144
"""Of the sub header's blocks: it, the notes of eight CPUs and VMCOREINFO."""
_COUNTED_BITMAP_BYTES: Final = 1 << 18
"""Up to this size (8 GiB of 4K pages, 128 GiB of 64K pages) the bitmap is counted to see whether the file is whole."""


class KdumpContainer:
    """An open kdump file, or one part of a split set.

    ``wrapping`` is what lies around it, ``cut_reason`` why the source itself is not whole. Raises TruncatedError when
    headers or notes are cut, FormatError when they contradict themselves (``malformed``) or are no PowerPC's
    (``unsupported``).
    """

    def __init__(self, source: ByteSource, *, wrapping: tuple[str, ...] = (), cut_reason: str | None = None) -> None:
        self.source = source
        main = parse_main_header(source.read(0, MAIN_HEADER_BYTES))
        room = main.sub_header_blocks * main.block_size
        near = source.read(main.block_size, min(room, max(_FIRST_READ_BYTES, SUB_HEADER_BYTES)))
        sub = parse_sub_header(main, near)
        self._two_bitmaps = _has_two_bitmaps(main, sub.max_pfn)
        self.main_header = main
        self.sub_header = sub
        self._start_pfn, self._end_pfn = sub.start_pfn, sub.end_pfn
        self._block_size = main.block_size
        self._unpack = struct.Struct((">" if main.byte_order == "big" else "<") + "qIIQ").unpack_from
        self._descriptors_at = main.descriptors_at
        self._size_bytes = source.size_bytes
        self._batches: dict[int, bytes] = {}
        self._stored_at = main.bitmap_at + (main.bitmap_blocks // 2 * main.block_size if self._two_bitmaps else 0)
        self._stored = PageBitmap(source, self._stored_at, sub.start_pfn, sub.end_pfn)
        self._met: set[int] = set()
        self._cut_status = PageStatus.LOST if main.status & STATUS_INCOMPLETE else PageStatus.TRUNCATED
        self.cut_reason = self._incomplete_reason() or cut_reason
        self.facts = self._facts(self._read_notes(near), wrapping)

    @property
    def codecs_met(self) -> frozenset[str]:
        """The codecs of the pages read so far."""
        return frozenset(CODECS[flag][0] for flag in self._met)

    def close(self) -> None:
        """Closes the file."""
        self.source.close()

    def read_page(self, pfn: int) -> bytes:
        """The ``block_size`` bytes of physical page ``pfn``. Raises PageError, whose ``status`` tells why not."""
        if not self._start_pfn <= pfn < self._end_pfn:
            raise self._outside(pfn)
        index = self._stored.index_of(pfn)
        if index is None:
            raise self._not_stored(pfn)
        batch, place = divmod(index, _BATCH)
        descriptors = self._batches.get(batch) or self._load_batch(batch)
        try:
            offset, size_bytes, flags, _ = self._unpack(descriptors, place * DESCRIPTOR_BYTES)
        except struct.error:
            raise PageError(
                f"the file ends before the descriptor of page {pfn:#x}", status=self._cut_status, pfn=pfn
            ) from None
        if offset == 0:
            raise PageError(f"page {pfn:#x} was never written", status=PageStatus.LOST, pfn=pfn)
        codec = CODECS.get(flags)
        if codec is None or offset < self._descriptors_at or not 0 < size_bytes <= self._block_size:
            raise PageError(
                f"the descriptor of page {pfn:#x} makes no sense",
                status=PageStatus.CORRUPT,
                pfn=pfn,
                offset=offset,
                size_bytes=size_bytes,
                flags=flags,
            )
        if offset + size_bytes > self._size_bytes:
            raise PageError(
                f"the file ends before the data of page {pfn:#x}", status=self._cut_status, pfn=pfn, offset=offset
            )
        data = self.source.read(offset, size_bytes)
        if len(data) < size_bytes:
            raise PageError(
                f"the file shrank before page {pfn:#x}", status=PageStatus.TRUNCATED, pfn=pfn, offset=offset
            )
        try:
            page = codec[1](data, self._block_size)
        except FormatError as error:
            raise PageError(
                f"page {pfn:#x} cannot be unpacked: {error.message}", status=PageStatus.CORRUPT, pfn=pfn, offset=offset
            ) from error
        self._met.add(flags)
        return page

    def belongs_to(self, other: "KdumpContainer") -> bool:
        """Whether both are parts of one split set: main headers and notes are equal."""
        return self.main_header == other.main_header and self.facts.notes == other.facts.notes

    def _is_stored(self, pfn: int) -> bool:
        """Whether the second bitmap says that page ``pfn`` is in the file, or in another part. Raises PageError."""
        return self._bit(self._stored_at, pfn)

    def _load_batch(self, batch: int) -> bytes:
        data = self.source.read(self._descriptors_at + batch * _BATCH_BYTES, _BATCH_BYTES)
        if len(self._batches) >= _BATCHES_KEPT:
            self._batches.clear()
        self._batches[batch] = data
        return data

    def _outside(self, pfn: int) -> PageError:
        if not 0 <= pfn < self.sub_header.max_pfn:
            return PageError(f"page {pfn:#x} is beyond the dump's memory", status=PageStatus.ABSENT, pfn=pfn)
        if self._is_stored(pfn):
            return PageError(f"page {pfn:#x} is in another part of the dump", status=PageStatus.LOST, pfn=pfn)
        return self._not_stored(pfn)

    def _not_stored(self, pfn: int) -> PageError:
        if self._two_bitmaps and self._bit(self.main_header.bitmap_at, pfn):
            return PageError(f"page {pfn:#x} was left out by the dump level", status=PageStatus.EXCLUDED, pfn=pfn)
        return PageError(f"page {pfn:#x} is no memory", status=PageStatus.ABSENT, pfn=pfn)

    def _bit(self, bitmap_at: int, pfn: int) -> bool:
        byte = self.source.read(bitmap_at + (pfn >> 3), 1)
        if not byte:
            raise PageError(
                f"the file ends before the bitmaps tell of page {pfn:#x}", status=PageStatus.TRUNCATED, pfn=pfn
            )
        return bool(byte[0] >> (pfn & 7) & 1)

    def _read_notes(self, near: bytes) -> bytes:
        """The note blob; ``near`` has the first bytes of the sub header's blocks."""
        at, size_bytes = self.sub_header.notes_at, self.sub_header.notes_bytes
        return self._read_near(near, at, size_bytes, "notes")

    def _read_near(self, near: bytes, at: int, size_bytes: int, what: str) -> bytes:
        main = self.main_header
        if size_bytes == 0:
            return b""
        if at < main.block_size or at + size_bytes > main.bitmap_at or size_bytes > MAX_NOTE_BYTES:
            raise FormatError(f"the {what} lie outside the blocks of the sub header", offset=at, size_bytes=size_bytes)
        begin = at - main.block_size
        data = near[begin : begin + size_bytes]
        if len(data) < size_bytes:
            data += self.source.read(at + len(data), size_bytes - len(data))
        if len(data) < size_bytes:
            raise TruncatedError(f"the file ends inside its {what}", offset=at, size_bytes=size_bytes)
        return data

    def _vmcoreinfo(self, notes: bytes) -> bytes | None:
        """The text of VMCOREINFO: where the sub header points into the notes, else by its name among them."""
        sub = self.sub_header
        begin = sub.vmcoreinfo_at - sub.notes_at
        if notes and sub.vmcoreinfo_bytes and begin >= 0 and begin + sub.vmcoreinfo_bytes <= len(notes):
            return notes[begin : begin + sub.vmcoreinfo_bytes]
        if notes:
            return vmcoreinfo_text(parse_notes((notes,), self.main_header.byte_order))
        return self._read_near(b"", sub.vmcoreinfo_at, sub.vmcoreinfo_bytes, "vmcoreinfo") or None

    def _facts(self, notes: bytes, wrapping: tuple[str, ...]) -> ContainerFacts:
        main, sub = self.main_header, self.sub_header
        reason = self.cut_reason
        missing = _ranges_missing(sub)
        named = any((main.utsname.sysname, main.utsname.nodename, main.utsname.release, main.utsname.machine))
        return ContainerFacts(
            container="kdump",
            wrapping=(*wrapping, "split") if sub.split else wrapping,
            header_version=main.version,
            written_by=_written_by(main, sub),
            byte_order=main.byte_order,
            word_bytes=sub.word_bytes,
            block_size=main.block_size,
            max_pfn=sub.max_pfn,
            dump_level=sub.dump_level,
            complete=reason is None and not missing,
            incomplete_reason=reason or ("parts of the split set are missing" if missing else None),
            quirks=_quirks(main, sub),
            utsname=main.utsname if named else None,
            timestamp_seconds=main.timestamp_seconds if main.timestamp_seconds > 0 else None,
            notes=(notes,) if notes else (),
            vmcoreinfo=self._vmcoreinfo(notes),
            missing_parts=missing,
        )

    def _incomplete_reason(self) -> str | None:
        """Why the file is not whole, judged by its ends, without reading it.

        A file is whole if no flag says otherwise and it reaches to the end of the bitmaps, of the descriptors, and of
        the data of the last descriptors (pages are written in order). Of a large memory, whose bitmap is not counted
        for this, it is asked only to reach beyond the descriptors, where the data of the first pages begins.
        """
        if self.main_header.status & STATUS_INCOMPLETE:
            return "the writer ran out of space"
        if self._size_bytes < self._descriptors_at:
            return "the file ends inside its bitmaps"
        sub = self.sub_header
        if (sub.end_pfn - sub.start_pfn) >> 3 > _COUNTED_BITMAP_BYTES:
            begins = [offset for offset, _ in self._places(0)]
            return "the file ends inside its page descriptors" if begins and min(begins) > self._size_bytes else None
        try:
            count = self._stored.count_before(sub.end_pfn)
        except PageError:
            return "the file ends inside its bitmaps"
        if self._size_bytes < self._descriptors_at + count * DESCRIPTOR_BYTES:
            return "the file ends inside its page descriptors"
        ends = [offset + size_bytes for offset, size_bytes in self._places(max(0, count - 1) // _BATCH, count)]
        return "the file ends inside its page data" if ends and max(ends) > self._size_bytes else None

    def _places(self, batch: int, count: int = _BATCH) -> list[tuple[int, int]]:
        """Offset and size of the page data that the descriptors of a batch name, of ``count`` in all."""
        descriptors = self._load_batch(batch)
        whole = min(count - batch * _BATCH, len(descriptors) // DESCRIPTOR_BYTES)
        found = (self._unpack(descriptors, place * DESCRIPTOR_BYTES) for place in range(whole))
        return [(offset, size_bytes) for offset, size_bytes, flags, _ in found if offset > 0 and flags in CODECS]


def _has_two_bitmaps(main: MainHeader, max_pfn: int) -> bool:
    """Whether the bitmap blocks hold two bitmaps, as all but the oldest files do (crash ``dump_is_partial``)."""
    bits = 8 * main.block_size * main.bitmap_blocks
    if max_pfn > bits:
        raise FormatError("the bitmaps are smaller than the memory", max_pfn=max_pfn, bitmap_blocks=main.bitmap_blocks)
    return max_pfn <= 8 * main.block_size * (main.bitmap_blocks // 2)


def _written_by(main: MainHeader, sub: SubHeader) -> str:
    """makedumpfile copies the kernel's names; QEMU leaves them out, but for a machine of ``Unknown``."""
    if sub.packed or not (main.utsname.sysname or main.utsname.release):
        return "qemu"
    return "makedumpfile" if main.utsname.sysname == "Linux" else "unknown"


def _quirks(main: MainHeader, sub: SubHeader) -> tuple[str, ...]:
    time64 = ("time64_header",) if main.wide and sub.word_bytes == 4 else ()
    return (*time64, "qemu_packed_sub_header") if sub.packed else time64


def _ranges_missing(sub: SubHeader) -> tuple[str, ...]:
    ranges = ((0, sub.start_pfn), (sub.end_pfn, sub.max_pfn))
    return tuple(name_range(start, end) for start, end in ranges if start < end) if sub.split else ()


def name_range(start_pfn: int, end_pfn: int) -> str:
    """What to call the pages ``start_pfn`` to before ``end_pfn`` that no part of a split set has."""
    return f"pages {start_pfn:#x} to {end_pfn:#x}"
