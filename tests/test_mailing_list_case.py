"""The case that crashbeam exists for: one note in the file, and it is not CPU 0's."""

import itertools
from pathlib import Path

import pytest

from crashbeam.pipeline.inputs import list_one
from crashbeam.schemas.codes import Evidence, NoteMethod, NoteState, WarningCode
from crashbeam.schemas.crash_report import CrashReport
from crashbeam.vmcore.facts import AnalysisOptions
from crashbeam.vmcore.stages import analyse, describe
from tests.builders.board import SHELL_BLOCK, Board, board_of, mailing_list_board

NOT_SAVED = "cpu {}: NT_PRSTATUS note was not saved by the crashing system"


def options_of(folder: Path) -> AnalysisOptions:
    return AnalysisOptions((str(folder / "kernel.profile"),), str(folder / "cache"))


def report_of(board: Board, folder: Path) -> CrashReport:
    record = analyse(list_one(str(board.write(folder))), options_of(folder))
    assert isinstance(record, CrashReport), record
    return record


def text_of(board: Board, folder: Path) -> str:
    shown = describe(list_one(str(board.write(folder))), options_of(folder))
    assert isinstance(shown, str), shown
    return shown


def without_leading_blanks(text: str) -> str:
    return "\n".join(line.strip() for line in text.strip().splitlines())


def nobody_has_anothers_registers(report: CrashReport, board: Board) -> None:
    """The promise: a register block is never shown at another CPU."""
    for cpu in report.cpus:
        saved = board.cpus[cpu.cpu].registers
        if cpu.registers is not None:
            assert saved is not None, f"cpu {cpu.cpu} has registers that it never saved"
            assert f"{saved['r1']:08x}" == cpu.registers["r1"]
            assert f"{saved['r2']:08x}" == cpu.registers["r2"]


def test_show_prints_the_block_to_the_letter(tmp_path: Path) -> None:
    shown = text_of(mailing_list_board(), tmp_path)
    assert ' PID: 1001   TASK: ea62b000  CPU: 2   COMMAND: "bash"\n\n' in shown
    after_header = shown.split('COMMAND: "bash"\n\n')[1]
    assert without_leading_blanks(after_header).startswith(without_leading_blanks(SHELL_BLOCK))


def test_the_missing_notes_are_shown_in_their_places(tmp_path: Path) -> None:
    lines = text_of(mailing_list_board(), tmp_path).splitlines()
    start = lines.index("notes: 1")
    expected = [f"  notes[{cpu}]: " + ("NT_PRSTATUS 0  pid 1001" if cpu == 2 else "(not saved)") for cpu in range(8)]
    assert expected == lines[start + 1 : start + 9]


def test_the_seven_idle_cpus_are_warned_of(tmp_path: Path) -> None:
    warnings = report_of(mailing_list_board(), tmp_path).warnings
    assert [(cpu, NOT_SAVED.format(cpu)) for cpu in (0, 1, 3, 4, 5, 6, 7)] == [
        (warning.cpu, warning.message) for warning in warnings if warning.code is WarningCode.NOTE_NOT_SAVED
    ]


def test_the_stack_leads_from_the_handler_through_lr_to_the_system_call(tmp_path: Path) -> None:
    stack = report_of(mailing_list_board(), tmp_path).cpus[2].stack
    assert [(frame.symbol, frame.trust) for frame in stack.frames] == [
        ("sysrq_handle_crash", "registers"),
        ("__handle_sysrq", "link_register"),
        ("write_sysrq_trigger", "back_chain"),
        ("write_sysrq_trigger", "back_chain"),
        ("ret_from_syscall", "back_chain"),
        (None, "exception"),
    ]
    assert stack.stop_reason == "user_mode"


def test_the_panic_task_is_bash_on_cpu_2(tmp_path: Path) -> None:
    panic = report_of(mailing_list_board(), tmp_path).panic
    assert (panic.cpu, panic.pid, panic.comm, panic.task) == (2, 1001, "bash", "ea62b000")


@pytest.mark.parametrize("lost", ["crash_notes", "every buffer"])
def test_unreadable_crash_notes_end_nothing_and_r2_proves_the_cpu(lost: str, tmp_path: Path) -> None:
    board = mailing_list_board()
    if lost == "crash_notes":
        board.lost_variables = ("crash_notes",)
    for cpu in board.cpus:
        cpu.buffer = "whole" if lost == "crash_notes" else "lost"
    report = report_of(board, tmp_path)
    assert [cpu.note.state for cpu in report.cpus] == [NoteState.UNREADABLE] * 8
    shell = report.cpus[2]
    assert (shell.note.index, shell.note.evidence[0]) == (0, Evidence.CURRENT_TASK)
    assert {Evidence.STACK, Evidence.PR_PID} <= set(shell.note.evidence)
    assert WarningCode.CRASH_NOTES_UNREADABLE in [warning.code for warning in report.warnings]
    assert report.notes.method is NoteMethod.WITNESSES
    nobody_has_anothers_registers(report, board)
    shown = text_of(board, tmp_path)
    assert "  notes[2]: NT_PRSTATUS 0  pid 1001" in shown
    assert "  notes[0]: (unreadable)" in shown


