"""The SQL of the DuckDB store, derived from ``schemas/tables.py``."""

from crashbeam.schemas.fields import Path
from crashbeam.schemas.tables import INPUTS, ORDINAL, RECORD_TABLES, Column, ColumnType, Shape, Table, json_shape

_TYPES = {
    ColumnType.TEXT: "VARCHAR",
    ColumnType.INT32: "INTEGER",
    ColumnType.INT64: "BIGINT",
    ColumnType.BOOL: "BOOLEAN",
    ColumnType.TIMESTAMP: "TIMESTAMPTZ",
    ColumnType.TEXTS: "VARCHAR[]",
}
CURRENT_VIEW = (
    "create or replace view current_inputs as select * from inputs "
    "qualify row_number() over (partition by uri order by generation desc, loaded_at desc, input_id) = 1"
)
"""Of several records of one place (a file that changed, a dump read too early) the newest."""


def create_table(table: Table) -> str:
    """The table, unless it stands. Only tables with one row for an input have a primary key: it is dear to keep."""
    columns = [f"{_quoted(column.name)} {_TYPES[column.type]}{_null(column)}" for column in table.columns]
    if table.key == ("input_id",):
        columns.append("primary key (input_id)")
    return f"create table if not exists {table.name} ({', '.join(columns)})"


def add_columns(table: Table) -> list[str]:
    """The columns that a store made by an older version lacks."""
    return [
        f"alter table {table.name} add column if not exists {_quoted(column.name)} {_TYPES[column.type]}"
        for column in table.columns
    ]


def read_records() -> str:
    """Parts (the parameter: a list of paths) as a temporary table ``records``, every column declared."""
    columns = ", ".join(f"{name}: '{_json_type(shape)}'" for name, shape in json_shape(*RECORD_TABLES).items())
    return (
        "create or replace temporary table records as select * from read_json(?, format = 'newline_delimited', "
        f"maximum_object_size = 67108864, columns = {{{columns}}})"
    )


def insert_rows(table: Table, schema: str) -> str:
    """Fills a table from those records whose input stands in the temporary table ``wanted``.

    Lists are unnested level by level in the select list, each level keeping only the columns that it adds: a join with
    ``unnest`` would carry every list along with each of its own elements.
    """
    source = f"(select * from records semi join wanted using (input_id) where \"schema\" = '{schema}')"
    element = ""
    prefix: Path = ()
    kept: list[str] = []
    pending = list(table.columns)
    for path in table.lists:
        inner = prefix + path
        here = [column for column in pending if column.path[: len(inner)] != inner and column.path != (ORDINAL,)]
        pending = [column for column in pending if column not in here]
        nested = _reach(element, path)
        values = [*kept, *(f"{_expression(column, prefix, element)} as {_quoted(column.name)}" for column in here)]
        kept += [_quoted(column.name) for column in here]
        values += [f"unnest({nested}) as element", f"unnest(range(len({nested}))) as place"]
        source, element, prefix = f"(select {', '.join(values)} from {source})", "element", inner
    inner_values = [_quoted(c.name) if c not in pending else _expression(c, prefix, element) for c in table.columns]
    names = ", ".join(_quoted(column.name) for column in table.columns)
    return f"insert into {table.name} ({names}) select {', '.join(inner_values)} from {source}"


def delete_rows(table: Table) -> str:
    """Removes the rows of the inputs in ``wanted``."""
    return f"delete from {table.name} where input_id in (select input_id from wanted)"


WANTED = """
create or replace temporary table wanted as
select offered.* from offered left join inputs using (input_id)
where inputs.input_id is null
   or (inputs.digest <> offered.digest and inputs.generation <= offered.generation)
"""
"""Of the offered records those that are new, or differ from an older run's."""

RAISE_GENERATION = """
update inputs set generation = offered.generation from offered
where inputs.input_id = offered.input_id and inputs.digest = offered.digest and inputs.generation < offered.generation
"""
"""A newer run that found the same stands behind it: an older one must not replace it."""

WRITE_LEDGER = """
insert into inputs (input_id, kind, uri, digest, generation, first_loaded, loaded_at)
select input_id, kind, records.source.uri, digest, generation, $loaded_at, $loaded_at
from wanted join records using (input_id)
on conflict (input_id) do update set
    kind = excluded.kind, uri = excluded.uri, digest = excluded.digest,
    generation = excluded.generation, loaded_at = excluded.loaded_at
"""

ALL_TABLES = (*RECORD_TABLES, INPUTS)


def _expression(column: Column, prefix: Path, element: str) -> str:
    if column.path == (ORDINAL,):
        return "place"
    value = _reach(element, column.path[len(prefix) :])
    return f"coalesce({value}, {_reach(element, column.fallback[len(prefix) :])})" if column.fallback else value


def _reach(element: str, path: Path) -> str:
    return ".".join([*([element] if element else []), *map(_quoted, path)])


def _json_type(shape: Shape) -> str:
    if isinstance(shape, dict):
        return "STRUCT(" + ", ".join(f"{_quoted(name)} {_json_type(inner)}" for name, inner in shape.items()) + ")"
    if isinstance(shape, list):
        return _json_type(shape[0]) + "[]"
    return _TYPES[shape]


def _null(column: Column) -> str:
    return "" if column.nullable else " not null"


def _quoted(name: str) -> str:
    return f'"{name}"'
