"""The tables that records are stored in, as plain columns, from which Arrow schemas and DuckDB tables are made.

A table lists only its columns' names and the paths of their values in a record; type, nullability and privacy are read
from the record's own annotations, so that nothing is written twice. ``offset``, ``on`` and ``index`` are reserved words
of stores: their columns are ``symbol_offset``, ``stack_kind`` and ``note_index``.
"""

from dataclasses import dataclass
from enum import StrEnum

from crashbeam.schemas.fields import Path, field_at
from crashbeam.schemas.privacy import Privacy
from crashbeam.schemas.records import RECORDS

ORDINAL = "#"
"""The path ``(ORDINAL,)`` stands for the place of a row in its list, counted from 0."""


class ColumnType(StrEnum):
    """The types that every store here has."""

    TEXT = "text"
    INT32 = "int32"
    INT64 = "int64"
    BOOL = "bool"
    TIMESTAMP = "timestamp"
    """An instant in UTC, to the microsecond; in a record it is RFC 3339 text."""
    TEXTS = "text[]"


Shape = ColumnType | dict[str, "Shape"] | list["Shape"]
"""What JSON looks like where columns are taken from it: a value, an object by key, or a list of one shape."""

INT32_FIELDS = frozenset({"cpu", "pid", "index", "level", "line", "header_version", "dump_level"})
TIMESTAMP_FIELDS = frozenset({"modified", "crash_time"})


@dataclass(frozen=True, slots=True)
class Column:
    """One column. ``path`` is the keys from the root of the record, through its lists; empty for what a loader adds.

    ``fallback`` is the path that is taken where ``path`` holds ``null``.
    """

    name: str
    type: ColumnType
    nullable: bool
    path: Path
    privacy: Privacy
    fallback: Path = ()


@dataclass(frozen=True, slots=True)
class Table:
    """One table: a row for each record, or for each element of the nested ``lists`` (paths, each from the one before).

    ``record`` is the record it is made from, ``None`` for one that a loader keeps by itself.
    """

    name: str
    record: str | None
    lists: tuple[Path, ...]
    key: tuple[str, ...]
    columns: tuple[Column, ...]


