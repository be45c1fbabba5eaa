"""docs/formats.md claims nothing that no test or dump shows, and leaves out nothing that the code knows."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from crashbeam.schemas.codes import (
    Evidence,
    FailureCode,
    MatchedBy,
    NoteState,
    StackKind,
    StopReason,
    SymbolLayouts,
    SymbolNames,
)
from crashbeam.vmcore import limits
from crashbeam.vmcore.arch import ARCHITECTURES
from crashbeam.vmcore.containers import elf, flattened
from crashbeam.vmcore.containers.codecs import CODECS
from crashbeam.vmcore.notes import MAX_NOTES
from crashbeam.vmcore.symbols import btf, compressed, image_search, kallsyms, system_map
from crashbeam.vmcore.vmcoreinfo import MAX_TEXT_BYTES
from tests.builders.machine_64 import FORMS
from tests.builders.page_tables import FAMILIES
from tests.builders.page_tables_64 import GEOMETRIES

TESTS = Path(__file__).resolve().parent
TEXT = (TESTS.parent / "docs" / "formats.md").read_text(encoding="utf-8")
TESTED_ON = ["what", "tested on", "how it was proven", "limits"]
OF_WORKERS = {"input_changed", "deadline", "out_of_memory", "worker_killed", "internal_error"}
"""Failures that are not of a file's format."""


def tables() -> list[list[list[str]]]:
    """The tables of the page, each a list of rows of cells, the header first."""
    found: list[list[list[str]]] = [[]]
    for line in TEXT.splitlines():
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in line.strip("|").split(" | ")])
        elif found[-1]:
            found.append([])
    return [table[:1] + table[2:] for table in found if table]


CLAIMS = [row for table in tables() if table[0] == TESTED_ON for row in table[1:]]
FIRST_CELLS = [row[0] for row in CLAIMS]


def names_in(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def test_every_test_that_is_named_exists() -> None:
    named = {name for name in names_in(TEXT) if name.startswith("test_")}
    assert len(named) > 50
    assert sorted(name for name in named if not (TESTS / name).is_file()) == []


@pytest.mark.parametrize("row", CLAIMS, ids=FIRST_CELLS)
def test_every_claim_names_what_shows_it_or_says_that_nothing_does(row: list[str]) -> None:
    assert len(row) == len(TESTED_ON)
    assert all(row)
    assert names_in(row[1]) or row[1] == "not shown"


@pytest.mark.corpus
def test_every_dump_that_is_named_exists_and_every_dump_has_its_cost(corpus: Path) -> None:
    scenarios = {path.name: path for path in corpus.glob("ppc*/*") if path.is_dir()}
    named = {name for row in CLAIMS for name in names_in(row[1]) if not name.startswith("test_")}
    named |= {name for name in names_in(TEXT) if re.search(r"/(vmcore|qemu)\.", name)}
    for name in named:
        folder, _, file = name.partition("/")
        assert folder in scenarios, name
        assert not file or (scenarios[folder] / file).is_file(), name
    costs = next(table for table in tables() if table[0][0] == "dump")[1:]
    dumps = {
        f"{path.parent.name}/{path.name}"
        for path in corpus.glob("ppc*/*/*")
        if re.match(r"(vmcore|qemu)\.(?!.*\.part[2-9])|(incomplete|truncated)\.", path.name)
    }
    assert {name for row in costs for name in names_in(row[0])} == dumps


@pytest.mark.parametrize(
    ("before", "names", "behind"),
    [
        ("page codec ", [name for name, _ in CODECS.values()], ""),
        ("", ["time64_header", "qemu_packed_sub_header", "r1_belongs_to_lr", "zero_page_excluded"], ""),
        ("", ["makedumpfile", "proc-vmcore", "qemu", "fadump", "unknown"], ""),
        (".*: ", [code for code in FailureCode if code not in OF_WORKERS], "$"),
        ("", ARCHITECTURES, ","),
        ("state ", NoteState, ""),
        ("witness ", Evidence, ""),
        ("", StackKind, ""),
        ("stop ", StopReason, ""),
        ("names (from )?", SymbolNames, ""),
        ("layouts (from )?", SymbolLayouts, ""),
        ("matched by ", MatchedBy, ""),
        ("", [firmware.variable for arch in ARCHITECTURES.values() for firmware in arch.firmware], ""),
    ],
)
def test_every_member_of_a_closed_list_has_its_row(before: str, names: Iterable[str], behind: str) -> None:
    patterns = [f"{before}`{re.escape(name)}`{behind}" for name in names]
    assert [pattern for pattern in patterns if not any(re.match(pattern, cell) for cell in FIRST_CELLS)] == []


@pytest.mark.parametrize(
    "names",
    [
        [family.name for family in FAMILIES],
        [geometry.name for geometry in GEOMETRIES],
        [form.name for form in FORMS],
        [f"of {size} bytes" for arch in ARCHITECTURES.values() for size in arch.notes],
        [f"{marker:#x}" for arch in ARCHITECTURES.values() for marker in arch.markers],
        ["header version 6", "header versions 0 to 5"],
    ],
    ids=["page tables, 32 bits", "page tables, 64 bits", "exception frames", "notes", "markers", "kdump versions"],
)
def test_every_form_that_is_known_has_its_row(names: Sequence[str]) -> None:
    assert [name for name in names if not any(name in cell for cell in FIRST_CELLS)] == []


LIMITS = {
    "bytes read of one dump": limits.Budget().read_bytes,
    "pages decoded of one dump": limits.Budget().decoded_bytes,
    "steps of loops over headers and segments": limits.Budget().steps,
    "a kdump block": limits.MAX_BLOCK_BYTES,
    "notes, in bytes": limits.MAX_NOTE_BYTES,
    "notes, in number": MAX_NOTES,
    "text of VMCOREINFO": MAX_TEXT_BYTES,
    "segments of an ELF": elf.MAX_SEGMENTS,
    "records of a flattened file": flattened.MAX_RECORDS,
    "flattened records that overlap in one place": flattened.MAX_OVERLAPPING,
    "CPUs": limits.MAX_CPUS,
    "modules": limits.MAX_MODULES,
    "frames of a stack": limits.MAX_FRAMES,
    "a name": limits.MAX_NAME_BYTES,
    "symbols of kallsyms": kallsyms.MAX_SYMBOLS,
    "BTF": btf.MAX_BTF_BYTES,
    "a kernel's image, where it is searched": image_search.MAX_IMAGE_BYTES,
    "a vmlinux, unpacked": compressed.MAX_UNPACKED_BYTES,
    "a System.map": system_map.MAX_SYSTEM_MAP_BYTES,
}
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def test_every_limit_is_that_of_the_code() -> None:
    rows = next(table for table in tables() if table[0] == ["what", "limit", "beyond it"])[1:]
    stated = {}
    for what, limit, _ in rows:
        number, _, unit = limit.partition(" ")
        stated[what] = int(number.replace(",", "")) * UNITS.get(unit, 1)
    assert stated == LIMITS
