"""Why a CPU did not answer: each code from its facts, in words."""

import pytest
from msgspec.structs import replace

from crashbeam.schemas.codes import CpuMode, DiagnosisCode, NoteState, StackKind, StopReason, Trust
from crashbeam.schemas.crash_report import Diagnosis, Frame, Stack
from crashbeam.vmcore.arch.ppc64 import PPC64, PPC64LE
from crashbeam.vmcore.diagnosis import CpuFacts, diagnose
from crashbeam.vmcore.modules import Text
from crashbeam.vmcore.recover.walk import walk_down
from crashbeam.vmcore.registers import Registers
from crashbeam.vmcore.symbols.layouts import Field, StructLayout
from crashbeam.vmcore.unwind import NO_STACK
from tests.builders.kernel_memory import PAGE_OFFSET_64, MadeUpKernel
from tests.builders.lost_cpu import BASES, STACKS, VARIABLES, LostCpuKernel, address_of
from tests.builders.stacks import registers

KTIME_MAX = (1 << 63) - 1
SECOND = 1_000_000_000
TICK_AT, TIMER, CLOCK_BASE_BYTES = VARIABLES + 8, VARIABLES + 0x300, 32
CPU = 4


def set_clock(kernel: LostCpuKernel, expires_ns: int, tick_ns: int, running_since_ns: int | None = None) -> None:
    """The CPU's own timer, the tick of the system, and the timer that the CPU's second clock runs."""
    made = kernel.made
    made.variables["hrtimer_bases"], made.variables["tick_next_period"] = BASES, TICK_AT
    made.structs["hrtimer_cpu_base"] = StructLayout(
        256, {"expires_next": Field(8, 8), "clock_base": Field(64, 4 * CLOCK_BASE_BYTES, 4)}
    )
    made.structs["hrtimer_clock_base"] = StructLayout(CLOCK_BASE_BYTES, {"running": Field(4, 4)})
    made.structs["hrtimer"] = StructLayout(48, {"node.expires": Field(8, 8), "function": Field(16, 4)})
    made.number(BASES + 8, expires_ns, 8)
    made.number(TICK_AT, tick_ns, 8)
    if running_since_ns is not None:
        made.words(BASES + 64 + CLOCK_BASE_BYTES + 4, TIMER)
        made.number(TIMER + 8, running_since_ns, 8)
        made.words(TIMER + 16, address_of("timer_interrupt"))


def facts_of(
    kernel: LostCpuKernel,
    *,
    online: bool | None = True,
    state: NoteState = NoteState.NOT_SAVED,
    answered: bool | None = False,
    panicked: bool = False,
    context: Registers | None = None,
    has_note: bool = False,
    mode: CpuMode | None = CpuMode.KERNEL,
    stack: Stack = NO_STACK,
) -> CpuFacts:
    return CpuFacts(CPU, online, state, kernel.task, answered, panicked, context, has_note, mode, stack)


def diagnosed(kernel: LostCpuKernel, facts: CpuFacts) -> dict[DiagnosisCode, Diagnosis]:
    made = kernel.made.kernel()
    found = diagnose(made, Text(made), facts)
    assert len({diagnosis.code for diagnosis in found}) == len(found)
    assert all(str(CPU) in diagnosis.message for diagnosis in found)
    return {diagnosis.code: diagnosis for diagnosis in found}


def frame(level: int, symbol: str, *, may_have_returned: bool = False) -> Frame:
    return Frame(
        level=level,
        stack_pointer="c000000000600000",
        address="c000000000001000",
        symbol=symbol,
        offset=0,
        module=None,
        trust=Trust.BACK_CHAIN,
        may_have_returned=may_have_returned,
        on=StackKind.TASK,
        exception=None,
        source=None,
    )


def test_interrupts_were_off_since_the_timer_that_was_never_taken() -> None:
    kernel = LostCpuKernel()
    set_clock(kernel, 2 * SECOND, 5 * SECOND)
    found = diagnosed(kernel, facts_of(kernel))
    assert list(found) == [DiagnosisCode.INTERRUPTS_OFF]
    assert found[DiagnosisCode.INTERRUPTS_OFF].message == (
        "cpu 4 ran with interrupts off since 2.00 s after boot (the timer that was due then is 3.00 s late)"
    )
    assert found[DiagnosisCode.INTERRUPTS_OFF].facts == {
        "context": "task",
        "preempt_count": "00000000",
        "since_ns": "2000000000",
        "missed_ns": "3000000000",
    }