def test_one_unreadable_buffer_is_a_warning_and_costs_nobody_else_anything(tmp_path: Path) -> None:
    board = board_of({0, 2, 5})
    board.cpus[5].buffer = "lost"
    report = report_of(board, tmp_path)
    assert [cpu.cpu for cpu in report.cpus if cpu.registers] == [0, 2, 5]
    assert [
        (warning.cpu, warning.code) for warning in report.warnings if warning.code is WarningCode.CRASH_NOTES_UNREADABLE
    ] == [(5, WarningCode.CRASH_NOTES_UNREADABLE)]
    nobody_has_anothers_registers(report, board)


def test_offline_cpus_between_lost_ones(tmp_path: Path) -> None:
    """What the thread's maintainer asked for: lost notes and offline CPUs together."""
    board = board_of({2, 4, 7}, offline=frozenset({1, 5}))
    report = report_of(board, tmp_path)
    assert [cpu.note.state for cpu in report.cpus] == [
        "not_saved",
        "offline",
        "saved",
        "not_saved",
        "saved",
        "offline",
        "not_saved",
        "saved",
    ]
    assert [cpu.note.index for cpu in report.cpus] == [None, None, 0, None, 1, None, None, 2]
    assert "  notes[1]: (offline)" in text_of(board, tmp_path)
    nobody_has_anothers_registers(report, board)


def test_an_offline_cpu_that_was_woken_for_the_crash_is_saved(tmp_path: Path) -> None:
    board = board_of({1, 2}, offline=frozenset({1}))
    report = report_of(board, tmp_path)
    assert (report.cpus[1].note.state, report.cpus[1].online) == (NoteState.SAVED, False)


@pytest.mark.slow
def test_every_subset_of_saved_notes_is_mapped_rightly(tmp_path: Path) -> None:
    for count in range(9):
        for saved in itertools.combinations(range(8), count):
            board = board_of(set(saved))
            report = report_of(board, tmp_path)
            assert list(saved) == [cpu.cpu for cpu in report.cpus if cpu.note.state is NoteState.SAVED]
            assert [place for place, _ in enumerate(saved)] == [
                cpu.note.index for cpu in report.cpus if cpu.note.index is not None
            ]
            lost = [warning.cpu for warning in report.warnings if warning.code is WarningCode.NOTE_NOT_SAVED]
            assert sorted(set(range(8)) - set(saved)) == lost
            assert report.notes.order_would_mislead == any(place != cpu for place, cpu in enumerate(saved))
            nobody_has_anothers_registers(report, board)


@pytest.mark.slow
def test_every_subset_of_saved_notes_by_the_weaker_witnesses_alone(tmp_path: Path) -> None:
    for count in range(9):
        for saved in itertools.combinations(range(8), count):
            board = board_of(set(saved))
            board.lost_variables = ("crash_notes",)
            report = report_of(board, tmp_path)
            assert list(saved) == [cpu.cpu for cpu in report.cpus if cpu.registers is not None]
            nobody_has_anothers_registers(report, board)


def test_a_note_that_the_file_lacks_is_taken_from_the_buffer(tmp_path: Path) -> None:
    board = board_of({2, 6})
    board.cpus[6].in_file = False
    report = report_of(board, tmp_path)
    assert (report.cpus[6].note.index, report.cpus[6].registers_from) == (None, "crash_notes")
    assert [warning.cpu for warning in report.warnings if warning.code is WarningCode.NOTE_MISSING_FROM_FILE] == [6]
    assert "  notes[6]: NT_PRSTATUS (not in the file)  pid 0" in text_of(board, tmp_path)
    nobody_has_anothers_registers(report, board)


@pytest.mark.parametrize(
    ("buffer", "what"),
    [("torn", "it was not written to its end"), ("foreign", "its header is not that of an NT_PRSTATUS note")],
)
def test_a_buffer_without_a_whole_note_is_invalid(buffer: str, what: str, tmp_path: Path) -> None:
    board = mailing_list_board()
    board.cpus[4].buffer = buffer
    report = report_of(board, tmp_path)
    assert (report.cpus[4].note.state, report.cpus[4].registers) == (NoteState.INVALID, None)
    message = f"cpu 4: its crash_notes buffer holds no whole note: {what}"
    assert [message] == [warning.message for warning in report.warnings if warning.cpu == 4]
    assert "  notes[4]: (invalid)" in text_of(board, tmp_path)


def test_notes_in_any_order_of_the_file_find_their_cpus(tmp_path: Path) -> None:
    board = board_of({0, 2, 3, 7})
    board.file_notes = (7, 3, 0, 2)
    report = report_of(board, tmp_path)
    assert {cpu.cpu: cpu.note.index for cpu in report.cpus if cpu.note.index is not None} == {7: 0, 3: 1, 0: 2, 2: 3}
    assert report.notes.order_would_mislead
    nobody_has_anothers_registers(report, board)


def test_empty_buffers_everywhere_and_notes_in_the_file_are_a_hypervisors(tmp_path: Path) -> None:
    """Firmware-assisted and hypervisor dumps: nobody filled crash_notes; the registers say whose they are."""
    board = board_of({0, 1, 2, 3, 4, 5, 6, 7})
    for cpu in board.cpus:
        cpu.buffer = "empty"
    report = report_of(board, tmp_path)
    assert [cpu.note.state for cpu in report.cpus] == [NoteState.NOT_POPULATED] * 8
    assert list(range(8)) == [cpu.note.index for cpu in report.cpus]
    assert [cpu.note.evidence[0] for cpu in report.cpus] == [Evidence.CURRENT_TASK] * 8
    assert "  notes[0]: NT_PRSTATUS 0  pid 0" in text_of(board, tmp_path)
    nobody_has_anothers_registers(report, board)
