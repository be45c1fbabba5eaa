"""The line table of a profile answers for every place as the rows that it was packed from, in the report too."""

import contextlib
import dataclasses
import sys
from bisect import bisect_right

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from crashbeam.schemas.crash_report import Frame, Inlined, SourceLine
from crashbeam.vmcore.errors import SymbolError
from crashbeam.vmcore.symbols.layouts import StructLayout
from crashbeam.vmcore.symbols.line_table import MAX_INLINED, LineTable, PackedLines, pack_lines
from crashbeam.vmcore.symbols.profile import KernelProfile, compile_profile
from crashbeam.vmcore.text import show_text
from tests.builders import stacks
from tests.builders.stacks import CODE, STACKS, TASK, TEXT, Made, behind_call, registers
from tests.sample_records import REPORT
from tests.test_profile_lookup import BASE, KERNEL

STRINGS = ["kernel/panic.c", "include/linux/list.h", "list_add", "__list_add"]
CALLS = [(0, 3, 1, 45), (1, 4, 2, 90)]
LINES = pack_lines([(0x40, 1, 10, 0), (0x41, 2, 500, 2), (0x42, 0, 0, 0), (0x4000, 1, 99, 1)], CALLS, STRINGS)
OUTER, INNER = Inlined("list_add", "kernel/panic.c", 45), Inlined("__list_add", "include/linux/list.h", 90)


def opened(lines: PackedLines | None = LINES) -> KernelProfile:
    return KernelProfile(compile_profile(replace(KERNEL, lines=lines)))


def test_places_are_instructions_from_the_start_of_text() -> None:
    profile = opened()
    assert profile.lines
    assert profile.source_at(BASE + 0x100) == SourceLine("kernel/panic.c", 10, ())
    assert profile.source_at(BASE + 0x104) == SourceLine("include/linux/list.h", 500, (INNER, OUTER))
    assert profile.source_at(BASE + 0x10000) == SourceLine("kernel/panic.c", 99, (OUTER,))
    assert [profile.source_at(BASE + offset) for offset in (-4, 0, 0xFC, 0x108, 0xFFFC)] == [None] * 5


def test_a_kernel_that_moved_has_its_lines_where_it_ran() -> None:
    profile = opened()
    assert profile.moved(0x400000).source_at(BASE + 0x400104) == profile.source_at(BASE + 0x104)
    assert profile.moved(0x400000).source_at(BASE + 0x104) is None


def test_a_profile_without_lines_is_what_it_is_without_its_line_table() -> None:
    assert opened().without_lines() == compile_profile(KERNEL)
    assert not opened(None).lines
    assert opened(None).source_at(BASE + 0x100) is None
    assert opened(None).richness < opened().richness


def test_few_sources_are_kept_but_all_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crashbeam.vmcore.symbols.profile._KEPT_SOURCES", 1)
    profile = opened()
    assert [profile.source_at(BASE + offset) is None for offset in (0x100, 0x104, 0x108, 0x100)] == [0, 0, 1, 0]


def test_a_big_endian_host_reads_and_writes_the_same_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = opened().source_at(BASE + 0x104)
    monkeypatch.setattr(sys, "byteorder", "big")
    assert opened().source_at(BASE + 0x104) == expected


NUMBER = st.one_of(st.integers(1, 9), st.integers(1, 70_000))