@pytest.mark.parametrize("late_ns", [-SECOND, 0, SECOND])
def test_a_timer_that_is_not_late_says_nothing(late_ns: int) -> None:
    kernel = LostCpuKernel()
    set_clock(kernel, 5 * SECOND, 5 * SECOND + late_ns)
    assert list(diagnosed(kernel, facts_of(kernel))) == [DiagnosisCode.UNKNOWN]


def test_inside_the_timer_interrupt_the_running_timer_tells_since_when() -> None:
    kernel = LostCpuKernel(0x10000)
    set_clock(kernel, KTIME_MAX, 5 * SECOND, running_since_ns=2 * SECOND)
    facts = diagnosed(kernel, facts_of(kernel))[DiagnosisCode.INTERRUPTS_OFF].facts
    assert (facts["since_ns"], facts["handler"], facts["timer_function"]) == (
        "2000000000",
        "hrtimer_interrupt",
        "timer_interrupt",
    )
    assert facts["context"] == "hardirq"


@pytest.mark.parametrize(
    ("due_ns", "handler", "is_off"),
    [
        (2 * SECOND, "hrtimer_interrupt", True),
        (5 * SECOND - 1, "hrtimer_interrupt", False),
        (2 * SECOND, "tick_sched_timer", False),
    ],
)
def test_a_saved_cpu_that_stayed_in_its_timer_interrupt_is_diagnosed(due_ns: int, handler: str, is_off: bool) -> None:
    """Its note was taken by an NMI; whose time it was, an idle task's too, says nothing."""
    kernel = LostCpuKernel(0x10000)
    set_clock(kernel, KTIME_MAX, 5 * SECOND, running_since_ns=due_ns)
    stack = Stack(frames=(frame(0, "a_timer"), frame(1, handler)), stop_reason=StopReason.END_OF_STACK, recovered=False)
    context = registers(address_of("work"), kernel.top)
    facts = facts_of(kernel, state=NoteState.SAVED, answered=None, context=context, has_note=True, stack=stack)
    found = diagnosed(kernel, facts)
    assert list(found) == ([DiagnosisCode.INTERRUPTS_OFF] if is_off else [])
    if is_off:
        assert found[DiagnosisCode.INTERRUPTS_OFF].facts["timer_function"] == "timer_interrupt"


def test_a_big_endian_64_bit_timer_names_its_function_by_a_descriptor() -> None:
    made = MadeUpKernel(arch=PPC64)
    place = made.function("a_timer", (0x60000000,))
    descriptor = PAGE_OFFSET_64 + 0x600000
    made.number(descriptor, place.start, 8)
    made.structs["hrtimer_cpu_base"] = StructLayout(256, {"expires_next": Field(8, 8), "clock_base": Field(64, 64, 8)})
    made.structs["hrtimer_clock_base"] = StructLayout(64, {"running": Field(8, 8)})
    made.structs["hrtimer"] = StructLayout(48, {"node.expires": Field(8, 8), "function": Field(16, 8)})
    base, timer = PAGE_OFFSET_64 + 0x500000, PAGE_OFFSET_64 + 0x500800
    made.variables["hrtimer_bases"], made.variables["tick_next_period"] = base, base + 0x400
    made.number(base + 8, KTIME_MAX, 8)
    made.number(base + 64 + 8, timer, 8)
    made.number(base + 0x400, 5 * SECOND, 8)
    made.number(timer + 8, 2 * SECOND, 8)
    made.number(timer + 16, descriptor, 8)
    kernel = made.kernel()
    facts = CpuFacts(0, True, NoteState.NOT_SAVED, None, False, False, None, False, CpuMode.KERNEL, NO_STACK)
    (found,) = diagnose(kernel, Text(kernel), facts)
    assert found.facts["timer_function"] == "a_timer"


def test_inside_the_timer_interrupt_without_a_timer_nothing_tells_since_when() -> None:
    kernel = LostCpuKernel()
    set_clock(kernel, KTIME_MAX, 5 * SECOND)
    found = diagnosed(kernel, facts_of(kernel))[DiagnosisCode.INTERRUPTS_OFF]
    assert "since_ns" not in found.facts
    assert found.message == "cpu 4 ran with interrupts off in hrtimer_interrupt"


