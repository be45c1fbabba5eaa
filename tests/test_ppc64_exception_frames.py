"""Exception frames of 64-bit kernels: every place and marker that they have had, and what only looks like one."""

import pytest

from crashbeam.schemas.codes import StackKind, StopReason
from crashbeam.vmcore.arch.ppc64 import PPC64LE
from crashbeam.vmcore.stacks import Stack
from tests.builders.instructions import BCTRL, NOP, mflr, std, stdu
from tests.builders.kernel_memory import MadeUpKernel
from tests.builders.machine_64 import (
    AFTER_CALL,
    BIG,
    FORMS,
    FRAMED_64,
    LITTLE,
    REGS,
    REGS_LITTLE,
    REGSHERE,
    TASK,
    USER_MSR,
    FrameForm,
    Machine64,
    chain,
)
from tests.builders.stacks import registers

every_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)


@pytest.mark.parametrize(
    ("marker", "marker_at", "registers_at", "frame_bytes"),
    [
        ("5245475300000000", 32, 48, 720),
        ("5245475300000000", 96, 112, 784),
        ("6572656873676572", 96, 112, 784),
    ],
    ids=["since 6.2", "6.1", "until 6.0"],
)
def test_a_decrementer_byte_by_byte(marker: str, marker_at: int, registers_at: int, frame_bytes: int) -> None:
    """Little endian, ELFv2: the bytes of each doubleword as they lie in memory."""
    made = MadeUpKernel(arch=PPC64LE)
    timer = made.function("timer_interrupt", FRAMED_64, at=0xC000000000020000)
    made.function("decrementer_common_virt", (*(NOP,) * 15, BCTRL, NOP), at=0xC000000000008F00)
    idle = (mflr(0), std(0, 16), stdu(48), *(NOP,) * 4, BCTRL, *(NOP,) * 8)
    made.function("snooze_loop", idle, at=0xC00000000004C280)
    made.function("start_secondary_prolog", (*(NOP,) * 3, BCTRL, NOP), at=0xC000000000010000)
    place, interrupted = 0xC00000000F3AB900, 0xC00000000F3AB900 + frame_bytes
    back_chain = interrupted.to_bytes(8, "little").hex()
    for at, text in {
        place - 64: place.to_bytes(8, "little").hex(),
        place: back_chain,
        place + 16: "408f0000000000c0",
        place + marker_at: marker,
        place + registers_at + 8: back_chain,
        place + registers_at + 13 * 8: "0074ff3f000000c0",
        place + registers_at + 256: "a8c20400000000c0",
        place + registers_at + 264: "3390000000000080",
        place + registers_at + 288: "a0c20400000000c0",
        place + registers_at + 320: "0009000000000000",
        interrupted: (interrupted + 48).to_bytes(8, "little").hex(),
        interrupted + 48: bytes(8).hex(),
        interrupted + 64: "10000100000000c0",
    }.items():
        made.put(at, bytes.fromhex(text))
    stacks = (Stack(StackKind.TASK, 0xC00000000F3A8000, 0xC00000000F3AC000),)
    start = registers(timer.at(AFTER_CALL), place - 64, trap=0x100, msr=0x8000000000009033)

    stack = made.unwinder().unwind(start, stacks)

    assert chain(stack) == [
        ("timer_interrupt", place - 64, "registers", "task"),
        ("decrementer_common_virt", place, "back_chain", "task"),
        ("snooze_loop", interrupted, "exception", "task"),
        ("start_secondary_prolog", interrupted + 48, "back_chain", "task"),
    ]
    assert stack.stop_reason is StopReason.END_OF_STACK
    exception = stack.frames[2].exception
    assert exception is not None
    assert (exception.vector, exception.name) == ("900", "Decrementer")
    wanted = ("nip", "msr", "lr", "trap", "r1", "r13")
    assert [exception.registers[name] for name in wanted] == [
        "c00000000004c2a8",
        "8000000000009033",
        "c00000000004c2a0",
        "0000000000000900",
        f"{interrupted:016x}",
        "c00000003fff7400",
    ]


@every_form
def test_an_interrupted_function_is_found_in_every_form_of_frames(form: FrameForm) -> None:
    machine = Machine64(form)
    place = machine.top - form.interrupt_bytes
    stack = machine.walk(machine.interrupt(place, machine.interrupted))
    assert chain(stack) == [
        ("handler", place - 64, "registers", "task"),
        ("entry", place, "back_chain", "task"),
        ("worker", machine.top, "exception", "task"),
        ("start_kernel_thread", machine.bottom, "back_chain", "task"),
    ]
    assert stack.stop_reason is StopReason.THREAD_START


