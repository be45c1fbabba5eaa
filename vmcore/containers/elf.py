"""ELF vmcores: /proc/vmcore copied, ``makedumpfile -E``, QEMU's ``dump-guest-memory``, fadump.

The class says nothing of the kernel's word size (kexec-tools ``--elf64-core-headers``), EI_DATA may lie
(``crash_prepare_elf64_headers`` of Linux writes little endian on every kernel), and QEMU gets e_ehsize wrong: what
decides is e_machine, the order in which e_type reads ET_CORE, and the program headers. Memory is placed by p_paddr
alone.
"""

import heapq
import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

from msgspec import Struct

from crashbeam.schemas.codes import FailureCode
from crashbeam.vmcore.byte_source import ByteSource
from crashbeam.vmcore.containers import ByteOrder, ContainerFacts
from crashbeam.vmcore.errors import FormatError, LimitError, PageError, PageStatus, TruncatedError
from crashbeam.vmcore.limits import MAX_NOTE_BYTES, Budget
from crashbeam.vmcore.notes import NoteList, parse_notes, prstatus, vmcoreinfo_text

BLOCK_BYTES: Final = 4096
MAX_SEGMENTS: Final = 1 << 18
_BLOCK_SHIFT: Final = 12
_MAX_ADDRESS: Final = 1 << 52
_ET_CORE: Final = 4
_EM_PPC: Final = 20
_EM_PPC64: Final = 21
_PT_LOAD: Final = 1
_PT_NOTE: Final = 4
_PN_XNUM: Final = 0xFFFF
_DUMP_ELF_INCOMPLETE: Final = 1
_NT_PRFPREG: Final = 2
_EXCLUDED: Final = -1
"""In place of a file offset: bytes between p_filesz and p_memsz."""


class _Class(Struct, frozen=True):
    """Where an ELF class keeps what is needed (System V ABI, chapters 4 and 5)."""

    header: str
    header_bytes: int
    program_header: str
    program_header_bytes: int
    flags_last: bool
    section_count_at: int
    no_offset: int


# e_type, e_machine, e_version, e_entry, e_phoff, e_shoff, e_flags, e_ehsize, e_phentsize, e_phnum.
_CLASSES: Final = {
    1: _Class("HHIIIIIHHH", 52, "IIIIIIII", 32, True, 28, (1 << 32) - 1),
    2: _Class("HHIQQQIHHH", 64, "IIQQQQQQ", 56, False, 44, (1 << 64) - 1),
}


class _Segment(Struct, frozen=True):
    kind: int
    offset: int
    physical: int
    file_bytes: int
    memory_bytes: int


_Range = tuple[int, int, int]
"""Physical start and end, and the file offset of the start or ``_EXCLUDED``."""


class _Header(Struct, frozen=True):
    byte_order: ByteOrder
    elf_class: _Class
    machine: int
    flags: int
    segments: tuple[_Segment, ...]


def is_core_header(first_bytes: bytes) -> bool:
    """Whether an ELF file that begins with these bytes (18 are enough) is a core file, in either byte order."""
    return first_bytes[16:18] in (b"\0\4", b"\4\0")


class ElfContainer:
    """An open ELF vmcore, presented in blocks of 4096 bytes whatever the kernel's page size.

    Raises TruncatedError when headers or notes are cut, FormatError when they make no sense (``malformed``), when the
    file is no core file (``unknown_format``) or of another machine (``unsupported``), LimitError beyond 262,144
    segments.
    """

    codecs_met: frozenset[str] = frozenset()

    def __init__(
        self, source: ByteSource, budget: Budget, *, wrapping: tuple[str, ...] = (), cut_reason: str | None = None
    ) -> None:
        self._source = source
        header = _read_header(source, budget)
        loads = [segment for segment in header.segments if segment.kind == _PT_LOAD]
        budget.charge_steps(len(loads))
        ranges = _ranges(loads, header.elf_class.no_offset)
        self._ranges = ranges
        self._starts = [start for start, _, _ in ranges]
        notes = tuple(_read_notes(source, header.segments))
        self.facts = _facts(source, header, loads, ranges, notes, wrapping, cut_reason)

    def close(self) -> None:
        """Closes the file."""
        self._source.close()

    def read_page(self, pfn: int) -> bytes:
        """The 4096 bytes of block ``pfn``, from as many segments as it takes. Raises PageError.

        Excluded bytes beside others read as zero; a block of excluded bytes only is EXCLUDED. A block that is partly no
        memory is ABSENT.
        """
        start = pfn << _BLOCK_SHIFT
        index = bisect_right(self._starts, start) - 1
        if index >= 0:
            first, end, offset = self._ranges[index]
            if start + BLOCK_BYTES <= end and offset != _EXCLUDED:
                return self._data(pfn, offset + start - first, BLOCK_BYTES)
        return self._compose(pfn, start, max(index, 0))

    def _compose(self, pfn: int, start: int, index: int) -> bytes:
        pieces: list[bytes] = []
        position, stop = start, start + BLOCK_BYTES
        stored = False
        for first, end, offset in self._ranges[index : index + BLOCK_BYTES]:
            if end <= position:
                continue
            if first > position or position == stop:
                break
            size_bytes = min(end, stop) - position
            if offset == _EXCLUDED:
                pieces.append(bytes(size_bytes))
            else:
                pieces.append(self._data(pfn, offset + position - first, size_bytes))
                stored = True
            position += size_bytes
        if position < stop:
            raise PageError(f"block {pfn:#x} is no memory", status=PageStatus.ABSENT, pfn=pfn)
        if not stored:
            raise PageError(f"block {pfn:#x} was left out by the dump level", status=PageStatus.EXCLUDED, pfn=pfn)
        return b"".join(pieces)

    def _data(self, pfn: int, offset: int, size_bytes: int) -> bytes:
        data = self._source.read(offset, size_bytes)
        if len(data) < size_bytes:
            raise PageError(f"the file ends before block {pfn:#x}", status=PageStatus.TRUNCATED, pfn=pfn, offset=offset)
        return data


