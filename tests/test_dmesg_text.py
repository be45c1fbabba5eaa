"""Logs as text: the forms that kernels, consoles and makedumpfile print, and the file that kdump leaves by a dump."""

import os
from pathlib import Path

import pytest

from crashbeam.vmcore import dmesg
from crashbeam.vmcore.arch.ppc32 import PPC32
from crashbeam.vmcore.dmesg import find_log, open_sidecar
from crashbeam.vmcore.dmesg.text import MAX_TEXT_BYTES, caller_name, format_line, parse_log_text
from crashbeam.vmcore.errors import FormatError, SourceError, SymbolError
from crashbeam.vmcore.log_line import LogLine
from tests.builders.printk_ring import PrintkRing

CPU_5 = 0x80000005


@pytest.mark.parametrize(
    ("printed", "line"),
    [
        ("[    6.180262] Oops: Kernel access", LogLine(0, 6_180_262_000, None, None, "Oops: Kernel access")),
        ("[    6.180262][   T81] NIP", LogLine(0, 6_180_262_000, 81, None, "NIP")),
        ("[    6.180262][    C5] NIP", LogLine(0, 6_180_262_000, CPU_5, None, "NIP")),
        ("[12345.180262][T1234567] NIP", LogLine(0, 12_345_180_262_000, 1234567, None, "NIP")),
        ("[    1.000001] [     T81] makedumpfile", LogLine(0, 1_000_001_000, 81, None, "makedumpfile")),
        ("<6>[    1.000001] level", LogLine(0, 1_000_001_000, None, 6, "level")),
        ("<14>[    1.000001][   C12] facility 1", LogLine(0, 1_000_001_000, 0x8000000C, 6, "facility 1")),
        ("<4>no time", LogLine(0, None, None, 4, "no time")),
        ("no prefix at all", LogLine(0, None, None, None, "no prefix at all")),
        ("[    1.000001]   indented", LogLine(0, 1_000_001_000, None, None, "  indented")),
        ("[    1.000001] \ttab", LogLine(0, 1_000_001_000, None, None, "\ttab")),
        (
            "[    1.000001] [c0001234] [c00abcde] frame",
            LogLine(0, 1_000_001_000, None, None, "[c0001234] [c00abcde] frame"),
        ),
        ("[    1.000001] ", LogLine(0, 1_000_001_000, None, None, "")),
        ("[    1.000001] return\r", LogLine(0, 1_000_001_000, None, None, "return")),
        ("[    1.000001] bell\x07", LogLine(0, 1_000_001_000, None, None, "bell\\x07")),
        ("[c0001234] no time", LogLine(0, None, None, None, "[c0001234] no time")),
        ("<notalevel>[1.5] x", LogLine(0, None, None, None, "<notalevel>[1.5] x")),
    ],
)
def test_a_printed_line_is_taken_apart(printed: str, line: LogLine) -> None:
    assert parse_log_text(printed.encode() + b"\n") == [line]


def test_lines_count_on_and_blank_ones_are_none() -> None:
    assert [(line.sequence, line.text) for line in parse_log_text(b"a\n\n  \nb\nc")] == [(0, "a"), (1, "b"), (2, "c")]


def test_a_record_of_several_lines_as_makedumpfile_indents_it() -> None:
    text = b"[    5.936588] IRQMASK: 0 \n               GPR00: 1\n               GPR04: 2\n[    5.936589] NIP\n"
    assert [(line.sequence, line.time_ns, line.text) for line in parse_log_text(text)] == [
        (0, 5_936_588_000, "IRQMASK: 0 "),
        (0, 5_936_588_000, "GPR00: 1"),
        (0, 5_936_588_000, "GPR04: 2"),
        (3, 5_936_589_000, "NIP"),
    ]


def test_an_indented_line_behind_one_without_time_is_a_line_of_its_own() -> None:
    assert [line.text for line in parse_log_text(b"first\n        second\n")] == ["first", "        second"]


