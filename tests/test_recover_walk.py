"""Silent CPUs: the walk down from the bottom of the stack, what it marks, and what it infers."""

import random
from itertools import pairwise

import pytest

from crashbeam.schemas.codes import StopReason, Trust
from crashbeam.schemas.crash_report import Stack
from crashbeam.vmcore.limits import MAX_FRAMES
from crashbeam.vmcore.recover.walk import walk_down
from tests.builders.instructions import BLR, beq, mflr, stw, stwu
from tests.builders.lost_cpu import FRAME, SOFTIRQ, STACKS, TASK, LostCpuKernel, address_of, after, branch, call, framed
from tests.builders.stacks import registers

HARDIRQ_COUNT, SOFTIRQ_COUNT = 0x10000, 0x100
USER_MSR = 0x2D002


def walk(kernel: LostCpuKernel) -> Stack | None:
    return walk_down(kernel.means(), kernel.task, STACKS)


def walked(kernel: LostCpuKernel) -> Stack:
    stack = walk(kernel)
    assert stack is not None
    assert stack.recovered
    assert [frame.level for frame in stack.frames] == list(range(len(stack.frames)))
    return stack


def names(stack: Stack) -> list[str | None]:
    return [frame.symbol for frame in stack.frames]


def certain(stack: Stack) -> list[str | None]:
    return [frame.symbol for frame in stack.frames if not frame.may_have_returned and frame.trust is not Trust.CALLEE]


def user_context(kernel: LostCpuKernel, trap: int) -> None:
    """The exception that led from user mode into the kernel: the first frame of the task's stack."""
    kernel.made.words(kernel.top, 0, 0)
    kernel.exception(registers(0x10000510, 0xBF000000, trap=trap, msr=USER_MSR), at=TASK.high - 240)


def test_a_thread_function_that_spins_in_a_leaf_is_found_with_the_leaf() -> None:
    kernel = LostCpuKernel()
    kernel.thread("driver_thread")
    kernel.made.words(kernel.top, TASK.high - 16 - FRAME, after("driver_thread"))
    stack = walked(kernel)
    assert names(stack) == ["spin", "driver_thread", "kthread", "start_kernel_thread"]
    assert [frame.trust for frame in stack.frames][:2] == [Trust.CALLEE, Trust.BACK_CHAIN]
    assert certain(stack) == ["driver_thread", "kthread", "start_kernel_thread"]
    assert stack.stop_reason is StopReason.THREAD_START


def test_what_returned_before_the_leaf_was_called_is_marked() -> None:
    kernel = LostCpuKernel()
    kernel.thread("driver_thread", "work", "deeper")
    stack = walked(kernel)
    assert names(stack) == ["spin", "deeper", "work", "driver_thread", "kthread", "start_kernel_thread"]
    assert certain(stack) == ["driver_thread", "kthread", "start_kernel_thread"]


def test_a_call_behind_which_nothing_can_stay_is_certain() -> None:
    kernel = LostCpuKernel(threadfn="timer_interrupt")
    kernel.thread("timer_interrupt", "work", "deeper")
    assert certain(walked(kernel)) == ["deeper", "work", "timer_interrupt", "kthread", "start_kernel_thread"]


def test_what_slept_has_returned_since_its_task_runs() -> None:
    kernel = LostCpuKernel(threadfn="timer_interrupt")
    kernel.thread("timer_interrupt", "work", "deeper", "work")
    kernel.made.symbols["schedule"] = kernel.made.symbols.pop("deeper")
    assert certain(walked(kernel)) == ["work", "timer_interrupt", "kthread", "start_kernel_thread"]


def test_remains_whose_function_has_no_frame_of_that_size_are_none() -> None:
    kernel = LostCpuKernel(threadfn="timer_interrupt")
    kernel.thread("timer_interrupt", "work")
    kernel.call("deeper", size=48)
    assert names(walked(kernel)) == ["work", "timer_interrupt", "kthread", "start_kernel_thread"]


