"""The documentation says what is so: generated pages, links, commands and dependencies."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from crashbeam.pipeline.cli import COMMANDS, main
from crashbeam.schemas.codes import CLOSED_LISTS
from crashbeam.schemas.pages import PAGES, write_pages
from crashbeam.vmcore.oops.formats import TWIN_NAME, twin_text

REPO = Path(__file__).resolve().parent.parent
MARKDOWN = sorted([*REPO.glob("*.md"), *(REPO / "docs").glob("*.md")])
LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")
PROJECT: dict[str, Any] = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def text_of(name: str) -> str:
    """A file of the repo."""
    return (REPO / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_fresh(name: str) -> None:
    assert text_of(f"docs/{name}") == PAGES[name](), "run make docs"


def test_every_code_is_on_the_page_of_codes() -> None:
    page = PAGES["codes.md"]()
    for closed_list in CLOSED_LISTS:
        for member in closed_list:
            assert f"| `{member}` | {member.sentence} |" in page


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(REPO)))
def test_every_link_leads_somewhere(path: Path) -> None:
    links = [link for link in LINK.findall(path.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(REPO)))
def test_every_make_target_that_is_named_exists(path: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", text_of("Makefile"), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)`", path.read_text(encoding="utf-8"))) <= targets


def test_every_dependency_has_its_reason() -> None:
    required = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    names = {re.split(r"[<>=]", requirement)[0] for requirement in required}
    rows = re.findall(r"^\| ([a-z0-9, -]+) \| (.+) \|$", text_of("docs/dependencies.md"), re.MULTILINE)
    explained = {name for cell, _ in rows for name in cell.split(", ") if name not in ("library", "---")}
    assert explained == names


def test_the_lock_pins_every_dependency_by_hash_and_names_no_place() -> None:
    lock = text_of("requirements.lock")
    pinned = set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE))
    required = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    assert {re.split(r"[<>=]", requirement)[0] for requirement in required} <= pinned
    assert lock.count("--hash=sha256:") >= len(pinned)
    assert not re.search(r"://|^-|@ ", lock, re.MULTILINE)


def test_every_command_of_the_readme_exists() -> None:
    named = set(re.findall(r"^    crashbeam ([a-z]+)", text_of("README.md"), re.MULTILINE))
    assert named == set(COMMANDS)


def test_the_pages_are_written_where_they_are_read(tmp_path: Path) -> None:
    write_pages(tmp_path)
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == {
        name: page() for name, page in PAGES.items()
    }


def test_the_report_in_the_readme_is_what_show_prints(golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dump = golden / "h_lostnote_sysrq.kdump"
    assert main(["show", str(dump), "--symbols", str(golden)]) == 0
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    readme = [line.removeprefix("    ") for line in text_of("README.md").splitlines()]
    first = next(number for number, line in enumerate(readme) if line.startswith("    dump: "))
    shown = readme[first : readme.index("## Using it") - 1]
    assert len(shown) > 40
    assert shown[1:] == printed[1 : len(shown)]


def test_the_twin_of_the_table_of_oopses_is_fresh() -> None:
    assert (REPO / "configs" / "signature" / TWIN_NAME).read_text(encoding="utf-8") == twin_text()
