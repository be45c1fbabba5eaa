"""Split sets: every page from the part that has it; parts that are missing or broken are said, never fatal."""

from pathlib import Path
from typing import Any

import pytest

from crashbeam.schemas.codes import FailureCode
from crashbeam.vmcore.byte_source import BufferSource
from crashbeam.vmcore.containers import Container, split
from crashbeam.vmcore.containers.detect import open_container
from crashbeam.vmcore.containers.kdump_header import MAIN_HEADER_BYTES
from crashbeam.vmcore.containers.split import find_parts, may_be_part, split_part
from crashbeam.vmcore.errors import FormatError, SourceError, TruncatedError
from crashbeam.vmcore.limits import Budget
from tests.builders.elf_file import ElfFile
from tests.builders.elf_notes import prstatus_note
from tests.builders.kdump_file import INCOMPLETE, KdumpFile
from tests.builders.pages import read_or_status, text_page

PAGES = {pfn: text_page(pfn) for pfn in (0, 3, 9, 10, 19, 20, 21, 30, 63)}
RANGES = ((0, 10), (10, 21), (21, 64))
NOTES = prstatus_note(1)


def part(first: int, end: int, **changes: Any) -> bytes:
    fields: dict[str, Any] = {"notes": NOTES, "excluded": [5], **changes}
    return KdumpFile(PAGES, split=(first, end), **fields).build()


@pytest.fixture
def parts(tmp_path: Path) -> list[str]:
    """Three parts; their names are in no order."""
    paths = [tmp_path / name for name in ("c", "a", "b")]
    for path, (first, end) in zip(paths, RANGES, strict=True):
        path.write_bytes(part(first, end))
    return [str(path) for path in paths]


def opened(*paths: str) -> Container:
    return open_container(paths, Budget())


def test_every_page_comes_from_the_part_that_has_it(parts: list[str]) -> None:
    container = opened(*reversed(parts))

    assert {pfn: container.read_page(pfn) for pfn in PAGES} == PAGES
    assert [read_or_status(container, pfn) for pfn in (5, 6, 64, -1)] == ["excluded", "absent", "absent", "absent"]
    assert (container.facts.complete, container.facts.missing_parts) == (True, ())
    assert container.facts.wrapping == ("split",)
    assert container.codecs_met == {"raw"}
    container.close()


def test_a_missing_part_is_named_and_its_pages_are_lost(parts: list[str]) -> None:
    container = opened(parts[0], parts[2])

    assert container.facts.missing_parts == ("pages 0xa to 0x15",)
    assert (container.facts.complete, container.facts.incomplete_reason) == (
        False,
        "parts of the split set are missing",
    )
    assert container.read_page(3) == PAGES[3]
    assert container.read_page(63) == PAGES[63]
    assert [read_or_status(container, pfn) for pfn in (10, 20, 5)] == ["lost", "lost", "excluded"]


def test_the_first_and_the_last_part_may_be_missing(parts: list[str]) -> None:
    without_first, without_last = opened(*parts[1:]), opened(*parts[:2])

    assert without_first.facts.missing_parts == ("pages 0x0 to 0xa",)
    assert without_last.facts.missing_parts == ("pages 0x15 to 0x40",)
    assert read_or_status(without_first, 0) == "lost"
    assert read_or_status(without_last, 63) == "lost"


def test_a_part_that_is_opened_alone_has_what_it_has(parts: list[str]) -> None:
    container = opened(parts[1])

    assert container.facts.missing_parts == ("pages 0x0 to 0xa", "pages 0x15 to 0x40")
    assert not container.facts.complete
    assert container.read_page(19) == PAGES[19]
    assert [read_or_status(container, pfn) for pfn in (3, 5, 6, 63, 64)] == [
        *("lost", "excluded", "absent", "lost", "absent")
    ]


def test_empty_parts_may_be_equal_to_each_other(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("1", "2", "3")]
    paths[0].write_bytes(part(0, 64))
    for path in paths[1:]:
        path.write_bytes(part(64, 64))
    names = [str(path) for path in paths]

    container = opened(*names)

    assert container.facts.complete
    assert {pfn: container.read_page(pfn) for pfn in PAGES} == PAGES
    assert find_parts(names[2]) == tuple(names)


def test_a_set_of_empty_parts_alone_has_no_page(tmp_path: Path) -> None:
    for name in ("2", "3"):
        (tmp_path / name).write_bytes(part(64, 64))

    container = opened(str(tmp_path / "2"), str(tmp_path / "3"))

    assert read_or_status(container, 3) == "lost"
    assert container.facts.missing_parts == ("pages 0x0 to 0x40",)


def test_a_broken_part_is_named(parts: list[str]) -> None:
    Path(parts[1]).write_bytes(b"KDUMP   " + bytes(100))

    container = opened(*parts)

    assert container.facts.missing_parts == (parts[1], "pages 0xa to 0x15")
    assert container.read_page(63) == PAGES[63]


def test_a_part_that_is_gone_is_named(parts: list[str]) -> None:
    Path(parts[0]).unlink()

    assert opened(*parts).facts.missing_parts == (parts[0], "pages 0x0 to 0xa")


def test_a_part_that_ran_out_of_space_makes_the_set_incomplete(parts: list[str]) -> None:
    for path, (first, end) in zip(parts, RANGES, strict=True):
        Path(path).write_bytes(part(first, end, status=INCOMPLETE))

    assert opened(*parts).facts.incomplete_reason == "the writer ran out of space"


