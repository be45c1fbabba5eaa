"""The tables: their columns follow from the records, and rows have what the columns say."""

import dataclasses
from typing import Any

import orjson
import pytest

from crashbeam.schemas.encode import to_json_line
from crashbeam.schemas.fields import Path
from crashbeam.schemas.privacy import Privacy
from crashbeam.schemas.records import Record
from crashbeam.schemas.tables import (
    CPUS,
    CRASHES,
    FAILURES,
    FRAMES,
    INPUTS,
    ORDINAL,
    RECORD_TABLES,
    TABLES,
    WARNINGS,
    Column,
    ColumnType,
    Table,
    json_shape,
)
from tests.sample_records import CRASH_ID, FAILED, INPUT_ID, REPORT

RESERVED_IN_STORES = {"offset", "on", "index", "order", "group", "user", "table", "select", "end", "from", "to"}
JSON_TYPES = {
    ColumnType.TEXT: str,
    ColumnType.INT32: int,
    ColumnType.INT64: int,
    ColumnType.BOOL: bool,
    ColumnType.TIMESTAMP: str,
    ColumnType.TEXTS: list,
}


def elements(record: dict[str, Any], table: Table) -> list[list[dict[str, Any]]]:
    """For each row of a table the objects that it stands in: the record, then the elements of the table's lists."""
    found = [[record]]
    for path in table.lists:
        found = [[*outer, inner] for outer in found for inner in value_at(outer[-1], path)]
    return found


def value_at(element: Any, path: Path) -> Any:
    """What stands at a path; ``None`` below what is null."""
    for key in path:
        element = None if element is None else element[key]
    return element


def value_of(column: Column, table: Table, inside: list[dict[str, Any]]) -> Any:
    """The value of a column in the row that stands in these objects."""
    path, depth = column.path, 0
    for list_path in table.lists:
        if path[: len(list_path)] == list_path:
            path, depth = path[len(list_path) :], depth + 1
    value = value_at(inside[depth], path)
    return value_at(inside[0], column.fallback) if value is None and column.fallback else value


def rows_of(record: Record, table: Table) -> list[dict[str, Any]]:
    """The rows of a table, each by column name, but for their ordinals."""
    parsed = orjson.loads(to_json_line(record))
    columns = [column for column in table.columns if column.path != (ORDINAL,)]
    return [{column.name: value_of(column, table, inside) for column in columns} for inside in elements(parsed, table)]


def test_no_column_has_a_reserved_name_and_none_comes_twice() -> None:
    for table in TABLES:
        names = [column.name for column in table.columns]
        assert len(names) == len(set(names))
        assert not RESERVED_IN_STORES & set(names)


def test_every_table_is_keyed_by_the_input() -> None:
    for table in TABLES:
        names = {column.name: column for column in table.columns}
        assert table.key[0] == "input_id"
        assert all(not names[key].nullable for key in table.key)


def test_pids_and_cpus_are_int32_and_sizes_int64() -> None:
    types = {(table.name, column.name): column.type for table in TABLES for column in table.columns}
    for name in [("crashes", "panic_cpu"), ("crashes", "panic_pid"), ("cpus", "pid"), ("frames", "cpu")]:
        assert types[name] is ColumnType.INT32
    for name in [("crashes", "size_bytes"), ("crashes", "memory_bytes"), ("frames", "symbol_offset")]:
        assert types[name] is ColumnType.INT64


def test_a_column_inside_what_can_be_absent_can_be_absent() -> None:
    nullable = {(table.name, column.name): column.nullable for table in TABLES for column in table.columns}
    assert nullable["crashes", "taint_mask"]
    assert nullable["frames", "exception_vector"]
    assert nullable["cpus", "comm"]
    assert not nullable["cpus", "note_state"]


def test_a_column_is_as_private_as_its_field() -> None:
    privacy = {(table.name, column.name): column.privacy for table in TABLES for column in table.columns}
    assert privacy["crashes", "nodename"] is Privacy.PERSONAL
    assert privacy["cpus", "comm"] is Privacy.PERSONAL
    assert privacy["frames", "address"] is Privacy.INTERNAL
    assert privacy["frames", "symbol"] is Privacy.PUBLIC


