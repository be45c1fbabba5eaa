"""Which CPUs are recovered, and what a report says of them."""

from pathlib import Path

import pytest

from crashbeam.pipeline.inputs import list_one
from crashbeam.schemas.codes import CpuMode, DiagnosisCode, NoteState, RegistersFrom, StopReason, WarningCode
from crashbeam.schemas.crash_report import CrashReport, Diagnosis
from crashbeam.vmcore.dump import OpenKernel
from crashbeam.vmcore.facts import AnalysisOptions, MappedCpu, UnwoundContext
from crashbeam.vmcore.firmware import FirmwareAreas
from crashbeam.vmcore.kernel import Kernel
from crashbeam.vmcore.limits import Budget
from crashbeam.vmcore.lost_cpus import LostCpus
from crashbeam.vmcore.modules import Text
from crashbeam.vmcore.note_map import CpuNoteMap
from crashbeam.vmcore.registers import Registers
from crashbeam.vmcore.stages import analyse
from crashbeam.vmcore.unwind import Unwinder
from tests.builders.lost_cpu import STACKS, LostCpuKernel, address_of
from tests.builders.stacks import registers

CPU = 3


def open_kernel(kernel: LostCpuKernel) -> OpenKernel:
    made: Kernel = kernel.made.kernel()
    text, firmware = Text(made), FirmwareAreas(made)
    return OpenKernel(made, text, firmware, Unwinder(made.memory, made.arch, text, firmware))


def find(
    kernel: LostCpuKernel,
    state: NoteState,
    *,
    online: bool = True,
    note: Registers | None = None,
    panic_cpu: int | None = None,
) -> tuple[UnwoundContext | None, tuple[Diagnosis, ...]]:
    cpu = MappedCpu(CPU, online, CpuNoteMap(state, registers=note), kernel.task)
    opened = open_kernel(kernel)
    context = None
    if note is not None:
        context = UnwoundContext(CpuMode.KERNEL, opened.unwinder.unwind(note, STACKS))
    (found,), (diagnoses,) = LostCpus(opened, {CPU: STACKS}, panic_cpu).find([cpu], [context])
    return found, diagnoses


def interrupted_by_ipi(kernel: LostCpuKernel) -> None:
    kernel.thread("timer_interrupt", "work")
    kernel.exception(kernel.context("work", 4))
    for name in ("timer_interrupt", "smp_handle_nmi_ipi", "crash_ipi_callback"):
        kernel.call(name)


def test_a_cpu_that_answered_without_a_note_is_recovered_and_called_skipped() -> None:
    kernel = LostCpuKernel()
    interrupted_by_ipi(kernel)
    kernel.answer(CPU)
    found, (diagnosis,) = find(kernel, NoteState.NOT_SAVED)
    assert found is not None
    assert found.recovered_from is RegistersFrom.EXCEPTION_FRAME
    assert found.stack.recovered
    assert diagnosis.code is DiagnosisCode.SKIPPED_BY_KERNEL


def test_its_handlers_frame_shows_that_it_answered_where_the_mask_cannot_be_read() -> None:
    kernel = LostCpuKernel()
    interrupted_by_ipi(kernel)
    _, (diagnosis,) = find(kernel, NoteState.NOT_SAVED)
    assert diagnosis.code is DiagnosisCode.SKIPPED_BY_KERNEL


def test_a_silent_cpu_has_a_stack_but_no_registers() -> None:
    kernel = LostCpuKernel()
    kernel.thread("driver_thread")
    kernel.answer(1, 2)
    found, (diagnosis,) = find(kernel, NoteState.NOT_SAVED)
    assert found is not None
    assert found.recovered_from is None
    assert found.stack.stop_reason is StopReason.THREAD_START
    assert diagnosis.code is DiagnosisCode.UNKNOWN


def test_an_offline_cpu_is_not_recovered() -> None:
    kernel = LostCpuKernel()
    interrupted_by_ipi(kernel)
    found, (diagnosis,) = find(kernel, NoteState.OFFLINE, online=False)
    assert found is None
    assert diagnosis.code is DiagnosisCode.OFFLINE


