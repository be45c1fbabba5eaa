"""Stores hold what the parts hold, whatever is loaded again, and in whatever order."""

import dataclasses
import gzip
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from msgspec.structs import replace

from crashbeam.pipeline.exit_codes import PromiseBrokenError, WrongUseError
from crashbeam.pipeline.load import load_into
from crashbeam.pipeline.sinks import FinishedRun, open_sinks
from crashbeam.schemas.encode import to_json_line
from crashbeam.schemas.records import Record
from crashbeam.schemas.tables import RECORD_TABLES
from crashbeam.transforms.part_file import write_part
from tests.running import crashbeam, joined_parts, make_dumps
from tests.sample_records import FAILED, REPORT

IDS = [f"{number:032x}" for number in range(6)]
MakeRun = Callable[..., FinishedRun]


def report(number: int, **changes: Any) -> Record:
    """A report of input ``number``."""
    source = dataclasses.replace(REPORT.source, uri=f"file:///dumps/{number}")
    return dataclasses.replace(REPORT, input_id=IDS[number], source=source, **changes)


def failure(number: int) -> Record:
    """A failure of input ``number``."""
    return dataclasses.replace(
        FAILED, input_id=IDS[number], source=dataclasses.replace(FAILED.source, uri=f"file:///dumps/{number}")
    )


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Makes a finished run of some records, two in a part."""

    def make(*records: Record, generation: int = 1) -> FinishedRun:
        folder = tmp_path / f"run{generation}-{len(os.listdir(tmp_path))}"
        (folder / "parts").mkdir(parents=True)
        lines = [to_json_line(record) for record in records]
        parts = [
            write_part(str(folder / "parts"), first, lines[first : first + 2]) for first in range(0, len(lines), 2)
        ]
        return FinishedRun(str(folder), str(folder / "parts"), tuple(parts), generation)

    return make


def load(uri: str, run: FinishedRun) -> None:
    """Loads a run into one sink."""
    load_into(open_sinks([uri]), run)


def lines_of(run: FinishedRun) -> bytes:
    """The records of a run."""
    return joined_parts(Path(run.path))


def rows(store: Path, query: str) -> list[tuple[Any, ...]]:
    """What a DuckDB store answers."""
    with duckdb.connect(str(store), read_only=True) as connection:
        connection.execute("set TimeZone = 'UTC'")
        return connection.execute(query).fetchall()


def everything(store: Path) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables of records."""
    return {table.name: rows(store, f"select * from {table.name} order by all") for table in RECORD_TABLES}


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_jsonl_holds_the_records_in_input_order_compressed_by_its_name(
    tmp_path: Path, make_run: MakeRun, suffix: str
) -> None:
    run = make_run(report(0), failure(1), report(2))
    path = tmp_path / "deep" / f"all{suffix}"
    load(f"jsonl:{path}", run)
    data = path.read_bytes()
    if suffix.endswith(".gz"):
        data = gzip.decompress(data)
    elif suffix.endswith(".zst"):
        data = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read()
    assert data == lines_of(run)
    assert os.listdir(path.parent) == [path.name]


def test_parquet_has_a_file_for_each_part_and_table_with_the_declared_columns(
    tmp_path: Path, make_run: MakeRun
) -> None:
    load(f"parquet:{tmp_path / 'tables'}", make_run(report(0), failure(1), report(2)))
    for table in RECORD_TABLES:
        folder = tmp_path / "tables" / table.name
        assert sorted(os.listdir(folder)) == ["00000000-00000002.parquet", "00000002-00000003.parquet"]
        assert pyarrow.parquet.read_schema(folder / "00000000-00000002.parquet").names == [
            column.name for column in table.columns
        ]
    crashes = pyarrow.parquet.read_table(tmp_path / "tables" / "crashes").to_pylist()
    assert [row["input_id"] for row in crashes] == [IDS[0], IDS[2]]
    assert crashes[0]["crash_time"].isoformat() == "2026-01-02T03:04:05+00:00"
    frames = pyarrow.parquet.read_table(tmp_path / "tables" / "frames").to_pylist()
    assert [(row["input_id"], row["cpu"], row["level"], row["symbol"]) for row in frames] == [
        (input_id, 1, level, symbol)
        for input_id in (IDS[0], IDS[2])
        for level, symbol in enumerate(["crash_kexec", "crashlab_null"])
    ]
    assert [row["exception_vector"] for row in frames[:2]] == [None, "300"]


