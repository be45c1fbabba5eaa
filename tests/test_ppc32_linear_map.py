"""The linear map is where a known text lies; its end is ``high_memory``."""

import pytest

from crashbeam.schemas.codes import FailureCode
from crashbeam.vmcore.arch import choose_architecture
from crashbeam.vmcore.arch.architecture import LinearMap
from crashbeam.vmcore.arch.ppc32 import PPC32
from crashbeam.vmcore.errors import FormatError, PageError
from crashbeam.vmcore.limits import Budget
from crashbeam.vmcore.memory import PhysicalMemory
from tests.builders.kernel_memory import MadeUpKernel, SymbolsOf

RELEASE = b"6.12.0-board\0"


@pytest.mark.parametrize("physical_start", [0, 0x100000, 0x4000000, 0x20000000, 0x7FF00000])
def test_a_kernel_away_from_physical_zero_is_found(physical_start: int) -> None:
    """RELOCATABLE kernels, and crash kernels that were loaded into their reserved memory."""
    kernel = MadeUpKernel(physical_start=physical_start)
    kernel.put(0xC0701086, RELEASE)
    physical = PhysicalMemory(kernel.container, Budget())
    found = PPC32.find_linear_map(physical, [(0xC0701086, RELEASE)])
    assert found == LinearMap(0xC0000000 - physical_start, 0xC0000000, 1 << 32)


@pytest.mark.parametrize("page_offset", [0x80000000, 0x40000000, 0xB0000000, 0x70000000])
def test_other_splits_of_the_address_space_are_found(page_offset: int) -> None:
    kernel = MadeUpKernel()
    kernel.put_physical(0x701086, RELEASE)
    physical = PhysicalMemory(kernel.container, Budget())
    evidence = [(page_offset + 0x701086, RELEASE)]
    assert PPC32.find_linear_map(physical, evidence) == LinearMap(page_offset, page_offset, 1 << 32)


def test_a_text_over_a_page_boundary_is_evidence_as_well() -> None:
    kernel = MadeUpKernel()
    kernel.put(0xC0701FFA, RELEASE)
    physical = PhysicalMemory(kernel.container, Budget())
    assert PPC32.find_linear_map(physical, [(0xC0701FFA, RELEASE)]) is not None
    assert set(physical.needed) == {0x701, 0x702}


def test_the_second_evidence_counts_where_the_first_is_lost() -> None:
    kernel = MadeUpKernel()
    kernel.put(0xC0705000, b"Linux version 6.12")
    physical = PhysicalMemory(kernel.container, Budget())
    evidence = [(0xC0701086, RELEASE), (0xC0705000, b"Linux version 6.12")]
    assert PPC32.find_linear_map(physical, evidence) is not None


def test_without_the_text_anywhere_there_is_no_map_and_no_page_is_needed() -> None:
    kernel = MadeUpKernel()
    kernel.put(0xC0701086, b"another kernel\0")
    physical = PhysicalMemory(kernel.container, Budget())
    assert PPC32.find_linear_map(physical, [(0xC0701086, RELEASE)]) is None
    assert physical.needed == {}


def test_high_memory_ends_the_map() -> None:
    kernel = MadeUpKernel()
    kernel.words(0xC0702110, 0xC8000000)
    symbols = SymbolsOf({"high_memory": 0xC0702110})
    whole = LinearMap(0xC0000000, 0xC0000000, 1 << 32)
    assert PPC32.bound_linear_map(whole, symbols, kernel.memory()) == LinearMap(0xC0000000, 0xC0000000, 0xC8000000)


@pytest.mark.parametrize("high_memory", [0, 0xC0000000, 0x08000000])
def test_a_high_memory_that_makes_no_sense_is_not_believed(high_memory: int) -> None:
    kernel = MadeUpKernel()
    kernel.words(0xC0702110, high_memory)
    whole = LinearMap(0xC0000000, 0xC0000000, 1 << 32)
    assert PPC32.bound_linear_map(whole, SymbolsOf({"high_memory": 0xC0702110}), kernel.memory()) == whole
    assert PPC32.bound_linear_map(whole, SymbolsOf(), kernel.memory()) == whole


def test_a_high_memory_that_cannot_be_read_says_so() -> None:
    whole = LinearMap(0xC0000000, 0xC0000000, 1 << 32)
    with pytest.raises(PageError):
        PPC32.bound_linear_map(whole, SymbolsOf({"high_memory": 0xC0702110}), MadeUpKernel().memory())


def test_there_is_no_little_endian_32_bit_kernel() -> None:
    assert choose_architecture(4, "big") is PPC32
    with pytest.raises(FormatError, match="32-bit little-endian") as caught:
        choose_architecture(4, "little")
    assert caught.value.code is FailureCode.UNSUPPORTED


@pytest.mark.parametrize(
    ("trap", "name"),
    [
        (0x300, "Data Access"),
        (0x501, "External Interrupt"),
        (0x2070, "Doorbell"),
        (0x7D2, "Debug"),
        (0x7D8, "Debug"),
        (0x102, "Critical Input"),
        (0x204, "Machine Check"),
        (0x3202, "Watchdog"),
        (0x1022, "Watchdog"),
        (0x2082, "Doorbell Critical"),
        (0x0, "Stack Overflow"),
        (0x12340, None),
    ],
)
def test_vectors_have_the_names_of_their_trap_words(trap: int, name: str | None) -> None:
    assert name == PPC32.vector_name(trap)
