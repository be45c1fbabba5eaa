"""The lists that decide which functions enter a signature: data in ``configs/signature/``, extended by users.

A list has one pattern a line: a regular expression that a whole name must match, two spaces or more, ``#`` and the
reason; lines ``[so]`` open a group. ``aliases.txt`` has ``PATTERN -> NAME``. A user's folder holds files of the same
names, whose lines are added, and ``overrides.toml`` (``signature_overrides.py``).
"""

import hashlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from msgspec import Struct, field

from crashbeam.vmcore.errors import FormatError
from crashbeam.vmcore.oops.formats import SHIPPED_FOLDER, OopsFormats, load_formats, shipped_formats
from crashbeam.vmcore.signature.name_list import NameList
from crashbeam.vmcore.signature.names import FunctionName, normalise
from crashbeam.vmcore.signature.overrides import NO_OVERRIDES, Overrides, RulesError, read_overrides

ALGORITHM = "crashbeam-1"
"""Names how signatures are made. It is part of every key; the lists are not: editing one must not rename every id."""

NAME_LISTS = (
    *("crash_path", "irrelevant", "terminators", "prefix", "anchors", "anchors_named"),
    *("waits", "victims", "generic_names", "intentional"),
)
ALIASES = "aliases"
OVERRIDES = "overrides.toml"
MAX_PATTERN_CHARACTERS = 1024
MAX_LINES = 10_000

_NO_FUNCTION = ("crashbeam no such function", "zzz_no_such_function_9f3c")
"""Names of no function: a pattern that matches one matches everything."""
_MEMO_ENTRIES = 65_536
_LINE = re.compile(r"(?P<pattern>\S.*?)\s{2,}#\s*(?P<reason>\S.*)")
_GROUP = re.compile(r"\[[^\]]+\]")
_ALIAS = re.compile(r"(?P<pattern>.*\S)\s+->\s+(?P<name>\S+)")
_DIGEST_BYTES = 16


class Line(Struct, frozen=True):
    """A line of a list: a pattern, why it stands there, and where that is."""

    pattern: str
    reason: str
    group: str
    at: str


class Rules(Struct, frozen=True):
    """All lists, compiled, and the table of the log's texts. ``digest``: BLAKE2b-128 in hex over the patterns, not over
    how they are laid out, and over the table.
    """

    lists: dict[str, NameList]
    aliases: tuple[tuple[re.Pattern[str], str], ...]
    formats: OopsFormats
    digest: str
    overrides: Overrides = NO_OVERRIDES
    _names: dict[tuple[str, str | None], FunctionName | None] = field(default_factory=dict)

    def has(self, name_list: str, name: FunctionName) -> bool:
        """Whether the list names the function. One of a module is named with it: ``name [module]``."""
        return self.lists[name_list].matches(
            name.function if name.module is None else f"{name.function} [{name.module}]"
        )

    def has_in_any_module(self, name_list: str, name: FunctionName) -> bool:
        """Whether the list names the function, whichever module it is in."""
        return self.lists[name_list].matches(name.function)

    def normalise(self, name: str, module: str | None) -> FunctionName | None:
        """The function's one name: ``names.normalise``, then the aliases, which are for the kernel's own."""
        key = (name, module)
        if key in self._names:
            return self._names[key]
        found = normalise(name, module)
        if found is not None and found.module is None:
            for pattern, alias in self.aliases:
                if pattern.fullmatch(found.function):
                    found = FunctionName(alias, None)
                    break
        if len(self._names) < _MEMO_ENTRIES:
            self._names[key] = found
        return found


@cache
def shipped_rules() -> Rules:
    """The lists that come with crashbeam."""
    return _read((SHIPPED_FOLDER,), shipped_formats(), NO_OVERRIDES)


