"""Notes to CPUs, decided from made-up buffers and witnesses: who wins, who is silent, what is left."""

import struct
from collections.abc import Mapping

import pytest

from crashbeam.schemas.codes import Evidence, NoteMethod, NoteState, WarningCode
from crashbeam.vmcore.arch.ppc32 import PPC32
from crashbeam.vmcore.note_map import Buffer, FileNote, NoteMap, assign_notes, buffer_bytes, decode_note, judge_buffer
from tests.builders.board import note_of

EMPTY = Buffer(bytes(300))
LOST = Buffer(None, "its page is damaged")
LEFT_OUT = Buffer(bytes(300), assumed_zero=True)


def note(index: int, **registers: int) -> FileNote:
    content = note_of({"r1": 0xC0100000 + index, "nip": 0xC0001000, "msr": 0x9002, **registers}, pid=index)
    found = decode_note(PPC32, "big", index, content)
    assert found is not None
    return found


def buffer_of(saved: FileNote) -> Buffer:
    return Buffer(saved.content + bytes(12))


def decide(
    notes: list[FileNote],
    buffers: Mapping[int, Buffer],
    said: Mapping[int, Mapping[Evidence, int]] | None = None,
    *,
    online: frozenset[int] | None = None,
    present: frozenset[int] | None = None,
) -> NoteMap:
    sayings = said or {}
    return assign_notes(
        PPC32,
        "big",
        notes,
        buffers,
        online=online,
        present=present,
        witness=lambda asked: sayings.get(asked.index, {}),
    )


def codes(found: NoteMap) -> list[WarningCode]:
    return [warning.code for warning in found.warnings]


def owners(found: NoteMap) -> dict[int, int | None]:
    return {cpu: entry.index for cpu, entry in found.cpus.items() if entry.index is not None}


def test_equal_content_decides_whatever_the_witnesses_say_and_the_contradiction_is_told() -> None:
    saved = note(0)
    found = decide([saved], {0: EMPTY, 1: buffer_of(saved)}, {0: {Evidence.STACK: 0, Evidence.PR_PID: 1}})
    assert owners(found) == {1: 0}
    assert found.cpus[1].evidence == (Evidence.CRASH_NOTES, Evidence.PR_PID)
    assert WarningCode.NOTE_EVIDENCE_CONFLICT in codes(found)
    assert found.order_would_mislead


def test_a_note_never_goes_to_a_cpu_whose_buffer_is_empty() -> None:
    found = decide([note(0), note(1)], {0: LOST, 1: EMPTY, 2: LOST}, {0: {Evidence.CURRENT_TASK: 1}})
    assert 0 in found.unassigned
    assert found.cpus[1].state is NoteState.NOT_SAVED
    assert WarningCode.NOTE_EVIDENCE_CONFLICT in codes(found)


def test_a_weaker_witness_does_not_outvote_a_stronger_one() -> None:
    said = {0: {Evidence.CURRENT_TASK: 5, Evidence.STACK: 0, Evidence.PR_PID: 0}}
    found = decide([note(0)], {0: LOST, 1: LOST}, said)
    assert found.unassigned == (0,)
    assert owners(found) == {}


def test_two_notes_that_claim_one_cpu_are_given_to_nobody() -> None:
    said = {0: {Evidence.STACK: 1}, 1: {Evidence.STACK: 1}}
    found = decide([note(0), note(1)], {0: LOST, 1: LOST, 2: LOST}, said)
    assert found.unassigned == (0, 1)
    assert found.method is NoteMethod.NONE


def test_a_cpu_that_has_its_note_gets_no_second_one() -> None:
    said = {0: {Evidence.CURRENT_TASK: 1}, 1: {Evidence.STACK: 1}}
    found = decide([note(0), note(1)], {0: LOST, 1: LOST, 2: LOST}, said)
    assert owners(found) == {1: 0}
    assert found.unassigned == (1,)