@pytest.mark.parametrize(
    ("line", "plain", "with_caller"),
    [
        (LogLine(0, 6_180_262_999, 81, 6, "x"), "[    6.180262] x", "[    6.180262][   T81] x"),
        (LogLine(0, 123_456_000_001_000, CPU_5, 6, "x"), "[123456.000001] x", "[123456.000001][    C5] x"),
        (LogLine(0, 0, None, 6, " x"), "[    0.000000]  x", "[    0.000000]  x"),
        (LogLine(0, None, None, None, "x"), "x", "x"),
    ],
)
def test_a_line_is_printed_as_the_kernel_prints_it(line: LogLine, plain: str, with_caller: str) -> None:
    assert format_line(line) == plain
    assert format_line(line, with_caller=True) == with_caller


def test_callers_are_threads_and_cpus() -> None:
    assert (caller_name(0), caller_name(81), caller_name(CPU_5)) == ("T0", "T81", "C5")


def test_what_is_printed_is_read_again() -> None:
    lines = [LogLine(number, number * 10**9, number | 1 << 31, None, f"line {number}") for number in range(50)]
    printed = "".join(format_line(line, with_caller=True) + "\n" for line in lines)
    assert parse_log_text(printed.encode()) == lines


def test_the_sidecar_is_looked_for_beside_the_dump(tmp_path: Path) -> None:
    dump = tmp_path / "vmcore"
    assert open_sidecar(str(dump), "no symbols") is None
    (tmp_path / "vmcore-dmesg.txt").write_bytes(b"[    1.000000] one\n[    2.000000] two\n")
    log = open_sidecar(str(dump), "no symbols")
    assert log is not None
    assert [line.text for line in log.read()] == ["one", "two"]
    assert (log.sidecar_because, log.problem, log.overwritten_records) == ("no symbols", None, 0)
    assert [line.text for line in log.read(1)] == ["two"]


def test_of_a_long_sidecar_the_end_is_read_from_a_whole_line_on(tmp_path: Path) -> None:
    line = b"[    1.000000] " + b"x" * 84 + b"\n"
    (tmp_path / "vmcore-dmesg.txt").write_bytes(line * (MAX_TEXT_BYTES // 50) + b"[    9.000000] last\n")
    log = open_sidecar(str(tmp_path / "vmcore"), "why")
    assert log is not None
    lines = log.read()
    assert lines[-1].text == "last"
    assert {line.text for line in lines[:-1]} == {"x" * 84}
    assert MAX_TEXT_BYTES // 100 - 2 <= len(lines) <= MAX_TEXT_BYTES // 100
    assert log.problem == "only the last 4 MiB of vmcore-dmesg.txt were read"


def test_a_sidecar_that_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "vmcore-dmesg.txt")
    with pytest.raises(FormatError, match="no file of text"):
        open_sidecar(str(tmp_path / "vmcore"), "why")
    os.unlink(tmp_path / "vmcore-dmesg.txt")
    os.symlink("vmcore-dmesg.txt", tmp_path / "vmcore-dmesg.txt")
    with pytest.raises(SourceError, match="cannot be read"):
        open_sidecar(str(tmp_path / "vmcore"), "why")


def test_a_dump_whose_memory_cannot_be_read_has_the_log_beside_it_or_none(tmp_path: Path) -> None:
    dump = str(tmp_path / "vmcore")
    with pytest.raises(SymbolError, match="where the kernel keeps its log"):
        find_log(dump, None, None, None)
    (tmp_path / "vmcore-dmesg.txt").write_bytes(b"[    1.000000] one\n")
    log = find_log(dump, None, None, None)
    assert [line.text for line in log.read()] == ["one"]
    assert log.sidecar_because == "neither symbols nor VMCOREINFO tell where the kernel keeps its log"


def test_an_empty_log_is_no_reason_for_the_sidecar(tmp_path: Path) -> None:
    (tmp_path / "vmcore-dmesg.txt").write_bytes(b"[    1.000000] one\n")
    log = find_log(str(tmp_path / "vmcore"), PrintkRing(PPC32, 4, 8).kernel(), None, None)
    assert (log.read(), log.sidecar_because, log.problem) == ([], None, None)


def test_of_a_log_with_too_many_lines_the_newest_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dmesg, "_MAX_LINES", 100)
    (tmp_path / "vmcore-dmesg.txt").write_bytes(b"".join(b"line %d\n" % number for number in range(1000)))
    log = open_sidecar(str(tmp_path / "vmcore"), "why")
    assert log is not None
    lines = log.read()
    assert 100 < len(lines) < 200
    assert lines[-1].text == "line 999"
    assert log.problem == "only the newest 100 lines of the log were read"