def load_rules(folder: Path | None) -> Rules:
    """The shipped lists, with those of a user's folder added to them.

    Raises RulesError, with file and line, for a folder without any list, a file that is none, a pattern that cannot
    be used, a line without a reason, and overrides that contradict each other.
    """
    if folder is None:
        return shipped_rules()
    try:
        names = sorted(path.name for path in folder.iterdir() if path.suffix in (".txt", ".toml"))
    except OSError as error:
        raise RulesError(f"{folder}: {error.strerror}") from error
    if not names:
        raise RulesError(f"{folder}: holds no lists of rules")
    known = {
        OVERRIDES,
        *(f"{name}.txt" for name in (*NAME_LISTS, ALIASES)),
        *(path.name for path in SHIPPED_FOLDER.iterdir()),
    }
    unknown = [name for name in names if name not in known]
    if unknown:
        raise RulesError(f"{folder / unknown[0]}: no such list; known are {', '.join(sorted(known))}")
    for name in (*NAME_LISTS, ALIASES):
        for line in _lines(folder, name):
            check_pattern(_alias(line)[0] if name == ALIASES else line.pattern, line.at)
    overrides = read_overrides(folder / OVERRIDES) if OVERRIDES in names else NO_OVERRIDES
    try:
        formats = load_formats(folder)
    except FormatError as error:
        raise RulesError(error.message) from error
    return _read((SHIPPED_FOLDER, folder), formats, overrides)


def list_lines(text: str, where: str) -> Iterator[Line]:
    """The lines of a list. Raises RulesError for one that is no pattern with a reason."""
    group = ""
    lines = text.splitlines()
    if len(lines) > MAX_LINES:
        raise RulesError(f"{where}: more than {MAX_LINES} lines")
    for number, given in enumerate(lines, start=1):
        line, at = given.strip(), f"{where}:{number}"
        if not line or line.startswith("#"):
            continue
        if _GROUP.fullmatch(line):
            group = line[1:-1]
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise RulesError(f'{at}: a line is PATTERN, two spaces, "# " and the reason')
        yield Line(found["pattern"], found["reason"], group, at)


def _read(folders: tuple[Path, ...], formats: OopsFormats, overrides: Overrides) -> Rules:
    lists = {}
    said = [formats.text]
    for name in NAME_LISTS:
        patterns = [line.pattern for folder in folders for line in _lines(folder, name)]
        lists[name] = NameList(patterns)
        said += sorted(f"{name} {pattern}" for pattern in set(patterns))
    aliases = [_alias(line) for folder in folders for line in _lines(folder, ALIASES)]
    said += [f"{ALIASES} {pattern} {alias}" for pattern, alias in aliases]
    digest = hashlib.blake2b("\n".join(said).encode(), digest_size=_DIGEST_BYTES).hexdigest()
    compiled = tuple((re.compile(pattern), alias) for pattern, alias in aliases)
    return Rules(lists, compiled, formats, digest, overrides)


def _lines(folder: Path, name: str) -> Iterator[Line]:
    file = folder / f"{name}.txt"
    if not file.is_file():
        return
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RulesError(f"{file}: is not UTF-8") from error
    yield from list_lines(text, str(file))


def _alias(line: Line) -> tuple[str, str]:
    found = _ALIAS.fullmatch(line.pattern)
    if found is None:
        raise RulesError(f"{line.at}: an alias is PATTERN -> NAME")
    return found["pattern"], found["name"]


def check_pattern(pattern: str, at: str) -> None:
    """Raises RulesError, with file and line, for a pattern that cannot be used."""
    if len(pattern) > MAX_PATTERN_CHARACTERS:
        raise RulesError(f"{at}: a pattern of more than {MAX_PATTERN_CHARACTERS} characters")
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise RulesError(f"{at}: {pattern} is no regular expression: {error}") from error
    if compiled.groupindex or re.search(r"\\[1-9]|\(\?[a-zA-Z]", pattern):
        raise RulesError(f"{at}: {pattern} uses named groups, references or flags: which a list does not know")
    if pattern.startswith("^") or pattern.endswith("$"):
        raise RulesError(f"{at}: {pattern} has ^ or $: a pattern matches the whole name anyway")
    if compiled.fullmatch("") or all(compiled.fullmatch(name) for name in _NO_FUNCTION):
        raise RulesError(f"{at}: {pattern} matches any name")
