"""The pages of the documentation that are made from the schemas.

python -m crashbeam.schemas.pages docs      writes docs/codes.md and docs/tables.md
"""

import sys
from collections.abc import Callable
from pathlib import Path

from crashbeam.schemas.codes import CLOSED_LISTS, Code
from crashbeam.schemas.tables import TABLES, Column, Table

_CODES_HEAD = """# Codes

Every field of a record that holds one of a few words takes it from one of these lists. Within a major version of a
record members are added, never renamed or removed. This page is made by `make docs` from `schemas/codes.py`.
"""
_TABLES_HEAD = """# Tables

The columns that every store gets, in this order. *Path* is where in the record the value stands; *privacy* is the
strictest mark on that path. This page is made by `make docs` from `schemas/tables.py`.
"""


def codes_page() -> str:
    """``docs/codes.md``: every closed list, with what its members mean and what to do."""
    return "\n".join([_CODES_HEAD, *(_code_section(closed_list) for closed_list in CLOSED_LISTS)])


def tables_page() -> str:
    """``docs/tables.md``: every table, with its columns."""
    return "\n".join([_TABLES_HEAD, *(_table_section(table) for table in TABLES)])


def _code_section(closed_list: type[Code]) -> str:
    has_remedies = any(member.remedy for member in closed_list)
    header = ("value", "meaning", "what to do") if has_remedies else ("value", "meaning")
    rows = [(f"`{member.value}`", member.sentence, member.remedy)[: len(header)] for member in closed_list]
    meaning = (closed_list.__doc__ or "").replace("``", "`")
    return f"## {closed_list.__name__}\n\n{meaning}\n\n{_markdown_table(header, rows)}"


def _table_section(table: Table) -> str:
    key = ", ".join(f"`{name}`" for name in table.key)
    rows_of = "loader" if table.record is None else f"`{table.record}`"
    rows = [_column_row(column) for column in table.columns]
    head = f"## {table.name}\n\nFrom: {rows_of}. Key: {key}.\n\n"
    return head + _markdown_table(("column", "type", "null", "path", "privacy"), rows)


def _column_row(column: Column) -> tuple[str, ...]:
    paths = " else ".join(f"`{'.'.join(path)}`" for path in (column.path, column.fallback) if path)
    return f"`{column.name}`", column.type.value, "yes" if column.nullable else "no", paths, column.privacy.value


def _markdown_table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


PAGES: dict[str, Callable[[], str]] = {"codes.md": codes_page, "tables.md": tables_page}


def write_pages(folder: Path) -> None:
    """Writes every page into ``folder``."""
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