@pytest.mark.parametrize(
    "stranger",
    [
        pytest.param(KdumpFile(PAGES, notes=NOTES).build(), id="a whole dump"),
        pytest.param(part(10, 21, notes=prstatus_note(2)), id="other notes"),
        pytest.param(part(10, 21, release="6.1.0"), id="another main header"),
        pytest.param(ElfFile([]).build(), id="no kdump"),
    ],
)
def test_a_stranger_is_no_part(parts: list[str], stranger: bytes) -> None:
    Path(parts[1]).write_bytes(stranger)

    assert parts[1] in opened(*parts).facts.missing_parts
    assert parts[1] not in find_parts(parts[0])


def test_an_elf_file_among_parts_is_no_part(parts: list[str], tmp_path: Path) -> None:
    from tests.test_elf_files import core

    elf = tmp_path / "elf"
    elf.write_bytes(core())

    assert opened(*parts, str(elf)).facts.missing_parts == (str(elf),)


def test_a_set_without_a_readable_part_is_one_failure(parts: list[str]) -> None:
    for path in parts:
        Path(path).write_bytes(b"KDUMP   " + bytes(100))

    with pytest.raises(TruncatedError):
        opened(*parts)


def test_a_set_of_nothing_is_one_failure(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        opened(str(tmp_path / "1"), str(tmp_path / "2"))

    assert caught.value.code is FailureCode.IO_ERROR


@pytest.mark.parametrize("split_range", [(5, 4), (0, 65)])
def test_a_range_that_makes_no_sense_is_malformed(tmp_path: Path, split_range: tuple[int, int]) -> None:
    path = tmp_path / "part"
    path.write_bytes(part(*split_range))

    with pytest.raises(FormatError) as caught:
        opened(str(path))

    assert caught.value.code is FailureCode.MALFORMED


def test_one_part_finds_the_others_in_its_folder_lowest_first(parts: list[str], tmp_path: Path) -> None:
    (tmp_path / "truth.json").write_text("{}")
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    (tmp_path / "cut").write_bytes(part(0, 10)[:500])

    for path in parts:
        assert find_parts(path) == tuple(parts)


@pytest.mark.usefixtures("parts")
def test_parts_are_found_from_within_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert find_parts("a") == ("c", "a", "b")


def test_a_link_to_a_part_is_not_a_second_part(parts: list[str], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(parts[0])

    assert find_parts(parts[0]) == tuple(parts)


def test_a_file_that_is_no_part_stands_alone(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.write_bytes(KdumpFile(PAGES).build())

    assert find_parts(str(whole)) == (str(whole),)
    assert find_parts(str(tmp_path / "none")) == (str(tmp_path / "none"),)


def test_a_set_found_is_bounded(parts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "_MAX_PARTS", 2)

    assert len(find_parts(parts[0])) == 2


def test_keys_are_equal_within_a_set_and_folder_only(parts: list[str], tmp_path: Path) -> None:
    other_folder = tmp_path / "other"
    other_folder.mkdir()
    (other_folder / "a").write_bytes(part(0, 10))
    (tmp_path / "older").write_bytes(part(0, 10, timestamp=5))

    found = [split_part(path) for path in (*parts, str(other_folder / "a"), str(tmp_path / "older"))]

    keys = [part.key for part in found if part is not None]
    assert len(keys) == 5
    assert keys[0] == keys[1] == keys[2]
    assert len(set(keys)) == 3
    assert [part.start_pfn for part in found[:3] if part is not None] == [0, 10, 21]


@pytest.mark.parametrize("block_size", [4096, 65536])
@pytest.mark.parametrize("byte_order", ["big", "little"])
@pytest.mark.parametrize("layout", ["ppc32", "time64", "packed", "ppc64"])
def test_a_part_shows_in_few_bytes_and_so_does_a_whole_dump(layout: str, byte_order: str, block_size: int) -> None:
    for split_range, expected in (((0, 10), True), ((10, 21), True), (None, False)):
        file = KdumpFile(
            PAGES, layout=layout, byte_order=byte_order, block_size=block_size, split=split_range, notes=NOTES
        )
        source = BufferSource(file.build())
        assert may_be_part(source.read(0, MAIN_HEADER_BYTES), source.read) is expected


def test_only_parts_of_split_sets_are_taken_for_parts(tmp_path: Path) -> None:
    files = {"whole": KdumpFile(PAGES).build(), "cut": part(0, 10)[:4200], "text": b"KDUMP", "elf": ElfFile([]).build()}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)

    assert [split_part(str(tmp_path / name)) for name in (*files, "none")] == [None] * 5


@pytest.mark.corpus
@pytest.mark.parametrize(
    ("folder", "parts_name", "whole"),
    [("ppc32/h_lostnote_sysrq", "vmcore.zstd", "vmcore.zlib"), ("ppc64/le-null-module", "vmcore.lzo", "vmcore.zlib")],
)
def test_a_real_split_dump_reads_as_the_whole_one(corpus: Path, folder: str, parts_name: str, whole: str) -> None:
    names = tuple(str(corpus / folder / f"{parts_name}.part{number}") for number in (1, 2, 3))
    together, single = opened(*names), opened(str(corpus / folder / whole))

    assert all(find_parts(name) == names for name in names)
    assert together.facts.complete
    for pfn in range(0, single.facts.max_pfn, 29):
        assert read_or_status(together, pfn) == read_or_status(single, pfn)