def test_remains_of_a_function_that_was_not_called_there_are_none() -> None:
    """The frame may be that of ``deeper``, which ``work`` calls and which has made no call yet."""
    kernel = LostCpuKernel(threadfn="timer_interrupt")
    kernel.thread("timer_interrupt", "work", "busy")
    stack = walked(kernel)
    assert names(stack) == ["deeper", "work", "timer_interrupt", "kthread", "start_kernel_thread"]
    assert certain(stack) == ["work", "timer_interrupt", "kthread", "start_kernel_thread"]


def test_a_function_that_has_not_called_yet_is_inferred_from_the_call_of_it() -> None:
    kernel = LostCpuKernel(threadfn="timer_interrupt")
    kernel.thread("timer_interrupt", "work")
    kernel.made.words(kernel.top - FRAME, kernel.top, 0xDEADBEEC)
    stack = walked(kernel)
    assert names(stack)[:2] == ["deeper", "work"]
    assert (stack.frames[0].trust, stack.frames[0].offset) == (Trust.CALLEE, 0)
    assert int(stack.frames[0].stack_pointer, 16) == kernel.top - FRAME


def test_a_tail_call_is_found_below_the_call_of_what_made_it() -> None:
    kernel = LostCpuKernel(threadfn="tail")
    kernel.thread("tail_target", "work")
    assert certain(walked(kernel)) == ["work", "tail_target", "kthread", "start_kernel_thread"]


def test_of_several_frames_below_a_call_through_a_register_none_is_followed() -> None:
    """Each has the size of its function's frames, and a return address: nothing tells which one is younger."""
    kernel = LostCpuKernel(threadfn="indirect")
    kernel.thread("indirect")
    kernel.made.words(kernel.top - 16, kernel.top, after("small"))
    kernel.made.words(kernel.top - FRAME, kernel.top, after("busy"))
    assert names(walked(kernel)) == ["indirect", "kthread", "start_kernel_thread"]


def test_below_a_call_through_a_register_a_frame_beside_others_is_not_certain() -> None:
    kernel = LostCpuKernel(threadfn="indirect")
    kernel.thread("indirect", "timer_interrupt")
    assert certain(walked(kernel))[0] == "timer_interrupt"
    kernel.made.words(kernel.top + 16, kernel.top + FRAME, 0xDEADBEEC)
    stack = walked(kernel)
    assert names(stack)[0] == "timer_interrupt"
    assert certain(stack)[0] == "indirect"


def test_the_thread_function_of_the_task_tells_remains_from_its_frame() -> None:
    kernel = LostCpuKernel(threadfn="timer_interrupt")
    kernel.thread()
    kernel.made.words(kernel.top - 16, kernel.top, after("small"))
    kernel.call("timer_interrupt")
    assert certain(walked(kernel)) == ["timer_interrupt", "kthread", "start_kernel_thread"]
    kernel.made.words(0xC1030104, 0)
    assert names(walked(kernel)) == ["kthread", "start_kernel_thread"]


def test_an_interrupt_that_is_handled_goes_before_a_call() -> None:
    kernel = LostCpuKernel(HARDIRQ_COUNT)
    kernel.thread("driver_thread")
    kernel.exception(kernel.context("driver_thread", 4, trap=0x900))
    kernel.call("timer_interrupt")
    stack = walked(kernel)
    assert names(stack) == ["timer_interrupt", "entry", "driver_thread", "kthread", "start_kernel_thread"]
    assert certain(stack) == names(stack)
    (exception,) = [frame.exception for frame in stack.frames if frame.exception]
    assert (exception.vector, exception.name) == ("900", "Decrementer")


@pytest.mark.parametrize("count", [0, None])
def test_an_interrupt_that_may_be_over_is_not_certain(count: int | None) -> None:
    kernel = LostCpuKernel(count)
    kernel.thread("driver_thread")
    kernel.exception(kernel.context("driver_thread", 4, trap=0x900))
    kernel.call("tail_target")
    stack = walked(kernel)
    assert "tail_target" not in certain(stack)
    assert ("tail_target" in names(stack)) == (count is None)


