"""What any source of symbols gives: one kernel build's names, addresses and layouts, ready to become a profile."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from crashbeam.schemas.codes import SymbolLayouts, SymbolNames
from crashbeam.vmcore.errors import SymbolError
from crashbeam.vmcore.symbols.layouts import StructLayout
from crashbeam.vmcore.symbols.line_table import PackedLines
from crashbeam.vmcore.symbols.naming import SymbolName, choose_name, without_dot

Arch = Literal["ppc32", "ppc64", "ppc64le"]
ByteOrder = Literal["big", "little"]

ARCHES: Mapping[Arch, tuple[int, ByteOrder]] = {"ppc32": (4, "big"), "ppc64": (8, "big"), "ppc64le": (8, "little")}
"""Bytes of a word, and byte order."""

_TEXT_BOUNDS = (("_stext", "_etext"), ("_sinittext", "_einittext"))


class CompiledKernel(Struct, frozen=True):
    """One kernel build. ``text`` is sorted by address, one name each; every name lies in one of ``text_ranges``.

    ``banner`` is the text of ``linux_banner`` without its newline; ``variables`` holds the addresses of data symbols;
    ``lines`` counts instructions from the lowest of ``text_ranges``.
    """

    build_id: str | None
    banner: str | None
    arch: Arch
    names: SymbolNames
    layouts: SymbolLayouts
    text_ranges: tuple[tuple[int, int], ...]
    text: Sequence[tuple[int, str]]
    variables: Mapping[str, int]
    structs: Mapping[str, StructLayout]
    lines: PackedLines | None = None

    def moved(self, distance_bytes: int) -> "CompiledKernel":
        """The same kernel with all its addresses ``distance_bytes`` higher."""
        if distance_bytes == 0:
            return self
        return replace(
            self,
            text_ranges=tuple((start + distance_bytes, end + distance_bytes) for start, end in self.text_ranges),
            text=[(address + distance_bytes, name) for address, name in self.text],
            variables={name: address + distance_bytes for name, address in self.variables.items()},
        )

    @property
    def release(self) -> str | None:
        """The kernel's release (``uname -r``), as its banner has it."""
        return release_of(self.banner)


def release_of(banner: str | None) -> str | None:
    """The third word of ``Linux version RELEASE (...``; ``None`` without a banner."""
    words = banner.split(" ", 3) if banner else []
    return words[2] if len(words) > 2 else None


def text_ranges_of(addresses: Mapping[str, int]) -> tuple[tuple[int, int], ...]:
    """[start, end) of the kernel's text, and of its init text. Raises SymbolError without ``_stext`` and ``_etext``."""
    ranges = []
    for start, end in _TEXT_BOUNDS:
        if start in addresses and end in addresses and addresses[start] < addresses[end]:
            ranges.append((addresses[start], addresses[end]))
    if "_stext" not in addresses or not ranges or ranges[0][0] != addresses["_stext"]:
        raise SymbolError("the symbols have no _stext and _etext: they are not those of a kernel")
    return tuple(ranges)


def name_text(symbols: Iterable[tuple[int, str, bool]], ranges: tuple[tuple[int, int], ...]) -> list[tuple[int, str]]:
    """One name for each address, sorted, of (address, name, is weak) symbols; those outside the ranges are left out."""
    single: dict[int, str] = {}
    several: dict[int, list[SymbolName]] = {}
    for address, name, weak in symbols:
        if not any(start <= address < end for start, end in ranges):
            continue
        several.setdefault(address, []).append(SymbolName(name, weak))
    for address, names in several.items():
        single[address] = choose_name(names) if len(names) > 1 else without_dot(names[0].name)
    return sorted(single.items())
