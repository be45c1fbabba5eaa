"""Lines of JSON to Arrow tables, column by column: the schemas are derived from ``schemas/tables.py``.

Lines are read with every type declared; nested lists are flattened level by level, the columns of outer levels repeated
for each element. No row is ever a Python object.
"""

from functools import cache

import numpy
import pyarrow
import pyarrow.compute
import pyarrow.json

from crashbeam.schemas.crash_report import CRASH_REPORT
from crashbeam.schemas.failure import FAILURE
from crashbeam.schemas.tables import ORDINAL, RECORD_TABLES, Column, ColumnType, Shape, Table, json_shape

_TYPES = {
    ColumnType.TEXT: pyarrow.string(),
    ColumnType.INT32: pyarrow.int32(),
    ColumnType.INT64: pyarrow.int64(),
    ColumnType.BOOL: pyarrow.bool_(),
    ColumnType.TIMESTAMP: pyarrow.timestamp("us", "UTC"),
    ColumnType.TEXTS: pyarrow.list_(pyarrow.string()),
}
_SCHEMAS = {"crash_report": CRASH_REPORT, "failure": FAILURE}


@cache
def arrow_schema(table: Table) -> pyarrow.Schema:
    """The columns of a table as Arrow fields."""
    return pyarrow.schema(
        [pyarrow.field(column.name, _TYPES[column.type], nullable=column.nullable) for column in table.columns]
    )


def to_tables(lines: bytes) -> dict[str, pyarrow.Table]:
    """Whole lines of records as Arrow tables. Raises pyarrow.ArrowException."""
    options = pyarrow.json.ParseOptions(explicit_schema=_json_schema(), unexpected_field_behavior="ignore")
    # One block: a line longer than a block is an error.
    reading = pyarrow.json.ReadOptions(use_threads=False, block_size=len(lines) + 1)
    records = pyarrow.json.read_json(pyarrow.BufferReader(lines), reading, options)
    by_kind = {kind: _of_schema(records, name).combine_chunks() for kind, name in _SCHEMAS.items()}
    return {table.name: _flatten(by_kind[table.record], table) for table in RECORD_TABLES if table.record}


def _of_schema(records: pyarrow.Table, name: str) -> pyarrow.Table:
    """The records of one schema; most parts hold no other, and are not copied."""
    wanted = pyarrow.compute.equal(records.column("schema"), name)
    return records if pyarrow.compute.all(wanted).as_py() else records.filter(wanted)


@cache
def _json_schema() -> pyarrow.Schema:
    return pyarrow.schema(
        [pyarrow.field(name, _json_type(shape)) for name, shape in json_shape(*RECORD_TABLES).items()]
    )


def _json_type(shape: Shape) -> pyarrow.DataType:
    if isinstance(shape, dict):
        return pyarrow.struct([pyarrow.field(name, _json_type(inner)) for name, inner in shape.items()])
    if isinstance(shape, list):
        return pyarrow.list_(_json_type(shape[0]))
    return pyarrow.string() if shape is ColumnType.TIMESTAMP else _TYPES[shape]


def _flatten(records: pyarrow.Table, table: Table) -> pyarrow.Table:
    element: pyarrow.Array = _as_struct(records)
    pending = list(table.columns)
    columns: dict[str, pyarrow.Array] = {}
    prefix: tuple[str, ...] = ()
    for list_path in table.lists:
        inner = prefix + list_path
        for column in [
            column for column in pending if column.path[: len(inner)] != inner and column.path != (ORDINAL,)
        ]:
            columns[column.name] = _values(element, column, prefix)
            pending.remove(column)
        nested = _field(element, list_path)
        parents = pyarrow.compute.list_parent_indices(nested)
        columns = {name: values.take(parents) for name, values in columns.items()}
        element = pyarrow.compute.list_flatten(nested)
        prefix = inner
        for column in [column for column in pending if column.path == (ORDINAL,)]:
            columns[column.name] = _ordinals(parents)
            pending.remove(column)
    for column in pending:
        columns[column.name] = _values(element, column, prefix)
    return pyarrow.table([columns[column.name] for column in table.columns], schema=arrow_schema(table))


def _as_struct(records: pyarrow.Table) -> pyarrow.Array:
    chunks = records.to_struct_array().chunks
    return chunks[0] if chunks else pyarrow.array([], pyarrow.struct(list(records.schema)))


def _values(element: pyarrow.Array, column: Column, prefix: tuple[str, ...]) -> pyarrow.Array:
    values = _field(element, column.path[len(prefix) :])
    if column.fallback:
        values = pyarrow.compute.coalesce(values, _field(element, column.fallback[len(prefix) :]))
    return values.cast(_TYPES[column.type])


def _field(element: pyarrow.Array, path: tuple[str, ...]) -> pyarrow.Array:
    return pyarrow.compute.struct_field(element, list(path))


def _ordinals(parents: pyarrow.Array) -> pyarrow.Array:
    """The place of each element in its own list."""
    numbers = parents.to_numpy()
    starts = numpy.searchsorted(numbers, numbers, side="left")
    return pyarrow.array(numpy.arange(len(numbers)) - starts, pyarrow.int32())