def test_a_saved_cpu_stays_as_it_is_and_costs_no_page() -> None:
    kernel = LostCpuKernel()
    interrupted_by_ipi(kernel)
    note = registers(address_of("work") + 16, kernel.top)
    cpu = MappedCpu(CPU, True, CpuNoteMap(NoteState.SAVED, registers=note), kernel.task)
    opened = open_kernel(kernel)
    context = UnwoundContext(CpuMode.KERNEL, opened.unwinder.unwind(note, STACKS))
    before = len(kernel.made.container.reads)
    assert LostCpus(opened, {CPU: STACKS}, None).find([cpu], [context]) == ((context,), ((),))
    assert len(kernel.made.container.reads) == before


@pytest.mark.parametrize("answered", [True, False])
def test_a_hypervisors_registers_give_way_to_what_the_crash_ipi_interrupted(answered: bool) -> None:
    """They are those of the loop in which the CPU waits for the crash kernel; of a silent CPU they are what it did."""
    kernel = LostCpuKernel()
    if answered:
        interrupted_by_ipi(kernel)
    else:
        kernel.thread("driver_thread")
    after_crash = registers(address_of("spin"), kernel.top, address_of("driver_thread") + 16)
    found, _ = find(kernel, NoteState.NOT_SAVED, note=after_crash)
    assert found is not None
    assert found.stack.recovered is answered
    assert found.stack.frames[0].symbol == ("work" if answered else "spin")


@pytest.mark.parametrize(("panic_cpu", "has_left"), [(CPU, True), (CPU, False), (CPU + 1, True)])
def test_of_the_cpu_that_panicked_a_hypervisor_may_have_the_crash_kernels_registers(
    panic_cpu: int, has_left: bool
) -> None:
    """They lead nowhere in the crashed kernel; taken while the crash went on they lead through its stack."""
    kernel = LostCpuKernel()
    kernel.thread("driver_thread")
    stack_pointer = 0x0FFF_FFF3 if has_left else kernel.top
    after_crash = registers(address_of("spin"), stack_pointer, address_of("driver_thread") + 16)
    found, _ = find(kernel, NoteState.NOT_SAVED, note=after_crash, panic_cpu=panic_cpu)
    assert found is not None
    assert found.stack.recovered is (has_left and panic_cpu == CPU)
    assert "driver_thread" in [frame.symbol for frame in found.stack.frames] or panic_cpu != CPU


def test_an_unreadable_buffer_without_a_note_is_recovered_too() -> None:
    kernel = LostCpuKernel()
    interrupted_by_ipi(kernel)
    found, diagnoses = find(kernel, NoteState.UNREADABLE)
    assert found is not None
    assert found.stack.recovered
    assert diagnoses == ()


def test_recovery_ends_with_its_own_allowance_and_says_where() -> None:
    kernel = LostCpuKernel()
    kernel.thread("driver_thread")
    opened = open_kernel(kernel)
    cpus = [MappedCpu(cpu, True, CpuNoteMap(NoteState.NOT_SAVED), kernel.task) for cpu in (0, 1, 2)]
    one = LostCpus(opened, dict.fromkeys(range(3), STACKS), None, allowance=Budget(decoded_bytes=50_000))
    contexts, diagnoses = one.find(cpus, [None] * 3)
    assert [context is not None for context in contexts] == [True, False, False]
    assert one.given_up_at == 1
    assert all(diagnoses)
    assert LostCpus(opened, {}, None).given_up_at is None


@pytest.mark.parametrize("name", ["h_lostnote_sysrq", "g_irqoff", "i2_lostnote_idlepanic", "le-lostnote-sysrq"])
def test_pages_that_only_recovery_asks_for_may_be_missing_without_a_warning(
    name: str, golden: Path, tmp_path: Path
) -> None:
    report = analyse(list_one(str(golden / f"{name}.kdump")), AnalysisOptions((str(golden),), str(tmp_path)))
    assert isinstance(report, CrashReport)
    codes = {warning.code for warning in report.warnings}
    assert WarningCode.NOTE_NOT_SAVED in codes
    assert not codes & {WarningCode.PAGES_UNREADABLE, WarningCode.BUDGET_REACHED, WarningCode.STACK_CUT}
    for cpu in report.cpus:
        if cpu.note.state is NoteState.NOT_SAVED:
            assert cpu.registers is None
            assert cpu.diagnosis
            assert cpu.stack.recovered or not cpu.stack.frames
