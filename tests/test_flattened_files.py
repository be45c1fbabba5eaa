"""Flattened files read in place: the same bytes as the file they would be restored to."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crashbeam.schemas.codes import FailureCode
from crashbeam.vmcore.byte_source import BufferSource
from crashbeam.vmcore.containers import flattened
from crashbeam.vmcore.containers.flattened import FlattenedSource
from crashbeam.vmcore.errors import FormatError, LimitError, TruncatedError
from crashbeam.vmcore.limits import Budget
from tests.builders.flattened_file import flat_header, flat_record, flatten, flatten_file


def opened(data: bytes, budget: Budget | None = None) -> FlattenedSource:
    return FlattenedSource(BufferSource(data), budget or Budget())


def restored(records: list[tuple[int, bytes]]) -> bytes:
    """What makedumpfile -R would write."""
    whole = bytearray(max((at + len(data) for at, data in records), default=0))
    for at, data in records:
        whole[at : at + len(data)] = data
    return bytes(whole)


def test_later_records_win_and_holes_are_zero() -> None:
    source = opened(flatten([(0, b"AAAA"), (8, b"BB"), (2, b"cc")]))

    assert source.size_bytes == 10
    assert source.read(0, 100) == b"AAcc\0\0\0\0BB"
    assert source.cut_reason is None


def test_a_later_record_inside_an_earlier_one_leaves_both_its_ends() -> None:
    source = opened(flatten([(0, b"AAAAAAAA"), (2, b"bb")]))

    assert source.read(0, 8) == b"AAbbAAAA"


def test_an_earlier_record_does_not_come_back_over_a_later_one_that_begins_before_it() -> None:
    source = opened(flatten([(4, b"aaaa"), (0, b"BBBBBB"), (5, b"c")]))

    assert source.read(0, 8) == b"BBBBBcaa"


def test_reads_end_with_the_file() -> None:
    source = opened(flatten([(0, b"0123456789")]))

    assert (source.read(8, 10), source.read(10, 1), source.read(1 << 62, 1)) == (b"89", b"", b"")


@given(
    st.lists(st.tuples(st.integers(0, 300), st.binary(min_size=1, max_size=60)), min_size=1, max_size=30),
    st.integers(0, 400),
    st.integers(0, 400),
)
def test_any_records_read_as_if_restored(records: list[tuple[int, bytes]], offset: int, size_bytes: int) -> None:
    source = opened(flatten(records))

    whole = restored(records)
    assert source.size_bytes == len(whole)
    assert source.read(offset, size_bytes) == whole[offset : offset + size_bytes]


@pytest.mark.parametrize("record_bytes", [1, 24, 127, 128, 5000])
def test_records_of_every_size_are_found(record_bytes: int) -> None:
    data = bytes(range(256)) * 40

    source = opened(flatten_file(data, record_bytes))

    assert source.read(0, len(data)) == data


def test_a_missing_end_record_is_named_and_the_rest_is_kept() -> None:
    source = opened(flatten([(0, b"AAAA")], end=b""))

    assert source.cut_reason == "the flattened file has no end record"
    assert source.read(0, 10) == b"AAAA"


def test_a_record_that_is_cut_keeps_what_is_there() -> None:
    whole = flatten([(0, b"AAAA"), (4, b"BBBBBBBB")], end=b"")

    source = opened(whole[:-5])

    assert source.cut_reason is not None
    assert source.read(0, 100) == b"AAAABBB"


def test_a_record_header_at_the_very_end_adds_nothing() -> None:
    source = opened(flatten([(0, b"AAAA")], end=struct.pack(">qq", 4, 1 << 62)))

    assert (source.size_bytes, source.cut_reason is None) == (4, False)


@pytest.mark.parametrize(
    ("offset", "size_bytes"), [(-2, 4), (-(1 << 63), 4), (0, 0), (0, -1), ((1 << 63) - 2, 4), (4, (1 << 63) - 1)]
)
def test_records_that_make_no_sense_are_malformed(offset: int, size_bytes: int) -> None:
    with pytest.raises(FormatError) as caught:
        opened(flat_header() + struct.pack(">qq", offset, size_bytes) + bytes(64))

    assert caught.value.code is FailureCode.MALFORMED


@pytest.mark.parametrize("length", [16, 31, 4096])
def test_a_file_cut_inside_its_header_is_truncated(length: int) -> None:
    with pytest.raises(TruncatedError):
        opened((flat_header() + flat_record(0, b"x"))[:length])


def test_another_version_is_not_supported() -> None:
    with pytest.raises(FormatError) as caught:
        opened(flat_header(version=2) + flat_record(0, b"x"))

    assert caught.value.code is FailureCode.UNSUPPORTED


def test_holes_are_charged_like_bytes_of_the_file() -> None:
    source = opened(flatten([(1 << 40, b"x")]), Budget(read_bytes=10_000))

    with pytest.raises(LimitError):
        source.read(0, 20_000)


def test_the_index_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flattened, "MAX_RECORDS", 10)

    opened(flatten((at, b"x") for at in range(10)))
    with pytest.raises(LimitError):
        opened(flatten((at, b"x") for at in range(11)))


def test_records_over_records_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flattened, "MAX_OVERLAPPING", 10)

    opened(flatten((0, bytes([at])) for at in range(10)))
    with pytest.raises(LimitError):
        opened(flatten((0, bytes([at])) for at in range(11)))


def test_a_file_that_shrinks_while_it_is_read_gives_what_is_left() -> None:
    class Shrinking(BufferSource):
        gone = False

        def read(self, offset: int, size_bytes: int) -> bytes:
            return super().read(offset, size_bytes)[: 2 if self.gone else size_bytes]

    inner = Shrinking(flatten([(0, b"AAAA"), (4, b"BBBB")]))
    source = FlattenedSource(inner, Budget())
    inner.gone = True

    assert source.read(0, 8) == b"AA"
    source.close()


def test_a_file_without_records_is_empty() -> None:
    source = opened(flatten([]))

    assert (source.size_bytes, source.read(0, 8)) == (0, b"")
