"""The mailing-list case on 64-bit machines of both byte orders: idle CPUs that save nothing, and all its variants."""

import itertools
from pathlib import Path

import pytest

from crashbeam.pipeline.inputs import list_one
from crashbeam.schemas.codes import Evidence, NoteMethod, NoteState, WarningCode
from crashbeam.schemas.crash_report import CrashReport
from crashbeam.vmcore.arch.architecture import Architecture
from crashbeam.vmcore.arch.ppc64 import PPC64, PPC64LE
from crashbeam.vmcore.facts import AnalysisOptions
from crashbeam.vmcore.stages import analyse, describe
from tests.builders.board_64 import Machine, machine_of, user_registers

both_orders = pytest.mark.parametrize("arch", [PPC64, PPC64LE], ids=lambda arch: arch.name)


def options_of(folder: Path) -> AnalysisOptions:
    return AnalysisOptions((str(folder / "kernel.profile"),), str(folder / "cache"))


def report_of(machine: Machine, folder: Path) -> CrashReport:
    record = analyse(list_one(str(machine.write(folder))), options_of(folder))
    assert isinstance(record, CrashReport), record
    return record


def nobody_has_anothers_registers(report: CrashReport, machine: Machine) -> None:
    for cpu in report.cpus:
        saved = machine.cpus[cpu.cpu].registers
        if cpu.registers is not None:
            assert saved is not None, f"cpu {cpu.cpu} has registers that it never saved"
            assert (f"{saved['r1']:016x}", f"{saved['r13']:016x}") == (cpu.registers["r1"], cpu.registers["r13"])


@both_orders
@pytest.mark.parametrize("page_bytes", [1 << 12, 1 << 16])
def test_only_the_panicking_cpu_saved_a_note_and_it_is_not_cpu_0s(
    arch: Architecture, page_bytes: int, tmp_path: Path
) -> None:
    machine = machine_of(arch, {2})
    machine.page_bytes = page_bytes
    report = report_of(machine, tmp_path)
    assert [(cpu.note.state, cpu.note.index) for cpu in report.cpus] == [
        ("not_saved", None),
        ("not_saved", None),
        ("saved", 0),
        ("not_saved", None),
    ]
    messages = [warning.message for warning in report.warnings if warning.code is WarningCode.NOTE_NOT_SAVED]
    assert messages == [f"cpu {cpu}: NT_PRSTATUS note was not saved by the crashing system" for cpu in (0, 1, 3)]
    assert report.notes.order_would_mislead
    assert report.cpus[2].note.evidence == (
        Evidence.CRASH_NOTES,
        Evidence.PACA,
        Evidence.STACK,
        Evidence.PR_PID,
    )
    panic = report.panic
    assert (panic.cpu, panic.pid, panic.comm) == (2, 1001, "bash")
    assert report.kernel.arch == arch.name
    nobody_has_anothers_registers(report, machine)


@both_orders
def test_the_stack_leads_from_the_handler_through_lr_to_the_system_call(arch: Architecture, tmp_path: Path) -> None:
    """The exception frame is that of 6.2 and later on little endian, ELFv1's on big endian."""
    stack = report_of(machine_of(arch, {2}), tmp_path).cpus[2].stack
    assert [(frame.symbol, frame.trust, frame.on) for frame in stack.frames] == [
        ("sysrq_handle_crash", "registers", "task"),
        ("__handle_sysrq", "link_register", "task"),
        ("write_sysrq_trigger", "back_chain", "task"),
        ("system_call_exception", "back_chain", "task"),
        (None, "exception", "unknown"),
    ]
    assert stack.stop_reason == "user_mode"


@both_orders
def test_an_idle_cpu_that_saved_its_note_is_unwound_to_its_end(arch: Architecture, tmp_path: Path) -> None:
    stack = report_of(machine_of(arch, {1}), tmp_path).cpus[1].stack
    assert ([frame.symbol for frame in stack.frames], stack.stop_reason) == (
        ["arch_cpu_idle", "do_idle"],
        "end_of_stack",
    )