@pytest.mark.parametrize(("answered", "panicked", "has_note"), [(True, False, False), (False, True, False)])
def test_who_answered_or_ran_the_crash_path_is_not_called_silent(
    answered: bool, panicked: bool, has_note: bool
) -> None:
    kernel = LostCpuKernel()
    set_clock(kernel, 2 * SECOND, 5 * SECOND)
    found = diagnosed(kernel, facts_of(kernel, answered=answered, panicked=panicked, has_note=has_note))
    assert list(found) == [DiagnosisCode.SKIPPED_BY_KERNEL]
    did = "ran the crash path itself" if panicked else "answered the crash IPI"
    assert found[DiagnosisCode.SKIPPED_BY_KERNEL].message == (
        f"cpu 4 {did}, and its buffer is empty: this kernel saved no note of it"
    )


def test_a_clock_on_a_page_that_was_left_out_says_nothing() -> None:
    kernel = LostCpuKernel()
    set_clock(kernel, 2 * SECOND, 5 * SECOND)
    kernel.made.lose(BASES)
    assert list(diagnosed(kernel, facts_of(kernel))) == [DiagnosisCode.UNKNOWN]


def test_a_saved_cpu_is_diagnosed_by_nothing_that_is_usual() -> None:
    kernel = LostCpuKernel()
    set_clock(kernel, 2 * SECOND, 5 * SECOND)
    context = registers(address_of("work"), STACKS[0].high - 64)
    facts = facts_of(kernel, state=NoteState.SAVED, answered=None, context=context, has_note=True)
    assert diagnosed(kernel, facts) == {}


@pytest.mark.parametrize(
    ("softe", "msr", "pid", "mode", "stop_reason", "is_off"),
    [
        (1, 0x8000000000009033, 77, CpuMode.KERNEL, StopReason.THREAD_START, True),
        (3, 0x8000000002803033, 77, CpuMode.KERNEL, StopReason.THREAD_START, True),
        (0, 0x8000000000009033, 77, CpuMode.KERNEL, StopReason.THREAD_START, False),
        (2, 0x8000000000009033, 77, CpuMode.KERNEL, StopReason.THREAD_START, False),
        (1, 0x8000000000009033, 0, CpuMode.KERNEL, StopReason.END_OF_STACK, False),
        (3, 0x8000000000001031, 77, CpuMode.KERNEL, StopReason.VECTOR_ENTRY, False),
        (3, 0x8000000000001000, 77, CpuMode.FIRMWARE, StopReason.END_OF_STACK, False),
        (1, 0x800000000000D033, 77, CpuMode.USER, StopReason.USER_MODE, False),
    ],
)
def test_a_saved_64_bit_cpu_that_code_disabled_is_diagnosed(
    softe: int, msr: int, pid: int, mode: CpuMode, stop_reason: StopReason, is_off: bool
) -> None:
    """softe counts, not MSR[EE]: a masked interrupt clears it. An idle task waits like that."""
    made = MadeUpKernel(arch=PPC64LE)
    made.structs["hrtimer_cpu_base"] = StructLayout(256, {"expires_next": Field(8, 8)})
    made.variables["hrtimer_bases"] = PAGE_OFFSET_64 + 0x500000
    made.variables["tick_next_period"] = PAGE_OFFSET_64 + 0x500100
    made.number(PAGE_OFFSET_64 + 0x500008, 2 * SECOND, 8)
    made.number(PAGE_OFFSET_64 + 0x500100, 5 * SECOND, 8)
    words = [0] * 44
    words[33], words[39] = msr, softe
    task = replace(LostCpuKernel().task, pid=pid)
    stack = Stack(frames=(), stop_reason=stop_reason, recovered=False)
    facts = CpuFacts(2, True, NoteState.SAVED, task, None, False, Registers(tuple(words)), True, mode, stack)
    kernel = made.kernel()
    codes = [found.code for found in diagnose(kernel, Text(kernel), facts)]
    assert (DiagnosisCode.INTERRUPTS_OFF in codes) is is_off


def spinning(kernel: LostCpuKernel, value: int) -> Stack:
    """The thread was interrupted in ``_raw_spin_lock``, and the handler runs."""
    kernel.made.symbols["_raw_spin_lock"] = kernel.made.symbols.pop("lock")
    lock = VARIABLES + 0x200
    kernel.made.words(lock, value)
    kernel.thread("driver_thread")
    kernel.exception(registers(address_of("lock"), kernel.top, address_of("driver_thread") + 16, trap=0x900, r3=lock))
    kernel.call("timer_interrupt")
    stack = walk_down(kernel.means(), kernel.task, STACKS)
    assert stack is not None
    return stack


