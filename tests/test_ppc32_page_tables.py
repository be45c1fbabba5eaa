"""Kernel addresses outside the linear map, through the page tables of every 32-bit family."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crashbeam.vmcore.arch.ppc32 import PPC32
from crashbeam.vmcore.errors import PageError, TranslationError
from tests.builders.kernel_memory import MadeUpKernel, SymbolsOf
from tests.builders.page_tables import DIRECTORY, FAMILIES, Family, PageTableWriter

every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


def walk_of(kernel: MadeUpKernel, family: Family) -> Callable[[int], int]:
    symbols = SymbolsOf(family.variables, family.sizes)
    walk = PPC32.page_walk(kernel.linear, symbols, kernel.memory(), family.page_bytes)
    assert walk is not None
    return walk


@every_family
def test_a_mapped_address_has_the_physical_address_of_its_page(family: Family) -> None:
    kernel = MadeUpKernel(family.page_bytes)
    tables = PageTableWriter(kernel, family)
    virtual, physical = 0xF1000000, 0x00AC0000
    tables.map(virtual, physical)
    tables.map(virtual + family.page_bytes, 0x00040000)
    walk = walk_of(kernel, family)
    assert walk(virtual) == physical
    assert walk(virtual + family.page_bytes - 4) == physical + family.page_bytes - 4
    assert walk(virtual + family.page_bytes + 0x567) == 0x00040567


@every_family
def test_a_page_that_is_not_present_is_not_mapped(family: Family) -> None:
    kernel = MadeUpKernel(family.page_bytes)
    tables = PageTableWriter(kernel, family)
    tables.map(0xF1000000, 0x00AC0000, present=False)
    walk = walk_of(kernel, family)
    for address in (0xF1000000, 0xF1000000 + family.page_bytes, 0x10000000):
        with pytest.raises(TranslationError, match=f"{address:08x} is not mapped"):
            walk(address)


@given(
    family=st.sampled_from(FAMILIES),
    pages=st.dictionaries(st.integers(0, 63), st.integers(0, 0xBFF), min_size=1, max_size=4),
    offset=st.integers(0, (1 << 18) - 1),
    base=st.sampled_from((0xB0000000, 0xD8000000, 0xF0000000, 0xFE000000)),
)
def test_what_was_mapped_is_translated_and_nothing_else(
    family: Family, pages: dict[int, int], offset: int, base: int
) -> None:
    kernel = MadeUpKernel(family.page_bytes)
    tables = PageTableWriter(kernel, family)
    for virtual_page, physical_page in pages.items():
        tables.map(base + virtual_page * family.page_bytes, physical_page * family.page_bytes)
    walk = walk_of(kernel, family)
    offset %= family.page_bytes
    for virtual_page in range(64):
        address = base + virtual_page * family.page_bytes + offset
        if virtual_page in pages:
            assert pages[virtual_page] * family.page_bytes + offset == walk(address)
        else:
            with pytest.raises(TranslationError):
                walk(address)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family.entry_bytes == 8], ids=lambda f: f.name)
def test_64_bit_entries_reach_memory_above_4_gib(family: Family) -> None:
    kernel = MadeUpKernel(family.page_bytes)
    PageTableWriter(kernel, family).map(0xF1000000, 0x4_C0000000)
    assert walk_of(kernel, family)(0xF1000010) == 0x4_C0000010


def test_the_entry_that_a_real_e500_kernel_wrote() -> None:
    """PTE 0000000afa241155 under directory entry 00000000c0806000 (Linux 6.12): physical 00afa000."""
    family = FAMILIES[0]
    kernel = MadeUpKernel()
    PageTableWriter(kernel, family)
    kernel.put(DIRECTORY + (0xC9064000 >> 21) * 8, bytes.fromhex("00000000c0806000"))
    kernel.put(0xC0806000, bytes(4096))
    kernel.put(0xC0806000 + 0x64 * 8, bytes.fromhex("0000000afa241155"))
    assert walk_of(kernel, family)(0xC9064123) == 0x00AFA123


@pytest.mark.parametrize(
    ("size_code", "size_bytes"),
    [(0x400, 1 << 18), (0x500, 1 << 20), (0x700, 1 << 24), (0x800, 1 << 26), (0x900, 1 << 28)],
)
def test_a_directory_entry_of_85xx_may_be_a_large_page_itself(size_code: int, size_bytes: int) -> None:
    """_PAGE_PSIZE of pte-e500.h: 4^n KiB, n in bits 0xf00 by two; 6.11 and later write it into the directory."""
    kernel = MadeUpKernel()
    PageTableWriter(kernel, FAMILIES[0])
    entry = (0x40000000 >> 12) << 24 | size_code | 0x241055
    for index in range(0xF0000000 >> 21, (0xF0000000 >> 21) + max(size_bytes >> 21, 1)):
        kernel.put(DIRECTORY + index * 8, entry.to_bytes(8, "big"))
    walk = walk_of(kernel, FAMILIES[0])
    last = min(size_bytes, 0x10000000) - 4
    assert walk(0xF0000000) == 0x40000000
    assert walk(0xF0000000 + last) == 0x40000000 + last


def test_a_directory_that_cannot_be_read_says_so() -> None:
    kernel = MadeUpKernel()
    PageTableWriter(kernel, FAMILIES[0]).map(0xF1000000, 0)
    kernel.lose(DIRECTORY + (0xF1000000 >> 21) * 8)
    with pytest.raises(PageError):
        walk_of(kernel, FAMILIES[0])(0xF1000000)


@pytest.mark.parametrize(
    ("variables", "sizes"),
    [
        ({}, {"pgd_t": 8, "pte_t": 8}),
        ({"swapper_pg_dir": DIRECTORY}, {"pte_t": 8}),
        ({"swapper_pg_dir": DIRECTORY}, {"pgd_t": 8}),
        ({"swapper_pg_dir": DIRECTORY}, {"pgd_t": 4, "pte_t": 12}),
    ],
)
def test_without_directory_or_sizes_there_is_no_walk(variables: dict[str, int], sizes: dict[str, int]) -> None:
    kernel = MadeUpKernel()
    assert PPC32.page_walk(kernel.linear, SymbolsOf(variables, sizes), kernel.memory(), 4096) is None