def _read_header(source: ByteSource, budget: Budget) -> _Header:
    data = source.read(0, 64)
    if len(data) < 52:
        raise TruncatedError("the file ends inside its ELF header", size_bytes=len(data))
    elf_class = _CLASSES.get(data[4])
    if not is_core_header(data) or elf_class is None:
        raise FormatError(f"{source.name} is an ELF file, but no core file", code=FailureCode.UNKNOWN_FORMAT)
    if len(data) < elf_class.header_bytes:
        raise TruncatedError("the file ends inside its ELF header", size_bytes=len(data))
    byte_order: ByteOrder = "big" if data[17] == _ET_CORE else "little"
    order = ">" if byte_order == "big" else "<"
    fields = struct.unpack_from(order + elf_class.header, data, 16)
    _, machine, version, _, headers_at, sections_at, flags, _, entry_bytes, count = fields
    if version != 1:
        raise FormatError("the ELF header's version is not 1 in the byte order of its type", version=version)
    if machine not in (_EM_PPC, _EM_PPC64):
        raise FormatError(f"the core file is of machine {machine}, no PowerPC", code=FailureCode.UNSUPPORTED)
    if count == _PN_XNUM:
        count = _extended_count(source, sections_at + elf_class.section_count_at, byte_order)
    if entry_bytes != elf_class.program_header_bytes or count == 0:
        raise FormatError("the ELF program headers make no sense", entry_bytes=entry_bytes, count=count)
    if count > MAX_SEGMENTS:
        raise LimitError("the ELF file has too many segments", count=count)
    budget.charge_steps(count)
    table = _read(source, headers_at, count * entry_bytes)
    if len(table) < count * entry_bytes:
        raise TruncatedError("the file ends inside its program headers", offset=headers_at, count=count)
    segments = tuple(_segments(table, elf_class, order))
    return _Header(byte_order, elf_class, machine, flags, segments)


def _read(source: ByteSource, offset: int, size_bytes: int) -> bytes:
    """The bytes at an offset that the file names: none beyond its end, where no offset is too large to ask for."""
    return source.read(offset, size_bytes) if offset < source.size_bytes else b""


def _extended_count(source: ByteSource, at: int, byte_order: ByteOrder) -> int:
    """The number of program headers beyond 65,534: sh_info of section header 0."""
    data = _read(source, at, 4)
    if len(data) < 4:
        raise TruncatedError("the file ends before its number of program headers", offset=at)
    return int.from_bytes(data, byte_order)


def _segments(table: bytes, elf_class: _Class, order: str) -> Iterator[_Segment]:
    for values in struct.iter_unpack(order + elf_class.program_header, table):
        if elf_class.flags_last:
            kind, offset, _, physical, file_bytes, memory_bytes, _, _ = values
        else:
            kind, _, offset, _, physical, file_bytes, memory_bytes, _ = values
        if kind in (_PT_LOAD, _PT_NOTE):
            yield _Segment(kind, offset, physical, file_bytes, memory_bytes)


