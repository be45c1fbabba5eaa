"""Whose stack is blamed: not always the panicking CPU's, never another's than the one to blame."""

from dataclasses import replace

import pytest

from crashbeam.schemas.codes import BlamedWhy, CrashClass, Grade, GradeReason, StackKind
from crashbeam.schemas.crash_report import Cpu, Frame, Signature
from crashbeam.vmcore.signature import sign
from crashbeam.vmcore.signature.rules import shipped_rules
from tests.signing import LABELLED, cpu_with, frame, lost_cpu, report_with

WATCHDOG = ["__crash_kexec", "panic", "watchdog_timer_interrupt", "watchdog_timer_fn", "__hrtimer_run_queues"]
OTHERS = "watchdog: CPU 0 detected hard LOCKUP on other CPUs 2\n{victim}Kernel panic - not syncing: Hard LOCKUP\n"
VICTIM = """watchdog: CPU 2 Hard LOCKUP
CPU: 2 PID: 9 Comm: stuck Not tainted 6.1.0 #1
NIP:  c000000000010000 LR: c000000000020000 CTR: 0000000000000000
REGS: c000000001234000 TRAP: 0900   Not tainted  (6.1.0)
MSR:  8000000000009033 <SF,EE,ME,IR,DR,RI,LE>  CR: 24002222  XER: 00000000
NIP [c000000000010000] printed_c+0x10/0x20
LR [c000000000020000] printed_b+0x10/0x20
Call Trace:
[c000000001234000] [c000000000020000] printed_b+0x10/0x20 (unreliable)
[c000000001234020] [c000000000020000] printed_b+0x10/0x20
[c000000001234040] [c000000000030000] printed_a+0x10/0x20
[c000000001234060] [c000000000040000] kthread+0x10/0x20
"""
SPINNING = ["stuck_c", "stuck_b", "stuck_a", "kthread"]


def signature_of(cpus: list[Cpu], text: str | None, panic_cpu: int | None = 0) -> Signature:
    """The signature of a crash of these CPUs with this log."""
    return sign(report_with(cpus, panic_cpu, text), shipped_rules()).signature


def panicker() -> Cpu:
    """CPU 0, which panicked for another's sake."""
    return cpu_with(0, [*WATCHDOG, frame("innocent", vector=0x900), "bystander", "cpu_startup_entry"])


def test_the_victim_of_a_hard_lockup_is_blamed_by_its_own_note() -> None:
    found = signature_of(
        [panicker(), cpu_with(1, ["other"]), cpu_with(2, SPINNING, trap=0x100)], OTHERS.format(victim="")
    )
    assert (found.blamed.cpu, found.blamed.why) == (2, BlamedWhy.NAMED_IN_LOG)
    assert (found.frames, found.grade) == (("stuck_c", "stuck_b", "stuck_a"), Grade.A)


def test_without_the_victims_note_nobody_elses_stack_is_taken() -> None:
    cpus = [panicker(), cpu_with(1, ["other", "other_2", "kthread"]), lost_cpu(2)]
    found = signature_of(cpus, OTHERS.format(victim=""))
    assert (found.culprit, found.frames, found.grade) == (None, (), Grade.D)
    assert GradeReason.BLAMED_NOT_SAVED in found.reasons
    assert found.blamed.cpu == 2


def test_the_victims_printed_trace_stands_in_for_its_note() -> None:
    found = signature_of([panicker(), lost_cpu(1), lost_cpu(2)], OTHERS.format(victim=VICTIM))
    assert (found.blamed.cpu, found.frames, found.grade) == (2, ("printed_c", "printed_b", "printed_a"), Grade.B)
    assert found.reasons == (GradeReason.BLAMED_NOT_SAVED, GradeReason.STACK_FROM_TEXT)


def test_a_recovered_stack_of_the_victim_goes_before_what_was_printed() -> None:
    cpus = [panicker(), lost_cpu(1), cpu_with(2, SPINNING, recovered=True)]
    found = signature_of(cpus, OTHERS.format(victim=VICTIM))
    assert (found.blamed.cpu, found.frames, found.grade) == (2, ("stuck_c", "stuck_b", "stuck_a"), Grade.B)
    assert GradeReason.BLAMED_RECOVERED in found.reasons


def test_of_several_victims_cpu_numbers_decide_nothing() -> None:
    text = OTHERS.format(victim="").replace("CPUs 2", "CPUs 1-2")
    stacks = (SPINNING, ["another_c", "another_b", "kthread"])
    found = [
        signature_of([panicker(), cpu_with(1, first, trap=0x100), cpu_with(2, second, trap=0x100)], text)
        for first, second in (stacks, reversed(stacks))
    ]
    assert found[0].id == found[1].id
    assert [one.blamed.cpu for one in found] == [2, 1]
    assert {one.blamed.why for one in found} == {BlamedWhy.LISTED_IN_LOG}