def test_a_taken_lock_is_named_by_r3_of_the_interrupted_lock_function() -> None:
    kernel = LostCpuKernel(0x10000)
    stack = spinning(kernel, 1)
    found = diagnosed(kernel, facts_of(kernel, stack=stack))[DiagnosisCode.SPINNING_ON_LOCK]
    assert found.message == "cpu 4 spun in _raw_spin_lock on the lock at c1040200"
    assert found.facts == {"function": "_raw_spin_lock", "lock": "c1040200", "value": "00000001"}


def test_a_free_lock_was_only_passed() -> None:
    kernel = LostCpuKernel(0x10000)
    stack = spinning(kernel, 0)
    assert DiagnosisCode.SPINNING_ON_LOCK not in diagnosed(kernel, facts_of(kernel, stack=stack))


def test_a_64_bit_lock_names_its_owner() -> None:
    made = MadeUpKernel(arch=PPC64LE)
    lock = PAGE_OFFSET_64 + 0x500000
    made.number(lock, 0x80000005, 4)
    place = made.function("_raw_spin_lock", (0x60000000,))
    context = registers(place.start, PAGE_OFFSET_64 + 0x600000, trap=0x100, msr=0x8000000000009033, r3=lock)
    unwinder = made.unwinder()
    stack = unwinder.unwind(context, ())
    facts = CpuFacts(2, True, NoteState.SAVED, None, None, False, context, True, CpuMode.KERNEL, stack)
    (found,) = diagnose(made.kernel(), unwinder.text, facts)
    assert found.message == "cpu 2 spun in _raw_spin_lock on the lock at c000000000500000, which cpu 5 holds"
    assert found.facts["owner_cpu"] == "5"


@pytest.mark.parametrize(
    ("callee", "caller", "may_have_returned", "is_spinning"),
    [
        ("splpar_spin_yield", "_raw_spin_lock", False, True),
        ("splpar_rw_yield", "_raw_write_lock_irq", False, True),
        ("splpar_spin_yield", "_raw_spin_lock", True, False),
        ("do_work", "_raw_spin_lock", False, False),
        ("splpar_spin_yield", "do_work", False, False),
    ],
)
def test_a_guest_that_gives_way_in_a_lock_function_spins_though_the_lock_is_not_known(
    callee: str, caller: str, may_have_returned: bool, is_spinning: bool
) -> None:
    made = MadeUpKernel(arch=PPC64LE)
    frames = (
        frame(0, "plpar_hcall_norets_notrace"),
        frame(1, callee, may_have_returned=may_have_returned),
        frame(2, caller),
        frame(3, "driver_thread"),
    )
    stack = Stack(frames=frames, stop_reason=StopReason.THREAD_START, recovered=False)
    context = registers(PAGE_OFFSET_64 + 0x1000, PAGE_OFFSET_64 + 0x600000)
    facts = CpuFacts(2, True, NoteState.SAVED, None, None, False, context, True, CpuMode.KERNEL, stack)
    found = diagnose(made.kernel(), made.unwinder().text, facts)
    assert [(one.code, dict(one.facts)) for one in found] == (
        [(DiagnosisCode.SPINNING_ON_LOCK, {"function": caller})] if is_spinning else []
    )


@pytest.mark.parametrize(("place", "is_spinning"), [(0, False), (1, False), (2, False), (3, True), (4, True)], ids=str)
def test_the_lock_is_in_the_register_that_the_function_reserves_by(place: int, is_spinning: bool) -> None:
    """``_raw_spin_lock_irqsave`` of 32 bits: ``mr r9,r3; mfmsr r3; wrteei 0; lwarx r10,0,r9; cmpwi r10,0``."""
    kernel = LostCpuKernel()
    lock, other = VARIABLES + 0x200, VARIABLES + 0x300
    kernel.made.words(lock, 1)
    kernel.made.words(other, 1)
    code = (0x7C691B78, 0x7C6000A6, 0x7C000146, 0x7D404828, 0x2C0A0000)
    function = kernel.made.function("_raw_spin_lock_irqsave", code, at=address_of("lock") + 0x10000)
    context = registers(function.at(place), kernel.top, address_of("work") + 16, r3=other, r9=lock)
    stack = kernel.made.unwinder().unwind(context, STACKS)
    found = diagnosed(kernel, facts_of(kernel, state=NoteState.SAVED, context=context, has_note=True, stack=stack))
    assert (DiagnosisCode.SPINNING_ON_LOCK in found) is is_spinning
    if is_spinning:
        assert found[DiagnosisCode.SPINNING_ON_LOCK].facts["lock"] == f"{lock:08x}"


