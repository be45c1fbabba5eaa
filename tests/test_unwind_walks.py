"""Walks over stacks written word by word: each rule of the unwinder, and each way to end."""

import random

import pytest

from crashbeam.schemas.codes import StopReason
from crashbeam.schemas.crash_report import Stack
from crashbeam.vmcore.limits import MAX_FRAMES
from crashbeam.vmcore.registers import Registers
from crashbeam.vmcore.unwind import call_target, is_call
from tests.builders.stacks import CODE, CRITICAL, HARDIRQ, SOFTIRQ, STACKS, TASK, Made, behind_call, registers

TOP = TASK.high - 0x400
INNER, MIDDLE, OUTER = (behind_call(name) for name in ("inner", "middle", "outer"))


def names(stack: Stack) -> list[str | None]:
    return [frame.symbol for frame in stack.frames]


def walk(made: Made, start: Registers) -> Stack:
    return made.unwinder().unwind(start, STACKS)


def thread(made: Made, bottom: int = TASK.high - 16) -> None:
    """``inner`` < ``middle`` < ``start_kernel_thread`` on the task stack, from TOP."""
    made.frame(TOP, TOP + 32)
    made.frame(TOP + 32, TOP + 64, MIDDLE)
    made.frame(TOP + 64, bottom, OUTER)
    made.frame(bottom, 0, behind_call("start_kernel_thread"))


def test_a_kernel_thread_from_its_innermost_function_to_its_start() -> None:
    made = Made()
    thread(made)
    stack = walk(made, registers(INNER, TOP))
    assert names(stack) == ["inner", "middle", "outer", "start_kernel_thread"]
    assert stack.stop_reason is StopReason.THREAD_START
    assert [frame.trust for frame in stack.frames] == ["registers", "back_chain", "back_chain", "back_chain"]


def test_a_stale_lr_word_at_the_bottom_is_no_caller() -> None:
    made = Made()
    thread(made)
    made.frame(TASK.high - 16, 0, CODE["last"][0])
    stack = walk(made, registers(INNER, TOP))
    assert names(stack) == ["inner", "middle", "outer"]
    assert stack.stop_reason is StopReason.END_OF_STACK


def test_a_live_lr_is_the_caller_and_the_stale_slot_is_not_read() -> None:
    made = Made()
    thread(made)
    made.frame(TOP + 32, TOP + 64, CODE["last"][0])
    stack = walk(made, registers(CODE["inner"][0] + 4, TOP, lr=MIDDLE))
    assert names(stack) == ["inner", "middle", "outer", "start_kernel_thread"]
    assert stack.frames[1].trust == "link_register"


def test_a_leaf_shares_its_stack_pointer_with_its_caller() -> None:
    made = Made()
    thread(made)
    stack = walk(made, registers(CODE["leaf"][0] + 4, TOP, lr=INNER))
    assert names(stack)[:3] == ["leaf", "inner", "middle"]
    assert stack.frames[0].stack_pointer == stack.frames[1].stack_pointer


def test_a_call_through_null_goes_on_by_lr() -> None:
    made = Made()
    thread(made)
    stack = walk(made, registers(0, TOP, lr=INNER, trap=0x400))
    assert names(stack)[:3] == [None, "inner", "middle"]
    assert stack.frames[0].address == "00000000"


@pytest.mark.parametrize("marker", [0x52454753, 0x72656773])
def test_an_exception_frame_leads_to_the_interrupted_context(marker: int) -> None:
    made = Made()
    interrupted = registers(INNER, TOP, trap=0x500, lr=0)
    thread(made)
    place = TOP - 0x200
    made.frame(place - 32, place)
    made.exception(place, behind_call("ExternalInput"), interrupted, marker)
    stack = walk(made, registers(MIDDLE, place - 32))
    assert names(stack)[:4] == ["middle", "ExternalInput", "inner", "middle"]
    exception = stack.frames[2].exception
    assert exception is not None
    assert (exception.vector, exception.name) == ("500", "External Interrupt")
    assert f"{TOP:08x}" == exception.registers["r1"]


