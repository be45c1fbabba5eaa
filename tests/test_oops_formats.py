"""The table of the kernel's reports: what ships is sound, what users add is checked and goes first."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crashbeam.schemas.codes import CrashClass
from crashbeam.vmcore.errors import FormatError
from crashbeam.vmcore.oops import find_oopses, parse_lines
from crashbeam.vmcore.oops.events import MAX_LINE_LENGTH
from crashbeam.vmcore.oops.formats import Pattern, check_patterns, load_formats, shipped_formats
from crashbeam.vmcore.title import titles_of
from tests.oops_text import read_texts

OWN = """
[[format]]
name = "labfs_abort"
class = "bug"
starts = ["LABFS: abort"]
pattern = 'LABFS: abort of (?P<kind>\\w+)'
title = "labfs abort of {kind}"
"""


def write(folder: Path, text: str) -> Path:
    (folder / "oops.toml").write_text(text, encoding="utf-8")
    return folder


def test_every_expression_of_the_shipped_table_is_one() -> None:
    check_patterns(shipped_formats())


def test_every_class_has_a_title() -> None:
    assert set(shipped_formats().titles) == set(CrashClass)


FILLERS = (
    " ",
    "a",
    "1",
    ":",
    "{ ",
    "{1 ",
    "error ",
    " in ",
    "[",
    "(",
    "f+0x1/",
    "CPU: 1 PID: 2 Comm: a ",
    "] ",
    "<",
    "\t1-",
)


def matching_lines() -> list[tuple[Pattern, str]]:
    """Each expression of the table with a line of the texts that it matches."""
    formats = shipped_formats().by_name.values()
    patterns = [pattern for form in formats for pattern in (*form.epilogues, *form.body, *form.victims)]
    patterns += [form.pattern for form in formats if form.pattern is not None]
    lines = {line.text for text in read_texts() for line in parse_lines(text.lines)}
    found = ((pattern, next((line for line in sorted(lines) if pattern.match(line)), None)) for pattern in patterns)
    return [(pattern, line) for pattern, line in found if line is not None]


@pytest.mark.parametrize("filler", FILLERS)
def test_no_expression_takes_long_for_a_line_made_to_mislead_it(filler: str) -> None:
    for pattern, line in matching_lines():
        for place in (0, *(found.end() for found in re.finditer(r"\W+", line)), len(line)):
            hostile = (line[:place] + filler * MAX_LINE_LENGTH)[: MAX_LINE_LENGTH - len(line)] + line[place:]
            before = time.process_time()
            pattern.match(hostile)
            assert time.process_time() - before < 0.05, (pattern.text, hostile[:120])


def test_a_user_adds_a_format(tmp_path: Path) -> None:
    formats = load_formats(write(tmp_path, OWN))
    lines = parse_lines(["LABFS: abort of journal"])
    (oops,) = find_oopses(lines, formats)
    assert titles_of(oops, oops.class_, None, None, formats=formats)[0] == "labfs abort of journal"
    assert find_oopses(lines) == ()


def test_a_format_of_a_user_goes_before_the_shipped_ones_and_replaces_its_namesake(tmp_path: Path) -> None:
    text = OWN.replace("labfs_abort", "panic").replace("LABFS: abort", "Kernel panic - not syncing: LABFS abort")
    formats = load_formats(write(tmp_path, text))
    (oops,) = find_oopses(parse_lines(["Kernel panic - not syncing: LABFS abort of disk"]), formats)
    assert (oops.class_, oops.details["kind"]) == (CrashClass.BUG, "disk")


def test_a_user_names_a_class_in_another_way(tmp_path: Path) -> None:
    formats = load_formats(write(tmp_path, '[class.bug]\ntitle = "BUG() in {function}"\n'))
    assert titles_of(None, CrashClass.BUG, "lab_open", None, formats=formats) == ("BUG() in lab_open", ())


def test_a_folder_without_a_table_adds_nothing(tmp_path: Path) -> None:
    assert load_formats(tmp_path) is shipped_formats() is load_formats(None)


@pytest.mark.parametrize(
    ("change", "line", "words"),
    [
        (("(?P<kind>", "(?P<kind"), 6, "is no regular expression"),
        (('class = "bug"', 'class = "bugg"'), 4, "is no class"),
        (('starts = ["LABFS: abort"]', 'starts = ["LAB"]'), 3, "at least 4 characters"),
        (('title = "', 'titel = "'), 7, "is no key"),
        (('title = "', 'kind = "deadly'), 3, "unknown kind"),
        (('class = "bug"', ""), 3, "has no class"),
        (('name = "labfs_abort"', ""), 2, "has no name"),
        (("[[format]]", "[[formats]]"), 2, "is neither"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_table_that_is_wrong_is_refused_with_file_and_line(
    change: tuple[str, str], line: int, words: str, tmp_path: Path
) -> None:
    folder = write(tmp_path, OWN.replace(*change))
    with pytest.raises(FormatError) as refused:
        load_formats(folder)
    assert refused.value.message.startswith(f"{folder / 'oops.toml'}:{line}: ")
    assert words in refused.value.message


def test_a_file_that_is_no_table_at_all_is_refused_with_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"oops\.toml: .*line 2"):
        load_formats(write(tmp_path, "\n[[format\n"))


def test_expressions_are_compiled_only_when_a_line_asks_for_them() -> None:
    program = """
from crashbeam.vmcore.oops import formats as oops_formats
from crashbeam.vmcore.oops import find_oopses, parse_lines
find_oopses(parse_lines(["rcu: Hierarchical SRCU implementation.", "Kernel panic - not syncing: lab"]))
print(oops_formats._compile.cache_info().currsize)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(result.stdout) <= 2