@given(
    st.lists(
        st.tuples(st.one_of(st.integers(1, 9), st.integers(1, 5000)), st.integers(0, 40), NUMBER, st.integers(0, 60)),
        max_size=70,
    ),
    st.lists(st.integers(-3, 6000), max_size=20),
)
def test_every_place_has_the_last_row_at_or_before_it(
    steps: list[tuple[int, int, int, int]], places: list[int]
) -> None:
    rows, place = [], 0
    for step, file, line, call in steps:
        place += step
        rows.append((place, file, line if file else 0, call if file else 0))
    strings = [f"file{number}.c" for number in range(1, 41)]
    calls = [(number // 2, number % 40 + 1, (number + 1) % 41, number) for number in range(60)]
    table = LineTable(pack_lines(rows, calls, strings), "made")
    for asked in (*places, *(row[0] for row in rows)):
        index = bisect_right([row[0] for row in rows], asked) - 1
        _, file, line, call = rows[index] if index >= 0 else (0, 0, 0, 0)
        source = table.source_at(asked)
        if source is None:
            assert file == 0
            continue
        assert (source.file, source.line) == (strings[file - 1], line)
        chain = []
        while call:
            parent, function, of_file, of_line = calls[call - 1]
            chain.append(
                Inlined(strings[function - 1], strings[of_file - 1] if of_file else None, of_line if of_line else None)
            )
            call = parent
        assert source.inlined == tuple(chain)


def test_calls_nest_as_deeply_as_is_shown_and_no_deeper() -> None:
    calls = [(number, 1, 1, number + 1) for number in range(MAX_INLINED + 10)]
    source = LineTable(pack_lines([(0, 1, 1, len(calls))], calls, ["a.c"]), "made").source_at(0)
    assert source is not None
    assert [call.line for call in source.inlined] == list(range(len(calls), 10, -1))


@pytest.mark.parametrize(
    "damaged",
    [
        replace(LINES, starts=LINES.starts[:-1]),
        replace(LINES, calls=LINES.calls[:-1]),
        replace(LINES, strings=()),
    ],
)
def test_columns_that_do_not_belong_together_are_refused(damaged: PackedLines) -> None:
    with pytest.raises(SymbolError, match="do not fit"):
        LineTable(damaged, "made")


@pytest.mark.parametrize(
    "damaged",
    [
        replace(LINES, rows=LINES.rows[:2]),
        replace(LINES, calls=()),
        replace(LINES, calls=(2, *LINES.calls[1:])),
        replace(LINES, strings=LINES.strings[:2]),
        pack_lines([(0x41, 1, -7, 0)], [], ["a.c"]),
        pack_lines([(0x41, -1, 7, 0)], [], ["a.c"]),
        pack_lines([(0x41, 1, 7, -1)], [], ["a.c"]),
        pack_lines([(0x41, 1, 1 << 31, 0)], [], ["a.c"]),
    ],
)
def test_a_damaged_table_is_a_reason_and_no_line(damaged: PackedLines) -> None:
    with pytest.raises(SymbolError, match="damaged line table"):
        LineTable(damaged, "made").source_at(0x41)


WHOLE = compile_profile(replace(KERNEL, lines=LINES))


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_any_changed_byte_gives_an_answer_or_a_reason(place: int, value: int) -> None:
    data = bytearray(WHOLE)
    data[place] = value
    with contextlib.suppress(SymbolError):
        profile = KernelProfile(bytes(data))
        for offset in (0x100, 0x104, 0x108, 0x10000):
            profile.source_at(BASE + offset)


def lines_of_stacks(places: dict[int, int]) -> KernelProfile:
    """The profile of the stacks' functions with a line at each of these addresses, and none behind it."""
    rows = []
    for address, line in sorted(places.items()):
        first = (address - TEXT[0]) // 4
        rows += [(first, 1, line, 0), (first + 1, 0, 0, 0)]
    kernel = replace(
        KERNEL,
        text_ranges=(TEXT,),
        text=sorted((start, name) for name, (start, _) in CODE.items()),
        variables={},
        structs={"cpumask": StructLayout(4, {})},
        lines=pack_lines(rows, [], STRINGS),
    )
    return KernelProfile(compile_profile(kernel))


def test_a_frame_has_the_line_of_its_instruction_and_a_caller_that_of_its_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inner, middle, outer = (behind_call(name) for name in ("inner", "middle", "outer"))
    profile = lines_of_stacks({inner: 1, inner - 4: 91, middle - 4: 2, middle: 92, outer - 4: 3, outer: 93})
    monkeypatch.setattr(stacks, "_profile", lambda: profile)
    made, top = Made(), TASK.high - 0x400
    made.frame(top, top + 32)
    made.frame(top + 32, top + 64, middle)
    made.frame(top + 64, TASK.high - 16, outer)
    made.frame(TASK.high - 16, 0, behind_call("start_kernel_thread"))
    frames = made.unwinder().unwind(registers(inner, top), STACKS).frames
    assert [frame.symbol for frame in frames] == ["inner", "middle", "outer", "start_kernel_thread"]
    assert [frame.source and frame.source.line for frame in frames] == [1, 2, 3, None]


def shown(frame: Frame) -> list[str]:
    cpu = dataclasses.replace(REPORT.cpus[1], stack=dataclasses.replace(REPORT.cpus[1].stack, frames=(frame,)))
    cpu = dataclasses.replace(cpu, registers=dict.fromkeys(SHOWN_REGISTERS, "0"))
    text = show_text(dataclasses.replace(REPORT, cpus=(cpu,)), lambda _: None, cpu.cpu)
    return [line for line in text.splitlines() if line.startswith((" #", "     ["))]


SHOWN_REGISTERS = (
    *(f"r{number}" for number in range(32)),
    *("nip", "msr", "orig_r3", "ctr", "lr", "xer", "cr", "mq", "dar", "dsisr", "result", "softe"),
)
FRAME = dataclasses.replace(REPORT.cpus[1].stack.frames[0], level=2)


def test_show_prints_the_place_behind_a_frame_and_inlined_functions_above_it() -> None:
    assert shown(FRAME) == [" #2 [c1234500] crash_kexec+0x8 at c0011223"]
    source = SourceLine("include/linux/list.h", 500, (INNER, dataclasses.replace(OUTER, line=None)))
    assert shown(dataclasses.replace(FRAME, source=dataclasses.replace(source, inlined=()))) == [
        " #2 [c1234500] crash_kexec+0x8 at c0011223 (include/linux/list.h:500)"
    ]
    assert shown(dataclasses.replace(FRAME, source=source)) == [
        "     [inlined] __list_add (include/linux/list.h:500)",
        "     [inlined] list_add (include/linux/list.h:90)",
        " #2 [c1234500] crash_kexec+0x8 at c0011223 (kernel/panic.c:?)",
    ]
