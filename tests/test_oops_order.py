"""Which report is the cause, and which lines are its consequences."""

import pytest

from crashbeam.schemas.codes import CrashClass, GradeReason
from crashbeam.vmcore.oops import Oops, find_oopses, has_report, parse_lines
from tests.oops_text import read_texts

BY_NAME = {text.name: text.lines for text in read_texts()}


def oopses(*lines: str) -> tuple[Oops, ...]:
    return find_oopses(parse_lines(lines))


def classes(*lines: str) -> list[CrashClass]:
    return [oops.class_ for oops in oopses(*lines)]


WARNING = BY_NAME["warn_panic"][:-12]
NULL = BY_NAME["null_deref_6_6"]
SYSRQ = BY_NAME["sysrq_6"]
LOCKUP = "watchdog: BUG: soft lockup - CPU#2 stuck for 22s! [lab_spin/2:58]"


def test_a_warning_long_before_a_panic_is_no_report() -> None:
    assert any("WARNING: " in line for line in WARNING)
    assert not any("panic" in line for line in WARNING)
    assert classes(*WARNING, *NULL) == [CrashClass.NULL_DEREF]


def test_a_warning_that_nothing_followed_is_no_report() -> None:
    assert classes(*WARNING) == []


def test_the_last_of_several_warnings_is_the_one_that_panicked() -> None:
    earlier = [line.replace("lab_set_rate", "lab_other").replace("812.3", "700.3") for line in WARNING]
    (oops,) = oopses(*earlier, *BY_NAME["warn_panic"])
    assert oops.function == "lab_set_rate"


def test_a_warning_of_another_context_is_not_the_one_that_panicked() -> None:
    later = [line.replace("lab_set_rate", "lab_other").replace("[   T12]", "[   T13]") for line in WARNING]
    panic = BY_NAME["warn_panic"][len(WARNING) :]
    (oops,) = oopses(*WARNING, *later, *panic)
    assert oops.function == "lab_set_rate"


def test_a_panic_of_another_kind_is_no_epilogue_of_a_warning() -> None:
    assert classes(*WARNING, *BY_NAME["no_root"]) == [CrashClass.NO_ROOT]


def test_a_stall_before_another_crash_is_kept_behind_it() -> None:
    found = oopses(LOCKUP, *BY_NAME["system_reset"])
    assert [(oops.class_, oops.is_fatal) for oops in found] == [
        (CrashClass.SYSTEM_RESET, True),
        (CrashClass.SOFT_LOCKUP, False),
    ]


def test_stalls_alone_are_reports_where_nothing_fatal_is_in_the_log() -> None:
    assert classes(LOCKUP) == [CrashClass.SOFT_LOCKUP]


def test_an_oops_and_the_panic_after_it_are_one_report() -> None:
    (oops,) = oopses(*NULL)
    assert oops.epilogue == "Fatal exception"


def test_the_death_of_init_after_its_oops_is_a_consequence() -> None:
    (oops,) = oopses(
        *NULL[:-1], "[  900.000000] Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b"
    )
    assert (oops.class_, oops.epilogue) == (CrashClass.NULL_DEREF, "Attempted to kill init! exitcode=0x0000000b")


@pytest.mark.parametrize(
    "text",
    [
        *("Aiee, killing interrupt handler!", "Attempted to kill the idle task!", "panic_on_taint set ..."),
        *(
            "Oopsed too often (kernel.oops_limit is 10000)",
            "Oops failed to kill thread",
            "Fatal exception in interrupt",
        ),
    ],
)
def test_what_the_kernel_says_when_an_oops_killed_it_is_no_report_of_its_own(text: str) -> None:
    (oops,) = oopses(*NULL[:-1], f"[  900.000000] Kernel panic - not syncing: {text}")
    assert oops.epilogue == text


def test_a_second_oops_does_not_replace_the_first() -> None:
    second = [line.replace("[#1]", "[#2]") for line in BY_NAME["bug_6_12"]]
    assert classes(*NULL[:-1], *second) == [CrashClass.NULL_DEREF, CrashClass.BUG]


def test_an_oops_of_a_higher_count_tells_that_the_first_is_lost() -> None:
    (oops,) = oopses(*(line.replace("[#1]", "[#2]") for line in NULL))
    assert oops.problems == (GradeReason.FIRST_OOPS_LOST,)


def test_the_first_of_the_tasks_that_hung_at_once_is_the_one() -> None:
    found = oopses(*BY_NAME["hung_task"])
    assert [oops.blamed_pid for oops in found] == [9120, 77]