_SOURCE = (
    ("uri", "source.uri"),
    ("parts", "source.parts"),
    ("size_bytes", "source.size_bytes"),
    ("modified", "source.modified"),
)
_CRASHES = (
    ("input_id", "input_id"),
    ("crash_key", "crash_id"),
    ("crash_id", "crash_id"),
    *_SOURCE,
    ("container", "source.container"),
    ("wrapping", "source.wrapping"),
    ("header_version", "source.header_version"),
    ("written_by", "source.written_by"),
    ("page_codecs", "source.page_codecs"),
    ("complete", "source.complete"),
    ("incomplete_reason", "source.incomplete_reason"),
    ("dump_level", "source.dump_level"),
    ("container_quirks", "source.quirks"),
    ("release", "kernel.release"),
    ("banner", "kernel.banner"),
    ("build_id", "kernel.build_id"),
    ("arch", "kernel.arch"),
    ("page_size", "kernel.page_size"),
    ("machine", "kernel.machine"),
    ("symbol_names", "kernel.symbols.names"),
    ("symbol_layouts", "kernel.symbols.layouts"),
    ("symbol_lines", "kernel.symbols.lines"),
    ("symbols_matched_by", "kernel.symbols.matched_by"),
    ("nodename", "system.nodename"),
    ("crash_time", "system.crash_time"),
    ("uptime_seconds", "system.uptime_seconds"),
    ("memory_bytes", "system.memory_bytes"),
    ("hardware", "system.hardware"),
    ("taint_mask", "system.taint.mask"),
    ("taint_letters", "system.taint.letters"),
    ("taint_before_crash", "system.taint.before_crash"),
    ("panic_cpu", "panic.cpu"),
    ("panic_pid", "panic.pid"),
    ("panic_comm", "panic.comm"),
    ("panic_task", "panic.task"),
    ("panic_title", "panic.title"),
    ("panic_alternative_titles", "panic.alternative_titles"),
    ("panic_message", "panic.message"),
    ("panic_found_by", "panic.found_by"),
    ("notes_in_file", "notes.in_file"),
    ("notes_saved", "notes.saved"),
    ("notes_not_saved", "notes.not_saved"),
    ("notes_unassigned", "notes.unassigned"),
    ("notes_method", "notes.method"),
    ("order_would_mislead", "notes.order_would_mislead"),
    ("signature_id", "signature.id"),
    ("signature_wide", "signature.wide"),
    ("signature_narrow", "signature.narrow"),
    ("signature_algorithm", "signature.algorithm"),
    ("crash_class", "signature.class"),
    ("culprit", "signature.culprit"),
    ("culprit_module", "signature.module"),
    ("signature_frames", "signature.frames"),
    ("blamed_cpu", "signature.blamed.cpu"),
    ("blamed_why", "signature.blamed.why"),
    ("grade", "signature.grade"),
    ("grade_reasons", "signature.reasons"),
    ("intentional", "signature.intentional"),
    ("recursive", "signature.recursive"),
    ("quirks", "quirks"),
)
_CPUS = (
    ("input_id", "input_id"),
    ("cpu", "cpus.cpu"),
    ("online", "cpus.online"),
    ("note_state", "cpus.note.state"),
    ("note_index", "cpus.note.index"),
    ("note_evidence", "cpus.note.evidence"),
    ("note_pid", "cpus.note.pid"),
    ("registers_from", "cpus.registers_from"),
    ("task", "cpus.task.address"),
    ("pid", "cpus.task.pid"),
    ("comm", "cpus.task.comm"),
    ("task_found_by", "cpus.task.found_by"),
    ("stack_base", "cpus.task.stack_base"),
    ("mode", "cpus.mode"),
    ("stop_reason", "cpus.stack.stop_reason"),
    ("recovered", "cpus.stack.recovered"),
)
_FRAMES = (
    ("input_id", "input_id"),
    ("cpu", "cpus.cpu"),
    ("level", "cpus.stack.frames.level"),
    ("stack_pointer", "cpus.stack.frames.stack_pointer"),
    ("address", "cpus.stack.frames.address"),
    ("symbol", "cpus.stack.frames.symbol"),
    ("symbol_offset", "cpus.stack.frames.offset"),
    ("module", "cpus.stack.frames.module"),
    ("trust", "cpus.stack.frames.trust"),
    ("may_have_returned", "cpus.stack.frames.may_have_returned"),
    ("stack_kind", "cpus.stack.frames.on"),
    ("exception_vector", "cpus.stack.frames.exception.vector"),
    ("exception_name", "cpus.stack.frames.exception.name"),
    ("source_file", "cpus.stack.frames.source.file"),
    ("source_line", "cpus.stack.frames.source.line"),
)
_WARNINGS = (
    ("input_id", "input_id"),
    ("ordinal", ORDINAL),
    ("code", "warnings.code"),
    ("cpu", "warnings.cpu"),
    ("message", "warnings.message"),
)
_FAILURES = (
    ("input_id", "input_id"),
    *_SOURCE,
    ("stage", "stage"),
    ("code", "code"),
    ("message", "message"),
    ("hint", "hint"),
)


def _column(record: str, name: str, dotted_path: str) -> Column:
    if dotted_path == ORDINAL:
        return Column(name, ColumnType.INT32, False, (ORDINAL,), Privacy.PUBLIC)
    path = tuple(dotted_path.split("."))
    field = field_at(RECORDS[record], path)
    if name == "crash_key":
        return Column(name, ColumnType.TEXT, False, path, field.privacy, fallback=("input_id",))
    return Column(name, _column_type(path[-1], field.type), field.nullable, path, field.privacy)


