"""Every kind of report that the kernel makes: class, title and facts, from texts in its own formats."""

import re
from collections.abc import Callable

import pytest

from crashbeam.schemas.codes import CrashClass
from crashbeam.vmcore.oops import Oops, find_oopses, parse_lines
from crashbeam.vmcore.title import titles_of
from tests.oops_text import OopsText, read_texts

TEXTS = read_texts()
BY_NAME = {text.name: text for text in TEXTS}
NOT_FROM_TEXT = {CrashClass.UNCLASSIFIED, CrashClass.EMPTY}
"""What a crash is called when its log tells nothing."""

FACTS: dict[str, Callable[[Oops], str]] = {
    "cpu": lambda oops: str(oops.cpu),
    "pid": lambda oops: str(oops.pid),
    "function": lambda oops: oops.function or "-",
    "module": lambda oops: oops.module or "-",
    "link": lambda oops: oops.link_function or "-",
    "blamed": lambda oops: ",".join(map(str, oops.blamed_cpus)),
    "blamed_pid": lambda oops: str(oops.blamed_pid),
    "problems": lambda oops: ",".join(oops.problems),
    "alone": lambda oops: "no" if oops.is_fatal else "yes",
    "vectors": lambda oops: ",".join(hex(line.vector) for line in oops.trace if line.vector is not None),
}


def first_oops(lines: tuple[str, ...]) -> Oops:
    """The report that is the cause."""
    return find_oopses(parse_lines(lines))[0]


def titles(oops: Oops, text: OopsText) -> tuple[str, tuple[str, ...]]:
    """The titles with the function that the stack would name, where the text alone does not."""
    return titles_of(oops, oops.class_, text.facts.get("culprit"), None)


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.name)
def test_the_class_and_titles_of_a_text(text: OopsText) -> None:
    oops = first_oops(text.lines)
    assert oops.class_ == text.facts["class"]
    assert titles(oops, text) == (text.facts["title"], text.alternatives)


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.name)
def test_the_facts_of_a_text(text: OopsText) -> None:
    oops = first_oops(text.lines)
    expected = {"problems": "", "alone": "no"} | text.facts
    assert {name: fact(oops) for name, fact in FACTS.items() if name in expected} == {
        name: expected[name] for name in FACTS if name in expected
    }


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.name)
def test_a_report_is_the_same_when_it_is_read_from_its_own_lines(text: OopsText) -> None:
    oops = first_oops(text.lines)
    again = first_oops(oops.lines)
    assert again.at_line == 0
    assert (again.class_, titles(again, text)) == (oops.class_, titles(oops, text))
    assert (again.registers, again.trace, again.blamed_cpus) == (oops.registers, oops.trace, oops.blamed_cpus)
    assert again.epilogue == oops.epilogue


def test_there_is_a_text_for_every_class_that_a_text_can_have() -> None:
    assert {text.facts["class"] for text in TEXTS} == set(CrashClass) - NOT_FROM_TEXT


def moved(line: str) -> str:
    """A line with all kernel addresses moved by 1 MB: another load address."""
    return re.sub(
        r"\bc(?:00800)?0*[0-9a-f]{5,12}\b",
        lambda word: f"{int(word[0], 16) + 0x100000:0{len(word[0])}x}" if len(word[0]) in (8, 16) else word[0],
        line,
    )