def test_a_fault_in_a_function_that_left_no_trace_of_its_frame() -> None:
    """``shrink_wrapped`` has a frame, but ``deeper`` has LR still: what its caller's save word says is older."""
    kernel = LostCpuKernel(HARDIRQ_COUNT, threadfn="timer_interrupt")
    kernel.thread("timer_interrupt", "work")
    kernel.made.words(kernel.top - FRAME, kernel.top, 0xDEADBEEC)
    kernel.made.words(kernel.top - FRAME - FRAME, kernel.top - FRAME, 0xDEADBEEC)
    kernel.top -= 2 * FRAME
    kernel.exception(kernel.context("shrink_wrapped", 4, trap=0x900, lr=after("deeper")))
    kernel.call("timer_interrupt")
    assert names(walked(kernel))[:5] == ["timer_interrupt", "entry", "shrink_wrapped", "deeper", "work"]


def test_the_way_from_user_mode_begins_at_its_exception_frame() -> None:
    kernel = LostCpuKernel(HARDIRQ_COUNT)
    user_context(kernel, 0x900)
    kernel.call("timer_interrupt")
    kernel.call("work")
    stack = walked(kernel)
    assert names(stack) == ["work", "timer_interrupt", "entry", None]
    assert stack.stop_reason is StopReason.USER_MODE
    assert certain(stack) == names(stack)


def test_the_remains_of_an_interrupt_from_user_mode_that_is_over_are_not_certain() -> None:
    kernel = LostCpuKernel(0)
    user_context(kernel, 0x900)
    kernel.call("timer_interrupt")
    assert "timer_interrupt" not in certain(walked(kernel))


def test_a_task_that_may_be_back_in_user_mode_has_nothing_certain() -> None:
    kernel = LostCpuKernel(0)
    user_context(kernel, 0xC00)
    assert certain(walked(kernel)) == []


@pytest.mark.parametrize("link", [True, False])
def test_a_soft_interrupt_stack_is_entered_by_its_link_alone(link: bool) -> None:
    kernel = LostCpuKernel(SOFTIRQ_COUNT, threadfn="irq_exit")
    kernel.thread("irq_exit")
    switcher = kernel.top - FRAME
    kernel.made.words(switcher, kernel.top)
    top = SOFTIRQ.high - 16
    kernel.made.words(top, switcher if link else switcher - 64, after("do_softirq_own_stack", 5))
    kernel.made.words(top - FRAME, top, after("handle_softirqs"))
    stack = walked(kernel)
    if link:
        assert names(stack)[:3] == ["handle_softirqs", "do_softirq_own_stack", "irq_exit"]
        assert [frame.on.value for frame in stack.frames][:3] == ["softirq", "softirq", "task"]
    else:
        assert "handle_softirqs" not in names(stack)


def test_a_link_to_a_function_that_does_not_switch_is_stale() -> None:
    kernel = LostCpuKernel(SOFTIRQ_COUNT, threadfn="timer_interrupt")
    kernel.thread("timer_interrupt", "work")
    top = SOFTIRQ.high - 16
    kernel.made.words(top, kernel.top, after("do_softirq_own_stack", 5))
    kernel.made.words(top - FRAME, top, after("handle_softirqs"))
    assert names(walked(kernel)) == ["work", "timer_interrupt", "kthread", "start_kernel_thread"]


def test_panic_is_never_left() -> None:
    """Which function the call through a register led to is not certain, but that ``panic`` was never left is."""
    kernel = LostCpuKernel(threadfn="indirect")
    kernel.made.function("work", framed("work", "panic"), address_of("work"))
    kernel.thread("indirect", "work")
    kernel.made.words(kernel.top + 16, kernel.top + FRAME, 0xDEADBEEC)
    assert certain(walked(kernel))[0] == "indirect"
    kernel.call("panic")
    assert certain(walked(kernel))[:3] == ["panic", "work", "indirect"]


def test_of_several_leaves_that_may_spin_none_is_named() -> None:
    kernel = LostCpuKernel()
    behind = (beq(2), call("driver_thread", 5, "spin"), call("driver_thread", 6, "lock"), BLR)
    kernel.made.function("driver_thread", framed("driver_thread", "work", *behind), address_of("driver_thread"))
    kernel.thread("driver_thread", "work", "deeper")
    stack = walked(kernel)
    assert names(stack)[0] == "deeper"
    assert certain(stack)[0] == "driver_thread"


