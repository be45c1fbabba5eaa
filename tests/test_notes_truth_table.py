"""Every row of the truth table in docs/notes.md."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from crashbeam.schemas.codes import Evidence, WarningCode
from crashbeam.vmcore.arch.ppc32 import PPC32
from crashbeam.vmcore.note_map import Buffer, NoteMap, assign_notes
from tests.builders.board import note_of
from tests.test_note_map_decisions import EMPTY, LOST, buffer_of, note

PAGE = Path(__file__).parent.parent / "docs" / "notes.md"
WITNESSES = (
    *(Evidence.CRASH_IPI, Evidence.PACA, Evidence.CURRENT_TASK, Evidence.THREAD_INFO_CPU),
    *(Evidence.STACK, Evidence.PR_PID),
)
AFTER = 1 + len(WITNESSES)
"""The first column behind those of the witnesses."""
NOTE, OTHER = note(0), note(7)
BUFFERS = {
    "note 0": buffer_of(NOTE),
    "another note": buffer_of(OTHER),
    "empty": EMPTY,
    "unreadable": LOST,
    "torn": Buffer(note_of({}, 1)[:48] + bytes(252)),
}


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table."""

    buffer: str
    said: dict[Evidence, int]
    owner: int | None
    evidence: tuple[str, ...]
    conflicts: tuple[str, ...]


def rows() -> list[Row]:
    """The rows of the page; its columns are named as the witnesses are."""
    table = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    head, _, *body = ([cell.strip() for cell in line.strip("|").split("|")] for line in table)
    assert head[1:AFTER] == [witness.value for witness in WITNESSES]
    return [
        Row(
            buffer=cells[0],
            said={witness: int(cell) for witness, cell in zip(WITNESSES, cells[1:AFTER], strict=True) if cell != "-"},
            owner=None if cells[AFTER] == "-" else int(cells[AFTER]),
            evidence=tuple(cells[AFTER + 1].replace("-", "").split()),
            conflicts=tuple(cells[AFTER + 2].replace("-", "").split()),
        )
        for cells in body
    ]


def decide(row: Row) -> NoteMap:
    return assign_notes(
        PPC32,
        "big",
        [NOTE],
        {1: BUFFERS[row.buffer], 2: LOST, 3: EMPTY},
        online=frozenset({1, 2, 3}),
        present=None,
        witness=lambda _: row.said,
    )


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row.buffer}, {row.said}")
def test_a_row_of_the_truth_table(row: Row) -> None:
    found = decide(row)
    owners = [cpu for cpu, entry in found.cpus.items() if entry.index == 0]
    assert owners == ([] if row.owner is None else [row.owner])
    assert found.unassigned == ((0,) if row.owner is None else ())
    if row.owner is not None:
        assert tuple(evidence.value for evidence in found.cpus[row.owner].evidence) == row.evidence
        assert found.cpus[row.owner].registers == NOTE.registers
    conflicts = [w.message for w in found.warnings if w.code is WarningCode.NOTE_EVIDENCE_CONFLICT]
    assert len(conflicts) == len(row.conflicts)
    for message, witness in zip(conflicts, row.conflicts, strict=True):
        assert f"{witness} says cpu {row.said[Evidence(witness)]}" in message


def test_the_table_has_every_witness_agreeing_silent_and_contradicting() -> None:
    for buffer in ("note 0", "unreadable"):
        for witness in WITNESSES:
            said = {row.said.get(witness) for row in rows() if row.buffer == buffer}
            assert {1, None} <= said
            assert said - {1, None}
