"""Contexts that a walk starts from or comes to: exception frames word by word, special stacks, lost text."""

import pytest

from crashbeam.schemas.codes import StackKind, StopReason
from crashbeam.schemas.crash_report import Stack as StackRecord
from crashbeam.vmcore.limits import MAX_FRAMES
from crashbeam.vmcore.registers import Registers
from crashbeam.vmcore.stacks import Stack
from tests.builders.instructions import BCTRL, BLR, NOP, bl, lwz, mflr, mr, mtlr, stw, stwu, stwu_to
from tests.builders.kernel_memory import INIT_TEXT, MadeUpKernel, Placed
from tests.builders.stacks import registers

TASK = Stack(StackKind.TASK, 0xC1000000, 0xC1002000)
HARDIRQ = Stack(StackKind.HARDIRQ, 0xC1010000, 0xC1012000)
MARKER = 0x52454753
FRAMED = (stwu(32), mflr(0), stw(0, 36), BCTRL, NOP, BLR)
AFTER_CALL = 4


def chain(stack: StackRecord) -> list[tuple[str | None, int, str]]:
    """Symbol, stack pointer and trust of each frame."""
    return [(frame.symbol, int(frame.stack_pointer, 16), frame.trust.value) for frame in stack.frames]


class Machine:
    """A kernel with ``worker`` on its task stack, called by ``start_kernel_thread``."""

    def __init__(self) -> None:
        self.made = MadeUpKernel()
        self.start = self.made.function("start_kernel_thread", (BCTRL, NOP))
        self.worker = self.made.function("worker", FRAMED)
        self.handler = self.made.function("handler", FRAMED)
        self.entry = self.made.function("Entry", (NOP, BCTRL, NOP))
        for stack in (TASK, HARDIRQ):
            self.made.put(stack.low, bytes(stack.high - stack.low))
        self.top = TASK.high - 0x200
        self.made.words(self.top, TASK.high - 16, 0)
        self.made.words(TASK.high - 16, 0, self.start.at(1))

    @property
    def interrupted(self) -> Registers:
        """``worker`` behind its call."""
        return registers(self.worker.at(AFTER_CALL), self.top, self.worker.at(AFTER_CALL), trap=0x500)

    def exception(self, place: int, interrupted: Registers, marker: int = MARKER) -> None:
        """An exception frame whose handler was called by ``Entry``."""
        self.made.words(place, interrupted.stack_pointer, self.entry.at(2), marker, 0, *interrupted.words)

    def walk(self, start: Registers, *stacks: Stack) -> StackRecord:
        return self.made.unwinder().unwind(start, (TASK, HARDIRQ, *stacks))


@pytest.mark.parametrize(
    ("stack_pointer", "behind", "stop_reason"),
    [
        (0xBFC105C0, "finish_tlb_load", StopReason.VECTOR_ENTRY),
        (0xBFC105C0, "finish_tlb_load_44x", StopReason.VECTOR_ENTRY),
        (0xBFC105C0, "some_routine", StopReason.UNREADABLE),
    ],
)
def test_a_users_r1_in_a_32_bit_vector(stack_pointer: int, behind: str, stop_reason: StopReason) -> None:
    machine = Machine()
    machine.made.variables["interrupt_base"] = machine.entry.start
    machine.made.variables[behind] = machine.entry.at(3)
    stack = machine.walk(registers(machine.entry.start, stack_pointer, machine.worker.at(AFTER_CALL)))
    assert [frame.symbol for frame in stack.frames] == ["Entry"]
    assert stack.stop_reason is stop_reason


def test_the_kernels_r1_in_a_32_bit_vector_leads_on() -> None:
    machine = Machine()
    machine.made.variables["interrupt_base"] = machine.entry.start
    machine.made.variables["finish_tlb_load"] = machine.entry.at(3)
    stack = machine.walk(registers(machine.entry.start, machine.top, machine.worker.at(AFTER_CALL)))
    assert chain(stack) == [
        ("Entry", machine.top, "registers"),
        ("worker", machine.top, "link_register"),
        ("start_kernel_thread", TASK.high - 16, "back_chain"),
    ]


