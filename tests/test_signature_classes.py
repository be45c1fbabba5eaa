"""The class of a crash of which there is a stack alone."""

import pytest

from crashbeam.schemas.codes import CrashClass
from crashbeam.vmcore.signature import sign
from crashbeam.vmcore.signature.rules import shipped_rules
from tests.signing import cpu_with, frame, report_with

TRAP_BIT, ILLEGAL_BIT = 0x20000, 0x80000


@pytest.mark.parametrize(
    ("trap", "dar", "class_"),
    [
        (0x300, 0, CrashClass.NULL_DEREF),
        (0x300, 65535, CrashClass.NULL_DEREF),
        (0x300, 65536, CrashClass.BAD_ACCESS),
        (0x380, 1 << 60, CrashClass.BAD_ACCESS),
        (0x400, 0, CrashClass.BAD_JUMP),
        (0x480, 0, CrashClass.BAD_JUMP),
        (0x600, 0, CrashClass.UNALIGNED),
        (0x700, 0, CrashClass.BUG),
        (0x200, 0, CrashClass.MACHINE_CHECK),
        (0x100, 0, CrashClass.SYSTEM_RESET),
        (0x800, 0, CrashClass.UNAVAILABLE),
        (0xF20, 0, CrashClass.UNAVAILABLE),
        (0xF60, 0, CrashClass.UNAVAILABLE),
        (0x4100, 0, CrashClass.UNRECOVERABLE),
    ],
)
def test_the_exception_tells_the_class(trap: int, dar: int, class_: CrashClass) -> None:
    cpu = cpu_with(0, ["f_a", "kthread"], trap=trap, dar=dar)
    assert sign(report_with([cpu]), shipped_rules()).signature.class_ is class_


@pytest.mark.parametrize(
    ("path", "class_"),
    [
        (["__crash_kexec", "panic", "f_a"], CrashClass.PANIC),
        (["__crash_kexec", "panic", "sysrq_handle_crash"], CrashClass.SYSRQ_CRASH),
        (["__crash_kexec", "panic", "watchdog_timer_fn"], CrashClass.SOFT_LOCKUP),
        (["__crash_kexec", "nmi_panic", "soft_nmi_interrupt"], CrashClass.HARD_LOCKUP),
        (["__crash_kexec", "panic", "panic_on_rcu_stall", "print_cpu_stall"], CrashClass.RCU_STALL),
        (["__crash_kexec", "panic", "__stack_chk_fail", "f_a"], CrashClass.STACK_PROTECTOR),
        (["__crash_kexec", "panic", "check_panic_on_warn", "__warn", "report_bug"], CrashClass.WARN),
        (["__crash_kexec", "panic", "check_panic_on_warn", "end_report", "kasan_report"], CrashClass.KASAN),
        (["__crash_kexec", "panic", "check_panic_on_warn", "kfence_report_error"], CrashClass.KFENCE),
        (["__crash_kexec", "panic", "check_panic_on_warn", "ubsan_epilogue"], CrashClass.UBSAN),
        (["__crash_kexec", "panic", "out_of_memory"], CrashClass.OOM),
        (["__crash_kexec", "panic", "do_exit"], CrashClass.INIT_KILLED),
        (["__crash_kexec", "panic", "mount_root_generic"], CrashClass.NO_ROOT),
        (["f_a"], CrashClass.UNCLASSIFIED),
    ],
)
def test_who_called_panic_tells_the_class(path: list[str], class_: CrashClass) -> None:
    cpu = cpu_with(0, [*path, "f_0", "kthread"])
    assert sign(report_with([cpu]), shipped_rules()).signature.class_ is class_


@pytest.mark.parametrize(
    ("msr", "class_"),
    [(TRAP_BIT, CrashClass.BUG), (ILLEGAL_BIT, CrashClass.PROGRAM_CHECK), (0, CrashClass.BUG)],
)
def test_srr1_tells_a_trap_from_an_illegal_instruction(msr: int, class_: CrashClass) -> None:
    interrupted = frame("f_a", vector=0x700)
    assert interrupted.exception is not None
    interrupted.exception.registers["msr"] = f"{0x8000000000009033 | msr:016x}"
    cpu = cpu_with(0, ["die", interrupted, "kthread"])
    assert sign(report_with([cpu]), shipped_rules()).signature.class_ is class_