def test_order_is_used_only_where_exactly_as_many_are_left_and_nobody_objects() -> None:
    silent = decide([note(0), note(1)], {0: LOST, 1: EMPTY, 2: LOST})
    assert owners(silent) == {0: 0, 2: 1}
    assert [code for code in codes(silent) if code is WarningCode.NOTE_ORDER_USED] == [WarningCode.NOTE_ORDER_USED] * 2
    assert silent.method is NoteMethod.ORDER
    too_few = decide([note(0)], {0: LOST, 1: LOST})
    assert too_few.unassigned == (0,)
    objecting = decide([note(0), note(1)], {0: LOST, 1: EMPTY, 2: LOST}, {1: {Evidence.PR_PID: 9}})
    assert {0, 1} == set(objecting.unassigned)


def test_offline_cpus_are_passed_over_by_order() -> None:
    found = decide([note(0), note(1)], {0: LOST, 1: LOST, 2: LOST}, online=frozenset({0, 2}))
    assert owners(found) == {0: 0, 2: 1}


def test_of_a_file_whose_maker_fills_no_buffers_the_present_cpus_come_before_the_possible_ones() -> None:
    buffers = {0: EMPTY, 1: EMPTY, 2: EMPTY}
    found = decide([note(0), note(1)], buffers, present=frozenset({1, 2}))
    assert owners(found) == {1: 0, 2: 1}
    assert {NoteState.NOT_POPULATED} == {entry.state for entry in found.cpus.values()}
    everyone = decide([note(0), note(1), note(2)], buffers, present=frozenset({1, 2}))
    assert owners(everyone) == {0: 0, 1: 1, 2: 2}


def test_an_empty_buffer_on_a_page_that_was_left_out_proves_nothing_if_a_note_has_no_owner() -> None:
    saved = note(0)
    whole = decide([saved], {0: buffer_of(saved), 1: LEFT_OUT})
    assert whole.cpus[1].state is NoteState.NOT_SAVED
    found = decide([saved, note(1)], {0: buffer_of(saved), 1: LEFT_OUT})
    assert found.cpus[1].state is NoteState.UNREADABLE
    assert owners(found) == {0: 0, 1: 1}


def test_equal_notes_are_used_once_each() -> None:
    first = note(0)
    second = FileNote(1, first.content, first.pid, first.registers)
    found = decide([first, second], {0: buffer_of(first), 1: buffer_of(first)})
    assert owners(found) == {0: 0, 1: 1}


def test_one_pointer_that_cannot_be_read_is_one_warning() -> None:
    found = decide([], dict.fromkeys(range(4), LOST))
    assert [(warning.cpu, warning.code) for warning in found.warnings] == [(None, WarningCode.CRASH_NOTES_UNREADABLE)]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (struct.pack(">III", 5, 504, 1) + b"CORE\0\0\0\0" + bytes(280), "its size is 504 bytes instead of 268"),
        (bytes(100) + b"\1" + bytes(199), "its header is not that of an NT_PRSTATUS note"),
        (note_of({"r1": 0, "nip": 1, "msr": 1}, 1) + bytes(12), "it was not written to its end"),
        (note_of({"r1": 0xC0000000}, 1) + bytes(12), "it was not written to its end"),
    ],
)
def test_what_is_no_whole_note_is_invalid_and_says_why(content: bytes, problem: str) -> None:
    judged = judge_buffer(PPC32, "big", Buffer(content), online=True)
    assert (NoteState.INVALID, problem) == (judged.state, judged.problem)


def test_a_call_through_null_is_a_whole_note() -> None:
    content = note_of({"r1": 0xC0000000, "nip": 0, "msr": 0x29002}, 1) + bytes(12)
    assert judge_buffer(PPC32, "big", Buffer(content), online=True).state is NoteState.SAVED


def test_sizes_of_a_note() -> None:
    assert buffer_bytes(PPC32) == 300
    assert decode_note(PPC32, "big", 0, bytes(20 + 100)) is None