def test_a_data_access_word_by_word() -> None:
    """A page fault in a function whose caller is in memory (marker REGS, ``pt_regs`` of 192 bytes with KUAP)."""
    made = MadeUpKernel()
    made.function("do_page_fault", (stwu(32), mflr(0), stw(0, 36), BCTRL, NOP), at=0xC0004434)
    made.function("DataStorage", (NOP, BCTRL, NOP), at=0xC0005670)
    made.function("interrupted", (stwu(32), mflr(0), stw(0, 36), *(NOP,) * 61, BCTRL, *(NOP,) * 29), at=0xC0023300)
    made.function("start_kernel_thread", (NOP, NOP, NOP, BCTRL, NOP), at=0xC0001224)
    nip, lr = 0xC0023450, 0xC0023404
    for place, words in {
        0xC7F3FC20: (0xC7F3FC40, 0xC0004400),
        0xC7F3FC40: (0xC7F3FD10, 0xC0005678, 0x52454753),
        0xC7F3FC54: (0xC7F3FD10,),
        0xC7F3FCD0: (nip, 0x00029032),
        0xC7F3FCE0: (lr,),
        0xC7F3FCF0: (0x300, 0x14, 0x40000000),
        0xC7F3FD10: (0xC7F3FD30, 0xC0023ABC),
        0xC7F3FD30: (0, 0xC0001234),
    }.items():
        made.words(place, *words)
    start = registers(0xC0004444, 0xC7F3FC20, trap=0x2070)
    stack = made.unwinder().unwind(start, (Stack(StackKind.TASK, 0xC7F3E000, 0xC7F40000),))
    assert chain(stack) == [
        ("do_page_fault", 0xC7F3FC20, "registers"),
        ("DataStorage", 0xC7F3FC40, "back_chain"),
        ("interrupted", 0xC7F3FD10, "exception"),
        ("start_kernel_thread", 0xC7F3FD30, "back_chain"),
    ]
    exception = stack.frames[2].exception
    assert exception is not None
    assert (exception.vector, exception.name) == ("300", "Data Access")
    wanted = ("nip", "lr", "msr", "trap", "dar", "dsisr")
    assert [exception.registers[name] for name in wanted] == [
        "c0023450",
        "c0023404",
        "00029032",
        "00000300",
        "00000014",
        "40000000",
    ]
    assert stack.stop_reason is StopReason.THREAD_START


@pytest.mark.parametrize(
    ("kind", "trap", "vector", "name"),
    [
        (StackKind.CRITICAL, 0x102, "100", "Critical Input"),
        (StackKind.CRITICAL, 0x3202, "3200", "Watchdog"),
        (StackKind.DEBUG, 0x7D8, "7d0", "Debug"),
        (StackKind.MACHINE_CHECK, 0x204, "200", "Machine Check"),
        (StackKind.EMERGENCY, 0x0, "0", "Stack Overflow"),
    ],
)
def test_the_special_stacks_lead_back_by_their_exception_frame(
    kind: StackKind, trap: int, vector: str, name: str
) -> None:
    machine = Machine()
    special = Stack(kind, 0xC1020000, 0xC1022000)
    machine.made.put(special.low, bytes(8192))
    place = special.high - 240
    interrupted = registers(machine.worker.at(AFTER_CALL), machine.top, trap=trap)
    machine.made.words(place - 32, place)
    machine.exception(place, interrupted)
    stack = machine.walk(registers(machine.handler.at(AFTER_CALL), place - 32), special)
    assert chain(stack) == [
        ("handler", place - 32, "registers"),
        ("Entry", place, "back_chain"),
        ("worker", machine.top, "exception"),
        ("start_kernel_thread", TASK.high - 16, "back_chain"),
    ]
    assert [frame.on for frame in stack.frames] == [kind, kind, StackKind.TASK, StackKind.TASK]
    exception = stack.frames[2].exception
    assert exception is not None
    assert (exception.vector, exception.name) == (vector, name)


@pytest.mark.parametrize(
    ("marker", "trap", "back_chain_differs"),
    [(MARKER, 0x12340, False), (MARKER, 0x500, True), (0x52454754, 0x500, False)],
    ids=["no such vector", "r1 is not the back chain", "no marker"],
)
def test_what_only_looks_like_an_exception_frame_is_a_plain_frame(
    marker: int, trap: int, back_chain_differs: bool
) -> None:
    machine = Machine()
    place = machine.top - 0x150
    machine.exception(place, registers(machine.worker.at(AFTER_CALL), machine.top, trap=trap), marker)
    if back_chain_differs:
        machine.made.words(place, machine.top + 0x10)
        machine.made.words(machine.top + 0x10, TASK.high - 16, machine.worker.at(AFTER_CALL))
    machine.made.words(machine.top + 4, machine.worker.at(AFTER_CALL))
    stack = machine.walk(registers(machine.handler.at(1), place, machine.worker.at(AFTER_CALL)))
    assert all(frame.exception is None for frame in stack.frames)
    assert [frame.symbol for frame in stack.frames][:2] == ["handler", "worker"]


