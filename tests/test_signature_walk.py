"""From a stack to a signature's functions: the cut, what is left out, where the walk ends."""

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crashbeam.schemas.codes import CrashClass, Grade, GradeReason, StackKind, StopReason, Trust
from crashbeam.schemas.crash_report import Frame, Signature
from crashbeam.vmcore.signature import sign
from crashbeam.vmcore.signature.names import FunctionName
from crashbeam.vmcore.signature.rules import shipped_rules
from crashbeam.vmcore.signature.walk import collapse
from tests.signing import cpu_with, frame, report_with

DIE = ["__crash_kexec", "crash_kexec", "oops_end", "die", "bad_page_fault", "do_page_fault", "data_access_common_virt"]


def signed(frames: list[Frame | str], trap: int = 0, dar: int = 0) -> Signature:
    """The signature of a panicking CPU with these functions, without any log."""
    return sign(report_with([cpu_with(0, frames, trap=trap, dar=dar)]), shipped_rules()).signature


def test_the_note_of_an_oops_is_the_fault_itself() -> None:
    found = signed(["f_c", "f_b", "f_a", "system_call_exception"], trap=0x300, dar=8)
    assert (found.class_, found.culprit, found.frames) == (CrashClass.NULL_DEREF, "f_c", ("f_c", "f_b", "f_a"))


def test_a_fault_is_found_behind_the_crash_path() -> None:
    found = signed([*DIE, frame("f_c", vector=0x300, dar=0x10000), "f_b", "f_a", "system_call_exception"])
    assert (found.class_, found.frames) == (CrashClass.BAD_ACCESS, ("f_c", "f_b", "f_a"))


def test_an_older_fault_that_was_handled_is_not_the_crash() -> None:
    frames: list[Frame | str] = ["__crash_kexec", "panic", "f_c", "do_page_fault", frame("f_b", vector=0x300), "f_a"]
    found = signed([*frames, "system_call_exception"])
    assert (found.class_, found.frames) == (CrashClass.PANIC, ("f_c", "f_b", "f_a"))


def test_an_older_fault_is_not_the_one_of_the_text_either() -> None:
    text = "BUG: Unable to handle kernel data access at 0xc0000001\nKernel panic - not syncing: Fatal exception\n"
    frames: list[Frame | str] = ["__crash_kexec", "panic", "f_c", "do_page_fault", frame("f_b", vector=0x300), "f_a"]
    found = sign(report_with([cpu_with(0, frames)], text=text), shipped_rules()).signature
    assert (found.class_, found.frames) == (CrashClass.BAD_ACCESS, ("f_c", "f_b", "f_a"))
    assert GradeReason.NO_EXCEPTION_FRAME in found.reasons


@pytest.mark.parametrize(
    "inside",
    [
        ["udelay"],
        ["enqueue_task", "hrtimer_interrupt", "timer_interrupt", frame("udelay", vector=0x900)],
        ["__delay", frame("udelay", vector=0x500), "panic", "f_first"],
    ],
    ids=["waiting", "interrupted", "panicking again"],
)
def test_what_runs_inside_of_panic_is_no_part_of_the_crash(inside: list[Frame | str]) -> None:
    """Without a crash kernel ``panic()`` waits for ever, with interrupts on, and a hypervisor's dump shows that."""
    text = "Kernel panic - not syncing: no more room\n"
    frames: list[Frame | str] = [*inside, "panic", "f_c", "f_b", "f_a", "system_call_exception"]
    found = sign(report_with([cpu_with(0, frames)], text=text), shipped_rules()).signature
    assert (found.class_, found.culprit, found.frames) == (CrashClass.PANIC, "f_c", ("f_c", "f_b", "f_a"))


def test_the_tick_that_found_a_stall_ends_no_walk() -> None:
    tick = ["watchdog_timer_fn", "__hrtimer_run_queues", "hrtimer_interrupt", "timer_interrupt"]
    assert signed(["__crash_kexec", "panic", *tick, "spin", "worker_fn", "kthread"]).frames == ("spin", "worker_fn")


