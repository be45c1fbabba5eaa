"""Which name stands for an address, and which symbols of a vmlinux are text."""

import pytest

from crashbeam.vmcore.symbols.naming import SymbolName, choose_name, is_local_label, without_dot


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["sys_ni_syscall", "compat_sys_epoll_pwait*", "sys_io_setup*"], "sys_ni_syscall"),
        (["_stext", "_text", "_start", "start_here"], "start_here"),
        (["__irqentry_text_start", "do_IRQ"], "do_IRQ"),
        (["__end_interrupts", "system_call_entry"], "system_call_entry"),
        (["start_virt_trampolines", "end_first_256B", "exc_real_0x100_system_reset"], "exc_real_0x100_system_reset"),
        (["__sched_text_start", "weak_function*"], "weak_function"),
        (["__do_softirq", "_do_softirq", "___do_softirq"], "_do_softirq"),
        (["memset", "memcpy"], "memcpy"),
        ([".schedule", ".__schedule"], "schedule"),
        (["__start___ex_table", "_etext"], "_etext"),
    ],
)
def test_the_name_of_a_function_goes_before_boundaries_aliases_and_underscores(names: list[str], chosen: str) -> None:
    """``*`` marks a weak symbol. The order in which a source lists them changes nothing."""
    symbols = [SymbolName(name.removesuffix("*"), name.endswith("*")) for name in names]
    assert choose_name(symbols) == choose_name(reversed(symbols)) == chosen


def test_a_boundary_stays_if_nothing_else_is_there() -> None:
    assert choose_name([SymbolName("__kprobes_text_end", False)]) == "__kprobes_text_end"


def test_only_the_dot_of_an_elfv1_function_is_dropped() -> None:
    assert [without_dot(name) for name in (".schedule", "schedule", "do_one.isra.0")] == [
        "schedule",
        "schedule",
        "do_one.isra.0",
    ]


def test_labels_of_the_assembler_are_no_names() -> None:
    assert [name for name in (".Ltmp3", "$d", "Decrementer", ".schedule") if not is_local_label(name)] == [
        "Decrementer",
        ".schedule",
    ]
