"""How much a signature can be relied on, and that a D shares no bucket."""

from dataclasses import replace

import pytest

from crashbeam.schemas.codes import CrashClass, Grade, GradeReason, StopReason, Trust
from crashbeam.schemas.crash_report import LogReport
from crashbeam.vmcore.signature import key_text, sign, signature_id
from crashbeam.vmcore.signature.grade import WORST_OF, grade_of, reason_for_d
from crashbeam.vmcore.signature.rules import shipped_rules
from tests.signing import LABELLED, cpu_with, frame, lost_cpu, report_of_text, report_with

RULES = shipped_rules()
LOST = "Kernel panic - not syncing: Fatal exception\n"


def test_every_reason_has_its_grade() -> None:
    assert set(WORST_OF) == set(GradeReason)


def test_the_worst_reason_decides_and_none_is_an_a() -> None:
    assert grade_of((), has_key=True) is Grade.A
    assert grade_of((GradeReason.NO_LOG, GradeReason.FEW_FRAMES), has_key=True) is Grade.C
    assert grade_of((GradeReason.NO_LOG,), has_key=False) is Grade.D


def test_the_key_of_a_d_is_its_class_and_reason() -> None:
    found = sign(report_with([lost_cpu(0)]), RULES).signature
    assert found.reasons == (GradeReason.NO_LOG, GradeReason.BLAMED_NOT_SAVED)
    assert found.id == found.wide == found.narrow
    assert found.id == signature_id(key_text(CrashClass.EMPTY, ("(blamed_not_saved)",)))


@pytest.mark.parametrize(
    "reasons",
    [
        (GradeReason.NO_LOG, GradeReason.BLAMED_UNKNOWN),
        (GradeReason.BLAMED_UNKNOWN, GradeReason.STACK_FROM_TEXT, GradeReason.NO_LOG),
    ],
)
def test_the_reason_of_a_d_is_why_there_is_no_function(reasons: tuple[GradeReason, ...]) -> None:
    assert reason_for_d(reasons) is GradeReason.BLAMED_UNKNOWN


def test_a_lost_cause_is_a_d_of_no_class_unless_the_stack_tells_it() -> None:
    alone = sign(report_of_text(LOST), RULES).signature
    assert (alone.class_, alone.grade) == (CrashClass.UNKNOWN_OOPS, Grade.D)
    assert GradeReason.CAUSE_LOST in alone.reasons
    stack = cpu_with(0, ["f_c", "f_b", "f_a", "kthread"], trap=0x300)
    told = sign(report_with([stack], text=LOST), RULES).signature
    assert (told.class_, told.grade, told.reasons) == (CrashClass.NULL_DEREF, Grade.B, (GradeReason.NO_LOG,))


def test_a_second_oops_whose_first_is_lost_is_a_c() -> None:
    text = (LABELLED / "null_ext4_writepages_1.txt").read_text(encoding="utf-8").replace("[#1]", "[#2]")
    found = sign(report_of_text(text), RULES).signature
    assert GradeReason.FIRST_OOPS_LOST in found.reasons
    assert found.grade is Grade.C


def test_a_cut_text_is_a_d_only_where_there_is_nothing_else() -> None:
    whole = (LABELLED / "null_ext4_writepages_1.txt").read_text(encoding="utf-8")
    cut = whole[: whole.index("Call Trace:") + 12] + "\n" + whole[whole.index("---[ end trace") - 20 :]
    alone = sign(report_of_text(cut), RULES).signature
    assert alone.grade is Grade.D
    assert GradeReason.TEXT_CORRUPTED in alone.reasons
    nip = next(int(line.split("NIP:  ")[1].split()[0], 16) for line in whole.splitlines() if "NIP:  " in line)
    stack = cpu_with(12, ["ext4_writepages [ext4]", "do_writepages", "f_a", "kthread"], trap=0x300, nip=nip)
    both = sign(report_with([stack], panic_cpu=12, text=cut), RULES).signature
    assert (both.grade, both.reasons) == (Grade.A, ())


def test_a_stack_that_was_cut_short_of_its_key_is_told() -> None:
    frames = ["f_b", "f_a"]
    found = sign(report_with([cpu_with(0, frames, trap=0x300, stop=StopReason.UNREADABLE)]), RULES).signature
    assert GradeReason.STACK_CUT in found.reasons
    whole = sign(report_with([cpu_with(0, [*frames, "f_0"], trap=0x300, stop=StopReason.UNREADABLE)]), RULES).signature
    assert GradeReason.STACK_CUT not in whole.reasons


def test_one_function_is_enough_where_the_stack_ends() -> None:
    thread = sign(report_with([cpu_with(0, ["f_a", "kthread"], trap=0x300)]), RULES).signature
    assert GradeReason.FEW_FRAMES not in thread.reasons
    cut = sign(report_with([cpu_with(0, ["f_a"], trap=0x300, stop=StopReason.UNREADABLE)]), RULES).signature
    assert (GradeReason.FEW_FRAMES in cut.reasons, cut.grade) == (True, Grade.C)


def test_a_fault_without_its_exception_is_told() -> None:
    text = "BUG: Kernel NULL pointer dereference at 0x00000000\nKernel panic - not syncing: Fatal exception\n"
    found = sign(report_with([cpu_with(0, ["__crash_kexec", "panic", "f_b", "f_a", "kthread"])], text=text), RULES)
    assert GradeReason.NO_EXCEPTION_FRAME in found.signature.reasons


def test_a_culprit_that_printed_lr_alone_names_is_a_c_and_one_that_was_unwound_is_not() -> None:
    text = (LABELLED / "null_memcpy_in_vscsi_1.txt").read_text(encoding="utf-8")
    printed = sign(report_of_text(text), RULES).signature
    assert (printed.culprit, printed.grade) == ("ibmvscsi_handle_crq", Grade.C)
    assert GradeReason.CULPRIT_BY_LINK_REGISTER in printed.reasons
    stack = cpu_with(0, ["memcpy", frame("f_b", trust=Trust.LINK_REGISTER), "f_a", "kthread"], trap=0x300)
    assert sign(report_with([stack]), RULES).signature.reasons == (GradeReason.NO_LOG,)


def test_a_machine_check_of_no_kind_is_a_c_apart_from_those_of_a_kind() -> None:
    stack = cpu_with(0, ["f_b", "f_a", "kthread"], trap=0x200)
    found = sign(report_with([stack]), RULES).signature
    assert (found.class_, found.grade) == (CrashClass.MACHINE_CHECK, Grade.C)
    assert GradeReason.KIND_UNKNOWN in found.reasons
    kind = sign(report_of_text((LABELLED / "mce_ue_load_1.txt").read_text(encoding="utf-8")), RULES).signature
    assert kind.id != found.id


def test_a_text_that_is_known_no_more_leaves_the_class_it_had() -> None:
    report = report_with([cpu_with(0, ["f_b", "f_a", "kthread"], trap=0x300)], text=LOST)
    assert report.dmesg is not None
    stored = LogReport(CrashClass.KUAP, "of an older table", 0, ("words of an older table",))
    found = sign(replace(report, dmesg=replace(report.dmesg, reports=(stored,))), RULES).signature
    assert (found.class_, GradeReason.NO_LOG in found.reasons) == (CrashClass.KUAP, False)
