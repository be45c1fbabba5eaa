"""kallsyms out of a dump are a stranger's: they are refused with a reason, and never followed without end."""

import contextlib
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from crashbeam.vmcore.errors import SymbolError, VmcoreError
from crashbeam.vmcore.symbols import kallsyms, kallsyms_search
from crashbeam.vmcore.symbols.kallsyms import KallsymsTables, WordFormat, read_kallsyms, tables_of_vmcoreinfo
from crashbeam.vmcore.symbols.kallsyms_search import search_kallsyms
from tests.builders.kallsyms import FakeMemory, KallsymsBuilder, Order
from tests.test_kallsyms_reading import BASE, symbols_of

FORM = WordFormat(8, "big")
AT = BASE[8] + 0x1000


def written(order: Order = "offsets behind") -> tuple[bytearray, KallsymsTables, dict[str, int]]:
    builder = KallsymsBuilder(symbols_of(8), order=order)
    blob = bytearray(builder.build(AT))
    tables = tables_of_vmcoreinfo(FakeMemory({AT: bytes(blob)}).read, FORM, builder.labels)
    assert tables is not None
    return blob, tables, builder.labels


def read(blob: bytes | bytearray, tables: KallsymsTables) -> None:
    read_kallsyms(FakeMemory({AT: bytes(blob) + bytes(8192)}).read, FORM, tables)


def test_the_tables_are_whole_before_they_are_damaged() -> None:
    blob, tables, _ = written()
    read(blob, tables)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tables: replace(tables, count=0), "number of symbols"),
        (lambda tables: replace(tables, count=kallsyms.MAX_SYMBOLS + 1), "number of symbols"),
        (lambda tables: replace(tables, count=tables.count - 1), "markers|order"),
        (lambda tables: replace(tables, names=tables.names - 8), "markers|beyond"),
        (lambda tables: replace(tables, names=tables.token_table), "impossible order"),
        (lambda tables: replace(tables, names=tables.token_table - kallsyms.MAX_NAMES_BYTES - 8), "impossible order"),
        (lambda tables: replace(tables, token_index=tables.token_table), "impossible order"),
        (lambda tables: replace(tables, token_index=tables.token_table + (1 << 17)), "impossible order"),
        (lambda tables: replace(tables, token_index=tables.token_index - 64), "token table"),
        (lambda tables: replace(tables, token_index=tables.token_index + 8), "token table"),
        (lambda tables: replace(tables, values=tables.values - 4), "not in order"),
        (lambda tables: replace(tables, relative_base=None), "not in order"),
    ],
)
def test_tables_that_are_elsewhere_are_refused(
    change: Callable[[KallsymsTables], KallsymsTables], message: str
) -> None:
    blob, tables, _ = written()
    with pytest.raises(SymbolError, match=message):
        read(blob, change(tables))


@pytest.mark.parametrize(
    ("label", "offset", "value", "message"),
    [
        ("kallsyms_names", 0, b"\x00", "markers|beyond|impossible length"),
        ("kallsyms_names", 0, b"\xff\xff", "markers|beyond"),
        ("kallsyms_markers", 0, b"\x00\x00\x00\x01", "markers"),
        ("kallsyms_markers", 4, b"\x00\x00\x00\x01", "markers"),
        ("kallsyms_token_table", 0, b"\x00", "token table"),
        ("kallsyms_token_index", 2, b"\xff\xff", "token table"),
        ("kallsyms_offsets", 8, b"\xff\xff\xff\xff", "not in order"),
        ("kallsyms_relative_base", 0, b"\xff\xff\xff\xff\xff\xff\xff\xff", "not in order"),
    ],
)
def test_damaged_tables_are_refused(label: str, offset: int, value: bytes, message: str) -> None:
    blob, tables, labels = written()
    at = labels[label] - AT + offset
    blob[at : at + len(value)] = value
    with pytest.raises(SymbolError, match=message):
        read(blob, tables)


def tables_by_hand(tokens: list[bytes], records: bytes, count: int, markers: list[int]) -> tuple[bytes, KallsymsTables]:
    names = records + bytes(-len(records) % 8) + struct.pack(f">{len(markers)}I", *markers)
    names += bytes(-len(names) % 8)
    table = b"\0".join(tokens) + b"\0"
    table += bytes(-len(table) % 8)
    starts = [sum(len(token) + 1 for token in tokens[:number]) for number in range(256)]
    index_at = AT + len(names) + len(table)
    values = bytes(4 * count)
    blob = names + table + struct.pack(">256H", *starts) + values + bytes(-len(values) % 8 + 8)
    base_at = index_at + 512 + len(values) + -len(values) % 8
    return blob, KallsymsTables(count, AT, AT + len(names), index_at, index_at + 512, base_at)


