"""What the log tells besides its reports: machine, taint, modules, how the other CPUs were stopped."""

import pytest

from crashbeam.vmcore.oops import parse_lines
from crashbeam.vmcore.oops.log_facts import LogFacts, log_facts
from crashbeam.vmcore.taint import TAINT_LETTERS, printed_letters, taint_letters

LOG = """\
[    8.886438][    C2] watchdog: BUG: soft lockup - CPU#2 stuck for 6s! [lab_abba1/2:58]
[    8.886676][    C2] Modules linked in: lab_net(OE+) dm-mod xfs [last unloaded: lab_old(O)]
[    8.886840][    C2] CPU: 2 UID: 0 PID: 58 Comm: lab_abba1/2 Kdump: loaded Tainted: G           OE      6.12.117 #7
[    8.886924][    C2] Hardware name: QEMU ppce500 e500mc 0x80230020 QEMU e500
[    8.888315][    C2] Kernel panic - not syncing: softlockup: hung tasks
[    8.891474][    C2] CPU: 2 UID: 0 PID: 58 Comm: lab_abba1/2 Kdump: loaded Tainted: G           OEL     6.12.117 #7
[    8.891829][    C2] Hardware name: something else
[    8.991829][    C2] Sending IPI to other CPUs
[   19.250000][    C2] ERROR: 2 cpu(s) not responding
"""


def facts(text: str) -> LogFacts:
    return log_facts(parse_lines(text.splitlines()))


def test_the_facts_of_a_log() -> None:
    assert facts(LOG) == LogFacts(
        hardware="QEMU ppce500 e500mc 0x80230020 QEMU e500",
        taint="OEL",
        taint_before="OE",
        uptime_seconds=19.25,
        modules=("lab_net", "dm_mod", "xfs"),
        last_unloaded="lab_old",
        not_responding=2,
        ipi_complete=False,
    )


def test_a_log_that_tells_nothing() -> None:
    assert facts("") == LogFacts(None, None, None, None, (), None, None, False)


def test_a_kernel_that_is_not_tainted_has_no_letters() -> None:
    assert facts(LOG.replace("Tainted: G           OE ", "Not tainted")).taint_before == ""


def test_every_cpu_answered() -> None:
    assert facts(LOG.replace("ERROR: 2 cpu(s) not responding", "IPI complete")).ipi_complete


def test_a_list_of_modules_that_goes_on_over_several_records() -> None:
    lines = ["Modules linked in: one(O) two", " three(E) four", "five [last unloaded: six]", "CPU: 1 PID: 2 Comm: x"]
    assert facts("\n".join(lines)).modules == ("one", "two", "three", "four", "five")


@pytest.mark.parametrize(("mask", "letters"), [(0, ""), (1, "P"), (0x80 | 0x1000, "DO"), (0x4000, "L"), (1 << 18, "N")])
def test_the_letters_of_a_mask(mask: int, letters: str) -> None:
    assert taint_letters(mask) == letters


def test_a_bit_that_no_kernel_has_up_to_6_12_is_shown_as_unknown() -> None:
    assert taint_letters(1 << 19 | 1) == "P?"
    assert taint_letters(1 << 200) == ""
    assert taint_letters(-1) == ""


def test_all_letters_differ() -> None:
    assert len(set(TAINT_LETTERS)) == len(TAINT_LETTERS) == 19


def test_printed_letters_lose_their_blanks_and_the_g() -> None:
    assert printed_letters("G      D    OE     L") == "DOEL"