def test_a_marker_without_plausible_registers_is_no_exception_frame() -> None:
    made = Made()
    thread(made)
    made.write(TOP + 32 + 8, 0x52454753)
    stack = walk(made, registers(INNER, TOP))
    assert names(stack) == ["inner", "middle", "outer", "start_kernel_thread"]
    assert all(frame.exception is None for frame in stack.frames)


def test_r1_may_itself_stand_on_an_exception_frame() -> None:
    made = Made()
    thread(made)
    place = TOP - 0x200
    made.exception(place, behind_call("ExternalInput"), registers(INNER, TOP, trap=0x900))
    stack = walk(made, registers(CODE["ExternalInput"][0], place))
    assert names(stack)[:3] == ["ExternalInput", "inner", "middle"]


def test_a_system_call_ends_in_user_mode() -> None:
    made = Made()
    place = TASK.high - 240
    user = registers(0x10000510, 0xBFAA0000, trap=0xC00, msr=0x2D002)
    made.frame(TOP, place)
    made.exception(place, behind_call("ExternalInput"), user)
    stack = walk(made, registers(INNER, TOP))
    assert names(stack) == ["inner", "ExternalInput", None]
    assert stack.stop_reason is StopReason.USER_MODE


def test_a_cpu_in_user_mode_has_one_frame() -> None:
    stack = walk(Made(), registers(0x10000510, 0xBFAA0000, msr=0x2D002))
    assert (len(stack.frames), stack.stop_reason) == (1, StopReason.USER_MODE)


def test_from_the_hardirq_stack_over_the_softirq_stack_to_the_task() -> None:
    """The first frame of an interrupt stack links to the one before; the switching function's own LR word is junk."""
    made = Made()
    thread(made)
    hard, soft = HARDIRQ.high - 16, SOFTIRQ.high - 16
    below = SOFTIRQ.high - 0x200
    made.frame(hard - 32, hard)
    made.frame(hard, below, behind_call("__do_IRQ"))
    made.frame(below, below + 32, 0x119ABF18)
    made.frame(below + 32, soft, MIDDLE)
    made.frame(soft, TOP, behind_call("__do_IRQ"))
    made.frame(TOP, TOP + 32, 0x100CCAD8)
    made.frame(TOP + 32, TOP + 64, MIDDLE)
    stack = walk(made, registers(INNER, hard - 32))
    assert names(stack) == ["inner", "__do_IRQ", "middle", "__do_IRQ", "middle", "outer", "start_kernel_thread"]
    assert [frame.on for frame in stack.frames] == ["hardirq", "hardirq", "softirq", "softirq", "task", "task", "task"]


def test_a_switching_function_without_a_frame_of_its_own_has_a_caller_in_that_word() -> None:
    made = Made()
    thread(made)
    hard = HARDIRQ.high - 16
    made.frame(hard - 32, hard)
    made.frame(hard, TOP, behind_call("frameless_switch"))
    made.frame(TOP, TOP + 32, INNER)
    stack = walk(made, registers(INNER, hard - 32))
    assert names(stack)[:4] == ["inner", "frameless_switch", "inner", "middle"]


def test_the_critical_stack_is_left_by_its_exception_frame() -> None:
    made = Made()
    thread(made)
    place = CRITICAL.high - 240
    made.frame(place - 32, place)
    made.exception(place, behind_call("ExternalInput"), registers(INNER, TOP, trap=0x102))
    stack = walk(made, registers(MIDDLE, place - 32))
    assert [frame.on for frame in stack.frames][:4] == ["critical", "critical", "task", "task"]


def test_both_forms_of_registers_that_the_kernel_saved_itself() -> None:
    """Since 6.5 r1 belongs to nip; before, r1 is that of the function that LR returns to."""
    made = Made()
    thread(made)
    made.write(TOP + 32 + 4, MIDDLE)
    unwinder = made.unwinder()
    assert names(unwinder.unwind(registers(INNER, TOP, lr=MIDDLE, trap=0), STACKS))[:2] == ["inner", "middle"]
    assert unwinder.quirks == set()
    old = unwinder.unwind(registers(INNER, TOP + 32, lr=MIDDLE, trap=0), STACKS)
    assert names(old)[:3] == ["inner", "middle", "outer"]
    assert unwinder.quirks == {"r1_belongs_to_lr"}


