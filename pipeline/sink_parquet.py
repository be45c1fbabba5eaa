"""Records as Parquet: ``DIR/TABLE/PART.parquet``, one file for each part and table, replaced by rename.

An export of one run, not a store: a folder that holds the tables of another run is refused.
"""

import os
from contextlib import suppress

import orjson
import pyarrow
import pyarrow.parquet

from crashbeam.pipeline.arrow_tables import to_tables
from crashbeam.pipeline.exit_codes import PromiseBrokenError, WrongUseError
from crashbeam.pipeline.manifest import read_records
from crashbeam.pipeline.sinks import FinishedRun, Loaded
from crashbeam.schemas.tables import RECORD_TABLES
from crashbeam.transforms.part_file import SUFFIX, OutputError, is_temporary, write_whole

MARK = "crashbeam-run.json"
COMPRESSION_LEVEL = 3


class ParquetSink:
    """A folder of tables."""

    def __init__(self, path: str) -> None:
        self._path = path

    def probe(self) -> None:
        """Makes the folders. Raises WrongUseError."""
        try:
            for table in RECORD_TABLES:
                os.makedirs(os.path.join(self._path, table.name), exist_ok=True)
        except OSError as error:
            raise WrongUseError(f"parquet:{self._path} cannot be made: {error.strerror}") from error
        if not os.access(self._path, os.W_OK | os.X_OK):
            raise WrongUseError(f"parquet:{self._path} cannot be written")

    def claim(self, generation: int) -> None:
        """Marks the folder as the export of one run. Raises WrongUseError if it is that of another."""
        mark = os.path.join(self._path, MARK)
        try:
            with open(mark, "rb") as file:
                owner = orjson.loads(file.read()).get("created_us")
        except FileNotFoundError:
            self._write_mark(mark, generation)
            return
        except (OSError, AttributeError, orjson.JSONDecodeError) as error:
            raise WrongUseError(f"{mark} is damaged: give --sink a new folder") from error
        if owner != generation:
            raise WrongUseError(f"parquet:{self._path} holds the tables of another run: give --sink a new folder")

    def load(self, run: FinishedRun) -> Loaded:
        """Writes every part's tables, and removes those of parts that are no more. Raises PromiseBrokenError."""
        written = 0
        try:
            for part in run.parts:
                for name, table in to_tables(read_records(run.part_path(part))).items():
                    sink = pyarrow.BufferOutputStream()
                    pyarrow.parquet.write_table(
                        table, sink, compression="zstd", compression_level=COMPRESSION_LEVEL, write_statistics=True
                    )
                    write_whole(self._file(name, part.name), sink.getvalue())
                written += part.stop - part.first
            self._remove_others({part.name for part in run.parts})
        except OutputError as error:
            raise PromiseBrokenError(str(error)) from error
        except (OSError, pyarrow.ArrowException) as error:
            raise PromiseBrokenError(f"parquet:{self._path} refused a part: {error}") from error
        return Loaded(written)

    def _write_mark(self, mark: str, generation: int) -> None:
        try:
            write_whole(mark, orjson.dumps({"created_us": generation}))
        except OutputError as error:
            raise WrongUseError(str(error)) from error

    def _file(self, table: str, part: str) -> str:
        return os.path.join(self._path, table, part.removesuffix(SUFFIX) + ".parquet")

    def _remove_others(self, parts: set[str]) -> None:
        for table in RECORD_TABLES:
            folder = os.path.join(self._path, table.name)
            for name in os.listdir(folder):
                if is_temporary(name) or name.removesuffix(".parquet") + SUFFIX not in parts:
                    with suppress(FileNotFoundError):
                        os.unlink(os.path.join(folder, name))