def test_an_exception_from_user_mode_ends_the_walk_without_a_name() -> None:
    machine = Machine()
    place = TASK.high - 240
    machine.exception(place, registers(machine.worker.at(0), 0xBFAA0000, trap=0x300, msr=0x2D002))
    stack = machine.walk(registers(machine.entry.at(0), place))
    assert [(frame.symbol, frame.trust.value) for frame in stack.frames] == [
        ("Entry", "registers"),
        (None, "exception"),
    ]
    assert stack.stop_reason is StopReason.USER_MODE
    assert stack.frames[1].on is StackKind.UNKNOWN


def test_two_nested_exceptions_on_one_stack() -> None:
    machine = Machine()
    outer, inner = machine.top - 0x200, machine.top - 0x400
    machine.exception(outer, machine.interrupted)
    machine.exception(inner, registers(machine.entry.at(1), outer, trap=0x300))
    stack = machine.walk(registers(machine.entry.at(0), inner))
    assert [frame.symbol for frame in stack.frames] == ["Entry", "Entry", "worker", "start_kernel_thread"]
    vectors = [frame.exception.vector for frame in stack.frames if frame.exception]
    assert vectors == ["300", "500"]


def test_an_exception_frame_whose_context_lies_below_it_on_its_stack_ends_the_walk() -> None:
    machine = Machine()
    place = machine.top - 0x200
    machine.exception(place, registers(machine.worker.at(AFTER_CALL), place - 0x40, trap=0x500))
    stack = machine.walk(registers(machine.entry.at(0), place))
    assert (len(stack.frames), stack.stop_reason) == (1, StopReason.NOT_ASCENDING)


def test_two_stacks_whose_exception_frames_lead_to_each_other_end_as_a_cycle() -> None:
    machine = Machine()
    low, high = machine.top - 0x200, HARDIRQ.high - 0x200
    machine.exception(high, registers(machine.entry.at(0), low, trap=0x500))
    machine.exception(low, registers(machine.entry.at(0), high, trap=0x500))
    stack = machine.walk(registers(machine.entry.at(0), high))
    assert (len(stack.frames), stack.stop_reason) == (3, StopReason.CYCLE)


def test_two_interrupt_stacks_that_link_to_each_other_end_as_a_cycle() -> None:
    machine = Machine()
    switch = machine.made.function("switch", (mflr(5), BCTRL, NOP, BLR))
    soft = Stack(StackKind.SOFTIRQ, 0xC1020000, 0xC1022000)
    machine.made.words(soft.high - 16, HARDIRQ.high - 16, switch.at(2))
    machine.made.words(HARDIRQ.high - 16, soft.high - 16, switch.at(2))
    machine.made.words(soft.high - 48, soft.high - 16)
    stack = machine.walk(registers(machine.handler.at(AFTER_CALL), soft.high - 48), soft)
    assert [frame.on for frame in stack.frames] == [
        StackKind.SOFTIRQ,
        StackKind.SOFTIRQ,
        StackKind.HARDIRQ,
        StackKind.SOFTIRQ,
    ]
    assert stack.stop_reason is StopReason.CYCLE


@pytest.mark.parametrize("link", [0xC3000000, 0x10000000])
def test_an_interrupt_stack_that_links_to_no_known_stack_is_left_nowhere(link: int) -> None:
    machine = Machine()
    machine.made.words(HARDIRQ.high - 16, link, machine.handler.at(AFTER_CALL))
    machine.made.words(HARDIRQ.high - 48, HARDIRQ.high - 16)
    stack = machine.walk(registers(machine.handler.at(AFTER_CALL), HARDIRQ.high - 48))
    assert [frame.symbol for frame in stack.frames] == ["handler", "handler"]
    assert stack.stop_reason is StopReason.LEFT_KNOWN_STACKS


