"""64-bit kernel addresses outside the linear map, through the page tables of radix and hash kernels."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crashbeam.vmcore.arch.architecture import Architecture
from crashbeam.vmcore.arch.ppc64 import PPC64, PPC64LE
from crashbeam.vmcore.errors import PageError, TranslationError
from crashbeam.vmcore.limits import Budget
from crashbeam.vmcore.memory import PhysicalMemory
from tests.builders.kernel_memory import PAGE_OFFSET_64, FakeContainer, SymbolsOf, container_facts
from tests.builders.page_tables_64 import (
    DIRECTORY,
    GEOMETRIES,
    HASH_4K,
    HASH_64K,
    LEAF,
    LEVELS,
    RADIX_4K,
    RADIX_64K,
    VALID,
    Geometry,
    PageTableWriter64,
)

VMALLOC = 0xC008000000000000
ADDRESS = 0xC008000000AB1234
PTE = 0xC00000001234018E
"""A present kernel page at physical 12340000 (radix: accessed, dirty, privileged, readable, writable)."""

every_geometry = pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda geometry: geometry.name)
both_orders = pytest.mark.parametrize("arch", [PPC64, PPC64LE], ids=lambda arch: arch.name)


def walk_of(tables: PageTableWriter64) -> Callable[[int], int]:
    kernel = tables.kernel
    walk = kernel.arch.page_walk(kernel.linear, tables.symbols, kernel.memory(), tables.geometry.page_bytes)
    assert walk is not None
    return walk


@both_orders
@pytest.mark.parametrize(
    ("geometry", "address", "indexes", "physical"),
    [
        (RADIX_64K, ADDRESS, (11, 5, 0, 4096), 0x12341234),
        (RADIX_4K, ADDRESS, (177, 5, 0, 4096), 0x12340234),
        (HASH_64K, ADDRESS, (171, 0, 0, 128), 0x12341234),
        (HASH_4K, 0xC0003D0000AB1234, (177, 5, 0, 488), 0x12340234),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_each_level_takes_its_own_bits_of_the_address(
    geometry: Geometry, address: int, indexes: tuple[int, ...], physical: int, arch: Architecture
) -> None:
    """The tables are written here by hand, at the indexes that the headers of Linux give for this address."""
    tables = PageTableWriter64(geometry, arch)
    places = (0x2000000, 0x2040000, 0x2080000)
    above = DIRECTORY - PAGE_OFFSET_64
    for index, table in zip(indexes[:0:-1], reversed(places), strict=True):
        tables.kernel.put_physical(table, bytes(0x10000))
        tables.kernel.put_physical(above + 8 * index, (table | geometry.link_bits).to_bytes(8, "big"))
        above = table
    tables.kernel.put_physical(above + 8 * indexes[0], bytes.fromhex("c00000001234018e"))
    assert walk_of(tables)(address) == physical


@both_orders
@every_geometry
def test_a_mapped_address_has_the_physical_address_of_its_page(geometry: Geometry, arch: Architecture) -> None:
    tables = PageTableWriter64(geometry, arch)
    page = geometry.page_bytes
    tables.map(ADDRESS & -page, PTE)
    tables.map((ADDRESS & -page) + page, 0xC00000000004018E)
    walk = walk_of(tables)
    assert walk(ADDRESS & -page) == 0x12340000
    assert walk((ADDRESS & -page) + page - 8) == 0x12340000 + page - 8
    assert walk((ADDRESS & -page) + page + 0x567) == 0x40567
    for address in ((ADDRESS & -page) - 8, (ADDRESS & -page) + 2 * page):
        with pytest.raises(TranslationError, match=f"{address:016x} is not mapped"):
            walk(address)


@every_geometry
@pytest.mark.parametrize("level", [1, 2])
def test_a_huge_page_is_as_large_as_what_its_entry_covers(geometry: Geometry, level: int) -> None:
    """``vmap`` of 2M and 1G (radix), 16M in hash kernels: a leaf among the PMDs or PUDs."""
    tables = PageTableWriter64(geometry, PPC64LE)
    size_bytes = 1 << geometry.shift(level)
    physical = 0x4_0000_0000_0000
    tables.map(VMALLOC + size_bytes, VALID | LEAF | physical | 0x18E, level)
    walk = walk_of(tables)
    assert walk(VMALLOC + size_bytes) == physical
    assert walk(VMALLOC + 2 * size_bytes - 8) == physical + size_bytes - 8
    with pytest.raises(TranslationError):
        walk(VMALLOC + 2 * size_bytes)


@every_geometry
@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_a_leaf_that_is_not_present_maps_nothing(geometry: Geometry, level: int) -> None:
    tables = PageTableWriter64(geometry, PPC64)
    tables.map(ADDRESS, PTE & ~VALID, level)
    with pytest.raises(TranslationError, match="c008000000ab1234 is not mapped"):
        walk_of(tables)(ADDRESS)


@every_geometry
def test_the_lowest_table_holds_pages_alone(geometry: Geometry) -> None:
    """What is no leaf there leads nowhere, though it looks like a table."""
    tables = PageTableWriter64(geometry, PPC64)
    tables.map(ADDRESS, PTE & ~LEAF)
    with pytest.raises(TranslationError, match="is not mapped"):
        walk_of(tables)(ADDRESS)


@pytest.mark.parametrize("bit", [53, 54, 55, 57, 58, 59, 60, 61])
def test_bits_of_an_entry_that_hold_a_hash_slot_or_belong_to_software_are_no_address(bit: int) -> None:
    tables = PageTableWriter64(HASH_64K, PPC64)
    tables.map(ADDRESS, PTE | 1 << bit)
    assert walk_of(tables)(ADDRESS) == 0x12341234


@pytest.mark.parametrize("variable", LEVELS)
@pytest.mark.parametrize("bits", [17, 1 << 40, (1 << 64) - 1])
def test_an_absurd_index_size_is_told(variable: str, bits: int) -> None:
    tables = PageTableWriter64(RADIX_64K, PPC64LE)
    tables.map(ADDRESS, PTE)
    tables.kernel.words(tables.size_variable(variable), bits)
    with pytest.raises(TranslationError, match=f"__{variable}_index_size makes no sense"):
        walk_of(tables)(ADDRESS)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_table_that_cannot_be_read_is_no_unmapped_page(level: int) -> None:
    tables = PageTableWriter64(RADIX_4K, PPC64LE)
    tables.map(ADDRESS, PTE)
    tables.kernel.lose(PAGE_OFFSET_64 + tables.table(ADDRESS, level) + 8 * RADIX_4K.index(ADDRESS, level))
    with pytest.raises(PageError):
        walk_of(tables)(ADDRESS)


def test_a_table_beyond_all_memory_is_none() -> None:
    tables = PageTableWriter64(RADIX_64K, PPC64)
    tables.map(ADDRESS, 0x8FFFFFFFFFFFFF00, 3)
    with pytest.raises(PageError):
        walk_of(tables)(ADDRESS)


def test_a_directory_that_cannot_be_read_says_so() -> None:
    tables = PageTableWriter64(RADIX_64K, PPC64)
    tables.kernel.lose(DIRECTORY)
    with pytest.raises(PageError):
        walk_of(tables)(ADDRESS)


@both_orders
@pytest.mark.parametrize("address", [0x12341234, 0x0008000000AB1234, 0x4008000000AB1234])
def test_an_address_below_the_kernels_own_is_never_looked_up_in_its_tables(address: int, arch: Architecture) -> None:
    """Its index bits are those of a kernel address: radix tables map the whole linear map from index 0 on."""
    tables = PageTableWriter64(RADIX_64K, arch)
    tables.map(ADDRESS, PTE)
    tables.map(PAGE_OFFSET_64, VALID | LEAF | 0x18E, 2)
    with pytest.raises(TranslationError, match=f"{address:016x} is not mapped"):
        walk_of(tables)(address)


@pytest.mark.parametrize("missing", ["swapper_pg_dir", *(f"__{level}_index_size" for level in LEVELS)])
def test_without_directory_or_index_sizes_there_is_no_walk(missing: str) -> None:
    tables = PageTableWriter64(RADIX_64K, PPC64LE)
    symbols = SymbolsOf({name: at for name, at in tables.symbols.variables.items() if name != missing})
    assert PPC64LE.page_walk(tables.kernel.linear, symbols, tables.kernel.memory(), 1 << 16) is None


@given(
    geometry=st.sampled_from(GEOMETRIES),
    little=st.booleans(),
    pages=st.dictionaries(st.integers(0, 15), st.integers(0, 0xBFF), min_size=1, max_size=4),
    step=st.sampled_from((1, 32, 1 << 9, 1 << 18)),
    offset=st.integers(0, (1 << 16) - 1),
)
def test_what_was_mapped_is_translated_and_nothing_else(
    geometry: Geometry, little: bool, pages: dict[int, int], step: int, offset: int
) -> None:
    tables = PageTableWriter64(geometry, PPC64LE if little else PPC64)
    offset %= geometry.page_bytes
    for number, frame in pages.items():
        tables.map(VMALLOC + number * step * geometry.page_bytes, VALID | LEAF | frame * geometry.page_bytes | 0x18E)
    walk = walk_of(tables)
    for number in range(16):
        address = VMALLOC + number * step * geometry.page_bytes + offset
        if number in pages:
            assert pages[number] * geometry.page_bytes + offset == walk(address)
        else:
            with pytest.raises(TranslationError):
                walk(address)


@both_orders
@pytest.mark.parametrize("page_bytes", [1 << 12, 1 << 16])
def test_the_linear_map_ends_with_the_memory_that_the_dump_has(page_bytes: int, arch: Architecture) -> None:
    container = FakeContainer(container_facts(page_bytes, arch=arch))
    linear = arch.find_linear_map(PhysicalMemory(container, Budget()), ())
    assert linear is not None
    assert (linear.offset, linear.start) == (PAGE_OFFSET_64, PAGE_OFFSET_64)
    assert linear.end == PAGE_OFFSET_64 + page_bytes * container.facts.max_pfn
