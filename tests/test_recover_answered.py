"""CPUs that answered the crash IPI without a note, and the one that panicked: whose registers are found whole."""

import pytest

from crashbeam.schemas.codes import CpuMode, RegistersFrom, StackKind, StopReason, Trust
from crashbeam.vmcore.errors import PageStatus
from crashbeam.vmcore.recover import LostCpu, OopsRegisters, Recovered, find_crash_ipi, read_answered, recover
from crashbeam.vmcore.recover.steps import Means
from crashbeam.vmcore.registers import Registers, name_registers
from crashbeam.vmcore.symbols.layouts import Field, StructLayout
from tests.builders.kernel_memory import PAGE_OFFSET_64, MadeUpKernel
from tests.builders.lost_cpu import FRAME, STACKS, TASK, VARIABLES, LostCpuKernel, after
from tests.builders.machine_64 import BIG, LITTLE, NMI, FrameForm, Machine64
from tests.builders.machine_64 import STACKS as STACKS_64
from tests.builders.stacks import registers

CPU = 3


def recovered(
    kernel: LostCpuKernel, *, answered: bool | None = None, panicked: bool = False, oops: OopsRegisters | None = None
) -> Recovered | None:
    lost = LostCpu(CPU, kernel.task, STACKS, panicked, answered, oops)
    return recover(kernel.means(), lost)


def interrupted_by_ipi(kernel: LostCpuKernel) -> Registers:
    """``work`` was interrupted, and the handler of the crash IPI waits on the same stack."""
    kernel.thread("timer_interrupt", "work")
    interrupted = kernel.context("work", 4, trap=0x2070, r30=0x1234)
    kernel.exception(interrupted)
    for name in ("timer_interrupt", "smp_handle_nmi_ipi", "crash_ipi_callback"):
        kernel.call(name)
    return interrupted


def put_paca(machine: Machine64, in_nmi: int) -> None:
    """The PACA of CPU 0."""
    made, at = machine.made, PAGE_OFFSET_64 + 0x500000
    made.structs["paca_struct"] = StructLayout(0x400, {"in_nmi": Field(0x310, 2)})
    made.variables["paca_ptrs"] = at
    made.words(at, at + 0x100)
    made.words(at + 0x100, at + 0x200)
    made.number(at + 0x200 + 0x310, in_nmi, 2)


def names(found: Recovered) -> list[str | None]:
    return [frame.symbol for frame in found.stack.frames]


def test_what_the_crash_ipi_interrupted_is_found_with_all_its_registers() -> None:
    kernel = LostCpuKernel(0x10000)
    interrupted = interrupted_by_ipi(kernel)
    found = recovered(kernel, answered=True)
    assert found is not None
    assert found.context == interrupted
    assert (found.registers_from, found.mode, found.by_crash_ipi) == (
        RegistersFrom.EXCEPTION_FRAME,
        CpuMode.KERNEL,
        True,
    )
    assert names(found) == ["work", "timer_interrupt", "kthread", "start_kernel_thread"]
    assert found.stack.recovered
    assert found.stack.stop_reason is StopReason.THREAD_START
    first = found.stack.frames[0]
    assert (first.trust, first.may_have_returned) == (Trust.EXCEPTION, False)
    assert first.exception is not None
    assert first.exception.vector == "2070"
    assert first.exception.registers == name_registers(kernel.made.arch, interrupted)


def test_a_cpu_that_did_not_answer_is_not_looked_at_for_its_handler() -> None:
    """Its frames may be the remains of an earlier IPI."""
    kernel = LostCpuKernel(0x10000)
    interrupted_by_ipi(kernel)
    found = recovered(kernel, answered=False)
    assert found is not None
    assert found.context is None
    assert not found.by_crash_ipi


