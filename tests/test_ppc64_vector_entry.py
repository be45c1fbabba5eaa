"""The first instruction of an exception vector, where all registers are still those of the interrupted code."""

import pytest

from crashbeam.schemas.codes import StopReason
from crashbeam.vmcore.registers import Registers
from tests.builders.instructions import NOP
from tests.builders.machine_64 import AFTER_CALL, BIG, KERNEL_MSR, LITTLE, REAL_MSR, FrameForm, Machine64, chain

MTSPRG2_R13 = 0x7DB243A6
USER_R1, USER_R13 = 0x7FFFD2340000, 0x7FFF8C2B6300

both_orders = pytest.mark.parametrize("form", [LITTLE, BIG], ids=["little", "big"])


class VectorMachine(Machine64):
    """Vectors from 0x100 on, and their copy for translated addresses 0x4000 above."""

    def __init__(self, form: FrameForm) -> None:
        super().__init__(form)
        self.made.variables["__end_interrupts"] = self.made.base + 0x8000
        words = (MTSPRG2_R13, *(NOP,) * 31)
        self.virtual = self.made.function("exc_virt_0x4900_decrementer", words, at=self.made.base + 0x4900)
        self.real = self.made.function("exc_real_0x900_decrementer", words, at=self.made.base + 0x900)
        self.frame(self.top, self.bottom, self.worker.at(AFTER_CALL))

    def caught(self, nip: int, stack_pointer: int, *, msr: int = KERNEL_MSR, r13: int = 0) -> Registers:
        """The note of a CPU whose crash IPI came right behind another interrupt."""
        lr = self.worker.at(AFTER_CALL)
        return self.context(nip, stack_pointer, lr, trap=0x100, msr=msr, r13=r13, orig_r3=self.worker.at(2))


@both_orders
def test_with_the_kernels_r1_the_caller_is_in_lr(form: FrameForm) -> None:
    machine = VectorMachine(form)
    stack = machine.walk(machine.caught(machine.virtual.start, machine.top))
    assert chain(stack) == [
        ("exc_virt_0x4900_decrementer", machine.top, "registers", "task"),
        ("worker", machine.top, "link_register", "task"),
        ("start_kernel_thread", machine.bottom, "back_chain", "task"),
    ]


@both_orders
def test_a_return_address_in_lr_and_in_memory_stands_on_the_stack_once(form: FrameForm) -> None:
    """The interrupted function has stored LR, and called nobody since."""
    machine = VectorMachine(form)
    own = machine.top - 0x80
    machine.frame(own, machine.top)
    stack = machine.walk(machine.caught(machine.virtual.start, own))
    assert chain(stack) == [
        ("exc_virt_0x4900_decrementer", own, "registers", "task"),
        ("worker", machine.top, "back_chain", "task"),
        ("start_kernel_thread", machine.bottom, "back_chain", "task"),
    ]


@both_orders
def test_with_a_users_r1_nothing_of_the_kernel_is_on_it(form: FrameForm) -> None:
    machine = VectorMachine(form)
    stack = machine.walk(machine.caught(machine.virtual.start, USER_R1, r13=USER_R13))
    assert [(frame.symbol, frame.stack_pointer, frame.on.value) for frame in stack.frames] == [
        ("exc_virt_0x4900_decrementer", f"{USER_R1:016x}", "unknown")
    ]
    assert stack.stop_reason is StopReason.VECTOR_ENTRY


@both_orders
def test_the_vectors_of_real_mode_are_known_by_their_place_in_the_linear_map(form: FrameForm) -> None:
    machine = VectorMachine(form)
    stack = machine.walk(machine.caught(0x900, USER_R1, msr=REAL_MSR))
    assert [(frame.symbol, frame.address) for frame in stack.frames] == [
        ("exc_real_0x900_decrementer", "0000000000000900")
    ]
    assert stack.stop_reason is StopReason.VECTOR_ENTRY


@both_orders
@pytest.mark.parametrize("r1", [USER_R1, 0, 0x10])
def test_a_users_r1_anywhere_else_in_kernel_text_is_no_stack_that_is_known(form: FrameForm, r1: int) -> None:
    machine = VectorMachine(form)
    far = machine.made.function("far", (NOP, NOP), at=machine.made.base + 0x9000)
    stack = machine.walk(machine.caught(far.start, r1))
    assert ([frame.symbol for frame in stack.frames], stack.stop_reason) == (["far"], StopReason.LEFT_KNOWN_STACKS)


@both_orders
def test_without_the_end_of_the_vectors_a_users_r1_is_simply_unknown(form: FrameForm) -> None:
    machine = VectorMachine(form)
    del machine.made.variables["__end_interrupts"]
    stack = machine.walk(machine.caught(machine.virtual.start, USER_R1))
    assert stack.stop_reason is StopReason.LEFT_KNOWN_STACKS
