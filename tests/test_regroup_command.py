"""Buckets made anew from stored reports: what moves is told, nothing is overwritten."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from crashbeam.pipeline.cli import main
from crashbeam.pipeline.exit_codes import OK, WRONG_USE
from crashbeam.pipeline.stored_reports import read_reports
from crashbeam.schemas.crash_report import CrashReport
from crashbeam.schemas.encode import to_json_line
from crashbeam.vmcore.signature import sign
from crashbeam.vmcore.signature.rules import shipped_rules
from tests.sample_records import FAILED
from tests.signing import LABELLED, cpu_with, log_of, report_with


def crash(number: int, *functions: str, signed: bool = True) -> CrashReport:
    """A stored report of a crash of its own in these functions."""
    report = report_with([cpu_with(0, [*functions, "kthread"], trap=0x300)])
    report = replace(report, input_id=f"{number:032x}", crash_id=f"{number:032x}")
    return replace(report, signature=sign(report, shipped_rules()).signature) if signed else report


def stored(path: Path, reports: Sequence[CrashReport]) -> str:
    """A file of the reports, with a failure among them."""
    path.write_bytes(b"".join([*map(to_json_line, reports), to_json_line(FAILED)]))
    return str(path)


def rules(folder: Path, **files: str) -> str:
    """A user's folder of rules."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        suffix = "toml" if name == "overrides" else "txt"
        (folder / f"{name}.{suffix}").write_text(text, encoding="utf-8")
    return str(folder)


def test_what_is_read_back_is_what_was_stored(tmp_path: Path) -> None:
    reports = [crash(1, "f_b", "f_a"), replace(crash(2, "f_c"), dmesg=log_of('Oops: "class": "from": \\, sig: 6 [#1]'))]
    assert list(read_reports((stored(tmp_path / "a.jsonl", reports),))) == reports


def test_parts_folders_and_reports_over_several_lines_are_read(tmp_path: Path) -> None:
    line = to_json_line(crash(1, "f_a"))
    (tmp_path / "out" / "parts").mkdir(parents=True)
    (tmp_path / "out" / "parts" / "00000000-00000001.jsonl.zst").write_bytes(zstandard.compress(line * 2))
    (tmp_path / "one.json").write_text(json.dumps(json.loads(line), indent=2))
    assert len(list(read_reports((str(tmp_path / "out"), str(tmp_path / "one.json"))))) == 3


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"{}\n", "is no record of crashbeam"),
        (b"nonsense\n", "is no report"),
        (b'{"schema": "crashbeam.crash_report/1"}\n', "is no report"),
    ],
)
def test_what_is_no_report_is_refused_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes, complaint: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(to_json_line(crash(1, "f_a")) + data)
    assert main(["regroup", str(path)]) == WRONG_USE
    said = capsys.readouterr().err
    assert complaint in said
    assert f"{path}:2" in said


def test_the_same_rules_move_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = stored(tmp_path / "a.jsonl", [crash(1, "f_b", "f_a"), crash(2, "f_c", "f_a")])
    assert main(["regroup", path]) == OK
    said = capsys.readouterr().out
    assert "2 reports of 2 crashes; 0 signatures changed" in said
    assert "nothing moved" in said


def test_a_helper_that_is_left_out_merges_its_buckets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reports = [crash(1, "our_get", "f_a"), crash(2, "our_put", "f_a"), crash(3, "f_a"), crash(4, "f_b")]
    path = stored(tmp_path / "a.jsonl", reports)
    assert main(["regroup", path, "--rules", rules(tmp_path / "rules", irrelevant="our_(get|put)  # helpers\n")]) == OK
    said = capsys.readouterr().out
    bucket = reports[2].signature
    assert bucket is not None
    assert "4 reports of 4 crashes; 2 signatures changed" in said
    assert "buckets: 4 before, 2 after" in said
    assert f"merged: {bucket.id} <- " in said
    assert "split:" not in said