def test_a_name_of_512_bytes_is_longer_than_a_kernel_allows() -> None:
    tokens = [b"t", b"x" * 255, b"y", *[b""] * 253]
    read(*tables_by_hand(tokens, bytes((4, 0, 1, 1, 2)), 1, [0]))
    with pytest.raises(SymbolError, match="impossible length"):
        read(*tables_by_hand(tokens, bytes((5, 0, 1, 1, 2, 2)), 1, [0]))


@pytest.mark.parametrize("record", [b"\x00", b"\x01\x00", b"\x01\x02"])
def test_a_record_without_type_and_name_is_refused(record: bytes) -> None:
    with pytest.raises(SymbolError, match="impossible length"):
        read(*tables_by_hand([b"t", b"name", *[b""] * 254], record, 1, [0]))


def test_a_token_that_is_longer_than_any_name_is_refused() -> None:
    with pytest.raises(SymbolError, match="longer than any name"):
        read(*tables_by_hand([b"t", b"x" * 513, *[b""] * 254], b"\x02\x00\x01", 1, [0]))


def test_names_that_would_fill_the_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = [b"t", b"x" * 400, *[b""] * 254]
    count = 256
    blob, tables = tables_by_hand(tokens, b"\x02\x00\x01" * count, count, [0])
    read(blob, tables)
    monkeypatch.setattr(kallsyms, "_MAX_EXPANDED_BYTES", 400 * count)
    with pytest.raises(SymbolError, match="longer than any kernel"):
        read(blob, tables)


@given(
    changes=st.lists(st.tuples(st.integers(0, 1 << 14), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6),
    order=st.sampled_from(["offsets behind", "offsets before"]),
    cut=st.integers(0, 1 << 14),
)
def test_whatever_is_changed_it_is_read_or_refused(changes: list[tuple[int, bytes]], order: Order, cut: int) -> None:
    blob, tables, _ = written(order)
    for at, value in changes:
        place = at % len(blob)
        blob[place : place + len(value)] = value[: len(blob) - place]
    with contextlib.suppress(VmcoreError):
        read(blob[: max(cut, 1)], tables)
    with contextlib.suppress(VmcoreError):
        read(blob, tables)
    memory = FakeMemory({AT - 0x1000: bytes(0x1000), AT: bytes(blob)})
    with contextlib.suppress(SymbolError), pytest.MonkeyPatch.context() as patch:
        patch.setattr(kallsyms_search, "MAX_IMAGE_BYTES", 1 << 16)
        search_kallsyms(memory.read, memory.read, FORM, BASE[8])


@given(
    numbers=st.lists(st.integers(0, (1 << 64) - 1), min_size=6, max_size=6),
    near=st.lists(st.integers(-64, 1 << 13), min_size=6, max_size=6),
    which=st.integers(0, 63),
)
def test_tables_at_any_addresses_are_read_or_refused(numbers: list[int], near: list[int], which: int) -> None:
    blob, _, _ = written()
    chosen = [numbers[place] if which >> place & 1 else AT + near[place] for place in range(6)]
    with contextlib.suppress(VmcoreError):
        read(blob, KallsymsTables(chosen[0] % 700, *chosen[1:]))


def test_an_image_made_of_rows_that_could_be_markers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many rows of rising numbers before a sound token table; none leads to names."""
    monkeypatch.setattr(kallsyms_search, "MAX_IMAGE_BYTES", 1 << 19)
    builder = KallsymsBuilder(symbols_of(8))
    blob = bytearray(builder.build(AT + 0x40000))
    names, table = (builder.labels[name] - AT - 0x40000 for name in ("kallsyms_names", "kallsyms_token_table"))
    blob[names:table] = bytes(table - names)
    rows = struct.pack(">4I", 0, 600, 1200, 1800) * (0x40000 // 16)
    memory = FakeMemory({AT - 0x1000: bytes(0x1000), AT: rows + bytes(blob)})
    with pytest.raises(SymbolError, match="no kallsyms"):
        search_kallsyms(memory.read, memory.read, FORM, BASE[8])
    assert memory.reads < 8 << 20