def test_a_link_with_a_return_address_of_another_call_is_stale() -> None:
    kernel = LostCpuKernel(SOFTIRQ_COUNT, threadfn="irq_exit")
    kernel.thread("irq_exit")
    top = SOFTIRQ.high - 16
    kernel.made.words(top, kernel.top, after("irq_exit"))
    kernel.made.words(top - FRAME, top, after("do_softirq_own_stack", 5))
    assert {frame.on.value for frame in walked(kernel).frames} == {"task"}


def test_what_a_function_calls_by_its_name_is_not_what_it_calls_through_a_register() -> None:
    """``indirect`` calls ``do_exit`` by its name elsewhere."""
    kernel = LostCpuKernel(threadfn="indirect")
    kernel.thread("indirect")
    kernel.made.words(kernel.top - 16, kernel.top, after("small"))
    kernel.made.words(kernel.top - FRAME, kernel.top, after("do_exit"))
    stack = walked(kernel)
    assert names(stack)[0] == "small"
    assert certain(stack)[0] == "indirect"


def test_of_a_function_and_its_tail_call_the_one_whose_word_survived_the_other_is_younger() -> None:
    """``outer`` stores r31 where the back chain word of ``small`` lies: that word was written later."""
    for stored_at, youngest in ((48, "small"), (40, "outer_thread")):
        kernel = LostCpuKernel(threadfn="driver_thread")
        words = (stwu(64), mflr(0), stw(31, stored_at), stw(0, 68), call("driver_thread", 4, "work"))
        last = branch("driver_thread", 5, "small")
        kernel.made.function("driver_thread", (*words, last), address_of("driver_thread"))
        kernel.thread()
        kernel.made.words(kernel.top - 16, kernel.top, after("small"))
        kernel.made.words(kernel.top - 64, kernel.top, after("driver_thread", 4))
        expected = [youngest, "kthread"] if youngest == "small" else ["kthread", "start_kernel_thread"]
        assert names(walked(kernel))[:2] == expected


def test_an_empty_stack_gives_nothing() -> None:
    kernel = LostCpuKernel()
    kernel.made.words(kernel.top, 0, 0)
    assert walk(kernel) is None


def test_a_stack_that_cannot_be_read_gives_nothing() -> None:
    kernel = LostCpuKernel()
    kernel.thread("driver_thread")
    kernel.made.lose(TASK.high - 16)
    assert walk(kernel) is None


def test_without_a_task_there_is_no_stack() -> None:
    kernel = LostCpuKernel()
    kernel.thread("driver_thread")
    assert walk_down(kernel.means(), None, STACKS[1:]) is None


def test_a_recursion_without_end_is_bounded() -> None:
    kernel = LostCpuKernel(threadfn="work")
    kernel.thread()
    while kernel.top - 2 * FRAME > TASK.low:
        kernel.call("work")
        kernel.call("deeper")
    assert 200 < len(walked(kernel).frames) <= MAX_FRAMES


def test_random_words_never_give_a_frame_that_the_code_does_not_bear_out() -> None:
    """Stacks full of return addresses and of words that point into the stack: no walk fails, and all that is certain
    follows from calls that the code has.
    """
    chance = random.Random(10)
    addresses = [after(name) for name in ("kthread", "work", "deeper", "busy", "timer_interrupt", "panic", "indirect")]
    calls = {("work", "deeper"), ("deeper", "work"), ("busy", "work"), ("timer_interrupt", "work")}
    calls |= {("panic", "__crash_kexec"), ("kthread", "do_exit"), ("__crash_kexec", "work"), ("do_exit", "work")}
    for _ in range(200):
        kernel = LostCpuKernel(chance.choice((0, HARDIRQ_COUNT, None)), chance.choice(("work", "busy", None)))
        for place in range(TASK.low, TASK.high - 32, 16):
            pointer = place + 16 * chance.randrange(1, 8)
            kernel.made.words(place, min(pointer, TASK.high - 16), chance.choice(addresses))
        kernel.call("kthread")
        stack = walk(kernel)
        if stack is None:
            continue
        found = names(stack)
        for callee, caller in pairwise(found):
            direct = caller in ("start_kernel_thread", "kthread", "indirect") or (caller, callee) in calls
            assert direct or stack.frames[found.index(callee)].trust is Trust.CALLEE
