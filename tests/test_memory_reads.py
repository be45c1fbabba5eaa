"""Reads by kernel address: over page boundaries, of pages that are missing, excluded or unmapped."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crashbeam.vmcore.errors import LimitError, PageError, PageStatus, TranslationError
from crashbeam.vmcore.limits import Budget
from crashbeam.vmcore.memory import KernelMemory, PhysicalMemory
from tests.builders.kernel_memory import FakeContainer, MadeUpKernel, container_facts

PAGE = 4096
BASE = 0xC0000000
CONTENT = bytes((place * 7 + (place >> 8)) & 0xFF for place in range(4 * PAGE))


def four_pages() -> MadeUpKernel:
    made = MadeUpKernel()
    made.put(BASE, CONTENT)
    return made


@given(start=st.integers(0, 3 * PAGE), size=st.integers(0, PAGE))
def test_any_read_gives_the_bytes_that_lie_there(start: int, size: int) -> None:
    memory = four_pages().memory()
    expected = CONTENT[start : start + size]
    assert expected == memory.read(BASE + start, size)
    assert expected == memory.read_code(BASE + start, size)
    assert expected == memory.physical.read(start, size)


def test_a_read_over_three_pages() -> None:
    memory = four_pages().memory()
    assert memory.read(BASE + 100, 2 * PAGE + 50) == CONTENT[100 : 2 * PAGE + 150]
    assert memory.physical.read(100, 2 * PAGE + 50) == CONTENT[100 : 2 * PAGE + 150]
    assert memory.read_code(BASE + 100, 2 * PAGE + 50) == CONTENT[100 : 2 * PAGE + 150]


@given(start=st.integers(0, 15 * PAGE), size=st.integers(0, 2 * PAGE))
def test_pages_of_a_kernel_may_be_parts_of_the_blocks_of_a_dump(start: int, size: int) -> None:
    """QEMU writes blocks of 64 KiB; a guest with 4K pages may map each of the 16 pages in one anywhere."""
    block = 16 * PAGE
    made = MadeUpKernel(block)
    content = [bytes([number]) * PAGE for number in range(32)]
    made.put_physical(0, b"".join(content))
    frames = [(number * 7 + 3) % 32 for number in range(18)]
    memory = KernelMemory(
        PhysicalMemory(made.container, Budget()),
        lambda address: frames[(address - BASE) // PAGE] * PAGE + address % PAGE,
        word_bytes=4,
        byte_order="big",
        page_bytes=PAGE,
    )
    expected = b"".join(content[frame] for frame in frames)[start : start + size]
    assert expected == memory.read(BASE + start, size)
    assert expected == memory.read_code(BASE + start, size)
    assert set(memory.physical.needed) <= {0, 1}


def test_numbers_of_every_size_are_big_endian() -> None:
    made = MadeUpKernel()
    made.put(BASE + 0x10, bytes.fromhex("fffffffe0102030480"))
    memory = made.memory()
    assert memory.word(BASE + 0x10) == 0xFFFFFFFE
    assert memory.u32(BASE + 0x12) == 0xFFFE0102
    assert memory.i32(BASE + 0x10) == -2
    assert memory.u16(BASE + 0x13) == 0xFE01
    assert memory.number(BASE + 0x14, 5) == 0x0102030480
    assert memory.words(BASE + 0x10, 2) == (0xFFFFFFFE, 0x01020304)
    assert memory.code_words(BASE + 0x10, 2) == (0xFFFFFFFE, 0x01020304)


def test_a_word_of_a_little_endian_64_bit_kernel() -> None:
    made = MadeUpKernel()
    made.put(BASE, bytes.fromhex("0807060504030201"))
    memory = KernelMemory(
        PhysicalMemory(made.container, Budget()), lambda address: address - BASE, word_bytes=8, byte_order="little"
    )
    assert memory.word(BASE) == 0x0102030405060708
    assert memory.u32(BASE) == 0x05060708
    assert memory.number(BASE, 2) == 0x0708
    assert memory.code_words(BASE, 2) == (0x05060708, 0x01020304)


def test_a_word_that_is_not_aligned_is_none() -> None:
    with pytest.raises(TranslationError, match="no aligned word"):
        four_pages().memory().word(BASE + 2)


@pytest.mark.parametrize("address", [-4096, 1 << 32, 0x10000000])
def test_an_address_outside_the_map_is_no_memory(address: int) -> None:
    memory = four_pages().memory()
    with pytest.raises(TranslationError):
        memory.word(address)
    with pytest.raises(TranslationError):
        memory.read_code(address, 4)


def test_text_ends_at_its_nul_or_at_the_limit_also_over_a_page_boundary() -> None:
    made = MadeUpKernel()
    made.put(BASE + PAGE - 4, b"swapper/0\0rest" + bytes(PAGE))
    memory = made.memory()
    assert memory.text(BASE + PAGE - 4, 64) == b"swapper/0"
    assert memory.text(BASE + PAGE - 4, 6) == b"swappe"
    assert memory.text(BASE + PAGE - 4, 4) == b"swap"
    assert memory.text(BASE + PAGE + 5, 64) == b""


def test_text_that_runs_into_a_missing_page_is_an_error_not_a_shorter_text() -> None:
    made = MadeUpKernel()
    made.put(BASE + PAGE - 4, b"swap")
    with pytest.raises(PageError):
        made.memory().text(BASE + PAGE - 4, 64)


def excluded(dump_level: int | None, container: str = "kdump") -> KernelMemory:
    made = FakeContainer(container_facts(dump_level=dump_level, container=container), missing=PageStatus.EXCLUDED)
    physical = PhysicalMemory(made, Budget())
    return KernelMemory(physical, lambda address: address - BASE, word_bytes=4, byte_order="big")


@pytest.mark.parametrize(("dump_level", "container"), [(1, "kdump"), (31, "kdump"), (None, "elf"), (0, "elf")])
def test_an_excluded_page_of_kernel_data_reads_as_zeros_where_zero_pages_were_dropped(
    dump_level: int | None, container: str
) -> None:
    memory = excluded(dump_level, container)
    assert memory.word(BASE + 8) == 0
    assert memory.read(BASE + PAGE, 8) == bytes(8)
    assert memory.physical.zeros_assumed == {0, 1}
    assert memory.physical.needed == {0: PageStatus.EXCLUDED, 1: PageStatus.EXCLUDED}


@pytest.mark.parametrize("dump_level", [0, 2, 30, None])
def test_it_is_missing_where_zero_pages_were_kept(dump_level: int | None) -> None:
    memory = excluded(dump_level)
    with pytest.raises(PageError) as caught:
        memory.word(BASE)
    assert caught.value.status is PageStatus.EXCLUDED
    assert memory.physical.zeros_assumed == set()


def test_code_is_never_taken_for_zeros() -> None:
    memory = excluded(31)
    assert memory.word(BASE) == 0
    with pytest.raises(PageError):
        memory.read_code(BASE, 4)


@pytest.mark.parametrize("status", [PageStatus.LOST, PageStatus.CORRUPT, PageStatus.TRUNCATED, PageStatus.ABSENT])
def test_a_page_that_is_damaged_is_never_taken_for_zeros(status: PageStatus) -> None:
    made = FakeContainer(container_facts(dump_level=31), missing=status)
    physical = PhysicalMemory(made, Budget())
    with pytest.raises(PageError) as caught:
        physical.read(0, 4)
    assert caught.value.status is status
    assert physical.needed == {0: status}


def test_each_page_is_decoded_once_and_logged_in_the_order_of_need() -> None:
    made = four_pages()
    memory = made.memory()
    for address in (BASE + 2 * PAGE, BASE, BASE + 2 * PAGE + 8, BASE + 4):
        memory.word(address)
    memory.read_code(BASE, 8)
    assert made.container.reads == [2, 0]
    assert memory.physical.needed == {2: None, 0: None}


def test_a_missing_page_is_asked_for_once() -> None:
    made = four_pages()
    memory = made.memory()
    for _ in range(3):
        with pytest.raises(PageError):
            memory.word(BASE + 0x100000)
    assert made.container.reads == [0x100]


def test_the_cache_is_bounded_and_what_fell_out_is_read_again_but_needed_once() -> None:
    page_bytes = 1 << 18
    made = MadeUpKernel(page_bytes=page_bytes)
    for number in range(70):
        made.words(BASE + number * page_bytes, number)
    physical = PhysicalMemory(made.container, Budget())
    for number in (*range(70), 0):
        assert physical.read(number * page_bytes, 4) == number.to_bytes(4, "big")
    assert made.container.reads.count(0) == 2
    assert len(physical.needed) == 70


def test_translations_that_are_remembered_are_bounded() -> None:
    made = four_pages()
    physical = PhysicalMemory(made.container, Budget())
    memory = KernelMemory(physical, lambda address: address & (PAGE - 1), word_bytes=4, byte_order="big")
    for number in range(5000):
        assert memory.word(BASE + number * PAGE) == int.from_bytes(CONTENT[:4], "big")
        assert memory.read_code(BASE + number * PAGE, 4) == CONTENT[:4]
    assert made.container.reads == [0]


def test_pages_are_charged_to_the_budget() -> None:
    physical = PhysicalMemory(four_pages().container, Budget(decoded_bytes=2 * PAGE))
    physical.read(0, 2 * PAGE)
    with pytest.raises(LimitError):
        physical.read(2 * PAGE, 4)


def test_a_text_is_recognised_only_where_all_of_it_lies() -> None:
    physical = PhysicalMemory(four_pages().container, Budget())
    assert physical.holds(10, CONTENT[10:20])
    assert physical.holds(PAGE - 4, CONTENT[PAGE - 4 : PAGE + 4])
    assert not physical.holds(11, CONTENT[10:20])
    assert not physical.holds(-10, CONTENT[:10])
    assert not physical.holds(4 * PAGE - 4, CONTENT[4 * PAGE - 4 :] + b"more")
    assert set(physical.needed) == {0, 1}