@pytest.mark.parametrize(("msr", "is_off"), [(0x21002, True), (0x29002, False)])
def test_a_32_bit_thread_without_external_interrupts_that_a_hypervisor_saw(msr: int, is_off: bool) -> None:
    kernel = LostCpuKernel()
    set_clock(kernel, 2 * SECOND, 5 * SECOND)
    context = registers(address_of("work") + 16, kernel.top, msr=msr)
    facts = facts_of(kernel, state=NoteState.NOT_POPULATED, answered=None, context=context, has_note=True)
    assert (DiagnosisCode.INTERRUPTS_OFF in diagnosed(kernel, facts)) is is_off


def test_a_cpu_that_stopped_itself_panicked_too() -> None:
    kernel = LostCpuKernel(threadfn="timer_interrupt")
    kernel.thread("timer_interrupt", "work", "panic")
    kernel.made.function("work", (0x9421FFE0, 0x7C0802A6, 0x90010024, _call_panic(), 0x4E800020), address_of("work"))
    stack = walk_down(kernel.means(), kernel.task, STACKS)
    assert stack is not None
    found = diagnosed(kernel, facts_of(kernel, stack=stack))
    assert found[DiagnosisCode.PANICKED_TOO].facts == {"function": "panic"}
    assert DiagnosisCode.PANICKED_TOO not in diagnosed(kernel, facts_of(kernel, stack=stack, panicked=True))


def _call_panic() -> int:
    return 0x48000001 | (address_of("panic") - address_of("work") - 12)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (NoteState.OFFLINE, "cpu 4 was offline"),
        (NoteState.SAVED, "cpu 4 was offline, and saved a note all the same"),
        (NoteState.NOT_POPULATED, None),
    ],
)
def test_an_offline_cpu_is_called_so_unless_the_crash_took_it_off_the_mask(
    state: NoteState, message: str | None
) -> None:
    """Where buffers are not populated, CPUs were stopped without them: stopping takes a CPU off the mask."""
    kernel = LostCpuKernel()
    found = diagnosed(kernel, facts_of(kernel, online=False, state=state))
    assert [diagnosis.message for diagnosis in found.values()] == ([] if message is None else [message])


def test_firmware_is_named_with_its_address() -> None:
    kernel = LostCpuKernel()
    stack = kernel.unwinder().unwind(registers(0xFFF0010, STACKS[0].high - 64), STACKS)
    facts = facts_of(kernel, state=NoteState.SAVED, has_note=True, mode=CpuMode.FIRMWARE, stack=stack)
    assert diagnosed(kernel, facts)[DiagnosisCode.IN_FIRMWARE].facts == {"address": "0fff0010"}


@pytest.mark.parametrize(("answered", "is_named"), [(False, True), (None, False), (True, False)])
def test_an_nmi_is_another_one_only_if_the_crash_ipi_was_not_answered(answered: bool | None, is_named: bool) -> None:
    made, at = MadeUpKernel(arch=PPC64LE), PAGE_OFFSET_64 + 0x500000
    made.structs["paca_struct"] = StructLayout(0x400, {"in_nmi": Field(0x310, 2)})
    made.variables["paca_ptrs"] = at
    made.words(at, at + 0x100)
    made.words(at + 0x100, at + 0x200)
    made.number(at + 0x510, 1, 2)
    facts = CpuFacts(0, True, NoteState.NOT_SAVED, None, answered, False, None, False, None, NO_STACK)
    kernel = made.kernel()
    codes = [diagnosis.code for diagnosis in diagnose(kernel, Text(kernel), facts)]
    assert (DiagnosisCode.IN_NMI in codes) is is_named


def test_what_nothing_tells_is_called_unknown() -> None:
    kernel = LostCpuKernel(0x100)
    found = diagnosed(kernel, facts_of(kernel))
    assert found[DiagnosisCode.UNKNOWN].message == (
        "cpu 4: why it saved no note is not known, it did not answer the crash IPI"
    )
    assert found[DiagnosisCode.UNKNOWN].facts["context"] == "softirq"
    (found_unknown,) = diagnosed(kernel, facts_of(kernel, answered=None)).values()
    assert found_unknown.message == "cpu 4: why it saved no note is not known"
