"""A trimmed dump gives the report of the whole one."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from crashbeam.pipeline.inputs import list_one
from crashbeam.schemas.crash_report import CrashReport
from crashbeam.vmcore.facts import AnalysisOptions
from crashbeam.vmcore.stages import analyse
from crashbeam.vmcore.trim import trim
from tests.builders.board import board_of

MAY_DIFFER = ("source", "input_id")


def analysed(path: Path, options: AnalysisOptions) -> CrashReport:
    record = analyse(list_one(str(path)), options)
    assert isinstance(record, CrashReport), record
    return record


def what_must_be_equal(report: CrashReport) -> CrashReport:
    source = replace(report.source, uri="", size_bytes=None, modified=None, page_codecs=())
    return replace(report, input_id="", source=source)


@pytest.fixture
def options(golden: Path, tmp_path: Path) -> AnalysisOptions:
    return AnalysisOptions((str(golden),), str(tmp_path / "profiles"))


@pytest.mark.parametrize("name", ["i_lostnote_busy", "c_null_module", "k2_overflow", "damaged_truncated"])
def test_trimming_again_changes_nothing_but_the_file(
    name: str, golden: Path, tmp_path: Path, options: AnalysisOptions
) -> None:
    small = tmp_path / "small"
    assert trim(list_one(str(golden / f"{name}.kdump")), options, str(small)) is None
    assert what_must_be_equal(analysed(golden / f"{name}.kdump", options)) == what_must_be_equal(
        analysed(small, options)
    )
    assert (golden / f"{name}.kdump").read_bytes() == small.read_bytes()


def test_a_damaged_page_stays_damaged(tmp_path: Path) -> None:
    board = board_of({0, 2, 5})
    board.cpus[5].buffer = "lost"
    path, small = board.write(tmp_path), tmp_path / "small"
    options = AnalysisOptions((str(tmp_path / "kernel.profile"),), str(tmp_path / "cache"))
    assert trim(list_one(str(path)), options, str(small)) is None
    assert what_must_be_equal(analysed(path, options)) == what_must_be_equal(analysed(small, options))
    assert small.stat().st_size < path.stat().st_size


def test_what_is_no_dump_is_not_trimmed(tmp_path: Path, options: AnalysisOptions) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a dump\n")
    failure = trim(list_one(str(text)), options, str(tmp_path / "small"))
    assert failure is not None
    assert failure.code == "unknown_format"
    assert not (tmp_path / "small").exists()


def test_an_output_that_cannot_be_written_leaves_nothing_behind(
    golden: Path, tmp_path: Path, options: AnalysisOptions
) -> None:
    with pytest.raises(OSError, match="No such file"):
        trim(list_one(str(golden / "e_bug.kdump")), options, str(tmp_path / "missing" / "small"))
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="directory"):
        trim(list_one(str(golden / "e_bug.kdump")), options, str(tmp_path / "taken"))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith((".", "taken"))] == ["taken"]


@pytest.mark.corpus
@pytest.mark.parametrize(
    "dump",
    [
        "d3_softnull_offline/vmcore.zlib",
        "h_lostnote_sysrq/vmcore.elf",
        "h_lostnote_sysrq/vmcore.zstd.part2",
        "h_lostnote_sysrq/vmcore.lzo.flat",
        "n2_61_extirq/vmcore.zlib",
        "damaged/incomplete.zlib",
    ],
)
def test_a_real_dump_and_its_trimmed_one_in_another_process(dump: str, corpus: Path, tmp_path: Path) -> None:
    whole, small = corpus / "ppc32" / dump, tmp_path / "small"
    common = ("--symbols", str(corpus / "kernels"), "--profiles", str(tmp_path / "profiles"))
    subprocess.run([sys.executable, "-m", "crashbeam.pipeline", "trim", whole, "-o", small, *common], check=True)
    reports = []
    for path in (whole, small):
        shown = subprocess.run(
            [sys.executable, "-m", "crashbeam.pipeline", "show", "--json", path, *common],
            check=True,
            capture_output=True,
        )
        reports.append(orjson.loads(shown.stdout))
    for report in reports:
        for name in MAY_DIFFER:
            del report[name]
    assert reports[0] == reports[1]
    assert small.stat().st_size < 200_000
