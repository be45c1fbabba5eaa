"""A kernel's kallsyms give each symbol's address, type and name, in every layout that kernels have had."""

import struct

import pytest

from crashbeam.vmcore.symbols.compiled import ByteOrder
from crashbeam.vmcore.symbols.kallsyms import Kallsyms, KallsymsTables, WordFormat, read_kallsyms, tables_of_vmcoreinfo
from tests.builders.kallsyms import FakeMemory, KallsymsBuilder, Order, Symbol

BASE = {4: 0xC0000000, 8: 0xC000000000000000}
TABLES_AT = 0x500000
BIG: ByteOrder = "big"
LITTLE: ByteOrder = "little"


def symbols_of(word_bytes: int, count: int = 600) -> list[Symbol]:
    base = BASE[word_bytes]
    first = [(base, "T_stext"), (base, "T_text"), (base + 0x12340, "Tstart_kernel"), (base + 0x20000, "t.function")]
    return [*first, *((base + 0x30000 + 16 * number, f"dfunction_{number}") for number in range(count - len(first)))]


def read_back(builder: KallsymsBuilder, pad: int = 4096) -> Kallsyms:
    """What is read of the builder's tables, found by their labels."""
    memory = FakeMemory()
    address = BASE[builder.word_bytes] + TABLES_AT
    memory.put(address, builder.build(address) + bytes(pad))
    form = WordFormat(builder.word_bytes, builder.byte_order)
    tables = tables_of_vmcoreinfo(memory.read, form, builder.labels)
    assert tables is not None
    return read_kallsyms(memory.read, form, tables)


@pytest.mark.parametrize("order", ["offsets behind", "offsets before", "addresses before", "addresses behind"])
@pytest.mark.parametrize(("word_bytes", "byte_order"), [(4, BIG), (8, BIG), (8, LITTLE)])
@pytest.mark.parametrize("sequences", [False, True])
def test_every_symbol_is_read_whatever_the_order_of_the_tables(
    word_bytes: int, byte_order: ByteOrder, order: Order, sequences: bool
) -> None:
    symbols = symbols_of(word_bytes)
    found = read_back(KallsymsBuilder(symbols, word_bytes, byte_order, order, sequences=sequences))
    assert list(zip(found.addresses, found.entries, strict=True)) == symbols


@pytest.mark.parametrize("length", [126, 127, 128, 129, 255, 256, 511])
def test_names_of_more_than_127_tokens_have_a_longer_header(length: int) -> None:
    name = "".join(chr(ord("b") + number % 17) for number in range(length))
    symbols = [(BASE[8], "T_stext"), (BASE[8] + 16, "t" + name), (BASE[8] + 32, "Tstart_kernel")]
    assert read_back(KallsymsBuilder(symbols)).entries == ["T_stext", "t" + name, "Tstart_kernel"]


def test_as_many_symbols_as_one_marker_stands_for_and_one_more() -> None:
    for count in (255, 256, 257, 512, 513):
        assert len(read_back(KallsymsBuilder(symbols_of(4, count), 4)).entries) == count


def test_markers_of_words_are_those_of_kernels_before_4_20() -> None:
    symbols = symbols_of(8)
    builder = KallsymsBuilder(symbols, 8, "little", "offsets before", wide=True)
    assert read_back(builder).entries == [entry for _, entry in symbols]


def test_names_that_are_no_ascii_are_read() -> None:
    symbols = [(BASE[4], "T_stext"), (BASE[4] + 4, "tna\u00efve"), (BASE[4] + 8, "t\u03bcs_to_ns")]
    assert read_back(KallsymsBuilder(symbols, 4)).entries == ["T_stext", "tna\u00efve", "t\u03bcs_to_ns"]


def test_tables_written_by_hand() -> None:
    """A token table of four texts, and a record of four tokens."""
    tokens = [b"T", b"st", b"art_", b"kernel", *[b""] * 252]
    starts = [sum(len(token) + 1 for token in tokens[:number]) for number in range(256)]
    assert starts[:5] == [0, 2, 5, 10, 17]
    names = bytes.fromhex("0400010203") + bytes(3)
    markers = bytes(4)
    table = b"\0".join(tokens) + b"\0"
    table += bytes(-len(table) % 4)
    index = struct.pack(">256H", *starts)
    memory = FakeMemory({0xC0500000: names + markers + table + index + struct.pack(">II", 0x12340, 0xC0000000)})
    table_at = 0xC0500000 + 12
    index_at = table_at + len(table)
    tables = KallsymsTables(1, 0xC0500000, table_at, index_at, index_at + 512, index_at + 516)
    assert read_kallsyms(memory.read, WordFormat(4, "big"), tables) == Kallsyms([0xC0012340], ["Tstart_kernel"])


def test_a_long_header_counts_its_low_7_bits_and_the_next_byte() -> None:
    """``85 01`` is 133 tokens."""
    symbols = [(BASE[4], "T" + "q" * 132)]
    assert KallsymsBuilder(symbols, 4).build(0)[4:7] == b"\x85\x01T"
    assert read_back(KallsymsBuilder(symbols, 4)).entries == ["T" + "q" * 132]


def test_vmcoreinfo_that_does_not_name_every_table_names_none() -> None:
    builder = KallsymsBuilder(symbols_of(8))
    memory = FakeMemory({BASE[8] + TABLES_AT: builder.build(BASE[8] + TABLES_AT)})
    form = WordFormat(8, "big")
    for missing in ("kallsyms_num_syms", "kallsyms_names", "kallsyms_token_table", "kallsyms_offsets"):
        symbols = {name: address for name, address in builder.labels.items() if name != missing}
        assert tables_of_vmcoreinfo(memory.read, form, symbols) is None
    assert tables_of_vmcoreinfo(memory.read, form, {}) is None