def test_a_link_that_is_not_at_the_top_of_its_stack_is_not_followed() -> None:
    machine = Machine()
    machine.made.words(HARDIRQ.high - 32, machine.top, machine.handler.at(AFTER_CALL))
    machine.made.words(HARDIRQ.high - 64, HARDIRQ.high - 32)
    stack = machine.walk(registers(machine.handler.at(AFTER_CALL), HARDIRQ.high - 64))
    assert len(stack.frames) == 2
    assert stack.stop_reason is StopReason.LEFT_KNOWN_STACKS


def switching() -> tuple[Machine, Placed]:
    """``call_do_irq`` of kernels before 5.14: no frame of its own, r1 stored at the top of the interrupt stack."""
    machine = Machine()
    words = (mflr(0), stw(0, 4), stwu_to(4, 8176), mr(1, 4), bl(0x400), lwz(1, 0), lwz(0, 4), mtlr(0), BLR)
    switch = machine.made.function("call_do_irq", words)
    machine.made.words(machine.top, TASK.high - 16, machine.worker.at(AFTER_CALL))
    machine.made.words(HARDIRQ.high - 16, machine.top, switch.at(5))
    return machine, switch


def test_a_switching_function_without_a_frame_has_its_caller_in_the_word_of_the_stack_it_left() -> None:
    machine, _ = switching()
    machine.made.words(HARDIRQ.high - 48, HARDIRQ.high - 16)
    stack = machine.walk(registers(machine.handler.at(AFTER_CALL), HARDIRQ.high - 48))
    assert chain(stack) == [
        ("handler", HARDIRQ.high - 48, "registers"),
        ("call_do_irq", HARDIRQ.high - 16, "back_chain"),
        ("worker", machine.top, "back_chain"),
        ("start_kernel_thread", TASK.high - 16, "back_chain"),
    ]


@pytest.mark.parametrize("instruction", [2, 3, 4, 5, 6])
def test_a_switching_function_that_is_itself_interrupted(instruction: int) -> None:
    """Before ``mr r1,r4`` and after ``lwz r1,0(r1)`` r1 is the old stack's, between them the interrupt stack's."""
    machine, switch = switching()
    stack_pointer = HARDIRQ.high - 16 if instruction in (4, 5) else machine.top
    lr = switch.at(5) if instruction >= 5 else machine.worker.at(AFTER_CALL)
    stack = machine.walk(registers(switch.at(instruction), stack_pointer, lr))
    assert chain(stack) == [
        ("call_do_irq", stack_pointer, "registers"),
        ("worker", machine.top, "link_register" if instruction < 5 else "back_chain"),
        ("start_kernel_thread", TASK.high - 16, "back_chain"),
    ]


def test_the_interrupted_function_before_it_has_stored_lr() -> None:
    """r1 is lowered, LR still live, and the slot holds what an earlier callee left."""
    machine = Machine()
    stale = machine.made.function("sscanf", FRAMED).at(AFTER_CALL)
    frame = machine.top - 0x20
    machine.made.words(frame, machine.top, 0xDEADBEEC)
    machine.made.words(machine.top + 4, stale)
    place = frame - 0x200
    lr = machine.worker.at(AFTER_CALL)
    machine.exception(place, registers(machine.handler.at(1), frame, lr, trap=0x300))
    stack = machine.walk(registers(machine.entry.at(0), place))
    assert chain(stack)[1:] == [
        ("handler", frame, "exception"),
        ("worker", machine.top, "link_register"),
        ("start_kernel_thread", TASK.high - 16, "back_chain"),
    ]


def test_the_return_address_in_another_register() -> None:
    machine = Machine()
    words = (mflr(30), bl(0x100), NOP, mtlr(30), BLR)
    odd = machine.made.function("restore_lr_by_hand", words)
    start = registers(odd.at(2), machine.top, 0xC0000004, r30=machine.worker.at(AFTER_CALL))
    assert chain(machine.walk(start))[:2] == [
        ("restore_lr_by_hand", machine.top, "registers"),
        ("worker", machine.top, "link_register"),
    ]