@both_orders
def test_show_prints_each_note_in_its_place(arch: Architecture, tmp_path: Path) -> None:
    machine = machine_of(arch, {2}, offline=frozenset({3}))
    shown = describe(list_one(str(machine.write(tmp_path))), options_of(tmp_path))
    assert isinstance(shown, str), shown
    lines = shown.splitlines()
    start = lines.index("notes: 1")
    assert lines[start + 1 : start + 5] == [
        "  notes[0]: (not saved)",
        "  notes[1]: (not saved)",
        "  notes[2]: NT_PRSTATUS 0  pid 1001",
        "  notes[3]: (offline)",
    ]
    assert any(line.startswith("  NIP [c00000000002001c] sysrq_handle_crash") for line in lines)


@both_orders
@pytest.mark.parametrize("lost", ["crash_notes", "every buffer"])
def test_unreadable_buffers_end_nothing_and_the_paca_proves_the_cpu(
    arch: Architecture, lost: str, tmp_path: Path
) -> None:
    machine = machine_of(arch, {2, 3})
    if lost == "crash_notes":
        machine.lost_variables = ("crash_notes",)
    else:
        for cpu in machine.cpus:
            cpu.buffer = "lost"
    report = report_of(machine, tmp_path)
    assert [cpu.note.state for cpu in report.cpus] == [NoteState.UNREADABLE] * 4
    assert [cpu.note.index for cpu in report.cpus] == [None, None, 0, 1]
    assert [cpu.note.evidence for cpu in report.cpus[2:]] == [
        (Evidence.PACA, Evidence.STACK, Evidence.PR_PID),
        (Evidence.PACA, Evidence.STACK),
    ]
    assert report.notes.method is NoteMethod.WITNESSES
    assert WarningCode.CRASH_NOTES_UNREADABLE in [warning.code for warning in report.warnings]
    nobody_has_anothers_registers(report, machine)


@both_orders
def test_without_buffers_and_pacas_the_stacks_prove_the_cpus(arch: Architecture, tmp_path: Path) -> None:
    machine = machine_of(arch, {1, 2})
    machine.lost_variables = ("crash_notes", "paca_ptrs")
    report = report_of(machine, tmp_path)
    assert {cpu.cpu: cpu.note.evidence for cpu in report.cpus if cpu.registers} == {
        1: (Evidence.STACK,),
        2: (Evidence.STACK, Evidence.PR_PID),
    }
    nobody_has_anothers_registers(report, machine)


@both_orders
def test_offline_cpus_between_lost_ones(arch: Architecture, tmp_path: Path) -> None:
    machine = machine_of(arch, {2}, offline=frozenset({1}))
    report = report_of(machine, tmp_path)
    assert [cpu.note.state for cpu in report.cpus] == ["not_saved", "offline", "saved", "not_saved"]
    nobody_has_anothers_registers(report, machine)


@both_orders
def test_an_offline_cpu_that_powernv_woke_for_the_crash_is_saved(arch: Architecture, tmp_path: Path) -> None:
    machine = machine_of(arch, {0, 1, 2, 3}, offline=frozenset({0, 1}))
    report = report_of(machine, tmp_path)
    assert [(cpu.note.state, cpu.online, cpu.note.index) for cpu in report.cpus] == [
        ("saved", False, 0),
        ("saved", False, 1),
        ("saved", True, 2),
        ("saved", True, 3),
    ]
    nobody_has_anothers_registers(report, machine)


@both_orders
def test_more_notes_than_cpus_online_and_no_buffer_are_told_apart_by_their_pacas(
    arch: Architecture, tmp_path: Path
) -> None:
    machine = machine_of(arch, {0, 1, 2, 3}, offline=frozenset({0, 3}))
    machine.lost_variables = ("crash_notes",)
    machine.file_notes = (3, 1, 0, 2)
    report = report_of(machine, tmp_path)
    assert [cpu.note.index for cpu in report.cpus] == [2, 1, 3, 0]
    assert report.notes.unassigned == 0
    nobody_has_anothers_registers(report, machine)


