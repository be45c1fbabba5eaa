"""Where VMCOREINFO does not name kallsyms, they are found in the image by what they look like."""

import random
import struct

import pytest

from crashbeam.vmcore.errors import SymbolError, TranslationError
from crashbeam.vmcore.symbols.compiled import ByteOrder
from crashbeam.vmcore.symbols.image_search import find_bytes
from crashbeam.vmcore.symbols.kallsyms import WordFormat
from crashbeam.vmcore.symbols.kallsyms_search import search_kallsyms
from tests.builders.kallsyms import FakeMemory, KallsymsBuilder, Order
from tests.test_kallsyms_reading import BASE, BIG, LITTLE, symbols_of

LETTERS = b"".join(bytes((letter, 0)) for letter in range(ord("a"), ord("z") + 1))


def image_of(builder: KallsymsBuilder, at: int = 0x31008, filling: bytes | None = None) -> FakeMemory:
    """A kernel's image: its tables lie in bytes that are no tables."""
    base = BASE[builder.word_bytes]
    tables = builder.build(base + at)
    if filling is None:
        filling = random.Random(1).randbytes(at)
    behind = random.Random(2).randbytes(0x42000 - at - len(tables))
    return FakeMemory({base: filling + tables + behind})


def searched(builder: KallsymsBuilder, memory: FakeMemory) -> list[str]:
    form = WordFormat(builder.word_bytes, builder.byte_order)
    found = search_kallsyms(memory.read, memory.read, form, BASE[builder.word_bytes])
    assert list(zip(found.addresses, found.entries, strict=True)) == builder.symbols
    return list(found.entries)


@pytest.mark.parametrize("order", ["offsets behind", "offsets before", "addresses before"])
@pytest.mark.parametrize(("word_bytes", "byte_order"), [(4, BIG), (8, BIG), (8, LITTLE)])
@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("count", [257, 512, 600, 1111])
def test_tables_are_found_in_every_layout(
    word_bytes: int, byte_order: ByteOrder, order: Order, sequences: bool, count: int
) -> None:
    builder = KallsymsBuilder(symbols_of(word_bytes, count), word_bytes, byte_order, order, sequences=sequences)
    assert len(searched(builder, image_of(builder))) == count


@pytest.mark.parametrize("byte_order", [BIG, LITTLE])
@pytest.mark.parametrize("order", ["offsets before", "addresses before"])
def test_tables_with_numbers_of_words_are_found(byte_order: ByteOrder, order: Order) -> None:
    builder = KallsymsBuilder(symbols_of(8), 8, byte_order, order, wide=True)
    assert len(searched(builder, image_of(builder))) == 600


@pytest.mark.parametrize("at", [0x10000 - 8 * number for number in (0, 1, 400, 1100, 1300, 1400, 1500)])
def test_tables_are_found_across_blocks_of_the_search(at: int) -> None:
    builder = KallsymsBuilder(symbols_of(8), 8)
    assert searched(builder, image_of(builder, at))


@pytest.mark.parametrize("filling", [bytes(0x31008), LETTERS * 2000])
def test_an_image_full_of_zeros_or_letters_does_not_mislead(filling: bytes) -> None:
    builder = KallsymsBuilder(symbols_of(4), 4)
    assert searched(builder, image_of(builder, len(filling) & ~3, filling[: len(filling) & ~3]))


def test_letters_that_no_token_table_follows_are_passed_over() -> None:
    builder = KallsymsBuilder(symbols_of(4), 4)
    filling = LETTERS + b"\xff" * 0x20000
    assert searched(builder, image_of(builder, len(filling) & ~3, filling[: len(filling) & ~3]))


@pytest.mark.parametrize("order", ["offsets behind", "offsets before"])
@pytest.mark.parametrize("sequences", [False, True])
def test_long_names_behind_the_last_marker_are_walked(order: Order, sequences: bool) -> None:
    symbols = symbols_of(8, 300)
    symbols += [(symbols[-1][0] + 16 * number, "t" + "q" * (100 + 50 * number)) for number in range(1, 9)]
    builder = KallsymsBuilder(symbols, order=order, sequences=sequences)
    assert searched(builder, image_of(builder))