def test_a_user_process_that_was_interrupted_has_one_frame() -> None:
    kernel = LostCpuKernel(0x10000)
    kernel.made.words(kernel.top, 0, 0)
    user = registers(0x10000510, 0xBF000000, trap=0x2070, msr=0x2D002)
    kernel.exception(user, at=TASK.high - 240)
    kernel.call("timer_interrupt")
    kernel.call("crash_ipi_callback")
    found = recovered(kernel, answered=True)
    assert found is not None
    assert (found.context, found.mode, found.stack.stop_reason) == (user, CpuMode.USER, StopReason.USER_MODE)
    assert names(found) == [None]


def test_two_handlers_that_contradict_each_other_prove_nothing() -> None:
    kernel = LostCpuKernel(0x10000)
    interrupted_by_ipi(kernel)
    kernel.exception(kernel.context("crash_ipi_callback", 4, trap=0x2070))
    kernel.call("timer_interrupt")
    kernel.call("crash_ipi_callback")
    assert find_crash_ipi(kernel.means(), CPU, STACKS) is None


def test_a_return_address_of_the_handler_without_a_frame_is_none() -> None:
    kernel = LostCpuKernel()
    kernel.thread("driver_thread")
    kernel.made.words(TASK.low + 0x100, 0x1234, after("crash_ipi_callback"))
    assert find_crash_ipi(kernel.means(), CPU, STACKS) is None


@pytest.mark.parametrize("form", [LITTLE, BIG], ids=lambda form: form.name)
@pytest.mark.parametrize(("in_nmi", "is_found"), [(1, True), (0, False), (2, False)])
def test_the_reset_frame_of_the_nmi_stack_counts_while_the_cpu_is_in_the_nmi(
    form: FrameForm, in_nmi: int, is_found: bool
) -> None:
    machine = Machine64(form)
    put_paca(machine, in_nmi)
    interrupted = machine.context(machine.worker.at(4), machine.top, trap=0x100)
    machine.exception(NMI.high - form.interrupt_bytes, interrupted)
    found = find_crash_ipi(Means(machine.made.kernel(), machine.made.unwinder()), 0, STACKS_64)
    assert found == (interrupted if is_found else None)


def test_another_exception_on_the_nmi_stack_is_no_reset() -> None:
    machine = Machine64()
    put_paca(machine, 1)
    machine.exception(NMI.high - 720, machine.context(machine.worker.at(4), machine.top, trap=0x900))
    assert find_crash_ipi(Means(machine.made.kernel(), machine.made.unwinder()), 0, STACKS_64) is None
    assert StackKind.NMI in [stack.kind for stack in STACKS_64]


def test_the_mask_of_those_that_answered_is_read_bit_by_bit() -> None:
    kernel = LostCpuKernel()
    kernel.answer(0, 3, 31)
    assert read_answered(kernel.made.kernel()) == frozenset({0, 3, 31})


def test_a_mask_on_a_page_that_was_left_out_says_nothing() -> None:
    """Taken for zeros, it would call every CPU silent."""
    kernel = LostCpuKernel()
    assert read_answered(kernel.made.kernel()) is None
    kernel.answer(1)
    kernel.made.lose(VARIABLES)
    assert read_answered(kernel.made.kernel()) is None


def test_a_mask_that_the_dump_level_left_out_is_not_taken_for_zeros() -> None:
    made = MadeUpKernel(dump_level=1)
    made.structs["cpumask"] = StructLayout(4, {})
    made.variables["cpus_state_saved"] = VARIABLES
    made.lose(VARIABLES, PageStatus.EXCLUDED)
    assert made.kernel().memory.words(VARIABLES, 1) == (0,)
    assert read_answered(made.kernel()) is None


def oops_of(context: Registers, *unknown: str, cpu: int = CPU, kernel: LostCpuKernel) -> OopsRegisters:
    names_of = kernel.made.arch.registers
    words = tuple(None if name in unknown else word for name, word in zip(names_of, context.words, strict=True))
    return OopsRegisters(cpu, words)


