"""Records as a DuckDB file: an embedded store that takes runs again and again without a row too many.

The ledger (table ``inputs``) knows every record by its digest: an equal one is skipped, one of an older run loses, any
other replaces all rows of its input in all tables, in one transaction.
"""

import hashlib
import os
import re
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime

import duckdb
import pyarrow

from crashbeam.pipeline import duckdb_statements as statements
from crashbeam.pipeline.exit_codes import PromiseBrokenError, WrongUseError
from crashbeam.pipeline.manifest import is_failure, read_records
from crashbeam.pipeline.run_folder import count_ranges
from crashbeam.pipeline.sinks import FinishedRun, Loaded
from crashbeam.schemas.crash_report import CRASH_REPORT
from crashbeam.schemas.failure import FAILURE
from crashbeam.schemas.tables import RECORD_TABLES
from crashbeam.transforms.part_file import OutputError, write_part

PARTS_AT_ONCE = 16
DIGEST_BYTES = 16
REFUSED = "refused-duckdb.jsonl"
_SCHEMAS = {"crash_report": CRASH_REPORT, "failure": FAILURE}
_INPUT_ID = re.compile(rb'\{"schema":"[^"]*","input_id":"([0-9a-f]+)"')
_RECORD_ERRORS = (duckdb.DataError, duckdb.IntegrityError, duckdb.InvalidInputException)


class DuckdbSink:
    """A DuckDB file, open only while it is probed or loaded."""

    def __init__(self, path: str) -> None:
        self._path = path

    def probe(self) -> None:
        """Opens or makes the file and its tables. Raises WrongUseError."""
        try:
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            with self._connect() as store:
                for table in statements.ALL_TABLES:
                    store.execute(statements.create_table(table))
                    for statement in statements.add_columns(table):
                        store.execute(statement)
                store.execute(statements.CURRENT_VIEW)
        except OSError as error:
            raise WrongUseError(f"duckdb:{self._path} cannot be made: {error.strerror}") from error
        except duckdb.Error as error:
            raise WrongUseError(f"duckdb:{self._path} cannot be used: {_one_line(error)}") from error

    def claim(self, generation: int) -> None:
        """Takes any run."""

    def load(self, run: FinishedRun) -> Loaded:
        """Takes the records that the store does not hold yet.

        Raises PromiseBrokenError where the store as a whole fails.

        Records that it refuses are written to ``refused-duckdb.jsonl`` in the run folder.
        """
        refusals: list[tuple[bytes, str]] = []
        written = 0
        try:
            with self._connect() as store:
                for start in range(0, len(run.parts), PARTS_AT_ONCE):
                    paths = [run.part_path(part) for part in run.parts[start : start + PARTS_AT_ONCE]]
                    written += _load(store, paths, run.generation, refusals)
        except OutputError as error:
            raise PromiseBrokenError(str(error)) from error
        except duckdb.Error as error:
            raise PromiseBrokenError(f"duckdb:{self._path} failed: {_one_line(error)}") from error
        _keep_refused(os.path.join(run.path, REFUSED), [line for line, _ in refusals])
        return Loaded(
            written,
            skipped=count_ranges(run.parts) - written - len(refusals),
            refused=len(refusals),
            first_refusal=refusals[0][1] if refusals else "",
        )

    def _connect(self) -> duckdb.DuckDBPyConnection:
        store = duckdb.connect(self._path)
        store.execute("set TimeZone = 'UTC'")
        # On two cores a second thread saves no time on the clock, and takes a fifth more of the processors' and memory.
        store.execute("set threads = 1")
        return store


def _load(
    store: duckdb.DuckDBPyConnection, paths: Sequence[str], generation: int, refusals: list[tuple[bytes, str]]
) -> int:
    """Takes the records of these parts in one transaction; halves them where the store refuses one."""
    try:
        return _load_at_once(store, paths, generation)
    except _RECORD_ERRORS as error:
        if len(paths) > 1:
            middle = len(paths) // 2
            return sum(_load(store, half, generation, refusals) for half in (paths[:middle], paths[middle:]))
        lines = _lines(paths[0])
        if len(lines) == 1:
            refusals.append((lines[0], _one_line(error)))
            return 0
    middle = len(lines) // 2
    return sum(_load_lines(store, half, generation, refusals) for half in (lines[:middle], lines[middle:]))


def _load_lines(
    store: duckdb.DuckDBPyConnection, lines: Sequence[bytes], generation: int, refusals: list[tuple[bytes, str]]
) -> int:
    with tempfile.TemporaryDirectory() as folder:
        part = write_part(folder, 0, lines)
        return _load(store, [os.path.join(folder, part.name)], generation, refusals)


def _load_at_once(store: duckdb.DuckDBPyConnection, paths: Sequence[str], generation: int) -> int:
    offered = _offer(paths, generation)
    store.execute("begin")
    try:
        store.register("offered", offered)
        store.execute(statements.WANTED)
        store.execute(statements.RAISE_GENERATION)
        count = store.execute("select count(*) from wanted").fetchall()[0][0]
        if count:
            store.execute(statements.read_records(), [list(paths)])
            for table in RECORD_TABLES:
                store.execute(statements.delete_rows(table))
                store.execute(statements.insert_rows(table, _SCHEMAS[table.record or ""]))
            store.execute(statements.WRITE_LEDGER, {"loaded_at": datetime.now(UTC)})
        store.execute("commit")
    except duckdb.Error:
        store.execute("rollback")
        raise
    finally:
        store.unregister("offered")
    return int(count)


def _offer(paths: Sequence[str], generation: int) -> pyarrow.Table:
    """The ledger's view of the records of these parts: what each is and its digest.

    Each part is let go before the next is read: together they would fill memory for nothing.
    """
    offered: dict[str, list[str]] = {"input_id": [], "kind": [], "digest": []}
    for path in paths:
        for line in _lines(path):
            match = _INPUT_ID.match(line)
            if match is None:
                raise PromiseBrokenError(f"{path} was not written by crashbeam: a record begins with {line[:60]!r}")
            offered["input_id"].append(match[1].decode())
            offered["kind"].append("failure" if is_failure(line) else "crash_report")
            offered["digest"].append(hashlib.blake2b(line, digest_size=DIGEST_BYTES).hexdigest())
    generations = pyarrow.array([generation] * len(offered["digest"]), pyarrow.int64())
    return pyarrow.table({**offered, "generation": generations})


def _lines(path: str) -> list[bytes]:
    return read_records(path).splitlines(keepends=True)


def _keep_refused(path: str, lines: Sequence[bytes]) -> None:
    if not lines:
        return
    try:
        with open(path, "wb") as file:
            file.write(b"".join(lines))
    except OSError as error:
        raise PromiseBrokenError(f"{path} cannot be written: {error.strerror}") from error


def _one_line(error: duckdb.Error) -> str:
    return " ".join(str(error).split())[:300]