def test_a_soft_lockup_is_cut_at_the_interrupt_that_found_it() -> None:
    frames = [*WATCHDOG[:2], "watchdog_timer_fn", "__hrtimer_run_queues", "hrtimer_interrupt", "timer_interrupt"]
    stack: list[Frame | str] = [
        *frames,
        "decrementer_common_virt",
        frame("spin", vector=0x900, nip=0xC00000000000BEEC),
        "worker_fn",
        "kthread",
    ]
    text = (
        "watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [a:5]\nKernel panic - not syncing: softlockup: hung tasks\n"
    )
    found = signature_of([cpu_with(0, stack)], text)
    assert (found.class_, found.culprit, found.frames) == (CrashClass.SOFT_LOCKUP, "worker_fn", ("spin", "worker_fn"))
    assert (found.grade, found.blamed.why) == (Grade.A, BlamedWhy.NAMED_IN_LOG)


def test_a_lockup_of_others_without_a_log_blames_nobody() -> None:
    stack: list[Frame | str] = [
        "__crash_kexec",
        "panic",
        "watchdog_smp_panic",
        "watchdog_timer_interrupt",
        frame("idle", vector=0x900),
    ]
    found = signature_of([cpu_with(0, stack)], None)
    assert (found.class_, found.grade, found.frames) == (CrashClass.HARD_LOCKUP, Grade.D, ())
    assert GradeReason.BLAMED_UNKNOWN in found.reasons


def test_a_stall_of_a_task_blames_no_cpu() -> None:
    text = """rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:
rcu: \tTasks blocked on level-0 rcu_node (CPUs 0-3): P412
rcu: \t(detected by 0, t=5252 jiffies, g=3921, q=17)
Kernel panic - not syncing: RCU Stall
"""
    found = signature_of([panicker(), cpu_with(1, ["innocent", "kthread"])], text)
    assert (found.class_, found.blamed.cpu, found.grade) == (CrashClass.RCU_STALL, None, Grade.D)
    assert found.frames == ()


def test_a_hung_task_is_blamed_and_not_the_thread_that_found_it() -> None:
    text = (LABELLED / "hung_xfs_log_1.txt").read_text(encoding="utf-8")
    found = signature_of([cpu_with(0, ["__crash_kexec", "panic", "watchdog", "kthread"])], text)
    assert (found.blamed.cpu, found.blamed.why) == (None, BlamedWhy.TASK_IN_LOG)
    assert found.frames[:2] == ("xlog_grant_head_wait", "xlog_grant_head_check")


def test_a_hung_task_without_a_log_is_nobodys() -> None:
    stack = ["__crash_kexec", "panic", "check_hung_uninterruptible_tasks", "watchdog", "kthread"]
    found = signature_of([cpu_with(0, stack)], None)
    assert (found.class_, found.grade) == (CrashClass.HUNG_TASK, Grade.D)


OOPS = """BUG: Kernel NULL pointer dereference on read at 0x00000000
Faulting instruction address: 0xc000000000010000
Oops: Kernel access of bad area, sig: 11 [#1]
CPU: {cpu} PID: 9 Comm: a Not tainted 6.1.0 #1
NIP:  c000000000010000 LR: c000000000020000 CTR: 0000000000000000
REGS: c000000001234000 TRAP: 0300   Not tainted  (6.1.0)
MSR:  8000000000009033 <SF,EE,ME,IR,DR,RI,LE>  CR: 24002222  XER: 00000000
GPR00: {r0} c000000001234000 0000000000000000 0000000000000000
NIP [c000000000010000] printed_c+0x10/0x20
LR [c000000000020000] printed_b+0x10/0x20
Call Trace:
[c000000001234000] [c000000000990000] stale+0x10/0x20 (unreliable)
{second}[c000000001234040] [c000000000030000] printed_a+0x10/0x20
[c000000001234060] [c000000000040000] kthread+0x10/0x20
---[ end trace 0000000000000000 ]---
Kernel panic - not syncing: Fatal exception
"""
STALE = "[c000000001234020] [c000000000980000] sscanf_stale+0x10/0x20\n"
R0 = "c000000000030000"


def oops(cpu: int = 0, second: str = "", r0: str = "0" * 16) -> str:
    """A NULL dereference as it is printed."""
    return OOPS.format(cpu=cpu, second=second, r0=r0)


def test_a_fault_that_the_text_places_is_cut_there() -> None:
    stack: list[Frame | str] = ["die", frame("f_c", vector=0x300, nip=0xC000000000010000), "f_b", "f_a", "kthread"]
    found = signature_of([cpu_with(0, stack)], oops())
    assert (found.frames, found.grade, found.reasons) == (("f_c", "f_b", "f_a"), Grade.A, ())


def test_a_fault_that_was_survived_is_signed_from_its_text_and_not_from_what_came_later() -> None:
    stack = ["__crash_kexec", "panic", "unrelated", "kthread"]
    found = signature_of([cpu_with(0, stack)], oops())
    assert found.frames == ("printed_c", "printed_b", "printed_a")
    assert found.reasons == (GradeReason.TEXT_DISAGREES, GradeReason.STACK_FROM_TEXT)


