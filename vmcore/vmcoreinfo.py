"""VMCOREINFO: what a kernel tells about itself for its own dump (Linux kernel/vmcore_info.c).

Lines ``KEY=VALUE``. SYMBOL() and KERNELOFFSET are hexadecimal without a prefix; SIZE(), OFFSET(), LENGTH() and NUMBER()
are decimal, NUMBER() also hexadecimal with ``0x``. ``vmcoreinfo_append_str`` writes through a buffer of 0x50 bytes: a
line of 79 characters or more loses its end and its newline, so that the next line follows on the same one.
"""

import re
from functools import lru_cache
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

MAX_TEXT_BYTES: Final = 1 << 18
"""The note is one page of the dumped kernel; the largest page of a PowerPC kernel has 256 KiB."""
_KERNEL_LINE_CHARACTERS: Final = 79
_WORD_LIMIT: Final = 1 << 64
_PAGE_SIZES: Final = frozenset(1 << shift for shift in range(12, 19))

_LINE: Final = re.compile(
    rb"(?:(SYMBOL|SIZE|OFFSET|LENGTH|NUMBER)\(([!-'*-~]{1,64})\)"
    rb"|(OSRELEASE|BUILD-ID|PAGESIZE|CRASHTIME|KERNELOFFSET))=([ -~]{1,78})"
)
_DECIMAL: Final = re.compile(rb"-?[0-9]{1,20}")
_HEXADECIMAL: Final = re.compile(rb"[0-9a-fA-F]{1,16}")
_PREFIXED: Final = re.compile(rb"0x[0-9a-fA-F]{1,16}")
_BUILD_ID: Final = re.compile(rb"(?:[0-9a-f]{2}){4,32}")


class Vmcoreinfo(Struct, frozen=True):
    """What VMCOREINFO says; what it does not say, or says in no sensible way, is absent.

    ``symbols`` and ``kernel_offset`` are addresses, ``sizes``, ``offsets`` bytes, ``lengths`` array elements;
    ``crash_time_seconds`` counts from 1970. A key that stands twice counts as it stands first, as crash reads it.
    """

    osrelease: str | None
    build_id: str | None
    page_size: int | None
    crash_time_seconds: int | None
    kernel_offset: int | None
    symbols: dict[str, int]
    sizes: dict[str, int]
    offsets: dict[str, int]
    lengths: dict[str, int]
    numbers: dict[str, int]

    @classmethod
    def parse(cls, text: bytes) -> "Vmcoreinfo":
        """Reads the text of a VMCOREINFO note; lines that make no sense, or that the kernel cut, are passed over."""
        tables: dict[bytes, dict[str, int]] = {
            kind: {} for kind in (b"SYMBOL", b"SIZE", b"OFFSET", b"LENGTH", b"NUMBER")
        }
        plain: dict[bytes, bytes] = {}
        for line in _lines(text[:MAX_TEXT_BYTES]):
            found = _LINE.fullmatch(line)
            if found is None:
                continue
            kind, name, key, value = found.groups()
            if kind is None:
                plain.setdefault(key, value)
                continue
            number = _number(value, symbol=kind == b"SYMBOL")
            if number is not None:
                tables[kind].setdefault(name.decode("ascii"), number)
        release = plain.get(b"OSRELEASE")
        return cls(
            osrelease=release.decode("ascii") if release is not None else None,
            build_id=_build_id(plain.get(b"BUILD-ID", b"")),
            page_size=_page_size(plain.get(b"PAGESIZE", b"")),
            crash_time_seconds=_crash_time(plain.get(b"CRASHTIME", b"")),
            kernel_offset=_number(plain.get(b"KERNELOFFSET", b""), symbol=True),
            symbols=tables[b"SYMBOL"],
            sizes=_counts(tables[b"SIZE"]),
            offsets=_counts(tables[b"OFFSET"]),
            lengths=_counts(tables[b"LENGTH"]),
            numbers=tables[b"NUMBER"],
        )


def read_vmcoreinfo(text: bytes) -> Vmcoreinfo:
    """The same as ``Vmcoreinfo.parse``.

    Dumps of one build differ in the last line alone, CRASHTIME: what was read of the rest is kept.
    """
    body, key, value = text.rpartition(b"CRASHTIME=")
    value = value.rstrip(b"\n\0")
    if not key or not body.endswith(b"\n") or b"\n" in value or len(text) > MAX_TEXT_BYTES:
        return Vmcoreinfo.parse(text)
    kept = _parse_kept(body)
    if kept.crash_time_seconds is not None:
        return kept
    return replace(kept, crash_time_seconds=_crash_time(value))


@lru_cache(maxsize=16)
def _parse_kept(text: bytes) -> Vmcoreinfo:
    return Vmcoreinfo.parse(text)


def _lines(text: bytes) -> list[bytes]:
    lines: list[bytes] = []
    for line in text.split(b"\n"):
        # What the kernel cut at 79 characters is passed over: its value may have lost digits.
        cut_bytes = len(line) - len(line) % _KERNEL_LINE_CHARACTERS
        lines.append(line[cut_bytes:].rstrip(b"\0"))
    return lines


def _number(value: bytes, *, symbol: bool) -> int | None:
    if symbol:
        return int(value, 16) if _HEXADECIMAL.fullmatch(value) else None
    if _PREFIXED.fullmatch(value):
        return int(value, 16)
    if not _DECIMAL.fullmatch(value):
        return None
    number = int(value)
    return number if -(_WORD_LIMIT >> 1) <= number < _WORD_LIMIT else None


def _counts(table: dict[str, int]) -> dict[str, int]:
    if any(number < 0 for number in table.values()):
        return {name: number for name, number in table.items() if number >= 0}
    return table


def _build_id(value: bytes) -> str | None:
    return value.decode("ascii") if _BUILD_ID.fullmatch(value) else None


def _page_size(value: bytes) -> int | None:
    number = _number(value, symbol=False)
    return number if number in _PAGE_SIZES else None


def _crash_time(value: bytes) -> int | None:
    number = _number(value, symbol=False)
    return number if number is not None and 0 < number < _WORD_LIMIT >> 1 else None