def test_the_walk_ends_where_an_interrupt_came_in() -> None:
    frames: list[Frame | str] = ["f_c", "f_b", "do_IRQ", frame("innocent", vector=0x500), "system_call_exception"]
    assert signed(frames, trap=0x300).frames == ("f_c", "f_b")


@pytest.mark.parametrize("vector", [0x100, 0x500, 0x900, 0xA00, 0x2070])
def test_every_interrupt_ends_the_walk(vector: int) -> None:
    assert signed(["f_c", "f_b", frame("innocent", vector=vector)], trap=0x300).frames == ("f_c", "f_b")


def test_the_walk_goes_on_through_a_page_fault() -> None:
    frames: list[Frame | str] = [
        "f_c",
        "handle_mm_fault",
        "do_page_fault",
        "data_access_common_virt",
        frame("f_a", vector=0x300),
    ]
    assert signed(frames, trap=0x700).frames == ("f_c", "handle_mm_fault", "f_a")


@pytest.mark.parametrize("terminator", ["kthread", "process_one_work", "call_timer_fn", "system_call_common"])
def test_what_lies_beyond_a_beginning_is_no_part(terminator: str) -> None:
    assert signed(["f_b", "f_a", terminator, "beyond"], trap=0x300).frames == ("f_b", "f_a")


def test_helpers_are_left_out_wherever_they_stand() -> None:
    frames = ["memcpy", "f_b", "_raw_spin_lock", "__list_del_entry_valid", "kfree", "f_a", "kthread"]
    assert signed([*frames], trap=0x300).frames == ("f_b", "f_a")


def test_a_function_of_a_module_is_never_left_out_for_its_name() -> None:
    assert signed(["memcpy [mine]", "kfree [mine]", "kthread"], trap=0x300).frames == ("memcpy", "kfree")


def test_where_all_are_helpers_the_first_stands_for_them() -> None:
    found = signed(["memcpy", "kthread"], trap=0x300)
    assert (found.frames, found.grade) == (("memcpy",), Grade.C)
    assert GradeReason.FEW_FRAMES in found.reasons


def test_a_module_stands_in_the_key_of_a_generic_name_only() -> None:
    one, other = (signed([f"probe [{module}]", "f_a", "kthread"], trap=0x300) for module in ("one", "other"))
    assert one.id != other.id
    assert one.frames == ("probe [one]", "f_a")
    built_in, module = (signed([name, "f_a", "kthread"], trap=0x300) for name in ("f_b", "f_b [one]"))
    assert (built_in.id, built_in.wide, built_in.narrow) == (module.id, module.wide, module.narrow)
    assert (built_in.module, module.module) == (None, "one")


def test_an_id_is_the_digest_of_the_text_that_is_documented() -> None:
    found = signed(["f_d", "f_c", "f_b", "f_a", "kthread"], trap=0x300)
    texts = ("f_d\nf_c\nf_b", "f_d", "f_d\nf_c\nf_b\nf_a")
    digests = [hashlib.sha256(f"crashbeam-1\nnull_deref\n{text}".encode()).hexdigest()[:16] for text in texts]
    assert [found.id, found.wide, found.narrow] == digests


def test_a_prefix_is_shown_but_does_not_count_and_six_are_the_limit() -> None:
    wrappers = ["generic_perform_write", "dev_queue_xmit", "submit_bio"]
    one = signed([*wrappers, "f_c", "f_b", "f_a", "f_0", "kthread"], trap=0x300)
    same_six = signed([*wrappers, "f_c", "f_b", "f_a", "other", "kthread"], trap=0x300)
    other_six = signed([*wrappers, "f_c", "f_b", "other", "f_0", "kthread"], trap=0x300)
    assert one.id == same_six.id != other_six.id
    seven = ["netif_receive_skb", "generic_file_write_iter", *wrappers, "f_b", "f_a"]
    assert signed([*seven, "kthread"], trap=0x300).id == signed([*seven[:-1], "another", "kthread"], trap=0x300).id


def test_a_jump_to_nowhere_is_its_callers() -> None:
    found = signed([frame(None), frame("f_b", trust=Trust.LINK_REGISTER), "f_a", "kthread"], trap=0x400)
    assert (found.class_, found.culprit, found.reasons) == (CrashClass.BAD_JUMP, "f_b", (GradeReason.NO_LOG,))