@every_form
def test_an_exception_from_user_mode_ends_the_walk_without_a_name(form: FrameForm) -> None:
    machine = Machine64(form)
    place = TASK.high - form.registers_at - 384
    user = machine.context(0x7FFF8C2A1234, 0x7FFFD2340000, trap=0x300, msr=USER_MSR)
    stack = machine.walk(machine.interrupt(place, user))
    assert [(frame.symbol, frame.trust.value) for frame in stack.frames] == [
        ("handler", "registers"),
        ("entry", "back_chain"),
        (None, "exception"),
    ]
    assert (stack.frames[2].address, stack.frames[2].on) == ("00007fff8c2a1234", StackKind.UNKNOWN)
    assert stack.stop_reason is StopReason.USER_MODE


@every_form
@pytest.mark.parametrize(
    ("trap", "back_chain_differs", "marker"),
    [(0x12340, False, None), (0x0, False, None), (0x900, True, None), (0x900, False, 0x5245475352454753)],
    ids=["no such vector", "no trap", "r1 is not the back chain", "no marker"],
)
def test_what_only_looks_like_an_exception_frame_is_a_plain_frame(
    form: FrameForm, trap: int, back_chain_differs: bool, marker: int | None
) -> None:
    machine = Machine64(form)
    place = machine.top - form.interrupt_bytes
    behind = machine.worker.at(AFTER_CALL)
    fake = machine.context(machine.handler.at(AFTER_CALL), machine.top, trap=trap)
    start = machine.interrupt(place, fake)
    machine.exception(place, fake, marker=marker)
    above = machine.top + 0x40 if back_chain_differs else machine.top
    machine.frame(place, above, behind)
    machine.frame(above, machine.bottom, behind)
    stack = machine.walk(start)
    assert chain(stack) == [
        ("handler", place - 64, "registers", "task"),
        ("worker", place, "back_chain", "task"),
        ("worker", above, "back_chain", "task"),
        ("start_kernel_thread", machine.bottom, "back_chain", "task"),
    ]
    assert all(frame.exception is None for frame in stack.frames)


def test_a_word_that_equals_the_marker_where_newer_kernels_have_it_hides_no_older_frame() -> None:
    """32 bytes into an ELFv1 frame lies the linker's word, which may hold anything."""
    machine = Machine64(BIG)
    place = machine.top - BIG.interrupt_bytes
    start = machine.interrupt(place, machine.interrupted)
    machine.made.words(place + LITTLE.marker_at, REGS)
    assert machine.walk(start).frames[2].symbol == "worker"


@pytest.mark.parametrize(("form", "marker"), [(LITTLE, REGS_LITTLE), (LITTLE, REGSHERE), (BIG, REGS), (BIG, REGSHERE)])
def test_old_and_new_markers_are_known_at_either_place(form: FrameForm, marker: int) -> None:
    machine = Machine64(form)
    place = machine.top - form.interrupt_bytes
    start = machine.interrupt(place, machine.interrupted)
    machine.exception(place, machine.interrupted, marker=marker)
    assert machine.walk(start).frames[2].symbol == "worker"


@pytest.mark.parametrize(
    ("trap", "vector", "name"),
    [
        (0x901, "900", "Decrementer"),
        (0xC00, "c00", "System Call"),
        (0x3000, "3000", "System Call Vectored"),
        (0xEA0, "ea0", "Hypervisor Virtualization"),
        (0x380, "380", "Data SLB Access"),
    ],
)
def test_vectors_have_the_names_of_book3s(trap: int, vector: str, name: str) -> None:
    machine = Machine64()
    place = machine.top - LITTLE.interrupt_bytes
    interrupted = machine.context(machine.worker.at(AFTER_CALL), machine.top, trap=trap)
    exception = machine.walk(machine.interrupt(place, interrupted)).frames[2].exception
    assert exception is not None
    assert (exception.vector, exception.name) == (vector, name)


@pytest.mark.parametrize("trap", [0xC10, 0xC11, 0x510])
def test_a_trap_with_the_norestart_flag_of_5_8_to_5_12_is_that_vector(trap: int) -> None:
    """``set_trap_norestart`` set bit 0x10 of the trap word there (asm/ptrace.h)."""
    machine = Machine64(BIG)
    place = TASK.high - 496
    user = machine.context(0x10001234, 0x3FFFD2340000, trap=trap, msr=USER_MSR)
    stack = machine.walk(machine.interrupt(place, user))
    assert stack.stop_reason is StopReason.USER_MODE
    exception = stack.frames[-1].exception
    assert exception is not None
    assert exception.name == {0xC: "System Call", 0x5: "External Interrupt"}[trap >> 8]
