"""The table of what reports in the kernel's log look like (``configs/signature/oops.toml``), and a user's additions.

The shipped table is read once per process and its expressions are compiled one by one, when a line asks for them: most
logs need two or three of some hundred. A user's table is compiled whole, so that a bad expression is refused at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

import crashbeam
from crashbeam.schemas.codes import CrashClass
from crashbeam.vmcore.errors import FormatError

SHIPPED_FOLDER = Path(crashbeam.__file__).with_name("configs") / "signature"
"""The rules that come with crashbeam."""
FILE_NAME = "oops.toml"
TWIN_NAME = "oops.json"
HEAD_LENGTH = 4
"""A line is looked at only if its first characters are those of some format: so many."""


class Kind(StrEnum):
    """What a line of a format does."""

    FATAL = "fatal"
    """It starts a report at once."""
    CONDITIONAL = "conditional"
    """It starts a report if the next fatal line, or panic, is one of its own ``epilogues``."""
    OOPS = "oops"
    """It belongs to the report of its context; where there is none it starts one."""
    PANIC = "panic"
    """It ends the report of its context, or that of a condition; where there is none it starts one."""
    REFINEMENT = "refinement"
    """It starts nothing: it gives the report of its context another class."""
    END = "end"
    """The report of its context is whole."""


class TableFile(Struct, frozen=True):
    """A file of the table, for what is to be said of it."""

    name: str
    text: str

    def complaint(self, text: str, problem: str) -> FormatError:
        """What is wrong with ``text``, with file and line."""
        lines = self.text.splitlines()
        line = next((number for number, line in enumerate(lines, 1) if text in line), 1)
        return FormatError(f"{self.name}:{line}: {text!r} {problem}", hint="correct the file")


class Pattern(Struct, frozen=True):
    """A regular expression, compiled when first used."""

    text: str
    file: TableFile

    def match(self, line: str) -> re.Match[str] | None:
        """The match at the line's beginning. Raises FormatError for an expression that is wrong."""
        return self.compiled().match(line)

    def compiled(self) -> re.Pattern[str]:
        """The expression; raises FormatError, with file and line, for one that is wrong."""
        try:
            return _compile(self.text)
        except re.error as error:
            raise self.file.complaint(self.text, f"is no regular expression: {error}") from error


@cache
def _compile(text: str) -> re.Pattern[str]:
    return re.compile(text)


class Format(Struct, frozen=True):
    """One way in which the kernel reports something. The keys are those of the table's file, explained there."""

    name: str
    class_: CrashClass | None
    kind: Kind
    starts: tuple[str, ...]
    pattern: Pattern | None
    epilogues: tuple[Pattern, ...]
    body: tuple[Pattern, ...]
    victims: tuple[Pattern, ...]
    batch_seconds: int
    stands_alone: bool
    has_trace: bool
    cause_lost: bool
    is_consequence: bool
    is_stall: bool
    refines: Mapping[CrashClass, CrashClass]
    follows: bool
    user_address: bool
    title: str | None
    alternatives: tuple[str, ...] | None


class ClassTitle(Struct, frozen=True):
    """How crashes of a class are named. A part in brackets is left out where one of its fields is not known."""

    title: str
    alternatives: tuple[str, ...]
    place_from_text: bool


class OopsFormats(Struct, frozen=True):
    """The whole table: the formats by the first characters of their lines, and the titles."""

    by_name: Mapping[str, Format]
    by_head: Mapping[str, tuple[Format, ...]]
    refinements: tuple[Format, ...]
    titles: Mapping[CrashClass, ClassTitle]
    text: str
    """The files as they were read: what a digest of the rules covers."""


@cache
def shipped_formats() -> OopsFormats:
    """The table that comes with crashbeam: its twin in JSON, which is read in a tenth of the time."""
    text = (SHIPPED_FOLDER / TWIN_NAME).read_text(encoding="utf-8")
    return _table([(TWIN_NAME, text)])


def write_twin(folder: Path) -> None:
    """Makes the twin in JSON of the shipped table anew."""
    (folder / TWIN_NAME).write_text(twin_text(), encoding="utf-8")


def twin_text() -> str:
    """What the twin of the shipped table has to hold."""
    import json
    import tomllib

    document = tomllib.loads((SHIPPED_FOLDER / FILE_NAME).read_text(encoding="utf-8"))
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def load_formats(folder: Path | None) -> OopsFormats:
    """The shipped table with the ``oops.toml`` of a user's folder, if it has one, before it.

    Raises FormatError, with file and line, for what is no such table or an expression that is wrong.
    """
    path = folder / FILE_NAME if folder is not None else None
    if path is None or not path.is_file():
        return shipped_formats()
    table = _table([(str(path), path.read_text(encoding="utf-8")), (TWIN_NAME, shipped_formats().text)])
    check_patterns(table)
    return table


def check_patterns(table: OopsFormats) -> None:
    """Compiles every expression; raises FormatError, with file and line, for one that is wrong."""
    for format_ in table.by_name.values():
        patterns = (*format_.epilogues, *format_.body, *format_.victims)
        for pattern in (*patterns, *((format_.pattern,) if format_.pattern else ())):
            pattern.compiled()


