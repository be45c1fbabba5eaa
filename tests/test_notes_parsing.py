"""ELF notes: what is whole is kept, what is cut or garbled is said."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crashbeam.vmcore import notes as notes_module
from crashbeam.vmcore.containers import ByteOrder
from crashbeam.vmcore.notes import parse_notes, prstatus, vmcoreinfo_text
from tests.builders.elf_notes import note, prstatus_note, vmcoreinfo_note

TERMINATOR = bytes(12)
ORDERS: tuple[ByteOrder, ...] = ("big", "little")


@pytest.mark.parametrize("byte_order", ORDERS)
def test_notes_come_in_file_order_with_all_their_bytes(byte_order: ByteOrder) -> None:
    first, info, second = (
        prstatus_note(1, byte_order),
        vmcoreinfo_note(b"A=1\n", byte_order),
        prstatus_note(2, byte_order),
    )

    found = parse_notes([first + info + second], byte_order)

    assert found.problem is None
    assert [(each.name, each.type, len(each.descriptor)) for each in found.notes] == [
        (b"CORE\0", 1, 268),
        (b"VMCOREINFO\0", 0, 4),
        (b"CORE\0", 1, 268),
    ]
    assert [each.whole for each in prstatus(found)] == [first, second]
    assert vmcoreinfo_text(found) == b"A=1\n"


def test_the_note_of_the_reference_is_read() -> None:
    blob = bytes.fromhex(
        "0b0000001e00000000000000564d434f5245494e464f0000"
        "4f5352454c454153453d362e312e300a5041474553495a453d343039360a0000"
    )

    assert vmcoreinfo_text(parse_notes([blob], "little")) == b"OSRELEASE=6.1.0\nPAGESIZE=4096\n"


def test_only_notes_named_core_of_type_1_are_prstatus() -> None:
    blob = (
        note(b"CORE\0", 2, bytes(264))
        + note(b"CORE", 1, bytes(268))
        + note(b"CORE\0\0", 1, bytes(268))
        + note(b"LINUX\0", 1, bytes(268))
        + prstatus_note(9)
    )

    found = parse_notes([blob], "big")

    assert len(found.notes) == 5
    assert [each.descriptor[:1] for each in prstatus(found)] == [b"\x09"]


def test_an_empty_note_ends_its_segment_but_not_the_next() -> None:
    found = parse_notes([prstatus_note(1) + TERMINATOR, prstatus_note(2) + bytes(500), b""], "big")

    assert found.problem is None
    assert len(prstatus(found)) == 2


def test_each_segment_starts_at_its_own_beginning() -> None:
    odd = note(b"CORE\0", 1, b"abc")[:-1]

    found = parse_notes([odd, prstatus_note(2)], "big")

    assert [each.descriptor[:1] for each in found.notes] == [b"a", b"\x02"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        pytest.param(b"\1" * 5, "cut", id="half a header"),
        pytest.param(struct.pack(">III", 5, 268, 1) + b"CORE", "beyond", id="cut in its name"),
        pytest.param(prstatus_note(2)[:-1], "beyond", id="cut in its descriptor"),
        pytest.param(struct.pack(">III", 0xFFFFFFFF, 0xFFFFFFFF, 1) + bytes(64), "beyond", id="huge sizes"),
        pytest.param(struct.pack(">III", 0, 4, 1) + bytes(4), "without a name", id="no name"),
        pytest.param(TERMINATOR + prstatus_note(2), "without a name", id="notes behind the terminator"),
    ],
)
def test_what_stands_before_damage_is_kept_and_the_damage_said(damage: bytes, words: str) -> None:
    found = parse_notes([prstatus_note(1) + damage, prstatus_note(3)], "big")

    assert [each.descriptor[:1] for each in prstatus(found)] == [b"\1", b"\3"]
    assert found.problem is not None
    assert words in found.problem
    assert "segment 0" in found.problem


def test_the_first_problem_is_the_one_that_is_told() -> None:
    found = parse_notes([b"\1" * 5, struct.pack(">III", 5, 268, 1)], "big")

    assert found.problem is not None
    assert "segment 0" in found.problem


def test_a_few_zero_bytes_at_the_end_are_no_problem() -> None:
    assert parse_notes([prstatus_note(1) + bytes(7)], "big").problem is None


def test_the_number_of_notes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes_module, "MAX_NOTES", 3)

    exactly, more = parse_notes([prstatus_note(1) * 3], "big"), parse_notes([prstatus_note(1) * 4], "big")

    assert (len(exactly.notes), exactly.problem) == (3, None)
    assert (len(more.notes), more.problem) == (3, "more than 3 notes")


def test_no_vmcoreinfo_is_none() -> None:
    assert vmcoreinfo_text(parse_notes([prstatus_note(1)], "big")) is None


@given(st.lists(st.binary(max_size=200), max_size=3), st.sampled_from(ORDERS))
def test_any_bytes_are_walked_to_an_end(segments: list[bytes], byte_order: ByteOrder) -> None:
    found = parse_notes(segments, byte_order)

    assert sum(len(each.whole) for each in found.notes) <= sum(len(segment) for segment in segments)
