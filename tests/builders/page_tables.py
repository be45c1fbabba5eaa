"""Two-level page tables of the 32-bit families, as asm/pgtable.h, asm/pgalloc.h and the pte-*.h of each define them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.builders.kernel_memory import MadeUpKernel

DIRECTORY = 0xC0800000
_TABLES = 0xC1000000


@dataclass(frozen=True, slots=True)
class Family:
    """How one family of CPUs writes its tables.

    ``directory_shift`` is PGDIR_SHIFT; ``entries`` how many PTEs a table has; ``frame_shift`` where the number of the
    4 KiB frame stands in a PTE (12: the PTE is the address with flags in its low bits); ``flags`` are those of a
    present kernel page. Directories hold kernel addresses on BookE, physical ones elsewhere, with ``directory_flags``.
    """

    name: str
    page_bytes: int
    directory_entry_bytes: int
    entry_bytes: int
    directory_shift: int
    entries: int
    flags: int
    absent_flags: int
    frame_shift: int = 12
    is_booke: bool = True
    directory_flags: int = 0
    symbols: Mapping[str, int] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes that BTF or DWARF give."""
        return {"pgd_t": self.directory_entry_bytes, "pte_t": self.entry_bytes}

    @property
    def variables(self) -> dict[str, int]:
        """The symbols that tell the family, and the directory."""
        return {"swapper_pg_dir": DIRECTORY, **self.symbols}

    def entry(self, physical: int, flags: int) -> int:
        """The PTE of a page."""
        return physical >> 12 << self.frame_shift | flags


_E500 = {"next_tlbcam_idx": 0xC0900000, "interrupt_base": 0xC0000100}
_OLD_E500 = {"interrupt_base": 0xC0000100}
_44X = {"interrupt_base": 0xC0000100, "finish_tlb_load_44x": 0xC0000800}

FAMILIES = (
    Family("85xx, 64-bit PTE, 6.12", 4096, 8, 8, 21, 512, 0x241155, 0x241154, frame_shift=24, symbols=_E500),
    Family("85xx, 64-bit PTE, 6.1", 4096, 4, 8, 21, 512, 0x241155, 0x241154, frame_shift=24, symbols=_OLD_E500),
    Family("85xx, 32-bit PTE", 4096, 4, 4, 22, 1024, 0x12E, 0x12D, symbols=_E500),
    Family("44x, 4K pages", 4096, 4, 8, 21, 512, 0x25F, 0x25E, symbols=_44X),
    Family("44x, 16K pages", 1 << 14, 4, 8, 25, 2048, 0x25F, 0x25E, symbols=_44X),
    Family("44x, 64K pages", 1 << 16, 4, 8, 29, 8192, 0x25F, 0x25E, symbols=_44X),
    Family("44x, 256K pages", 1 << 18, 4, 8, 31, 8192, 0x25F, 0x25E, symbols=_44X),
    Family("47x, 64K pages", 1 << 16, 4, 8, 29, 8192, 0x25F, 0x25E, symbols={**_OLD_E500, "finish_tlb_load_47x": 1}),
    Family("book3s, 32-bit PTE", 4096, 4, 4, 22, 1024, 0x595, 0x594, is_booke=False),
    Family("book3s, 64-bit PTE", 4096, 4, 8, 21, 512, 0x595, 0x594, is_booke=False),
    Family("8xx, 4K pages", 4096, 4, 4, 22, 1024, 0x135, 0x134, is_booke=False, directory_flags=1),
    Family("8xx, 16K pages", 1 << 14, 4, 16, 22, 256, 0x135, 0x134, is_booke=False, directory_flags=1),
)


class PageTableWriter:
    """Writes mappings of one family into a made-up kernel's memory."""

    def __init__(self, kernel: MadeUpKernel, family: Family) -> None:
        self._kernel = kernel
        self._family = family
        self._tables: dict[int, int] = {}
        entries = 1 << (32 - family.directory_shift)
        kernel.put(DIRECTORY, bytes(entries * family.directory_entry_bytes))

    def map(self, virtual: int, physical: int, *, present: bool = True) -> None:
        """Maps the page of ``virtual`` to the page at ``physical``."""
        family = self._family
        table = self._table_of(virtual >> family.directory_shift)
        index = (virtual >> family.page_bytes.bit_length() - 1) % family.entries
        value = family.entry(physical, family.flags if present else family.absent_flags)
        # 8xx with 16K pages repeats a 32-bit entry for each hardware page.
        repeats = 4 if family.entry_bytes == 16 else 1
        data = value.to_bytes(family.entry_bytes // repeats, "big") * repeats
        self._kernel.put(table + index * family.entry_bytes, data)

    def _table_of(self, index: int) -> int:
        if index not in self._tables:
            family = self._family
            table_bytes = family.entries * family.entry_bytes
            table = self._tables[index] = _TABLES + len(self._tables) * table_bytes
            self._kernel.put(table, bytes(table_bytes))
            pointer = (table if family.is_booke else table - self._kernel.linear.offset) | family.directory_flags
            size = family.directory_entry_bytes
            self._kernel.put(DIRECTORY + index * size, pointer.to_bytes(size, "big"))
        return self._tables[index]