@pytest.mark.parametrize("table", RECORD_TABLES, ids=lambda table: table.name)
def test_every_value_has_the_type_of_its_column(table: Table) -> None:
    rows = rows_of(REPORT if table.record == "crash_report" else FAILED, table)
    assert rows
    for row in rows:
        for column in table.columns:
            value = row.get(column.name)
            if value is None:
                assert column.nullable or column.path == (ORDINAL,), column.name
            else:
                assert type(value) is JSON_TYPES[column.type], column.name


def test_a_report_gives_one_crash_and_a_row_for_each_cpu_frame_and_warning() -> None:
    assert [len(rows_of(REPORT, table)) for table in (CRASHES, CPUS, FRAMES, WARNINGS)] == [1, 2, 2, 2]


def test_a_failure_gives_one_failure() -> None:
    (failure,) = rows_of(FAILED, FAILURES)
    assert (failure["input_id"], failure["stage"], failure["code"]) == (INPUT_ID, "headers", "truncated")
    assert failure["uri"] == "file:///dumps/vmcore"


def test_a_crash_row_tells_what_the_report_tells() -> None:
    (crash,) = rows_of(REPORT, CRASHES)
    assert crash["crash_key"] == CRASH_ID
    assert crash["crash_time"] == "2026-01-02T03:04:05Z"
    assert (crash["notes_saved"], crash["notes_not_saved"], crash["order_would_mislead"]) == (1, 1, True)
    assert (crash["symbol_names"], crash["taint_letters"], crash["nodename"]) == ("vmlinux", "O", "board-7")


def test_a_crash_without_a_crash_id_is_a_crash_of_its_own() -> None:
    (crash,) = rows_of(dataclasses.replace(REPORT, crash_id=None), CRASHES)
    assert (crash["crash_id"], crash["crash_key"]) == (None, INPUT_ID)


def test_a_cpu_that_lost_its_note_has_a_row_without_a_task() -> None:
    lost, saved = rows_of(REPORT, CPUS)
    assert (lost["cpu"], lost["note_state"], lost["task"], lost["pid"]) == (0, "not_saved", None, None)
    assert (saved["cpu"], saved["note_state"], saved["comm"], saved["pid"]) == (1, "saved", "bash", 77)
    assert saved["note_evidence"] == ["crash_notes", "stack"]


def test_frames_are_numbered_within_their_cpu() -> None:
    innermost, interrupted = rows_of(REPORT, FRAMES)
    assert [(frame["cpu"], frame["level"]) for frame in (innermost, interrupted)] == [(1, 0), (1, 1)]
    assert (innermost["exception_vector"], innermost["source_line"]) == (None, None)
    assert (interrupted["exception_vector"], interrupted["source_line"]) == ("300", 42)
    assert (interrupted["symbol"], interrupted["symbol_offset"], interrupted["stack_kind"]) == (
        "crashlab_null",
        24,
        "task",
    )


def test_warnings_are_keyed_by_their_place() -> None:
    assert WARNINGS.key == ("input_id", "ordinal")
    assert [(warning["code"], warning["cpu"]) for warning in rows_of(REPORT, WARNINGS)] == [
        ("dump_incomplete", None),
        ("note_not_saved", 0),
    ]


def test_the_shape_of_the_json_leads_to_every_column() -> None:
    shape: Any = json_shape(*RECORD_TABLES)
    for table in RECORD_TABLES:
        for column in table.columns:
            if column.name == "ordinal":
                continue
            here = shape
            for key in column.path:
                here = (here[0] if isinstance(here, list) else here)[key]
            assert here is column.type or column.name == "crash_key"
    assert isinstance(shape["cpus"], list)
    assert isinstance(shape["cpus"][0]["stack"]["frames"], list)
    assert shape["schema"] is ColumnType.TEXT


def test_the_ledger_is_filled_by_the_loader() -> None:
    assert INPUTS.record is None
    assert all(column.path == () for column in INPUTS.columns)