def _ranges(loads: Sequence[_Segment], no_offset: int) -> list[_Range]:
    """What each byte of memory is, in ascending pieces that do not overlap.

    Where segments overlap, stored bytes go before excluded ones, then the lowest file offset. A segment without file
    data and without an offset is one that QEMU filtered out: no memory.
    """
    found: list[_Range] = []
    for segment in loads:
        start, stored = segment.physical, segment.file_bytes
        end = start + max(stored, segment.memory_bytes)
        if end > _MAX_ADDRESS:
            raise FormatError("a segment lies beyond any memory", physical=start, memory_bytes=end - start)
        if segment.offset == no_offset:
            continue
        if segment.offset + stored >= 1 << 63:
            raise FormatError("a segment lies beyond any file", offset=segment.offset, file_bytes=stored)
        if stored:
            found.append((start, start + stored, segment.offset))
        if start + stored < end:
            found.append((start + stored, end, _EXCLUDED))
    found.sort()
    if all(before[1] <= after[0] for before, after in pairwise(found)):
        return found
    return list(_resolve(found))


def _resolve(ranges: Sequence[_Range]) -> Iterator[_Range]:
    edges = sorted({edge for start, end, _ in ranges for edge in (start, end)})
    upcoming = 0
    open_ranges: list[tuple[bool, int, int, int]] = []
    for start, end in pairwise(edges):
        while upcoming < len(ranges) and ranges[upcoming][0] <= start:
            first, last, offset = ranges[upcoming]
            heapq.heappush(open_ranges, (offset == _EXCLUDED, offset, first, last))
            upcoming += 1
        while open_ranges and open_ranges[0][3] <= start:
            heapq.heappop(open_ranges)
        if open_ranges:
            excluded, offset, first, _ = open_ranges[0]
            yield start, end, _EXCLUDED if excluded else offset + start - first


def _read_notes(source: ByteSource, segments: Sequence[_Segment]) -> Iterator[bytes]:
    left = MAX_NOTE_BYTES
    for segment in segments:
        if segment.kind != _PT_NOTE or segment.file_bytes == 0:
            continue
        left -= segment.file_bytes
        if left < 0:
            raise FormatError("the notes are larger than notes can be", size_bytes=segment.file_bytes)
        data = _read(source, segment.offset, segment.file_bytes)
        if len(data) < segment.file_bytes:
            raise TruncatedError("the file ends inside its notes", offset=segment.offset, size_bytes=segment.file_bytes)
        yield data


def _facts(
    source: ByteSource,
    header: _Header,
    loads: Sequence[_Segment],
    ranges: Sequence[_Range],
    segments: tuple[bytes, ...],
    wrapping: tuple[str, ...],
    cut_reason: str | None,
) -> ContainerFacts:
    notes = parse_notes(segments, header.byte_order)
    vmcoreinfo = vmcoreinfo_text(notes)
    written_by = _written_by(header, loads, notes, vmcoreinfo)
    reason = _incomplete_reason(source, header, loads, written_by) or cut_reason
    return ContainerFacts(
        container="elf",
        wrapping=wrapping,
        header_version=None,
        written_by=written_by,
        byte_order=header.byte_order,
        word_bytes=4 if header.machine == _EM_PPC else 8,
        block_size=BLOCK_BYTES,
        max_pfn=(ranges[-1][1] + BLOCK_BYTES - 1) >> _BLOCK_SHIFT if ranges else 0,
        dump_level=None,
        complete=reason is None,
        incomplete_reason=reason,
        quirks=(),
        utsname=None,
        timestamp_seconds=None,
        notes=segments,
        vmcoreinfo=vmcoreinfo,
    )


def _written_by(header: _Header, loads: Sequence[_Segment], notes: NoteList, vmcoreinfo: bytes | None) -> str:
    """QEMU writes floating-point notes, makedumpfile segments with excluded tails, fadump the ABI into e_flags."""
    if prstatus(notes) and any(note.type == _NT_PRFPREG for note in notes.notes):
        return "qemu"
    if any(segment.file_bytes < segment.memory_bytes for segment in loads):
        return "makedumpfile"
    if header.machine == _EM_PPC64 and header.flags:
        return "fadump"
    return "proc-vmcore" if vmcoreinfo is not None else "unknown"


def _incomplete_reason(source: ByteSource, header: _Header, loads: Sequence[_Segment], written_by: str) -> str | None:
    """makedumpfile sets e_flags bit 0 when it runs out of space; fadump has the ABI there."""
    if header.flags & _DUMP_ELF_INCOMPLETE and written_by != "fadump":
        return "the writer ran out of space"
    stored = [segment for segment in loads if segment.file_bytes and segment.offset != header.elf_class.no_offset]
    if any(segment.offset + segment.file_bytes > source.size_bytes for segment in stored):
        return "the file ends inside its memory segments"
    return None
