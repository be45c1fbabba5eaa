"""One record for each input, and a folder that says so: what stands is kept, what is open is analysed."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from crashbeam.pipeline import run
from crashbeam.pipeline.exit_codes import PromiseBrokenError, WrongUseError
from crashbeam.pipeline.run import run_to_parts
from crashbeam.schemas.records import Record
from crashbeam.transforms.part_file import PartRange, parse_part_name, read_part, write_part
from crashbeam.vmcore.facts import AnalysisOptions, DumpInput
from tests.running import joined_parts, make_dumps, outcomes, records_of, run_options
from tests.sample_records import REPORT, SOURCE


@pytest.fixture(autouse=True)
def keep_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in this process leave its signal handlers alone."""
    monkeypatch.setattr(run, "end_on_signals", lambda _advice: None)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A run folder that is yet to be made."""
    return tmp_path / "out"


def test_every_input_ends_in_one_record_in_input_order(tmp_path: Path, output: Path) -> None:
    make_dumps(tmp_path / "in", "a", "bad", "die", "eat", "hang", "raise", "z")
    counts = run_to_parts(run_options([tmp_path / "in"], output))
    assert outcomes(output) == {
        "a": "report",
        "bad": "malformed",
        "die": "worker_killed",
        "eat": "out_of_memory",
        "hang": "deadline",
        "raise": "internal_error",
        "z": "report",
    }
    assert list(outcomes(output)) == sorted(outcomes(output))
    assert (counts.reports, counts.failures.total()) == (2, 5)


def test_a_child_cannot_write_a_file(tmp_path: Path, output: Path) -> None:
    make_dumps(tmp_path / "in", "a", "write")
    run_to_parts(run_options([tmp_path / "in"], output))
    assert outcomes(output) == {"a": "report", "write": "internal_error"}
    assert (tmp_path / "in" / "write.written").read_bytes() == b""


def test_without_isolation_the_records_are_the_same(tmp_path: Path) -> None:
    make_dumps(tmp_path / "in", "a", "bad", "raise", "z")
    run_to_parts(run_options([tmp_path / "in"], tmp_path / "children"))
    run_to_parts(run_options([tmp_path / "in"], tmp_path / "none", isolation="none"))
    assert joined_parts(tmp_path / "children") == joined_parts(tmp_path / "none")


def test_the_manifest_names_every_part_with_its_rows(tmp_path: Path, output: Path) -> None:
    make_dumps(tmp_path / "in", *(f"dump{number:03d}" for number in range(300)))
    run_to_parts(run_options([tmp_path / "in"], output))
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["inputs"] == 300 == manifest["reports"]
    ranges = [parse_part_name(part["name"]) for part in manifest["parts"]]
    assert ranges[0] == PartRange(0, ranges[0].stop if ranges[0] else 0)
    assert [part["rows"] for part in manifest["parts"]] == [part.stop - part.first for part in ranges if part]
    assert max(part["rows"] for part in manifest["parts"]) <= 256
    assert {part["name"] for part in manifest["parts"]} == set(os.listdir(output / "parts"))


def test_a_repeated_run_analyses_nothing_again(tmp_path: Path, output: Path) -> None:
    make_dumps(tmp_path / "in", "a", "b")
    run_to_parts(run_options([tmp_path / "in"], output))
    before = {path.name: path.stat().st_mtime_ns for path in (output / "parts").iterdir()}
    run_to_parts(run_options([tmp_path / "in"], output, analyse="tests.no_such_module:analyse"))
    assert {path.name: path.stat().st_mtime_ns for path in (output / "parts").iterdir()} == before


def test_new_inputs_are_added_behind_the_old_ones(tmp_path: Path, output: Path) -> None:
    make_dumps(tmp_path / "in", "m", "n")
    run_to_parts(run_options([tmp_path / "in"], output))
    make_dumps(tmp_path / "in", "a")
    run_to_parts(run_options([tmp_path / "in"], output))
    assert list(outcomes(output)) == ["m", "n", "a"]
    assert sorted(path.name for path in output.glob("inputs-*")) == ["inputs-0000.json", "inputs-0001.json"]


def test_records_of_dumps_that_are_gone_are_kept(tmp_path: Path, output: Path) -> None:
    first, second = make_dumps(tmp_path / "in", "a", "b")
    run_to_parts(run_options([first, second], output))
    first.unlink()
    run_to_parts(run_options([second], output))
    assert list(outcomes(output)) == ["a", "b"]


def test_only_open_ranges_are_analysed_and_the_bytes_are_those_of_an_undisturbed_run(tmp_path: Path) -> None:
    make_dumps(tmp_path / "in", *"abcdefgh")
    run_to_parts(run_options([tmp_path / "in"], tmp_path / "whole"))
    run_to_parts(run_options([tmp_path / "in"], tmp_path / "holes"))
    lines = joined_parts(tmp_path / "holes").splitlines(keepends=True)
    (part,) = (tmp_path / "holes" / "parts").iterdir()
    part.unlink()
    write_part(str(part.parent), 2, lines[2:4])
    write_part(str(part.parent), 5, lines[5:6])
    run_to_parts(run_options([tmp_path / "in"], tmp_path / "holes"))
    assert sorted(os.listdir(part.parent))[0] == PartRange(0, 2).name
    assert joined_parts(tmp_path / "holes") == joined_parts(tmp_path / "whole")


def test_what_a_killed_writer_left_is_swept(tmp_path: Path, output: Path) -> None:
    make_dumps(tmp_path / "in", "a")
    run_to_parts(run_options([tmp_path / "in"], output))
    (output / "parts" / ".writing-00000001-00000002").write_bytes(b"half")
    run_to_parts(run_options([tmp_path / "in"], output))
    assert sorted(os.listdir(output / "parts")) == [PartRange(0, 1).name]


def test_other_limits_are_refused_and_other_workers_are_not(tmp_path: Path, output: Path) -> None:
    make_dumps(tmp_path / "in", "a")
    options = run_options([tmp_path / "in"], output)
    run_to_parts(options)
    run_to_parts(run_options([tmp_path / "in"], output, workers=1, isolation="none"))
    with pytest.raises(WrongUseError, match="other options"):
        run_to_parts(run_options([tmp_path / "in"], output, limits=type(options.limits)(5, 15)))


def test_failures_are_tried_again_only_when_that_is_asked_for(tmp_path: Path, output: Path) -> None:
    make_dumps(tmp_path / "in", "a", "bad", "c")
    run_to_parts(run_options([tmp_path / "in"], output))
    healed = {"analyse": "tests.test_run_folder:everything_is_good", "isolation": "none"}
    run_to_parts(run_options([tmp_path / "in"], output, **healed))
    assert outcomes(output)["bad"] == "malformed"
    reports = [line for line in joined_parts(output).splitlines() if b"crash_report" in line[:40]]
    run_to_parts(run_options([tmp_path / "in"], output, retry_failures=True, **healed))
    assert outcomes(output) == {"a": "report", "bad": "report", "c": "report"}
    assert [line for line in joined_parts(output).splitlines() if b"/bad" not in line] == reports
    assert json.loads((output / "manifest.json").read_text())["failures"] == {}


def test_a_damaged_part_is_named_and_nothing_is_called_complete(tmp_path: Path, output: Path) -> None:
    make_dumps(tmp_path / "in", "a", "b")
    run_to_parts(run_options([tmp_path / "in"], output))
    (part,) = (output / "parts").iterdir()
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(PromiseBrokenError, match=part.name):
        run_to_parts(run_options([tmp_path / "in"], output))
    part.unlink()
    run_to_parts(run_options([tmp_path / "in"], output))
    assert len(records_of(output)) == 2


def test_parts_that_overlap_are_named(tmp_path: Path, output: Path) -> None:
    make_dumps(tmp_path / "in", "a", "b")
    run_to_parts(run_options([tmp_path / "in"], output))
    write_part(str(output / "parts"), 1, [b"{}\n"])
    with pytest.raises(PromiseBrokenError, match="overlaps"):
        run_to_parts(run_options([tmp_path / "in"], output))


@pytest.mark.parametrize(
    "name", ["00000002-00000002.jsonl.zst", "00000000-00000001.jsonl", ".writing-00000000-00000001"]
)
def test_a_name_that_is_no_parts_is_none(name: str) -> None:
    assert parse_part_name(name) is None


def test_a_part_is_one_frame_and_reads_back(tmp_path: Path) -> None:
    lines = [b'{"a":1}\n', b'{"b":2}\n']
    part = write_part(str(tmp_path), 7, lines)
    assert part == PartRange(7, 9)
    assert read_part(str(tmp_path / part.name)) == b"".join(lines)
    assert os.listdir(tmp_path) == ["00000007-00000009.jsonl.zst"]


def everything_is_good(dump_input: DumpInput, _options: AnalysisOptions) -> Record:
    """The fake analysis after a bug was put right."""
    return replace(REPORT, input_id=dump_input.input_id, source=replace(SOURCE, uri=dump_input.uri))
