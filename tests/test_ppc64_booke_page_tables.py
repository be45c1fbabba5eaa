"""Kernel addresses of 64-bit BookE (e5500, e6500), through tables that hold the kernel's own addresses.

Geometry and entries: asm/nohash/64/pgtable-4k.h, asm/nohash/pte-e500.h. No real dump shows them.
"""

from collections.abc import Callable

import pytest

from crashbeam.vmcore.arch.ppc64 import PPC64
from crashbeam.vmcore.errors import TranslationError
from tests.builders.kernel_memory import PAGE_OFFSET_64, MadeUpKernel, SymbolsOf

DIRECTORY = PAGE_OFFSET_64 + 0x800000
UPPER, MIDDLE, LAST = (PAGE_OFFSET_64 + 0x810000 + n * 0x1000 for n in range(3))
PRESENT = 0x241055
"""Present, supervisor read and write, 4K, dirty, accessed, and the flags of memory."""


def entry_of(physical: int, flags: int = PRESENT) -> int:
    return physical >> 12 << 24 | flags


def kernel_with(address: int, *, last: int | None = None, middle: int = LAST) -> Callable[[int], int]:
    """Tables for one address: PGD bits 37 to 45, PUD 28 to 36, PMD 21 to 27, PTE 12 to 20."""
    kernel = MadeUpKernel(arch=PPC64)
    for table in (DIRECTORY, UPPER, MIDDLE, LAST):
        kernel.put(table, bytes(4096))
    kernel.words(DIRECTORY + 8 * (address >> 37 & 511), UPPER)
    kernel.words(UPPER + 8 * (address >> 28 & 511), MIDDLE)
    kernel.words(MIDDLE + 8 * (address >> 21 & 127), middle)
    if last is not None:
        kernel.words(LAST + 8 * (address >> 12 & 511), last)
    symbols = SymbolsOf({"swapper_pg_dir": DIRECTORY, "interrupt_base_book3e": PAGE_OFFSET_64 + 0x100})
    walk = PPC64.page_walk(kernel.linear, symbols, kernel.memory(), 4096)
    assert walk is not None
    return walk


@pytest.mark.parametrize("address", [0xC000100000345678, 0x8000000000345678, 0xC00010FFFFFFF678])
@pytest.mark.parametrize("physical", [0x00AC0000, 0xF_C0000000])
def test_a_mapped_address_has_the_physical_address_of_its_page(address: int, physical: int) -> None:
    assert kernel_with(address, last=entry_of(physical))(address) == physical | address & 0xFFF


def test_what_is_not_present_is_not_mapped() -> None:
    address = 0xC000100000345678
    walk = kernel_with(address, last=entry_of(0xAC0000, PRESENT & ~1))
    for unmapped in (address, address + 0x1000, address + (1 << 21), address + (1 << 37), 0x0000100000345678):
        with pytest.raises(TranslationError, match="is not mapped"):
            walk(unmapped)


def test_a_directory_entry_may_be_a_large_page_itself() -> None:
    address = 0xC000100000345678
    walk = kernel_with(address, middle=entry_of(0x40000000, PRESENT | 0x500))
    assert walk(address) == 0x40000000 | address & 0x1FFFFF
