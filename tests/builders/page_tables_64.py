"""Four-level page tables of 64-bit book3s kernels (asm/book3s/64/pgtable.h, hash-4k.h, hash-64k.h, radix.h).

Entries are big endian in memory, whatever the kernel's byte order.
"""

from dataclasses import dataclass

from crashbeam.vmcore.arch.architecture import Architecture
from tests.builders.kernel_memory import PAGE_OFFSET_64, MadeUpKernel, SymbolsOf

VALID = 1 << 63
LEAF = 1 << 62
DIRECTORY = PAGE_OFFSET_64 + 0x800000
_SIZES = PAGE_OFFSET_64 + 0x700000
_TABLES = 0x1000000
LEVELS = ("pte", "pmd", "pud", "pgd")


@dataclass(frozen=True, slots=True)
class Geometry:
    """One configuration: bits of the index of each level, lowest first; ``link_bits`` stand in each entry that leads to
    a table (``__pmd_val_bits`` and its like; radix has the size of the table in the low bits).
    """

    name: str
    page_bytes: int
    bits: tuple[int, int, int, int]
    link_bits: int

    def shift(self, level: int) -> int:
        """The first bit of a level's index."""
        return self.page_bytes.bit_length() - 1 + sum(self.bits[:level])

    def index(self, address: int, level: int) -> int:
        """The index of ``address`` in a table of a level."""
        return address >> self.shift(level) & (1 << self.bits[level]) - 1


RADIX_64K = Geometry("radix, 64K pages", 1 << 16, (5, 9, 9, 13), VALID | 0x5)
RADIX_4K = Geometry("radix, 4K pages", 1 << 12, (9, 9, 9, 13), VALID | 0x9)
HASH_64K = Geometry("hash, 64K pages", 1 << 16, (8, 10, 10, 8), VALID)
HASH_4K = Geometry("hash, 4K pages", 1 << 12, (9, 7, 9, 9), VALID)
HASH_64K_OLD = Geometry("hash, 64K pages, 4.12 to 4.16", 1 << 16, (8, 10, 7, 8), 0)
HASH_4K_OLD = Geometry("hash, 4K pages, 4.7 to 4.19", 1 << 12, (9, 7, 9, 9), 0)
GEOMETRIES = (RADIX_64K, RADIX_4K, HASH_64K, HASH_4K, HASH_64K_OLD, HASH_4K_OLD)


class PageTableWriter64:
    """Writes the mappings of one configuration into a made-up kernel's memory."""

    def __init__(self, geometry: Geometry, arch: Architecture) -> None:
        self.geometry = geometry
        self.kernel = MadeUpKernel(geometry.page_bytes, arch=arch)
        self.symbols = SymbolsOf(
            {"swapper_pg_dir": DIRECTORY, **{f"__{level}_index_size": _SIZES + 8 * n for n, level in enumerate(LEVELS)}}
        )
        self.kernel.words(_SIZES, *geometry.bits)
        self.kernel.put(DIRECTORY, bytes(8 << geometry.bits[3]))
        self._tables: dict[tuple[int, int], int] = {}
        self._free = _TABLES

    def size_variable(self, level: str) -> int:
        """The address of ``__{level}_index_size``."""
        return _SIZES + 8 * LEVELS.index(level)

    def map(self, virtual: int, entry: int, level: int = 0) -> None:
        """Puts ``entry`` where a table of ``level`` (0: PTE) has that of ``virtual``, and what leads there."""
        place = DIRECTORY - self.kernel.linear.offset
        for above in (3, 2, 1):
            if above == level:
                break
            place = self._table_below(place, virtual, above)
        self._put(place, virtual, level, entry)

    def table(self, virtual: int, level: int) -> int:
        """The physical address of the table of ``level`` that serves ``virtual``."""
        return self._tables[level, virtual >> self.geometry.shift(level + 1)]

    def _table_below(self, place: int, virtual: int, level: int) -> int:
        key = level - 1, virtual >> self.geometry.shift(level)
        if key not in self._tables:
            size_bytes = max(8 << self.geometry.bits[level - 1], 256)
            self._tables[key] = self._free
            self.kernel.put_physical(self._free, bytes(size_bytes))
            self._put(place, virtual, level, self._free | self.geometry.link_bits)
            self._free += size_bytes
        return self._tables[key]

    def _put(self, place: int, virtual: int, level: int, entry: int) -> None:
        self.kernel.put_physical(place + 8 * self.geometry.index(virtual, level), entry.to_bytes(8, "big"))