@both_orders
def test_two_cpus_in_user_mode_without_buffers_stay_unassigned_if_others_saved_nothing(
    arch: Architecture, tmp_path: Path
) -> None:
    """Their registers say nothing, and there are more CPUs than notes: order is not asked."""
    machine = machine_of(arch, {2})
    for number in (0, 1):
        machine.cpus[number].registers = user_registers()
    machine.lost_variables = ("crash_notes",)
    report = report_of(machine, tmp_path)
    assert [cpu.cpu for cpu in report.cpus if cpu.registers] == [2]
    assert [note.mode for note in report.unassigned_notes] == ["user", "user"]
    assert [len(note.stack.frames) for note in report.unassigned_notes] == [1, 1]


@both_orders
def test_where_the_cpus_are_not_known_a_note_stands_on_the_stack_of_the_task_that_its_paca_names(
    arch: Architecture, tmp_path: Path
) -> None:
    machine = machine_of(arch, {1, 2})
    machine.lost_variables = ("__cpu_possible_mask",)
    report = report_of(machine, tmp_path)
    assert (report.cpus, report.notes.unassigned) == ((), 2)
    assert [[frame.on.value for frame in note.stack.frames] for note in report.unassigned_notes] == [
        ["task", "task"],
        ["task", "task", "task", "task", "unknown"],
    ]
    assert [note.stack.stop_reason for note in report.unassigned_notes] == ["end_of_stack", "user_mode"]


@both_orders
def test_the_pid_of_a_note_in_user_mode_names_its_cpu(arch: Architecture, tmp_path: Path) -> None:
    machine = machine_of(arch, {0, 1, 3})
    machine.cpus[2].registers = user_registers()
    machine.lost_variables = ("crash_notes",)
    report = report_of(machine, tmp_path)
    assert (report.cpus[2].note.index, report.cpus[2].note.evidence) == (2, (Evidence.PR_PID,))


@both_orders
def test_a_note_whose_buffer_is_one_cpus_and_whose_paca_is_anothers_goes_by_the_buffer(
    arch: Architecture, tmp_path: Path
) -> None:
    machine = machine_of(arch, {1, 2})
    registers = machine.cpus[1].registers
    assert registers is not None
    registers["r13"] = machine.cpus[3].paca
    report = report_of(machine, tmp_path)
    assert report.cpus[1].note.evidence == (Evidence.CRASH_NOTES, Evidence.STACK)
    messages = [warning.message for warning in report.warnings if warning.code is WarningCode.NOTE_EVIDENCE_CONFLICT]
    assert messages == ["cpu 1: crash_notes gives it note 0, but paca says cpu 3"]


@both_orders
@pytest.mark.parametrize("lost", [(), ("crash_notes",)], ids=["by the buffers", "by the witnesses"])
def test_every_subset_of_saved_notes_in_every_state_of_the_others(
    arch: Architecture, lost: tuple[str, ...], tmp_path: Path
) -> None:
    for count, offline in itertools.product(range(5), (frozenset[int](), frozenset({1}))):
        for saved in itertools.combinations(range(4), count):
            machine = machine_of(arch, set(saved), offline)
            machine.lost_variables = lost
            report = report_of(machine, tmp_path)
            assert list(saved) == [cpu.cpu for cpu in report.cpus if cpu.registers is not None]
            assert list(range(count)) == [cpu.note.index for cpu in report.cpus if cpu.note.index is not None]
            if not lost:
                left = set(range(4)) - set(saved)
                silent = [warning.cpu for warning in report.warnings if warning.code is WarningCode.NOTE_NOT_SAVED]
                assert silent == sorted(left - offline)
            assert report.notes.order_would_mislead == any(place != cpu for place, cpu in enumerate(saved))
            nobody_has_anothers_registers(report, machine)