def test_rows_of_numbers_that_are_no_markers_are_passed_over() -> None:
    """One that would need more names than there is room for, and one before which a number leads nowhere."""
    builder = KallsymsBuilder(symbols_of(8), sequences=True, order="offsets before")
    image = bytearray(image_of(builder, 0x10000).parts[BASE[8]])
    table_at = builder.labels["kallsyms_token_table"] - BASE[8]
    struct.pack_into(">2I", image, table_at - 1544, 0, 131000)
    struct.pack_into(">3I", image, table_at - 1536, 0, 60000, 120000)
    struct.pack_into(">I", image, table_at - 1536 - 60000 - 16, 508)
    assert searched(builder, FakeMemory({BASE[8]: bytes(image)}))


def test_tables_of_another_kernel_are_passed_over() -> None:
    """An image may hold those of a kernel that it was packed with: the start is no address of theirs."""
    other = KallsymsBuilder([(address + 0x100, entry) for address, entry in symbols_of(4)], 4)
    filling = bytes(0x1000) + other.build(BASE[4] + 0x1000)
    builder = KallsymsBuilder(symbols_of(4), 4)
    assert searched(builder, image_of(builder, 0x20000, filling + bytes(0x20000 - len(filling))))


def test_what_was_only_looked_through_is_not_needed() -> None:
    """``read`` meets the tables alone, and with those pages and no others the search finds the same."""
    builder = KallsymsBuilder(symbols_of(8, 1111), 8)
    memory = image_of(builder)
    pages: set[int] = set()

    def read(address: int, size_bytes: int) -> bytes:
        pages.update(range(address >> 12, (address + size_bytes + 4095) >> 12))
        return memory.read(address, size_bytes)

    form = WordFormat(8, "big")
    found = search_kallsyms(read, memory.read, form, BASE[8])
    assert pages <= set(range((BASE[8] >> 12) + 0x31, (BASE[8] >> 12) + 0x42))
    left = FakeMemory({page << 12: memory.read(page << 12, 4096) for page in pages})
    assert search_kallsyms(left.read, left.read, form, BASE[8]) == found


def test_absent_pages_before_the_tables_are_passed_over() -> None:
    builder = KallsymsBuilder(symbols_of(8), 8)
    image = image_of(builder).parts[BASE[8]]
    memory = FakeMemory({BASE[8]: image[:0x2000], BASE[8] + 0x30000: image[0x30000:]})
    assert searched(builder, memory)


@pytest.mark.parametrize("page", [0x31, 0x32, 0x33, 0x34])
def test_tables_that_are_not_whole_are_not_found(page: int) -> None:
    builder = KallsymsBuilder(symbols_of(8, 1111), 8)
    image = image_of(builder).parts[BASE[8]]
    assert max(builder.labels.values()) > BASE[8] + 0x34000
    lost, behind = page << 12, page + 1 << 12
    memory = FakeMemory({BASE[8]: image[:lost], BASE[8] + behind: image[behind:]})
    with pytest.raises(SymbolError, match="no kallsyms"):
        search_kallsyms(memory.read, memory.read, WordFormat(8, "big"), BASE[8])


def test_the_search_reads_no_further_than_a_kernel_can_be_large() -> None:
    sizes: list[int] = []

    def read(address: int, size_bytes: int) -> bytes:
        sizes.append(size_bytes)
        return bytes(size_bytes)

    with pytest.raises(SymbolError, match="no kallsyms"):
        search_kallsyms(read, read, WordFormat(8, "big"), BASE[8])
    assert sum(sizes) == 64 << 20


def test_memory_that_holds_nothing_has_no_kallsyms() -> None:
    def read(address: int, size_bytes: int) -> bytes:
        raise TranslationError("nothing")

    with pytest.raises(SymbolError, match="no kallsyms"):
        search_kallsyms(read, read, WordFormat(4, "big"), BASE[4])


def test_bytes_are_found_between_start_and_end_alone() -> None:
    memory = FakeMemory({0x1000: b"wanted" + bytes(0xFFFC) + b"wanted" + bytes(0x10000)})
    assert list(find_bytes(memory.read, b"wanted", 0x1000, 0x10008)) == [0x1000, 0x11002]
    assert list(find_bytes(memory.read, b"wanted", 0x1000, 0x10007)) == [0x1000]
    assert list(find_bytes(memory.read, b"wanted", 0x1001, 0x10007)) == [0x11002]
    assert list(find_bytes(memory.read, b"wanted", 0x1000, 0)) == []