def _column_type(field_name: str, field_type: object) -> ColumnType:
    if field_type is bool:
        return ColumnType.BOOL
    if field_type is int:
        return ColumnType.INT32 if field_name in INT32_FIELDS else ColumnType.INT64
    if field_name in TIMESTAMP_FIELDS:
        return ColumnType.TIMESTAMP
    if isinstance(field_type, type) and issubclass(field_type, str):
        return ColumnType.TEXT
    return ColumnType.TEXTS


def _table(
    name: str, record: str, lists: tuple[Path, ...], key: tuple[str, ...], paths: tuple[tuple[str, str], ...]
) -> Table:
    return Table(name, record, lists, key, tuple(_column(record, *column) for column in paths))


def _ledger_column(name: str, column_type: ColumnType, privacy: Privacy) -> Column:
    return Column(name, column_type, False, (), privacy)


CRASHES = _table("crashes", "crash_report", (), ("input_id",), _CRASHES)
CPUS = _table("cpus", "crash_report", (("cpus",),), ("input_id", "cpu"), _CPUS)
FRAMES = _table("frames", "crash_report", (("cpus",), ("stack", "frames")), ("input_id", "cpu", "level"), _FRAMES)
WARNINGS = _table("warnings", "crash_report", (("warnings",),), ("input_id", "ordinal"), _WARNINGS)
FAILURES = _table("failures", "failure", (), ("input_id",), _FAILURES)
INPUTS = Table(
    "inputs",
    None,
    (),
    ("input_id",),
    (
        _ledger_column("input_id", ColumnType.TEXT, Privacy.PUBLIC),
        _ledger_column("kind", ColumnType.TEXT, Privacy.PUBLIC),
        _ledger_column("uri", ColumnType.TEXT, Privacy.PERSONAL),
        _ledger_column("digest", ColumnType.TEXT, Privacy.PUBLIC),
        _ledger_column("generation", ColumnType.INT64, Privacy.PUBLIC),
        _ledger_column("first_loaded", ColumnType.TIMESTAMP, Privacy.INTERNAL),
        _ledger_column("loaded_at", ColumnType.TIMESTAMP, Privacy.INTERNAL),
    ),
)
"""The ledger of a store, by record: ``kind`` is ``crash_report`` or ``failure``, ``digest`` the BLAKE2b-128 of the
record's line, ``generation`` the run's creation time in microseconds since 1970 (of two runs the older one loses)."""

RECORD_TABLES: tuple[Table, ...] = (CRASHES, CPUS, FRAMES, WARNINGS, FAILURES)
"""The tables that are filled from records alone."""

TABLES: tuple[Table, ...] = (*RECORD_TABLES, INPUTS)


def json_shape(*tables: Table) -> dict[str, Shape]:
    """The JSON of the records as far as these tables take columns from it, for readers that want it declared.

    Top-level keys by name, ``schema`` always among them; an object is a dict, a list a list of the one shape of its
    elements.
    """
    shape: dict[str, Shape] = {"schema": ColumnType.TEXT}
    for table in tables:
        list_paths = _whole_paths(table.lists)
        for column in table.columns:
            for path in (column.path, column.fallback):
                if path and path != (ORDINAL,):
                    _add_to_shape(shape, path, column.type, list_paths)
    return shape


def _whole_paths(lists: tuple[Path, ...]) -> set[Path]:
    """The paths of nested lists, each from the root of the record."""
    whole: Path = ()
    paths = set()
    for path in lists:
        whole += path
        paths.add(whole)
    return paths


def _add_to_shape(shape: dict[str, Shape], path: Path, column_type: ColumnType, list_paths: set[Path]) -> None:
    here = shape
    for depth, key in enumerate(path[:-1], start=1):
        below = here.setdefault(key, [{}] if path[:depth] in list_paths else {})
        inner = below[0] if isinstance(below, list) else below
        if not isinstance(inner, dict):
            raise ValueError(f"{'.'.join(path)} goes through the column {key}")
        here = inner
    here[path[-1]] = column_type
