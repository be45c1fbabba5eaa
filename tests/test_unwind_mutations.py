"""A walk over memory in which words were changed: it ends with a reason, within the limit, and frame 0 stays."""

from hypothesis import given
from hypothesis import strategies as st

from crashbeam.schemas.codes import StopReason, Trust
from crashbeam.vmcore.limits import MAX_FRAMES
from tests.builders.stacks import CODE, CRITICAL, HARDIRQ, STACKS, TASK, Made, behind_call, registers

INNER, MIDDLE, OUTER = (behind_call(name) for name in ("inner", "middle", "outer"))
TASK_TOP, EXCEPTION = TASK.high - 0x200, TASK.high - 0x500
CRITICAL_FRAME = CRITICAL.high - 240
START = CRITICAL_FRAME - 32
FIRST = registers(INNER, START)
PLACES = (
    *range(START, CRITICAL.high, 4),
    *range(HARDIRQ.high - 64, HARDIRQ.high, 4),
    *range(EXCEPTION, EXCEPTION + 240, 4),
    *range(TASK_TOP, TASK_TOP + 96, 4),
)
LIKELY = (
    *(0, 0x52454753, 0x72656773, 0x2D002, 0x500, 0xFFFFFFFC),
    *(INNER, MIDDLE, OUTER, CODE["leaf"][0]),
    *(START, TASK_TOP, EXCEPTION, HARDIRQ.high - 16, CRITICAL_FRAME, TASK.low, HARDIRQ.low),
)
WORDS = st.one_of(st.sampled_from(LIKELY), st.integers(0, 0xFFFFFFFF))


def critical_over_hardirq_over_exception_over_task() -> Made:
    """A critical interrupt on the hardirq stack, which interrupted a page fault of a kernel thread."""
    made = Made()
    made.frame(START, CRITICAL_FRAME)
    made.exception(CRITICAL_FRAME, behind_call("ExternalInput"), registers(INNER, HARDIRQ.high - 48, INNER, trap=0x102))
    made.frame(HARDIRQ.high - 48, HARDIRQ.high - 16)
    made.frame(HARDIRQ.high - 16, EXCEPTION - 32, behind_call("__do_IRQ"))
    made.frame(EXCEPTION - 32, EXCEPTION, 0x119ABF18)
    made.exception(EXCEPTION, behind_call("ExternalInput"), registers(INNER, TASK_TOP, INNER, trap=0x300))
    made.frame(TASK_TOP, TASK_TOP + 32)
    made.frame(TASK_TOP + 32, TASK_TOP + 64, MIDDLE)
    made.frame(TASK_TOP + 64, TASK.high - 16, OUTER)
    made.frame(TASK.high - 16, 0, behind_call("start_kernel_thread"))
    return made


def test_unchanged_it_is_followed_over_three_stacks_to_the_start() -> None:
    stack = critical_over_hardirq_over_exception_over_task().unwinder().unwind(FIRST, STACKS)
    assert [frame.symbol for frame in stack.frames] == [
        *("inner", "ExternalInput", "inner", "__do_IRQ", "ExternalInput"),
        *("inner", "middle", "outer", "start_kernel_thread"),
    ]
    assert stack.stop_reason is StopReason.THREAD_START


@given(changes=st.lists(st.tuples(st.sampled_from(PLACES), WORDS), min_size=1, max_size=6))
def test_changed_words_on_stacks_and_in_saved_registers(changes: list[tuple[int, int]]) -> None:
    made = critical_over_hardirq_over_exception_over_task()
    for place, word in changes:
        made.write(place, word)
    stack = made.unwinder().unwind(FIRST, STACKS)
    assert stack.stop_reason is not None
    assert 1 <= len(stack.frames) <= MAX_FRAMES
    assert [frame.level for frame in stack.frames] == list(range(len(stack.frames)))
    first = stack.frames[0]
    assert (first.address, first.stack_pointer, first.trust) == (f"{INNER:08x}", f"{START:08x}", Trust.REGISTERS)
    assert all((frame.exception is not None) == (frame.trust is Trust.EXCEPTION) for frame in stack.frames)


@given(
    nip=WORDS,
    stack_pointer=st.one_of(WORDS, st.sampled_from(PLACES)),
    lr=WORDS,
    trap=st.sampled_from([0, 0x300, 0x2070]),
)
def test_any_registers_to_start_from(nip: int, stack_pointer: int, lr: int, trap: int) -> None:
    start = registers(nip, stack_pointer, lr, trap=trap)
    stack = critical_over_hardirq_over_exception_over_task().unwinder().unwind(start, STACKS)
    assert stack.stop_reason is not None
    assert 1 <= len(stack.frames) <= MAX_FRAMES
    assert stack.frames[0].address == f"{nip:08x}"
