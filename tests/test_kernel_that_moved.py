"""Kernels that run elsewhere than they were linked (KASLR of 85xx since Linux 5.5): KERNELOFFSET of VMCOREINFO."""

import dataclasses
from pathlib import Path

import pytest
from msgspec.structs import replace

from crashbeam.vmcore.symbols.profile import KernelProfile, TextSymbol, compile_profile
from tests.builders.board import KERNEL, board_of
from tests.test_dump_opening import options_with, report_of

OFFSET = 0x04000000


@pytest.mark.parametrize("saved", [{2}, {0, 2, 7}])
def test_a_report_does_not_depend_on_where_the_kernel_ran(saved: set[int], tmp_path: Path) -> None:
    reports = []
    for offset in (0, OFFSET):
        board, folder = board_of(saved), tmp_path / f"{offset:x}"
        board.kernel_offset = offset
        folder.mkdir()
        path = board.write(folder)
        report = report_of(path, options_with(folder, folder / "kernel.profile"))
        reports.append(
            dataclasses.replace(
                report, input_id="", source=dataclasses.replace(report.source, uri="", modified=None, size_bytes=0)
            )
        )
    assert reports[0] == reports[1]
    assert {cpu.cpu for cpu in reports[1].cpus if cpu.registers} == saved
    assert reports[1].cpus[2].stack.frames[0].symbol == "sysrq_handle_crash"


def test_a_moved_profile_answers_where_the_kernel_ran() -> None:
    linked = KernelProfile(compile_profile(KERNEL))
    moved = linked.moved(OFFSET)
    start = linked.address_of("do_idle")
    assert start is not None
    symbol = linked.symbol_at(start + 4)
    assert symbol is not None
    assert moved.address_of("do_idle") == start + OFFSET
    assert moved.symbol_at(start + OFFSET + 4) == TextSymbol("do_idle", symbol.start + OFFSET, symbol.end + OFFSET)
    assert moved.text_ranges == tuple((low + OFFSET, high + OFFSET) for low, high in linked.text_ranges)
    assert moved.address_of("crash_notes") == KERNEL.variables["crash_notes"] + OFFSET
    assert linked.address_of("do_idle") == start
    assert moved.moved(0).symbol_at(start + 4) == symbol


def test_the_last_function_of_a_moved_kernel_ends_with_its_text() -> None:
    moved = KernelProfile(compile_profile(KERNEL)).moved(OFFSET)
    last = moved.symbol_at(moved.text_ranges[0][1] - 4)
    assert last is not None
    assert (last.name, last.end) == ("text_after", moved.text_ranges[0][1])
    assert moved.symbol_at(moved.text_ranges[0][1]) is None


def test_a_kernel_moved_and_moved_back_is_the_same() -> None:
    assert KERNEL.moved(OFFSET).moved(-OFFSET) == replace(KERNEL, text=list(KERNEL.text))