def test_an_oops_of_another_cpu_is_not_looked_for_on_the_panicking_one() -> None:
    stack: list[Frame | str] = [frame("f_c", vector=0x300, nip=0xC000000000010000), "f_b", "kthread"]
    found = signature_of([cpu_with(0, stack), cpu_with(1, ["x", "kthread"])], oops(cpu=1))
    assert (found.blamed.cpu, found.blamed.why) == (1, BlamedWhy.NAMED_IN_LOG)
    assert found.frames == ("printed_c", "printed_b", "printed_a")


def test_the_panicking_cpu_without_a_note_is_signed_from_its_text() -> None:
    found = signature_of([lost_cpu(0), cpu_with(1, ["innocent", "kthread"])], oops())
    assert (found.blamed.cpu, found.frames, found.grade) == (0, ("printed_c", "printed_b", "printed_a"), Grade.B)
    assert found.reasons == (GradeReason.BLAMED_NOT_SAVED, GradeReason.STACK_FROM_TEXT)


def test_the_panicking_cpu_without_a_note_and_without_a_text_has_no_signature_of_a_defect() -> None:
    found = signature_of([lost_cpu(0), cpu_with(1, ["innocent", "kthread"])], None)
    assert (found.class_, found.grade, found.frames) == (CrashClass.EMPTY, Grade.D, ())


def test_functions_without_symbols_are_named_as_the_kernel_printed_them() -> None:
    addresses = (0xC000000000010000, 0xC000000000020000, 0xC000000000030000, 0xC000000000040000)
    nameless = [frame(None, nip=address) for address in addresses]
    found = signature_of([cpu_with(0, nameless, trap=0x300, nip=addresses[0])], oops())
    assert (found.frames, found.grade) == (("printed_c", "printed_b", "printed_a"), Grade.A)


def test_without_symbols_and_unwinding_the_printed_trace_is_taken() -> None:
    cpu = cpu_with(0, [frame(None, nip=0xC000000000010000)], trap=0x300, nip=0xC000000000010000)
    cut = replace(cpu, stack=replace(cpu.stack, stop_reason=None))
    assert signature_of([cut], oops()).frames == ("printed_c", "printed_b", "printed_a")


def test_a_stale_line_of_a_trace_is_known_by_r0() -> None:
    found = signature_of([lost_cpu(0)], oops(second=STALE, r0=R0))
    assert found.frames == ("printed_c", "printed_b", "printed_a")


def test_a_line_of_a_trace_is_kept_where_r0_tells_nothing() -> None:
    found = signature_of([lost_cpu(0)], oops(second=STALE))
    assert found.frames == ("printed_c", "printed_b", "sscanf_stale", "printed_a")


def test_a_stack_that_had_overflowed_is_told_beside_the_class_that_the_log_gives() -> None:
    frames = [frame(name, on=StackKind.UNKNOWN) for name in ("f_c", *["f_b"] * 40)]
    cpu = cpu_with(0, [*frames], trap=0x300, nip=0xC000000000010000)
    assert cpu.task is not None
    cpu = replace(cpu, task=replace(cpu.task, stack_base="c000000001238000"))
    found = signature_of([cpu], oops())
    assert (found.class_, found.grade) == (CrashClass.NULL_DEREF, Grade.B)
    assert GradeReason.STACK_OVERFLOWED in found.reasons


def test_an_old_sysrq_wrote_to_null_and_is_intentional_all_the_same() -> None:
    stack = ["sysrq_handle_crash", "__handle_sysrq", "write_sysrq_trigger", "system_call"]
    found = signature_of([cpu_with(0, stack, trap=0x300)], None)
    new = signature_of([cpu_with(0, ["__crash_kexec", "panic", *stack])], None)
    assert (found.class_, found.intentional) == (CrashClass.SYSRQ_CRASH, True)
    assert found.id == new.id


def test_an_old_sysrq_whose_own_line_is_lost_is_known_by_its_function() -> None:
    text = oops().replace("printed_c", "sysrq_handle_crash")
    found = signature_of([lost_cpu(0)], text)
    assert (found.class_, found.intentional) == (CrashClass.SYSRQ_CRASH, True)


def test_a_return_address_at_a_functions_start_names_the_wrong_one() -> None:
    text = oops(second="[c000000001234020] [c000000000980000] the_next_function+0x0/0x20\n")
    assert signature_of([lost_cpu(0)], text).frames == ("printed_c", "printed_b", "printed_a")


def test_a_crash_test_of_the_kernel_is_intentional() -> None:
    assert signature_of([cpu_with(0, ["lkdtm_BUG", "lkdtm_do_action", "kthread"], trap=0x700)], None).intentional


@pytest.mark.parametrize(
    ("before", "intentional"),
    [("", True), ("watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [a:5]\n", False)],
)
def test_a_reset_is_intentional_unless_something_was_stuck_before(before: str, intentional: bool) -> None:
    text = f"{before}Oops: System Reset, sig: 6 [#1]\nCPU: 0 PID: 9 Comm: a Not tainted 6.1.0 #1\n"
    found = signature_of([cpu_with(0, ["f_a", "kthread"], trap=0x100)], text)
    assert (found.class_, found.intentional) == (CrashClass.SYSTEM_RESET, intentional)