CHANGES: dict[str, Callable[[str], str]] = {
    "other addresses": moved,
    "another time": lambda line: re.sub(r"^\[ *\d+\.", "[ 4000.", line),
    "no time": lambda line: re.sub(r"^\[[^]]*\](?:\[[^]]*\])? ", "", line),
    "another CPU": lambda line: re.sub(
        r"(CPU[sS]?[:#]? ?|cpu |rcu: \t|\[ {4}C)(\d+)\b", lambda found: f"{found[1]}{int(found[2]) + 2}", line
    ),
    "another pid": lambda line: re.sub(r"PID: \d+", "PID: 31337", line),
    "tainted": lambda line: line.replace("Not tainted", "Tainted: P      D    OE     "),
    "another kernel": lambda line: line.replace("6.6.30-lab", "5.15.2-other"),
    "a carriage return": lambda line: line + "\r",
    "a level": lambda line: f"<3>{line}",
    "a journal": lambda line: f"Feb  3 10:11:12 node7 kernel: {line}",
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.name)
def test_what_differs_from_crash_to_crash_leaves_the_titles_alone(text: OopsText, change: str) -> None:
    oops = first_oops(tuple(CHANGES[change](line) for line in text.lines))
    assert oops.class_ == text.facts["class"]
    assert titles(oops, text) == (text.facts["title"], text.alternatives)


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.name)
def test_lines_of_others_between_those_of_a_report_are_left_out(text: OopsText) -> None:
    lines = parse_lines(text.lines)
    if any(line.caller is None for line in lines):
        lines = tuple(line for line in parse_lines([with_caller(line) for line in text.lines]))
    oops = find_oopses(lines)[0]
    noise = parse_lines(
        ["[  812.300000][   T99] lab: link up", "[  812.300000][   T99] CPU: 9 PID: 99 Comm: x Not tainted "]
    )
    mixed = find_oopses([other for line in lines for other in (line, *noise)])[0]
    assert (mixed.class_, mixed.lines, mixed.trace, mixed.cpu, mixed.pid) == (
        *(oops.class_, oops.lines, oops.trace, oops.cpu, oops.pid),
    )


def with_caller(line: str) -> str:
    """A line with the printer that the text does not name."""
    return (
        re.sub(r"^(\[ *\d+\.\d+\]) ", r"\1[   T77] ", line)
        if line.startswith("[  ")
        else f"[  812.000000][   T77] {line}"
    )


def test_the_registers_of_a_64_bit_report() -> None:
    oops = first_oops(BY_NAME["null_deref_6_6"].lines)
    registers = oops.registers
    assert (registers["nip"], registers["lr"]) == (0xC0000000004A3C18, 0xC0000000004A3BE4)
    assert (registers["trap"], registers["dar"], registers["dsisr"]) == (0x300, 0x18, 0x42000000)
    assert (registers["msr"], registers["softe"]) == (0x8000000000009033, 0)
    assert [registers[f"r{number}"] for number in (0, 1, 31)] == [
        0xC0000000005A1000,
        0xC0000000005A1140,
        0xC0000000005A36C0,
    ]


def test_the_registers_of_a_32_bit_report() -> None:
    registers = first_oops(BY_NAME["unaligned"].lines).registers
    assert (registers["nip"], registers["trap"], registers["dar"], registers["dsisr"]) == (
        *(0xC03A1C44, 0x600, 0xC1234567, 0x800000),
    )
    assert (registers["r0"], registers["r31"]) == (0xC05A1000, 0xC05A17C0)


def test_the_victims_own_account_is_the_trace_of_a_lockup_that_another_cpu_found() -> None:
    oops = first_oops(BY_NAME["hard_lockup_others"].lines)
    assert [line.function for line in oops.trace] == [
        *("lab_irq", "__handle_irq_event_percpu", "handle_fasteoi_irq", "do_IRQ"),
    ]
    assert oops.link_function == "lab_irq"


def test_an_old_interrupt_in_a_trace_has_its_vector_without_flags_and_no_stack_pointer() -> None:
    trace = first_oops(BY_NAME["null_deref_4_4"].lines).trace
    (interrupt,) = [line for line in trace if line.vector is not None]
    assert (interrupt.vector, interrupt.function, interrupt.stack_pointer) == (0x900, "_raw_spin_lock", None)
    assert trace[-1].function == "ret_from_kernel_thread"


def test_the_first_line_of_a_trace_is_marked_unreliable_where_the_kernel_says_so() -> None:
    trace = first_oops(BY_NAME["bug_6_12"].lines).trace
    assert [line.is_unreliable for line in trace] == [True, *[False] * (len(trace) - 1)]
