"""The stacks of a 64-bit CPU, and how a walk crosses from one to the next."""

import pytest

from crashbeam.schemas.codes import StackKind, StopReason
from crashbeam.vmcore.stacks import Stack
from tests.builders.instructions import BLR, NOP, bl, ld, mflr, mr, mtlr, std, stdu, stdu_to
from tests.builders.kernel_memory import Placed
from tests.builders.machine_64 import (
    AFTER_CALL,
    BIG,
    EMERGENCY,
    FORMS,
    FRAMED_64,
    HARDIRQ,
    LITTLE,
    MACHINE_CHECK,
    NMI,
    SOFTIRQ,
    TASK,
    THREAD_BYTES,
    FrameForm,
    Machine64,
    chain,
)

every_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
NEAREST = (FORMS[0], BIG)
"""One form with each top offset of interrupt stacks: 32 and 112."""


def switching_function(machine: Machine64, name: str, *, own_frame: bool) -> Placed:
    """What runs a function on another stack, whose lowest address is in r4, with a frame of its own or without.

    ``call_do_irq`` and ``do_softirq_own_stack`` have none; ``__do_IRQ`` has one. The call is the word before ``back``.
    """
    own = (stdu(64),) if own_frame else ()
    switch = stdu_to(4, THREAD_BYTES - machine.form.switch_bytes)
    leave = (mtlr(0), BLR) if not own_frame else (NOP, BLR)
    words = (mflr(0), std(0, 16), *own, switch, mr(1, 4), bl(0x400), ld(1, 0), ld(0, 16), *leave)
    return machine.made.function(name, words)


def back_in(switch: Placed, *, own_frame: bool) -> int:
    """The return address of its call."""
    return switch.at(6 if own_frame else 5)


def switch_to(machine: Machine64, stack: Stack, link: int, name: str, *, own_frame: bool = False) -> int:
    """A function called on ``stack`` from one whose r1 is ``link``; returns the stack pointer of the function."""
    switch = switching_function(machine, name, own_frame=own_frame)
    top = stack.high - machine.form.switch_bytes
    machine.frame(top, link, back_in(switch, own_frame=own_frame))
    machine.frame(top - 64, top)
    return top - 64


@every_form
@pytest.mark.parametrize("stack", [HARDIRQ, SOFTIRQ], ids=lambda stack: stack.kind.value)
def test_an_interrupt_stack_whose_switch_has_no_frame_leads_to_the_caller_of_the_switch(
    form: FrameForm, stack: Stack
) -> None:
    """The LR save word of the stack that was left is the switching function's return address (``irq_exit``)."""
    machine = Machine64(form)
    machine.frame(machine.top, machine.bottom, machine.worker.at(AFTER_CALL))
    place = switch_to(machine, stack, machine.top, "call_do_irq")
    assert chain(machine.walk(machine.context(machine.handler.at(AFTER_CALL), place))) == [
        ("handler", place, "registers", stack.kind.value),
        ("call_do_irq", place + 64, "back_chain", stack.kind.value),
        ("worker", machine.top, "back_chain", "task"),
        ("start_kernel_thread", machine.bottom, "back_chain", "task"),
    ]


@every_form
def test_an_interrupt_stack_whose_switch_has_a_frame_leads_past_its_junk(form: FrameForm) -> None:
    machine = Machine64(form)
    own = machine.top - 64
    machine.frame(own, machine.top, machine.handler.at(AFTER_CALL))
    machine.frame(machine.top, machine.bottom, machine.worker.at(AFTER_CALL))
    place = switch_to(machine, HARDIRQ, own, "__do_IRQ", own_frame=True)
    assert chain(machine.walk(machine.context(machine.handler.at(AFTER_CALL), place))) == [
        ("handler", place, "registers", "hardirq"),
        ("__do_IRQ", place + 64, "back_chain", "hardirq"),
        ("worker", machine.top, "back_chain", "task"),
        ("start_kernel_thread", machine.bottom, "back_chain", "task"),
    ]