def test_an_overflow_is_followed_only_by_call_sites() -> None:
    made = Made()
    low = 0xC0140000
    made.write(low, *(0,) * 64)
    made.frame(low, low + 32)
    made.frame(low + 32, low + 64, behind_call("caller"))
    made.frame(low + 64, low + 96, OUTER)
    stack = walk(made, registers(INNER, low))
    assert names(stack) == ["inner", "caller"]
    assert stack.stop_reason is StopReason.LEFT_KNOWN_STACKS
    assert {"unknown"} == {frame.on for frame in stack.frames}


@pytest.mark.parametrize(
    ("following", "reason"),
    [
        (TOP + 33, StopReason.UNALIGNED),
        (TOP - 64, StopReason.NOT_ASCENDING),
        (TOP, StopReason.CYCLE),
        (0xC0180000, StopReason.LEFT_KNOWN_STACKS),
        (HARDIRQ.low + 64, StopReason.LEFT_KNOWN_STACKS),
        (0, StopReason.END_OF_STACK),
    ],
)
def test_a_broken_back_chain_ends_with_its_reason(following: int, reason: StopReason) -> None:
    made = Made()
    made.frame(TOP, following)
    assert reason is walk(made, registers(INNER, TOP)).stop_reason


def test_a_return_address_outside_text_ends_the_walk() -> None:
    made = Made()
    made.frame(TOP, TOP + 32)
    made.frame(TOP + 32, TOP + 64, 0xC0555555)
    stack = walk(made, registers(INNER, TOP))
    assert (names(stack), stack.stop_reason) == (["inner"], StopReason.NOT_CODE)


@pytest.mark.parametrize("stack_pointer", [0xC0F00000, 0x1000])
def test_memory_that_cannot_be_read_ends_the_walk(stack_pointer: int) -> None:
    stack = walk(Made(), registers(INNER, stack_pointer))
    assert (names(stack), stack.stop_reason) == (["inner"], StopReason.UNREADABLE)


def test_an_unaligned_stack_pointer_ends_the_walk() -> None:
    assert StopReason.UNALIGNED is walk(Made(), registers(INNER, TOP + 4)).stop_reason


def test_an_exception_frame_that_leads_back_to_itself_ends_the_walk() -> None:
    made = Made()
    made.exception(TOP, behind_call("ExternalInput"), registers(INNER, TOP, trap=0x500))
    assert StopReason.NOT_ASCENDING is walk(made, registers(INNER, TOP)).stop_reason


def test_calls_and_where_they_lead() -> None:
    assert is_call(0x48000101)
    assert is_call(0x4E800421)
    assert not is_call(0x48000100)
    assert call_target(0xC0001000, 0x48000101) == 0xC0001100
    assert call_target(0xC0001000, 0x4BFFFF01) == 0xC0000F00
    assert call_target(0xC0001000, 0x4E800421) is None


def test_any_words_on_a_stack_end_in_a_reason_within_the_limit() -> None:
    numbers = random.Random(11)
    likely = [INNER, MIDDLE, OUTER, 0, 0x52454753, TOP, TOP + 32, HARDIRQ.high - 16, 0xFFFFFFFF, 0x10000510]
    for _ in range(200):
        made = Made()
        for _ in range(60):
            stack = numbers.choice(STACKS)
            place = numbers.randrange(stack.low, stack.high, 4)
            made.write(place, numbers.choice([*likely, place + numbers.randrange(0, 128, 16), numbers.getrandbits(32)]))
        start = registers(numbers.choice([INNER, 0, 0xC0001004]), numbers.choice([TOP, HARDIRQ.low + 64]), lr=MIDDLE)
        found = walk(made, start)
        assert found.stop_reason is not None
        assert 1 <= len(found.frames) <= MAX_FRAMES
