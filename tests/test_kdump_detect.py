"""What a file is, by its first bytes."""

from pathlib import Path

import pytest

from crashbeam.schemas.codes import FailureCode
from crashbeam.vmcore.containers import Container
from crashbeam.vmcore.containers.detect import SNIFFED_BYTES, looks_like_dump, open_container
from crashbeam.vmcore.errors import FormatError, SourceError, TruncatedError, VmcoreError
from crashbeam.vmcore.limits import Budget
from tests.builders.elf_file import ElfFile
from tests.builders.elf_notes import prstatus_note
from tests.builders.flattened_file import flatten, flatten_file
from tests.builders.kdump_file import KdumpFile
from tests.builders.pages import text_page
from tests.test_elf_files import core

PAGES = {3: text_page(3), 17: text_page(17)}
KDUMP = KdumpFile(PAGES, notes=prstatus_note(1)).build()


def open_bytes(folder: Path, data: bytes) -> Container:
    path = folder / "vmcore"
    path.write_bytes(data)
    return open_container([str(path)], Budget())


@pytest.mark.parametrize(
    ("data", "container", "wrapping"),
    [
        pytest.param(KDUMP, "kdump", (), id="kdump"),
        pytest.param(core(), "elf", (), id="ELF"),
        pytest.param(flatten_file(KDUMP), "kdump", ("flattened",), id="flattened kdump"),
        pytest.param(flatten_file(core()), "elf", ("flattened",), id="flattened ELF"),
    ],
)
def test_a_dump_opens_as_what_it_is(tmp_path: Path, data: bytes, container: str, wrapping: tuple[str, ...]) -> None:
    assert looks_like_dump(data[:SNIFFED_BYTES])

    path = tmp_path / "vmcore"
    path.write_bytes(data)
    opened = open_container([str(path)], Budget())

    assert (opened.facts.container, opened.facts.wrapping, opened.facts.complete) == (container, wrapping, True)
    opened.close()
    opened.close()


@pytest.mark.parametrize("inner", [KDUMP, core()])
def test_a_flattened_dump_without_its_end_is_not_complete(tmp_path: Path, inner: bytes) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(flatten([(0, inner)], end=b""))

    facts = open_container([str(path)], Budget()).facts

    assert (facts.complete, facts.incomplete_reason) == (False, "the flattened file has no end record")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"DISKDUMP" + bytes(5000), FailureCode.UNSUPPORTED),
        (b"hello, world" * 100, FailureCode.UNKNOWN_FORMAT),
        (b"\x1f\x8b" + bytes(100), FailureCode.UNKNOWN_FORMAT),
        (flatten([(0, b"hello, world" * 100)]), FailureCode.UNKNOWN_FORMAT),
        (ElfFile([], kind=2).build(), FailureCode.UNKNOWN_FORMAT),
        (b"KDUMP   " + bytes(8000), FailureCode.MALFORMED),
        (b"KDUMP   " + b"\xff" * 8000, FailureCode.MALFORMED),
        (b"KDU", FailureCode.TRUNCATED),
        (b"makedump", FailureCode.TRUNCATED),
        (b"\x7fELF", FailureCode.TRUNCATED),
        (flatten([]), FailureCode.TRUNCATED),
        (b"", FailureCode.EMPTY),
    ],
)
def test_what_cannot_be_opened_says_why(tmp_path: Path, data: bytes, code: FailureCode) -> None:
    with pytest.raises(VmcoreError) as caught:
        open_bytes(tmp_path, data)

    assert caught.value.code is code
    assert caught.value.hint


def test_a_diskdump_file_has_a_hint_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="diskdump") as caught:
        open_bytes(tmp_path, b"DISKDUMP" + bytes(5000))

    assert caught.value.hint != FailureCode.UNSUPPORTED.remedy


def test_a_file_that_cannot_be_opened_holds_nothing_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))

    for data in (b"KDUMP   " + bytes(8000), flatten([(0, KDUMP[:4300])]), b"\x7fELF" + bytes(60)):
        with pytest.raises(VmcoreError):
            open_bytes(tmp_path, data)

    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_folder_is_not_regular(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        open_container([str(tmp_path)], Budget())

    assert caught.value.code is FailureCode.NOT_REGULAR


def test_a_cut_main_header_is_truncated(tmp_path: Path) -> None:
    with pytest.raises(TruncatedError):
        open_bytes(tmp_path, KDUMP[:100])


@pytest.mark.parametrize(
    ("first_bytes", "expected"),
    [
        (b"KDUMP   ", True),
        (b"DISKDUMP", True),
        (b"makedumpfile\0\0\0\0", True),
        (core(byte_order="little")[:64], True),
        (ElfFile([], kind=2).build()[:64], False),
        (b"\x7fELF", False),
        (b"makedumpfile-R.pl", False),
        (b"{}", False),
        (b"", False),
    ],
)
def test_folders_are_sniffed_by_first_bytes(first_bytes: bytes, expected: bool) -> None:
    assert looks_like_dump(first_bytes) is expected