def _table(files: list[tuple[str, str]]) -> OopsFormats:
    by_name: dict[str, Format] = {}
    by_head: dict[str, list[Format]] = {}
    titles: dict[CrashClass, ClassTitle] = {}
    for name, text in files:
        reader = _Reader(TableFile(name, text))
        for format_ in reader.formats():
            if format_.name not in by_name:
                by_name[format_.name] = format_
                for head in dict.fromkeys(start[:HEAD_LENGTH] for start in format_.starts):
                    by_head.setdefault(head, []).append(format_)
        for class_, title in reader.titles():
            titles.setdefault(class_, title)
    heads = {head: tuple(formats) for head, formats in by_head.items()}
    refinements = tuple(format_ for format_ in by_name.values() if format_.kind is Kind.REFINEMENT)
    return OopsFormats(by_name, heads, refinements, titles, "\n".join(text for _, text in files))


def _parse_toml(file: TableFile) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(file.text)
    except tomllib.TOMLDecodeError as error:
        raise FormatError(f"{file.name}: {error}", hint="correct the file") from error


class _Reader:
    """A table's file: every complaint names the file and the line."""

    def __init__(self, file: TableFile) -> None:
        self._file = file
        self._document = msgspec.json.decode(file.text) if file.name == TWIN_NAME else _parse_toml(file)
        if unknown := set(self._document) - {"format", "class"}:
            raise file.complaint(min(unknown), "is neither 'format' nor 'class'")

    def formats(self) -> Iterator[Format]:
        """The formats, in the order of the file."""
        for table in self._document.get("format", ()):
            yield self._format(table)

    def titles(self) -> Iterator[tuple[CrashClass, ClassTitle]]:
        """The titles of the classes."""
        for name, table in self._document.get("class", {}).items():
            self._refuse_others(table, {"title", "alternatives", "place_from_text"}, name)
            alternatives = self._strings(table, "alternatives")
            yield self._class(name), ClassTitle(table["title"], alternatives, bool(table.get("place_from_text")))

    def _format(self, table: Mapping[str, Any]) -> Format:
        name = table.get("name")
        if not isinstance(name, str):
            raise self._file.complaint("[[format]]", "has no name")
        self._refuse_others(table, _KEYS, name)
        starts = self._strings(table, "starts")
        if not starts or min(map(len, starts)) < HEAD_LENGTH:
            raise self._file.complaint(name, f"needs starts of at least {HEAD_LENGTH} characters")
        try:
            kind = Kind(table.get("kind", "fatal"))
        except ValueError as error:
            raise self._file.complaint(name, f"has an unknown kind: {table['kind']}") from error
        class_ = self._class(table["class"]) if "class" in table else None
        if class_ is None and kind not in (Kind.REFINEMENT, Kind.END):
            raise self._file.complaint(name, "has no class")
        return Format(
            name=name,
            class_=class_,
            kind=kind,
            starts=starts,
            pattern=self._pattern(table["pattern"]) if "pattern" in table else None,
            epilogues=self._patterns(table, "epilogues"),
            body=self._patterns(table, "body"),
            victims=self._patterns(table, "victims"),
            batch_seconds=int(table.get("batch_seconds", 0)),
            stands_alone=bool(table.get("stands_alone", True)),
            has_trace=bool(table.get("has_trace", True)),
            cause_lost=bool(table.get("cause_lost", False)),
            is_consequence=bool(table.get("is_consequence", False)),
            is_stall=bool(table.get("is_stall", False)),
            refines={self._class(old): self._class(new) for old, new in table.get("refines", {}).items()},
            follows=bool(table.get("follows", False)),
            user_address=bool(table.get("user_address", False)),
            title=table.get("title"),
            alternatives=self._strings(table, "alternatives") if "alternatives" in table else None,
        )

    def _refuse_others(self, table: Mapping[str, Any], keys: set[str], name: str) -> None:
        if unknown := set(table) - keys:
            raise self._file.complaint(min(unknown), f"is no key of {name}")

    def _strings(self, table: Mapping[str, Any], key: str) -> tuple[str, ...]:
        values = table.get(key, [])
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise self._file.complaint(key, "is no list of strings")
        return tuple(values)

    def _patterns(self, table: Mapping[str, Any], key: str) -> tuple[Pattern, ...]:
        return tuple(self._pattern(text) for text in self._strings(table, key))

    def _pattern(self, text: str) -> Pattern:
        return Pattern(text, self._file)

    def _class(self, name: str) -> CrashClass:
        try:
            return CrashClass(name)
        except ValueError as error:
            raise self._file.complaint(name, "is no class of a crash") from error


_KEYS = {
    *("name", "class", "kind", "starts", "pattern", "epilogues", "body", "victims", "batch_seconds", "stands_alone"),
    *(
        "has_trace",
        "cause_lost",
        "is_consequence",
        "is_stall",
        "refines",
        "follows",
        "user_address",
        "title",
        "alternatives",
    ),
}