def test_a_nameless_function_of_a_module_is_named_by_the_module() -> None:
    nameless = frame(" [mine]")
    assert signed([nameless, "f_a", "kthread"], trap=0x300).frames == ("mine+", "f_a")


def test_a_nameless_function_before_the_culprit_lowers_the_grade() -> None:
    found = signed([frame(None), "f_b", "f_a", "kthread"], trap=0x300)
    assert (found.frames, found.grade) == (("f_b", "f_a"), Grade.C)
    assert GradeReason.SYMBOLS_MISSING in found.reasons


@pytest.mark.parametrize(
    "uncertain",
    [frame("guess", trust=Trust.SCAN), frame("guess", trust=Trust.CALLEE), frame("f", may_have_returned=True)],
)
def test_uncertain_functions_enter_no_key(uncertain: Frame) -> None:
    assert signed([uncertain, "f_b", "f_a", "kthread"], trap=0x300).frames == ("f_b", "f_a")


def test_where_nothing_is_certain_one_guess_is_taken_and_graded_so() -> None:
    frames = [frame("guess", trust=Trust.SCAN), frame("another", trust=Trust.SCAN)]
    found = signed([*frames], trap=0x300)
    assert (found.frames, found.grade) == (("guess",), Grade.C)
    assert GradeReason.WEAK_FRAMES in found.reasons


def test_recursion_is_taken_once() -> None:
    deep, deeper = (signed(["leaf", *["f_b", "f_a"] * depth, "entry", "kthread"], trap=0x300) for depth in (5, 40))
    assert deep.narrow == deeper.narrow
    assert deep.frames == ("leaf", "f_b", "f_a", "entry")
    assert deep.recursive


def test_two_in_a_row_are_no_recursion() -> None:
    found = signed(["f_b", "f_b", "f_a", "kthread"], trap=0x300)
    assert (found.frames, found.recursive) == (("f_b", "f_a"), False)


def overflowed(leaves: list[str], turns: int, stack_base: str = "c000000001238000") -> Signature:
    """A stack that ran out within a cycle of three functions: r1 lies just below the task's own."""
    names = [*leaves, *["f_a", "f_b", "f_c"] * turns]
    frames = [frame(name, on=StackKind.UNKNOWN) for name in names]
    cpu = cpu_with(0, [*frames], trap=0x300, dar=1 << 40, stop=StopReason.LEFT_KNOWN_STACKS)
    assert cpu.task is not None
    cpu = replace(cpu, task=replace(cpu.task, stack_base=stack_base))
    return sign(report_with([cpu]), shipped_rules()).signature


def test_a_stack_that_ran_out_is_its_cycle_wherever_it_ended() -> None:
    ends = [overflowed([], 9), overflowed(["f_b", "f_c"], 12), overflowed(["leaf", "f_c"], 30)]
    assert {found.class_ for found in ends} == {CrashClass.STACK_OVERFLOW}
    assert len({found.id for found in ends}) == 1
    assert ends[1].culprit == "f_a"


@pytest.mark.parametrize("stack_base", ["c000000001230000", "c000000001338000"])
def test_a_stack_pointer_elsewhere_is_no_overflow(stack_base: str) -> None:
    assert overflowed(["leaf"], 9, stack_base).class_ is CrashClass.BAD_ACCESS


NAMES = st.lists(st.sampled_from([FunctionName(name, None) for name in "abc"]), max_size=40)


@given(NAMES)
def test_collapsing_keeps_every_function_and_no_cycle(names: list[FunctionName]) -> None:
    left, most, cycle = collapse(names)
    assert set(left) == set(names)
    assert len(left) <= len(names)
    assert (most > 1) == (cycle is not None)


@given(NAMES.filter(bool), st.integers(2, 5))
def test_a_cycle_counts_its_periods(names: list[FunctionName], turns: int) -> None:
    distinct = list(dict.fromkeys(names))
    left, most, cycle = collapse(distinct * turns)
    assert (left, most, cycle) == (distinct, turns, (0, len(distinct)))
