"""Files that a hypervisor or firmware made of a 64-bit machine: their notes are not those of the kernel."""

from pathlib import Path

import pytest

from crashbeam.pipeline.inputs import list_one
from crashbeam.schemas.codes import CpuMode, Evidence, NoteMethod, NoteState, RegistersFrom, WarningCode
from crashbeam.schemas.crash_report import CrashReport
from crashbeam.vmcore.arch.architecture import Architecture
from crashbeam.vmcore.arch.ppc64 import PPC64, PPC64LE
from crashbeam.vmcore.facts import AnalysisOptions
from crashbeam.vmcore.stages import analyse
from tests.builders.board_64 import Machine, machine_of, registers_of, user_registers

both_orders = pytest.mark.parametrize("arch", [PPC64, PPC64LE], ids=lambda arch: arch.name)
BUSY = {"trap": 0, "orig_r3": 0}
"""QEMU and firmware know no trap and no CFAR."""


def report_of(machine: Machine, folder: Path) -> CrashReport:
    options = AnalysisOptions((str(folder / "kernel.profile"),), str(folder / "cache"))
    record = analyse(list_one(str(machine.write(folder))), options)
    assert isinstance(record, CrashReport), record
    return record


def seen_by_qemu(arch: Architecture, saved: set[int], offline: frozenset[int] = frozenset()) -> Machine:
    """A machine whose CPUs in ``saved`` had noted themselves; then QEMU noted all, in big endian, as it does."""
    machine = machine_of(arch, saved, offline, made_by="qemu")
    machine.headers = "big"
    machine.vmcoreinfo = "memory"
    machine.after_crash = {
        number: {**registers_of(arch, number, cpu), **BUSY, "r31": 0x100 + number}
        for number, cpu in enumerate(machine.cpus)
    }
    return machine


def codes(report: CrashReport) -> list[WarningCode]:
    return [warning.code for warning in report.warnings]


@both_orders
def test_every_cpu_has_the_hypervisors_registers_whatever_the_byte_order_of_its_headers(
    arch: Architecture, tmp_path: Path
) -> None:
    machine = seen_by_qemu(arch, set())
    report = report_of(machine, tmp_path)
    assert (report.source.written_by, report.kernel.arch) == ("qemu", arch.name)
    assert [cpu.note.state for cpu in report.cpus] == [NoteState.NOT_POPULATED] * 4
    assert [cpu.registers_from for cpu in report.cpus] == [RegistersFrom.HYPERVISOR] * 4
    assert [cpu.note.index for cpu in report.cpus] == [0, 1, 2, 3]
    assert [cpu.note.evidence for cpu in report.cpus] == [(Evidence.PACA, Evidence.STACK)] * 4
    assert [cpu.registers["r31"] for cpu in report.cpus if cpu.registers] == [f"{0x100 + n:016x}" for n in range(4)]
    assert [cpu.stack.frames[0].symbol for cpu in report.cpus] == [
        "arch_cpu_idle",
        "arch_cpu_idle",
        "sysrq_handle_crash",
        "arch_cpu_idle",
    ]
    assert report.quirks == ()
    assert WarningCode.NOTE_NOT_SAVED not in codes(report)


@both_orders
def test_the_stack_of_a_hypervisors_registers_is_as_good_as_any(arch: Architecture, tmp_path: Path) -> None:
    """They have no trap, as those that a kernel saves by itself, yet r1 is that of NIP."""
    report = report_of(seen_by_qemu(arch, set()), tmp_path)
    assert [(frame.symbol, frame.trust) for frame in report.cpus[0].stack.frames] == [
        ("arch_cpu_idle", "registers"),
        ("do_idle", "back_chain"),
    ]


@both_orders
def test_what_a_cpu_saved_by_itself_goes_before_and_nothing_is_left_over(arch: Architecture, tmp_path: Path) -> None:
    machine = seen_by_qemu(arch, {1, 2})
    report = report_of(machine, tmp_path)
    assert [(cpu.note.state, cpu.registers_from) for cpu in report.cpus] == [
        (NoteState.NOT_SAVED, RegistersFrom.HYPERVISOR),
        (NoteState.SAVED, RegistersFrom.CRASH_NOTES),
        (NoteState.SAVED, RegistersFrom.CRASH_NOTES),
        (NoteState.NOT_SAVED, RegistersFrom.HYPERVISOR),
    ]
    assert [cpu.registers["r31"][-3:] for cpu in report.cpus if cpu.registers] == ["100", "000", "000", "103"]
    assert [cpu.note.evidence for cpu in report.cpus[1:3]] == [(Evidence.CRASH_NOTES,)] * 2
    assert report.notes.unassigned == 0
    assert WarningCode.NOTE_UNASSIGNED not in codes(report)
    assert WarningCode.NOTE_EVIDENCE_CONFLICT not in codes(report)