def test_the_registers_of_the_log_are_found_whole_in_their_exception_frame() -> None:
    kernel = LostCpuKernel(0)
    kernel.thread("timer_interrupt", "work")
    fault = kernel.context("work", 4, trap=0x300, dar=0x10)
    kernel.exception(fault)
    found = recovered(kernel, panicked=True, oops=oops_of(fault, "result", "mq", kernel=kernel))
    assert found is not None
    assert (found.context, found.registers_from) == (fault, RegistersFrom.EXCEPTION_FRAME)
    assert names(found) == ["work", "timer_interrupt", "kthread", "start_kernel_thread"]


def test_registers_that_no_frame_has_are_those_of_the_log_as_far_as_it_has_them() -> None:
    kernel = LostCpuKernel(0)
    kernel.thread("timer_interrupt", "work")
    fault = kernel.context("work", 4, trap=0x300, dar=0x10)
    found = recovered(kernel, panicked=True, oops=oops_of(fault, "result", "mq", kernel=kernel))
    assert found is not None
    assert found.registers_from is RegistersFrom.DMESG
    assert names(found) == ["work", "timer_interrupt", "kthread", "start_kernel_thread"]
    exception = found.stack.frames[0].exception
    assert exception is not None
    assert set(kernel.made.arch.registers) - set(exception.registers) == {"result", "mq"}
    assert exception.registers["dar"] == "00000010"


def test_an_exception_frame_of_the_same_stack_pointer_is_not_the_logs_if_its_nip_differs() -> None:
    kernel = LostCpuKernel(0)
    kernel.thread("timer_interrupt", "work")
    fault, earlier = kernel.context("work", 4, trap=0x300), kernel.context("work", 3, trap=0x900)
    kernel.exception(earlier)
    found = recovered(kernel, panicked=True, oops=oops_of(fault, kernel=kernel))
    assert found is not None
    assert (found.context, found.registers_from) == (fault, RegistersFrom.DMESG)


def test_the_log_of_another_cpu_is_not_its_own() -> None:
    kernel = LostCpuKernel(0)
    kernel.thread("timer_interrupt", "work")
    fault = kernel.context("work", 4, trap=0x300)
    found = recovered(kernel, panicked=True, oops=oops_of(fault, cpu=1, kernel=kernel))
    assert found is not None
    assert found.registers_from is None


def test_of_a_panic_the_lines_of_the_trace_count_that_memory_still_bears_out() -> None:
    kernel = LostCpuKernel(0)
    kernel.thread("timer_interrupt", "work", "deeper")
    work, deeper = kernel.top + FRAME, kernel.top
    trace = ((deeper, after("busy")), (work, after("work")), (work + FRAME, after("timer_interrupt")))
    found = recovered(kernel, panicked=True, oops=OopsRegisters(CPU, (None,) * 44, trace))
    assert found is not None
    assert (found.context, found.registers_from) == (None, None)
    assert names(found) == ["work", "timer_interrupt", "kthread", "start_kernel_thread"]


def test_without_a_log_an_oops_is_found_by_the_call_that_starts_the_crash_kernel() -> None:
    kernel = LostCpuKernel(0)
    kernel.thread("timer_interrupt", "work")
    fault = kernel.context("work", 4, trap=0x300)
    kernel.exception(fault)
    for name in ("die", "panic", "__crash_kexec"):
        kernel.call(name)
    found = recovered(kernel, panicked=True)
    assert found is not None
    assert (found.context, found.registers_from) == (fault, RegistersFrom.EXCEPTION_FRAME)
    assert names(found)[0] == "work"


def test_without_a_log_a_panic_begins_at_the_call_that_starts_the_crash_kernel() -> None:
    kernel = LostCpuKernel(0)
    kernel.thread("timer_interrupt", "work", "panic", "__crash_kexec")
    found = recovered(kernel, panicked=True)
    assert found is not None
    assert found.context is None
    assert names(found) == ["__crash_kexec", "panic", "work", "timer_interrupt", "kthread", "start_kernel_thread"]
    assert not any(frame.may_have_returned for frame in found.stack.frames)


def test_a_cpu_of_which_nothing_is_left_gives_nothing() -> None:
    kernel = LostCpuKernel()
    kernel.made.words(kernel.top, 0, 0)
    assert recovered(kernel) is None