@pytest.mark.parametrize("form", NEAREST, ids=lambda form: form.name)
@pytest.mark.parametrize("instruction", range(2, 7))
def test_a_switching_function_that_is_itself_interrupted(form: FrameForm, instruction: int) -> None:
    """Before ``mr r1,r4`` and after ``ld r1,0(r1)`` r1 is the old stack's, between them the interrupt stack's."""
    machine = Machine64(form)
    machine.frame(machine.top, machine.bottom, machine.worker.at(AFTER_CALL))
    switch = switching_function(machine, "call_do_irq", own_frame=False)
    top = HARDIRQ.high - form.switch_bytes
    machine.frame(top, machine.top, switch.at(5))
    stack_pointer = top if instruction in (4, 5) else machine.top
    lr = switch.at(5) if instruction >= 5 else machine.worker.at(AFTER_CALL)
    stack = machine.walk(machine.context(switch.at(instruction), stack_pointer, lr))
    assert [(frame.symbol, int(frame.stack_pointer, 16), frame.trust.value) for frame in stack.frames] == [
        ("call_do_irq", stack_pointer, "registers"),
        ("worker", machine.top, "link_register" if instruction < 5 else "back_chain"),
        ("start_kernel_thread", machine.bottom, "back_chain"),
    ]


@pytest.mark.parametrize("form", NEAREST, ids=lambda form: form.name)
def test_a_hard_interrupt_of_a_soft_interrupt_of_a_task(form: FrameForm) -> None:
    machine = Machine64(form)
    machine.frame(machine.top, machine.bottom, machine.worker.at(AFTER_CALL))
    soft = switch_to(machine, SOFTIRQ, machine.top, "do_softirq_own_stack")
    action = machine.made.function("net_rx_action", FRAMED_64)
    place = soft - form.interrupt_bytes
    machine.exception(place, machine.context(action.at(AFTER_CALL), soft, trap=0x500))
    own = place - 128
    machine.frame(own, place - 64)
    machine.frame(place - 64, place, machine.handler.at(AFTER_CALL))
    hard = switch_to(machine, HARDIRQ, own, "__do_IRQ", own_frame=True)
    stack = machine.walk(machine.context(machine.handler.at(AFTER_CALL), hard))
    assert [(frame.symbol, frame.on.value) for frame in stack.frames] == [
        ("handler", "hardirq"),
        ("__do_IRQ", "hardirq"),
        ("handler", "softirq"),
        ("entry", "softirq"),
        ("net_rx_action", "softirq"),
        ("do_softirq_own_stack", "softirq"),
        ("worker", "task"),
        ("start_kernel_thread", "task"),
    ]
    assert stack.stop_reason is StopReason.THREAD_START


@every_form
@pytest.mark.parametrize(
    ("stack", "trap", "name"),
    [
        (EMERGENCY, 0x700, "Program Check"),
        (EMERGENCY, 0x900, "Decrementer"),
        (NMI, 0x100, "System Reset"),
        (MACHINE_CHECK, 0x200, "Machine Check"),
    ],
    ids=["bad stack", "soft NMI", "system reset", "machine check"],
)
def test_the_emergency_stacks_lead_back_by_their_exception_frame(
    form: FrameForm, stack: Stack, trap: int, name: str
) -> None:
    machine = Machine64(form)
    place = stack.high - form.interrupt_bytes
    interrupted = machine.context(machine.worker.at(AFTER_CALL), machine.top, trap=trap)
    found = machine.walk(machine.interrupt(place, interrupted))
    assert [(frame.symbol, frame.on) for frame in found.frames] == [
        ("handler", stack.kind),
        ("entry", stack.kind),
        ("worker", StackKind.TASK),
        ("start_kernel_thread", StackKind.TASK),
    ]
    exception = found.frames[2].exception
    assert exception is not None
    assert exception.name == name


