"""Stored reports, read back: files of JSON or of JSON lines, parts of a run, or a whole run's folder."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import zstandard

from crashbeam.pipeline.exit_codes import WrongUseError
from crashbeam.schemas.crash_report import CRASH_REPORT, CrashReport
from crashbeam.transforms.part_file import read_part

_PARTS = "parts"
_COMPRESSED = ".zst"


class _Record(msgspec.Struct):
    """What tells a report from another record."""

    schema: str = ""


def read_reports(paths: tuple[str, ...]) -> Iterator[CrashReport]:
    """The CrashReports of files and folders, in order of name; other records are passed over.

    Raises WrongUseError, with file and line, for what cannot be read or is no record.
    """
    for path in paths:
        for file in _files(Path(path)):
            for number, line in enumerate(_lines(file), start=1):
                if line.strip():
                    report = _parsed(line, f"{file}:{number}")
                    if report is not None:
                        yield report


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    folder = path / _PARTS if (path / _PARTS).is_dir() else path
    files = sorted(file for file in folder.iterdir() if file.name[0] != "." and ".json" in file.name)
    if not files:
        raise WrongUseError(f"{path} holds no reports: name files of JSON lines, parts, or a run's folder")
    return files


def _lines(file: Path) -> list[bytes]:
    try:
        data = read_part(str(file)) if file.name.endswith(_COMPRESSED) else file.read_bytes()
    except OSError as error:
        raise WrongUseError(f"{file} cannot be read: {error.strerror}") from error
    except zstandard.ZstdError as error:
        raise WrongUseError(f"{file} is damaged: {error}") from error
    try:
        # A report that was printed over several lines is one object all the same.
        msgspec.json.decode(data)
    except msgspec.DecodeError:
        return data.splitlines()
    return [data]


def _parsed(line: bytes, where: str) -> CrashReport | None:
    try:
        record = msgspec.json.decode(line, type=_Record)
        if record.schema != CRASH_REPORT:
            if not record.schema.startswith("crashbeam."):
                raise WrongUseError(f"{where} is no record of crashbeam")
            return None
        # A key's quotes stand bare; within a string JSON escapes them: these bytes are keys and nothing else.
        renamed = line.replace(b'"class":', b'"class_":').replace(b'"from":', b'"from_":')
        return msgspec.json.decode(renamed, type=CrashReport)
    except msgspec.DecodeError as error:
        raise WrongUseError(f"{where} is no report that this version reads: {error}") from error