def test_parquet_and_duckdb_hold_the_same_rows(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(report(0), failure(1), report(2, crash_id=None), report(3, warnings=(), cpus=()))
    load(f"parquet:{tmp_path / 'tables'}", run)
    load(f"duckdb:{tmp_path / 'store.duckdb'}", run)
    for table in RECORD_TABLES:
        parquet = pyarrow.parquet.read_table(tmp_path / "tables" / table.name)
        key = [(name, "ascending") for name in table.key]
        stored = rows(tmp_path / "store.duckdb", f"select * from {table.name} order by {', '.join(table.key)}")
        assert [tuple(row.values()) for row in parquet.sort_by(key).to_pylist()] == stored


def test_duckdb_rows_are_what_the_record_says(tmp_path: Path, make_run: MakeRun) -> None:
    store = tmp_path / "store.duckdb"
    load(f"duckdb:{store}", make_run(report(0, crash_id=None), failure(1)))
    assert rows(store, "select crash_key, release, panic_comm, order_would_mislead from crashes") == [
        (IDS[0], "6.12.0", "bash", True)
    ]
    assert rows(store, "select cpu, note_state, note_index, note_evidence from cpus order by cpu") == [
        (0, "not_saved", None, []),
        (1, "saved", 0, ["crash_notes", "stack"]),
    ]
    assert rows(store, "select ordinal, code, cpu from warnings order by ordinal") == [
        (0, "dump_incomplete", None),
        (1, "note_not_saved", 0),
    ]
    assert rows(store, "select code, stage, hint from failures") == [("truncated", "headers", FAILED.hint)]
    assert rows(store, "select input_id, kind, uri from inputs order by all") == [
        (IDS[0], "crash_report", "file:///dumps/0"),
        (IDS[1], "failure", "file:///dumps/1"),
    ]


def test_loading_the_same_run_again_changes_nothing(
    tmp_path: Path, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store.duckdb"
    run = make_run(report(0), failure(1), report(2))
    load(f"duckdb:{store}", run)
    before = everything(store), rows(store, "select * from inputs order by all")
    load(f"duckdb:{store}", run)
    assert (everything(store), rows(store, "select * from inputs order by all")) == before
    assert "0 records written, 3 stood already" in capsys.readouterr().err


def test_a_newer_run_replaces_all_rows_of_an_input(tmp_path: Path, make_run: MakeRun) -> None:
    store = tmp_path / "store.duckdb"
    load(f"duckdb:{store}", make_run(report(0), failure(1), report(2), generation=1))
    load(f"duckdb:{store}", make_run(failure(0), report(1, cpus=REPORT.cpus[1:], warnings=()), generation=2))
    assert rows(store, "select input_id from crashes order by all") == [(IDS[1],), (IDS[2],)]
    assert rows(store, "select input_id, cpu from cpus order by all") == [(IDS[1], 1), (IDS[2], 0), (IDS[2], 1)]
    assert rows(store, "select distinct input_id from warnings") == [(IDS[2],)]
    assert rows(store, "select input_id from failures") == [(IDS[0],)]


def test_an_older_run_that_is_loaded_late_loses(tmp_path: Path, make_run: MakeRun) -> None:
    store = tmp_path / "store.duckdb"
    load(f"duckdb:{store}", make_run(report(0), report(1), generation=5))
    before = everything(store)
    load(f"duckdb:{store}", make_run(failure(0), report(1, quirks=("x",)), generation=3))
    assert everything(store) == before


def test_a_newer_run_that_found_the_same_protects_it_from_runs_between(tmp_path: Path, make_run: MakeRun) -> None:
    store = tmp_path / "store.duckdb"
    load(f"duckdb:{store}", make_run(report(0), generation=1))
    load(f"duckdb:{store}", make_run(report(0), generation=9))
    load(f"duckdb:{store}", make_run(failure(0), generation=5))
    assert rows(store, "select kind, generation from inputs") == [("crash_report", 9)]


def test_of_two_versions_of_a_file_the_newer_run_is_current(tmp_path: Path, make_run: MakeRun) -> None:
    store = tmp_path / "store.duckdb"
    uri = REPORT.source
    load(f"duckdb:{store}", make_run(dataclasses.replace(FAILED, input_id=IDS[0], source=uri), generation=1))
    load(f"duckdb:{store}", make_run(dataclasses.replace(REPORT, input_id=IDS[1], source=uri), generation=2))
    assert rows(store, "select input_id from current_inputs") == [(IDS[1],)]


def test_a_record_that_a_store_refuses_is_kept_and_the_others_are_loaded(tmp_path: Path, make_run: MakeRun) -> None:
    store = tmp_path / "store.duckdb"
    run = make_run(report(0), report(1), report(2))
    system = dataclasses.replace(REPORT.system, crash_time="no time at all")
    refused = to_json_line(report(1, system=system))
    write_part(run.parts_folder, 0, [to_json_line(report(0)), refused])
    with pytest.raises(PromiseBrokenError, match="refused 1 records"):
        load(f"duckdb:{store}", run)
    assert rows(store, "select input_id from crashes order by all") == [(IDS[0],), (IDS[2],)]
    assert (Path(run.path) / "refused-duckdb.jsonl").read_bytes() == refused


def test_tables_of_another_run_are_not_mixed(tmp_path: Path, make_run: MakeRun) -> None:
    load(f"parquet:{tmp_path / 'tables'}", make_run(report(0), generation=1))
    with pytest.raises(WrongUseError, match="another run"):
        load(f"parquet:{tmp_path / 'tables'}", make_run(report(0), generation=2))


def test_tables_of_parts_that_are_no_more_go_away(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(report(0), report(1), report(2))
    load(f"parquet:{tmp_path / 'tables'}", run)
    load(f"parquet:{tmp_path / 'tables'}", replace(run, parts=run.parts[:1]))
    assert os.listdir(tmp_path / "tables" / "frames") == ["00000000-00000002.parquet"]


@pytest.mark.parametrize("uri", ["jsonl:{}", "parquet:{}/file/x", "duckdb:{}/file"])
def test_a_sink_that_cannot_be_written_is_found_by_its_probe(tmp_path: Path, uri: str) -> None:
    (tmp_path / "file").write_text("no store")
    with pytest.raises(WrongUseError, match=uri.partition(":")[0]):
        open_sinks([uri.format(tmp_path)])


def test_a_store_that_another_process_holds_is_wrong_use(tmp_path: Path) -> None:
    make_dumps(tmp_path / "in", "a")
    with duckdb.connect(str(tmp_path / "store.duckdb")):
        sink = f"duckdb:{tmp_path / 'store.duckdb'}"
        result = crashbeam("run", tmp_path / "in", "-o", tmp_path / "out", "--sink", sink)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_run_and_load_fill_a_store_equally(tmp_path: Path) -> None:
    folder = make_dumps(tmp_path / "in", "a", "bad", "c")[0].parent
    result = crashbeam("run", folder, "-o", tmp_path / "out", "--sink", f"duckdb:{tmp_path / 'of-run.duckdb'}")
    assert result.returncode == 0
    assert "3 records written" in result.stderr
    assert crashbeam("load", tmp_path / "out", "--sink", f"duckdb:{tmp_path / 'loaded.duckdb'}").returncode == 0
    assert everything(tmp_path / "of-run.duckdb") == everything(tmp_path / "loaded.duckdb")


def test_a_run_that_is_not_finished_is_not_loaded(tmp_path: Path) -> None:
    folder = make_dumps(tmp_path / "in", "a")[0].parent
    crashbeam("run", folder, "-o", tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    result = crashbeam("load", tmp_path / "out", "--sink", f"jsonl:{tmp_path / 'x'}")
    assert result.returncode == 2
    assert "is not finished" in result.stderr
    assert json.loads((tmp_path / "out" / "run.json").read_text())["schema"] == "crashbeam.run/1"


def test_a_run_finds_out_before_its_first_dump_that_tables_are_those_of_another(tmp_path: Path) -> None:
    folder = make_dumps(tmp_path / "in", "a")[0].parent
    sink = f"parquet:{tmp_path / 'tables'}"
    assert crashbeam("run", folder, "-o", tmp_path / "one", "--sink", sink).returncode == 0
    result = crashbeam("run", folder, "-o", tmp_path / "two", "--sink", sink)
    assert result.returncode == 2
    assert "holds the tables of another run" in result.stderr
    assert os.listdir(tmp_path / "two" / "parts") == []