def test_a_frame_that_counts_no_more_splits_a_bucket(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = stored(tmp_path / "a.jsonl", [crash(1, "f_d", "f_c", "f_b", "f_1"), crash(2, "f_d", "f_c", "f_b", "f_2")])
    assert main(["regroup", path, "--rules", rules(tmp_path / "rules", prefix="f_b  # a wrapper\n")]) == OK
    said = capsys.readouterr().out
    assert "buckets: 1 before, 2 after" in said
    assert "split: " in said
    assert "look at: 2 buckets of one culprit: Kernel NULL pointer dereference in f_d" in said


def test_the_same_crash_twice_counts_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = replace(crash(1, "f_a"), input_id="f" * 32)
    assert main(["regroup", stored(tmp_path / "a.jsonl", [crash(1, "f_a"), again])]) == OK
    assert "2 reports of 1 crashes" in capsys.readouterr().out


def test_overrides_move_buckets_and_leave_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reports = [crash(1, "f_a"), crash(2, "f_b"), crash(3, "f_c")]
    ids = [report.signature.id for report in reports if report.signature is not None]
    text = (
        f'[[merge]]\nids = ["{ids[0]}"]\ninto = "{ids[1]}"\nauthor = "A"\nreason = "one defect"\n'
        f'[[ignore]]\nids = ["{ids[2]}"]\nauthor = "B"\nreason = "a test"\n'
    )
    folder, path = rules(tmp_path / "rules", overrides=text), stored(tmp_path / "a.jsonl", reports)
    assert main(["regroup", path, "--rules", folder, "-o", str(tmp_path / "new")]) == OK
    said = capsys.readouterr().out
    assert "3 reports of 3 crashes; 0 signatures changed" in said
    (merged,) = [line for line in said.splitlines() if line.startswith(f"merged: {ids[1]} <- ")]
    assert merged.endswith("Kernel NULL pointer dereference in f_b")
    assert "1 ignored" in said
    rows = [json.loads(line) for line in (tmp_path / "new" / "history.jsonl").read_text().splitlines()]
    assert [row["new_id"] for row in rows] == ids
    assert [row["bucket"] for row in rows] == [ids[1], ids[1], ids[2]]
    assert [row["ignored"] for row in rows] == [False, False, True]


def test_the_reports_are_written_signed_anew_and_the_old_ones_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stored(tmp_path / "a.jsonl", [crash(1, "our_get", "f_a", signed=False)])
    before = Path(path).read_bytes()
    folder, output = rules(tmp_path / "rules", irrelevant="our_get  # a helper\n"), str(tmp_path / "new")
    assert main(["regroup", path, "--rules", folder, "-o", output]) == OK
    assert "(nothing was written" not in capsys.readouterr().out
    (report,) = read_reports((output,))
    assert report.signature is not None
    assert (report.signature.culprit, report.panic.title) == ("f_a", "Kernel NULL pointer dereference in f_a")
    assert report.signature.rules != shipped_rules().digest
    assert Path(path).read_bytes() == before
    assert main(["regroup", output, "--rules", folder]) == OK
    assert "nothing moved" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [[], ["--dry-run"], ["--dry-run", "-o", "NEW"]])
def test_nothing_is_written_unless_it_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    path = stored(tmp_path / "a.jsonl", [crash(1, "f_a")])
    before = sorted(tmp_path.iterdir())
    assert main(["regroup", path, *[flag.replace("NEW", str(tmp_path / "new")) for flag in flags]]) == OK
    assert "(nothing was written" in capsys.readouterr().out
    assert sorted(tmp_path.iterdir()) == before


def test_reports_that_stand_are_never_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, output = stored(tmp_path / "a.jsonl", [crash(1, "f_a")]), str(tmp_path / "new")
    assert main(["regroup", path, "-o", output]) == OK
    assert main(["regroup", path, "-o", output]) == WRONG_USE
    assert "name a new folder" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["regroup"], ["signature", "explain"]])
def test_a_bad_pattern_is_said_with_file_and_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    path, folder = stored(tmp_path / "a.jsonl", [crash(1, "f_a")]), rules(tmp_path / "rules", prefix="f(  # open\n")
    assert main([*command, path, "--rules", folder]) == WRONG_USE
    assert f"{folder}/prefix.txt:1: f( is no regular expression" in capsys.readouterr().err


def test_explain_tells_each_step_of_a_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (LABELLED / "null_memcpy_in_vscsi_1.txt").read_text(encoding="utf-8")
    report = replace(crash(1, "f_a"), cpus=(), dmesg=log_of(text))
    assert main(["signature", "explain", stored(tmp_path / "a.jsonl", [report])]) == OK
    said = capsys.readouterr().out
    for step in (
        "title: Kernel NULL pointer dereference in ibmvscsi_handle_crq [ibmvscsi]",
        "class: null_deref: the log says",
        "left out: memcpy (irrelevant)",
        "function: ibmvscsi_handle_crq (in ibmvscsi) <- culprit",
        "stopped: tasklet_action_common begins something new",
        "grade: C",
        "id: ",
        "of crashbeam-1\\nnull_deref\\nibmvscsi_handle_crq",
    ):
        assert step in said


def test_explain_tells_what_was_decided_by_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = crash(1, "f_a")
    assert report.signature is not None
    text = (
        f'[[merge]]\nids = ["{report.signature.id}"]\ninto = "{"0" * 16}"\nauthor = "A"\nreason = "one defect"\n'
        f'[[ignore]]\nids = ["{"0" * 16}"]\nauthor = "B"\nreason = "a test"\n'
    )
    folder = rules(tmp_path / "rules", overrides=text)
    assert main(["signature", "explain", stored(tmp_path / "a.jsonl", [report]), "--rules", folder]) == OK
    said = capsys.readouterr().out
    assert f"bucket: {'0' * 16}, merged by A: one defect" in said
    assert "ignored: by B: a test" in said


@pytest.mark.parametrize("command", [["regroup"], ["signature", "explain"]])
def test_records_without_a_report_are_wrong_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    assert main([*command, stored(tmp_path / "a.jsonl", [])]) == WRONG_USE
    assert "no report in what was named" in capsys.readouterr().err