@every_form
def test_a_machine_check_in_a_machine_check_nests_on_the_same_stack(form: FrameForm) -> None:
    machine = Machine64(form)
    outer = MACHINE_CHECK.high - form.interrupt_bytes
    first = machine.interrupt(outer, machine.context(machine.worker.at(AFTER_CALL), machine.top, trap=0x200))
    inner = first.stack_pointer - form.interrupt_bytes
    start = machine.interrupt(inner, machine.context(first.nip, first.stack_pointer, trap=0x200))
    stack = machine.walk(start)
    assert chain(stack) == [
        ("handler", inner - 64, "registers", "machine_check"),
        ("entry", inner, "back_chain", "machine_check"),
        ("handler", first.stack_pointer, "exception", "machine_check"),
        ("entry", outer, "back_chain", "machine_check"),
        ("worker", machine.top, "exception", "task"),
        ("start_kernel_thread", machine.bottom, "back_chain", "task"),
    ]


@every_form
def test_a_system_reset_in_a_system_reset_overwrote_the_first_frame_and_is_not_followed_below_it(
    form: FrameForm,
) -> None:
    """Both put their frame at ``nmi_emergency_sp`` - STACK_INT_FRAME_SIZE: what the first had interrupted is gone."""
    machine = Machine64(form)
    place = NMI.high - form.interrupt_bytes
    first = machine.interrupt(place, machine.context(machine.worker.at(AFTER_CALL), machine.top, trap=0x100))
    stack = machine.walk(machine.interrupt(place, first))
    assert [frame.symbol for frame in stack.frames] == ["handler", "entry"]
    assert stack.stop_reason is StopReason.NOT_ASCENDING


@pytest.mark.parametrize("form", NEAREST, ids=lambda form: form.name)
def test_a_system_reset_of_a_machine_check_of_a_hard_interrupt(form: FrameForm) -> None:
    machine = Machine64(form)
    machine.frame(machine.top, machine.bottom, machine.worker.at(AFTER_CALL))
    hard = switch_to(machine, HARDIRQ, machine.top, "call_do_irq")
    checked = MACHINE_CHECK.high - form.interrupt_bytes
    first = machine.interrupt(checked, machine.context(machine.handler.at(AFTER_CALL), hard, trap=0x200))
    reset = NMI.high - form.interrupt_bytes
    stack = machine.walk(machine.interrupt(reset, machine.context(first.nip, first.stack_pointer, trap=0x100)))
    kinds = ["nmi", "nmi", "machine_check", "machine_check", "hardirq", "hardirq", "task", "task"]
    assert [frame.on.value for frame in stack.frames] == kinds
    names = [frame.exception.name for frame in stack.frames if frame.exception]
    assert names == ["System Reset", "Machine Check"]


@pytest.mark.parametrize("form", NEAREST, ids=lambda form: form.name)
@pytest.mark.parametrize("distance", [16, 48, 64, 96, 128])
def test_a_link_that_is_not_at_the_top_of_its_stack_is_not_followed(form: FrameForm, distance: int) -> None:
    machine = Machine64(form)
    place = HARDIRQ.high - distance
    machine.frame(place, machine.top, machine.handler.at(AFTER_CALL))
    machine.frame(place - 64, place)
    stack = machine.walk(machine.context(machine.handler.at(AFTER_CALL), place - 64))
    assert len(stack.frames) == 2
    assert stack.stop_reason is StopReason.LEFT_KNOWN_STACKS


@pytest.mark.parametrize("link", [TASK.high + 0x100000, 0x7FFFD2340000, 0x10])
def test_an_interrupt_stack_that_links_to_no_known_stack_is_left_nowhere(link: int) -> None:
    machine = Machine64()
    place = switch_to(machine, HARDIRQ, link, "call_do_irq")
    stack = machine.walk(machine.context(machine.handler.at(AFTER_CALL), place))
    assert [frame.symbol for frame in stack.frames] == ["handler", "call_do_irq"]
    assert stack.stop_reason is StopReason.LEFT_KNOWN_STACKS


@pytest.mark.parametrize("back_chain", [LITTLE.switch_bytes + 8, 4])
def test_a_stack_pointer_that_is_not_aligned_to_16_bytes_ends_the_walk(back_chain: int) -> None:
    machine = Machine64()
    machine.frame(machine.top, machine.top + back_chain)
    stack = machine.walk(machine.interrupted)
    assert (len(stack.frames), stack.stop_reason) == (1, StopReason.UNALIGNED)