def test_a_task_that_hung_an_hour_before_is_not_the_one() -> None:
    hour_before = [line.replace("[  812.", "[   12.") for line in BY_NAME["hung_task"] if "tar" in line]
    later = [line for line in BY_NAME["hung_task"] if "tar" not in line]
    assert oopses(*hour_before, *later)[0].blamed_pid == 77


def test_crashes_of_two_cpus_at_once_are_told_apart_by_who_printed_them() -> None:
    one = [line.replace("] ", "][   T11] ", 1) for line in NULL]
    other = [line.replace("[  T640]", "[   T22]") for line in BY_NAME["bug_6_12"]]
    mixed = [line for pair in zip(one, other, strict=False) for line in pair]
    first, second = oopses(*mixed)
    assert (first.class_, second.class_) == (CrashClass.NULL_DEREF, CrashClass.BUG)
    assert {line.function for line in first.trace}.isdisjoint(line.function for line in second.trace)
    assert first.problems == second.problems == ()


def test_crashes_of_two_cpus_at_once_are_corrupt_text_where_nobody_tells_who_printed_what() -> None:
    other = [line.replace("[  T640]", "") for line in BY_NAME["bug_6_12"]]
    mixed = [line for pair in zip(NULL, other, strict=False) for line in pair]
    assert GradeReason.TEXT_CORRUPTED in oopses(*mixed)[0].problems


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (lambda line: None if line.endswith(("kthread", "thread")) or "] [c0" in line else line, "no frames"),
        (lambda line: line.replace("Oops: Kernel access", "Oops: Ker[   5.123456] lab: up"), "a stamp inside"),
        (lambda line: None if "NULL pointer" in line else line, "no header"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_report_that_is_cut_or_mixed_is_marked_corrupt(damage: object, name: str) -> None:
    assert callable(damage)
    (oops,) = oopses(*(kept for line in NULL if (kept := damage(line)) is not None))
    assert oops.class_ is CrashClass.NULL_DEREF
    assert oops.problems == (GradeReason.TEXT_CORRUPTED,)


def test_of_two_boots_in_one_text_the_last_crash_counts() -> None:
    banner = "[    0.000000] Linux version 6.6.30-lab (lab@lab) #1 SMP"
    assert classes(banner, *NULL, banner, *SYSRQ) == [CrashClass.SYSRQ_CRASH]


def test_the_log_of_the_capture_kernel_after_a_crash_hides_nothing() -> None:
    banner = "[    0.000000] Linux version 6.6.30-lab (lab@lab) #1 SMP"
    assert classes(banner, *NULL, banner, "[    1.000000] Run /init as init process", LOCKUP) == [CrashClass.NULL_DEREF]


def test_the_line_number_of_a_report_counts_the_log() -> None:
    (oops,) = oopses("[    1.000000] one", "[    2.000000] two", *NULL[1:])
    assert oops.at_line == 2
    assert oops.lines[0].startswith("BUG: Kernel NULL pointer")


def test_a_line_that_refines_the_header_belongs_to_the_report() -> None:
    oops = oopses(*BY_NAME["kuap"])[0]
    assert oops.lines[0].startswith("Kernel attempted to write user page")
    assert oops.message.startswith("BUG: Unable to handle kernel data access")


def test_a_user_page_that_was_handled_well_does_not_refine_a_later_access() -> None:
    lines = [line.replace("(7fffd9c58998)", "(7fffd9c50000)") for line in BY_NAME["kuap"]]
    assert classes(*lines) == [CrashClass.BAD_ACCESS]


def test_a_report_has_at_most_200_lines_and_its_panic_among_them() -> None:
    frames = [f"[{0xC0B63000 + 32 * number:08x}] [c0023ce4] lab_recurse+0x3c/0xbc" for number in range(300)]
    panic = "Kernel panic - not syncing: softlockup: hung tasks"
    (oops,) = oopses(LOCKUP, "Call Trace:", *frames, panic)
    assert (len(oops.lines), oops.lines[-1]) == (200, panic)
    assert classes(*oops.lines) == [CrashClass.SOFT_LOCKUP]


def test_a_log_of_nothing_but_headers_is_bounded() -> None:
    lines = parse_lines(
        [BY_NAME["null_deref_6_6"][1], *["WARNING: CPU: 1 PID: 2 at a.c:3 f+0x1/0x2"] * 3, LOCKUP] * 4000
    )
    assert len(find_oopses(lines)) == 16


def test_a_log_without_a_report_has_none() -> None:
    lines = parse_lines(["[    1.000000] Run /init as init process", "[    2.000000] watchdog: enabled", "", "rcu: up"])
    assert find_oopses(lines) == ()
    assert not has_report(lines)
    assert has_report(parse_lines([LOCKUP]))