@both_orders
def test_an_offline_cpu_is_noted_by_the_hypervisor_too(arch: Architecture, tmp_path: Path) -> None:
    report = report_of(seen_by_qemu(arch, {2}, offline=frozenset({3})), tmp_path)
    assert (report.cpus[3].note.state, report.cpus[3].registers_from) == (
        NoteState.OFFLINE,
        RegistersFrom.HYPERVISOR,
    )


@both_orders
def test_the_pid_of_a_hypervisor_is_its_own_and_says_nothing(arch: Architecture, tmp_path: Path) -> None:
    """QEMU writes the number of the CPU, which is some task's pid."""
    machine = seen_by_qemu(arch, set())
    assert machine.after_crash is not None
    machine.after_crash = {number: user_registers() for number in machine.after_crash}
    machine.cpus[1].pid, machine.note_pids = 3, {0: 3}
    report = report_of(machine, tmp_path)
    assert [cpu.note.index for cpu in report.cpus] == [0, 1, 2, 3]
    assert [cpu.note.evidence for cpu in report.cpus] == [(Evidence.NOTE_ORDER,)] * 4
    assert report.notes.method is NoteMethod.ORDER


@both_orders
def test_notes_in_any_order_of_a_hypervisors_file_find_their_cpus(arch: Architecture, tmp_path: Path) -> None:
    machine = seen_by_qemu(arch, set())
    assert machine.after_crash is not None
    machine.after_crash = {number: machine.after_crash[number] for number in (3, 0, 2, 1)}
    report = report_of(machine, tmp_path)
    assert [cpu.note.index for cpu in report.cpus] == [1, 3, 2, 0]
    assert report.notes.order_would_mislead


@both_orders
def test_cpus_in_user_mode_get_what_the_others_leave_in_order(arch: Architecture, tmp_path: Path) -> None:
    machine = seen_by_qemu(arch, set())
    assert machine.after_crash is not None
    machine.after_crash = {**machine.after_crash, 1: user_registers()}
    report = report_of(machine, tmp_path)
    assert (report.cpus[1].mode, report.cpus[1].note.evidence) == (CpuMode.USER, (Evidence.NOTE_ORDER,))
    assert [warning.cpu for warning in report.warnings if warning.code is WarningCode.NOTE_ORDER_USED] == [1]


@both_orders
@pytest.mark.parametrize("made_by", ["fadump", "makedumpfile"])
def test_firmware_assisted_dumps_have_the_firmwares_registers(arch: Architecture, made_by: str, tmp_path: Path) -> None:
    """The kernel that saves the dump writes the notes from what firmware kept; nobody fills the buffers."""
    machine = machine_of(arch, set(), made_by=made_by)
    machine.after_crash = {
        number: {**registers_of(arch, number, cpu), **(BUSY if number != 2 else {})}
        for number, cpu in enumerate(machine.cpus)
    }
    report = report_of(machine, tmp_path)
    assert report.source.written_by == made_by
    assert [cpu.note.state for cpu in report.cpus] == [NoteState.NOT_POPULATED] * 4
    assert [cpu.registers_from for cpu in report.cpus] == [RegistersFrom.FIRMWARE] * 4
    assert [cpu.note.evidence[:2] for cpu in report.cpus] == [(Evidence.PACA, Evidence.STACK)] * 4
    assert [frame.symbol for frame in report.cpus[0].stack.frames] == ["arch_cpu_idle", "do_idle"]
    assert report.quirks == ()
    assert WarningCode.COSTLY_INPUT not in codes(report)


@both_orders
def test_firmwares_notes_are_told_apart_by_paca_stack_and_order_together(arch: Architecture, tmp_path: Path) -> None:
    machine = machine_of(arch, set(), made_by="fadump")
    noted = {number: registers_of(arch, number, cpu) | BUSY for number, cpu in enumerate(machine.cpus)}
    noted[1]["r13"] = 0
    noted[3] = user_registers()
    machine.after_crash = {number: noted[number] for number in (1, 0, 3, 2)}
    report = report_of(machine, tmp_path)
    assert [(cpu.note.index, cpu.note.evidence[0]) for cpu in report.cpus] == [
        (1, Evidence.PACA),
        (0, Evidence.STACK),
        (3, Evidence.PACA),
        (2, Evidence.NOTE_ORDER),
    ]


@both_orders
def test_firmware_that_noted_fewer_cpus_leaves_the_others_without_registers(arch: Architecture, tmp_path: Path) -> None:
    machine = machine_of(arch, set(), made_by="fadump")
    machine.after_crash = {1: registers_of(arch, 1, machine.cpus[1]) | BUSY}
    report = report_of(machine, tmp_path)
    assert [(cpu.note.index, cpu.registers_from) for cpu in report.cpus] == [
        (None, None),
        (0, RegistersFrom.FIRMWARE),
        (None, None),
        (None, None),
    ]