def test_the_frame_of_start_kernel_in_freed_init_text_is_kept() -> None:
    """Init text was freed after boot: its call site cannot be read, but ``rest_init`` was called from there."""
    machine = Machine()
    kernel_start = machine.made.function("start_kernel", FRAMED, at=INIT_TEXT[0] + 0x100)
    machine.made.lose(INIT_TEXT[0])
    machine.made.words(machine.top, machine.top + 0x40)
    machine.made.words(machine.top + 0x40, machine.top + 0x80, kernel_start.at(AFTER_CALL))
    machine.made.words(machine.top + 0x80, 0, machine.handler.at(2))
    stack = machine.walk(machine.interrupted)
    assert [frame.symbol for frame in stack.frames] == ["worker", "start_kernel"]
    assert stack.stop_reason is StopReason.END_OF_STACK


def test_an_address_whose_text_was_lost_is_named_where_it_stands() -> None:
    """Without the page of the call nobody can say whether one stands there."""
    machine = Machine()
    lost = machine.made.function("lost", FRAMED, at=0xC0020000)
    machine.made.lose(lost.start)
    machine.made.words(machine.top, machine.top + 0x40)
    machine.made.words(machine.top + 0x40, TASK.high - 16, lost.at(AFTER_CALL))
    stack = machine.walk(machine.interrupted)
    assert [frame.symbol for frame in stack.frames] == ["worker", "lost", "start_kernel_thread"]


def test_a_function_whose_text_was_lost_is_a_frame_but_not_left() -> None:
    machine = Machine()
    lost = machine.made.function("lost", FRAMED, at=0xC0020000)
    machine.made.lose(lost.start)
    stack = machine.walk(registers(lost.at(AFTER_CALL), machine.top))
    assert ([frame.symbol for frame in stack.frames], stack.stop_reason) == (["lost"], StopReason.UNREADABLE)


def test_registers_saved_by_the_kernel_with_an_unreadable_stack_are_not_of_the_old_form() -> None:
    machine = Machine()
    unwinder = machine.made.unwinder()
    stack = unwinder.unwind(registers(machine.worker.at(AFTER_CALL), 0xC5000000, 4, trap=0), (TASK,))
    assert unwinder.quirks == set()
    assert stack.stop_reason is StopReason.UNREADABLE
    machine.made.words(machine.top, 0x10000000, 4)
    stack = machine.walk(registers(machine.worker.at(AFTER_CALL), machine.top, 4, trap=0))
    assert stack.stop_reason is StopReason.LEFT_KNOWN_STACKS


def test_a_return_address_behind_a_noreturn_call_belongs_to_the_function_that_called() -> None:
    """``panic()`` is the last instruction: the address it would return to is the next function's first."""
    machine = Machine()
    last_call = machine.made.function("sysrq_handle_crash", (stwu(16), mflr(0), stw(0, 20), BCTRL), at=0xC0030000)
    machine.made.function("sysrq_handle_showregs", FRAMED, at=0xC0030010)
    machine.made.words(machine.top, machine.top + 0x40)
    machine.made.words(machine.top + 0x40, TASK.high - 16, last_call.at(4))
    frame = machine.walk(machine.interrupted).frames[1]
    assert (frame.symbol, frame.offset) == ("sysrq_handle_crash", 16)


def test_an_overflow_that_reaches_a_known_stack_goes_on_there() -> None:
    machine = Machine()
    below = TASK.low - 0x100
    direct = machine.made.function("recurse", (stwu(32), mflr(0), stw(0, 36), bl(-3), NOP, BLR))
    machine.made.words(below, below + 0x20)
    machine.made.words(below + 0x20, TASK.low + 0x40, direct.at(AFTER_CALL))
    machine.made.words(TASK.low + 0x40, TASK.high - 16, direct.at(AFTER_CALL))
    stack = machine.walk(registers(direct.at(AFTER_CALL), below))
    assert [(frame.symbol, frame.on.value) for frame in stack.frames] == [
        ("recurse", "unknown"),
        ("recurse", "unknown"),
        ("recurse", "task"),
        ("start_kernel_thread", "task"),
    ]


def test_a_recursion_without_end_stops_at_the_limit() -> None:
    machine = Machine()
    big = Stack(StackKind.TASK, 0xC2000000, 0xC2008000)
    direct = machine.made.function("recurse", (stwu(16), mflr(0), stw(0, 20), bl(-3), NOP, BLR))
    for place in range(big.low, big.high, 16):
        machine.made.words(place, place + 16, direct.at(AFTER_CALL))
    stack = machine.made.unwinder().unwind(registers(direct.at(AFTER_CALL), big.low), (big,))
    assert (len(stack.frames), stack.stop_reason) == (MAX_FRAMES, StopReason.LIMIT)
