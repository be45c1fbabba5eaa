"""Registers that a 64-bit kernel saved by itself (``ppc_save_regs``): which function their r1 belongs to."""

import pytest

from tests.builders.instructions import BCTRL, NOP
from tests.builders.machine_64 import AFTER_CALL, BIG, FRAMED_64, LITTLE, STACKS, FrameForm, Machine64

both_orders = pytest.mark.parametrize("form", [LITTLE, BIG], ids=["little", "big"])


class Panic:
    """``panic`` called ``__crash_kexec``, which called ``ppc_save_regs``; ``worker`` called ``panic``."""

    def __init__(self, form: FrameForm) -> None:
        self.machine = machine = Machine64(form)
        self.crash_kexec = machine.made.function("__crash_kexec", FRAMED_64)
        self.panic = machine.made.function("panic", FRAMED_64)
        self.own = machine.top - 0x100
        self.of_panic = self.own + 0x40
        machine.frame(self.own, self.of_panic, self.crash_kexec.at(AFTER_CALL))
        machine.frame(self.of_panic, machine.top, self.panic.at(AFTER_CALL))
        machine.frame(machine.top, machine.bottom, machine.worker.at(AFTER_CALL))

    def names(self, nip: int, stack_pointer: int, lr: int) -> tuple[list[str | None], set[str]]:
        """The functions of the walk, and the quirks."""
        unwinder = self.machine.made.unwinder()
        start = self.machine.context(nip, stack_pointer, lr, trap=0)
        return [frame.symbol for frame in unwinder.unwind(start, STACKS).frames], unwinder.quirks


WHOLE = ["__crash_kexec", "panic", "worker", "start_kernel_thread"]


@both_orders
def test_since_6_5_r1_is_that_of_nip(form: FrameForm) -> None:
    panic = Panic(form)
    found = panic.names(panic.crash_kexec.at(AFTER_CALL), panic.own, panic.panic.at(AFTER_CALL))
    assert found == (WHOLE, set())


@both_orders
def test_before_6_5_r1_is_that_of_the_function_that_lr_returns_to(form: FrameForm) -> None:
    panic = Panic(form)
    found = panic.names(panic.crash_kexec.at(AFTER_CALL), panic.of_panic, panic.panic.at(AFTER_CALL))
    assert found == (WHOLE, {"r1_belongs_to_lr"})


@both_orders
def test_a_word_at_r1_that_equals_the_link_by_chance_makes_no_old_form_of_the_new_one(form: FrameForm) -> None:
    panic = Panic(form)
    panic.machine.frame(panic.own, panic.of_panic, panic.panic.at(AFTER_CALL))
    found = panic.names(panic.crash_kexec.at(AFTER_CALL), panic.own, panic.panic.at(AFTER_CALL))
    assert found == (WHOLE, set())


@both_orders
def test_the_oldest_kernels_saved_the_caller_alone_and_it_is_shown_once(form: FrameForm) -> None:
    """NIP is the return address too, so that r1 does belong to it."""
    panic = Panic(form)
    found = panic.names(panic.panic.at(AFTER_CALL), panic.of_panic, panic.panic.at(AFTER_CALL))
    assert found == (WHOLE[1:], set())


@both_orders
def test_firmwares_registers_are_exact_though_their_trap_is_0_as_well(form: FrameForm) -> None:
    """Behind any call LR holds an address of the function itself, and so does its own LR save word."""
    panic = Panic(form)
    found = panic.names(panic.panic.at(AFTER_CALL + 1), panic.of_panic, panic.panic.at(AFTER_CALL))
    assert found == (WHOLE[1:], set())


@both_orders
def test_a_callee_without_a_frame_in_firmwares_registers_is_called_by_lr(form: FrameForm) -> None:
    panic = Panic(form)
    leaf = panic.machine.made.function("leaf", (NOP, NOP, BCTRL))
    found = panic.names(leaf.at(1), panic.of_panic, panic.panic.at(AFTER_CALL))
    assert found[0] == ["leaf", *WHOLE[1:]]
