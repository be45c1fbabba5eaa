"""Split sets: one dump in several kdump files (``makedumpfile --split``).

Every part has the whole headers, notes and bitmaps, and the pages of its own range: sub header ``split`` = 1,
``start_pfn`` <= page < ``end_pfn``. Its descriptors count stored pages from ``start_pfn`` (crash ``pfn_to_pos``).
"""

import hashlib
import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from crashbeam.vmcore.byte_source import FileSource
from crashbeam.vmcore.containers import ContainerFacts
from crashbeam.vmcore.containers.kdump import KdumpContainer, name_range
from crashbeam.vmcore.containers.kdump_header import (
    MAIN_HEADER_BYTES,
    SIGNATURE,
    SUB_HEADER_BYTES,
    parse_main_header,
    parse_sub_header,
)
from crashbeam.vmcore.errors import VmcoreError
from crashbeam.vmcore.limits import MAX_BLOCK_BYTES, MAX_NOTE_BYTES, Budget

_BLOCK_SIZE_PLACES: Final = (slice(416, 420), slice(428, 432))
"""Of the main header, in its two layouts."""
_SPLIT_FLAGS_AT: Final = 8
"""``split`` is the third field of the sub header, behind ``phys_base`` of 4 or 8 bytes and ``dump_level`` of 4."""
_SET_FLAGS: Final = (b"\1\0\0\0", b"\0\0\0\1")
_MAX_PARTS: Final = 1024
_MAX_FILES_LOOKED_AT: Final = 4096


class SplitKey(Struct, frozen=True):
    """Equal for the parts of one set in one folder: ``set_id`` is a digest of the main header and the notes."""

    folder: str
    set_id: bytes


class SplitPart(Struct, frozen=True):
    """A file of a split set: whose part it is, and the page that it begins at."""

    key: SplitKey
    start_pfn: int


def split_part(path: str) -> SplitPart | None:
    """What part of a split set a file is; ``None`` for any other file, and for one whose headers cannot be read.

    Reads the headers and notes only.
    """
    try:
        source = FileSource(path, Budget(read_bytes=MAX_NOTE_BYTES + (1 << 20)))
    except VmcoreError:
        return None
    try:
        return _part(source, os.path.dirname(os.path.abspath(path)))
    except VmcoreError:
        return None
    finally:
        source.close()


def may_be_part(first_bytes: bytes, read: Callable[[int, int], bytes]) -> bool:
    """Whether a file may be a part of a split set: ``False`` is certain, and costs a tenth of ``split_part``.

    ``first_bytes`` is the file's first ``MAIN_HEADER_BYTES``; ``read(offset, size_bytes)`` gives bytes of the file.
    """
    if not first_bytes.startswith(SIGNATURE):
        return False
    for block_size in _possible_block_sizes(first_bytes):
        flags = read(block_size + _SPLIT_FLAGS_AT, 8)
        if flags[:4] in _SET_FLAGS or flags[4:] in _SET_FLAGS:
            return True
    return False


def _possible_block_sizes(main_header: bytes) -> set[int]:
    """What the main header's block size may be, in either layout and byte order."""
    places = [main_header[place] for place in _BLOCK_SIZE_PLACES]
    sizes = {int.from_bytes(place, "little") for place in places} | {int.from_bytes(place, "big") for place in places}
    return {size for size in sizes if 0 < size <= MAX_BLOCK_BYTES and size & (size - 1) == 0}


def _part(source: FileSource, folder: str) -> SplitPart | None:
    first = source.read(0, MAIN_HEADER_BYTES)
    if not may_be_part(first, source.read):
        return None
    main = parse_main_header(first)
    sub = parse_sub_header(main, source.read(main.block_size, SUB_HEADER_BYTES))
    if not sub.split:
        return None
    if not 0 <= sub.notes_at <= source.size_bytes - sub.notes_bytes or sub.notes_bytes > MAX_NOTE_BYTES:
        return None
    digest = hashlib.blake2b(first, digest_size=16)
    digest.update(source.read(sub.notes_at, sub.notes_bytes))
    return SplitPart(SplitKey(folder, digest.digest()), sub.start_pfn)


def find_parts(path: str) -> tuple[str, ...]:
    """All parts of the split set that ``path`` belongs to, found in its folder, that with the lowest start_pfn first.

    ``(path,)`` for a file that belongs to none. At most 4,096 files of the folder are looked at.
    """
    part = split_part(path)
    if part is None:
        return (path,)
    folder = os.path.dirname(path)
    found = [(part.start_pfn, path)]
    try:
        with os.scandir(folder or ".") as entries:
            names = sorted(entry.name for _, entry in zip(range(_MAX_FILES_LOOKED_AT), entries, strict=False))
    except OSError:
        return (path,)
    for name in names:
        other = os.path.join(folder, name)
        if other == path or len(found) == _MAX_PARTS:
            continue
        other_part = split_part(other)
        if other_part is not None and other_part.key == part.key and not os.path.samefile(other, path):
            found.append((other_part.start_pfn, other))
    return tuple(name for _, name in sorted(found))


class SplitContainer:
    """The parts of a split set as one dump; ``broken`` names the parts that could not be opened."""

    def __init__(self, parts: Sequence[KdumpContainer], broken: tuple[str, ...] = ()) -> None:
        self.parts = tuple(sorted(parts, key=lambda part: (part.sub_header.start_pfn, part.sub_header.end_pfn)))
        self._ranged = [part for part in self.parts if part.sub_header.start_pfn < part.sub_header.end_pfn]
        self._starts = [part.sub_header.start_pfn for part in self._ranged]
        self.facts = self._facts(broken)

    @property
    def codecs_met(self) -> frozenset[str]:
        """The codecs of the pages read so far."""
        return frozenset().union(*(part.codecs_met for part in self.parts))

    def close(self) -> None:
        """Closes all parts."""
        for part in self.parts:
            part.close()

    def read_page(self, pfn: int) -> bytes:
        """The bytes of page ``pfn``, from the part that has it. Raises PageError: LOST where that part is missing."""
        place = bisect_right(self._starts, pfn) - 1
        return (self._ranged[place] if place >= 0 else self.parts[0]).read_page(pfn)

    def _facts(self, broken: tuple[str, ...]) -> ContainerFacts:
        first = self.parts[0].facts
        missing = (*broken, *self._gaps(first.max_pfn))
        reasons = [part.cut_reason for part in self.parts if part.cut_reason is not None]
        if missing:
            reasons.append("parts of the split set are missing")
        return replace(
            first, complete=not reasons, incomplete_reason=reasons[0] if reasons else None, missing_parts=missing
        )

    def _gaps(self, max_pfn: int) -> tuple[str, ...]:
        gaps = []
        reached = 0
        for part in self._ranged:
            if part.sub_header.start_pfn > reached:
                gaps.append(name_range(reached, part.sub_header.start_pfn))
            reached = max(reached, part.sub_header.end_pfn)
        if reached < max_pfn:
            gaps.append(name_range(reached, max_pfn))
        return tuple(gaps)
