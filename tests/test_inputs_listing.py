"""Which files become inputs, and what identifies them."""

import hashlib
import os
import socket
from pathlib import Path

import pytest

from crashbeam.pipeline.exit_codes import WrongUseError
from crashbeam.pipeline.inputs import from_uri, input_id, list_inputs, list_one, to_uri
from tests.builders.kdump_file import KdumpFile
from tests.running import make_dumps


def names_of(*arguments: object) -> list[str]:
    """The file names of the inputs, in their order."""
    return [os.path.basename(dump.paths[0]) for dump in list_inputs([str(argument) for argument in arguments]).inputs]


def test_a_named_file_is_an_input_whatever_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no dump at all")
    assert names_of(tmp_path / "notes.txt") == ["notes.txt"]


def test_a_named_file_that_is_not_there_is_an_input_of_unknown_size(tmp_path: Path) -> None:
    (missing,) = list_inputs([str(tmp_path / "missing")]).inputs
    assert (missing.size_bytes, missing.version, missing.modified_ns) == (None, None, None)


def test_in_a_folder_dumps_and_empty_files_are_inputs_and_others_are_counted(tmp_path: Path) -> None:
    make_dumps(tmp_path / "deep" / "deeper", "vmcore")
    (tmp_path / "empty").touch()
    (tmp_path / "notes.txt").write_text("no dump")
    (tmp_path / "flattened").write_bytes(b"makedumpfile\0\0\0\0" + bytes(4096))
    listing = list_inputs([str(tmp_path)])
    assert [os.path.basename(dump.paths[0]) for dump in listing.inputs] == ["vmcore", "empty", "flattened"]
    assert listing.skipped == 1


def test_names_that_begin_with_a_dot_are_passed_over_in_folders_alone(tmp_path: Path) -> None:
    make_dumps(tmp_path, ".hidden")
    make_dumps(tmp_path / ".folder", "vmcore")
    assert names_of(tmp_path) == []
    assert names_of(tmp_path / ".hidden") == [".hidden"]


def test_a_fifo_and_a_socket_in_a_folder_are_skipped_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as unix_socket:
        unix_socket.bind(str(tmp_path / "socket"))
        listing = list_inputs([str(tmp_path)])
    assert (listing.inputs, listing.skipped) == ((), 2)


def test_a_link_that_leads_nowhere_is_an_input(tmp_path: Path) -> None:
    (tmp_path / "vmcore").symlink_to(tmp_path / "gone")
    assert names_of(tmp_path) == ["vmcore"]


def test_links_to_folders_are_followed_but_never_round(tmp_path: Path) -> None:
    make_dumps(tmp_path / "real", "vmcore")
    (tmp_path / "real" / "loop").symlink_to(tmp_path)
    (tmp_path / "twice").symlink_to(tmp_path / "real")
    assert names_of(tmp_path) == ["vmcore"]


def test_the_same_file_named_in_three_ways_is_one_input(tmp_path: Path) -> None:
    (dump,) = make_dumps(tmp_path, "vmcore")
    assert names_of(dump, tmp_path, dump.as_uri(), tmp_path / "vm*") == ["vmcore"]


def test_one_file_by_two_names_is_two_inputs(tmp_path: Path) -> None:
    (dump,) = make_dumps(tmp_path, "vmcore")
    os.link(dump, tmp_path / "other")
    listing = list_inputs([str(tmp_path)])
    assert len({one.input_id for one in listing.inputs}) == 2


def test_inputs_are_sorted_by_path_whatever_the_order_of_the_arguments(tmp_path: Path) -> None:
    first, second, third = make_dumps(tmp_path, "a", "b", "c")
    assert names_of(third, first, second) == ["a", "b", "c"]


def test_a_glob_reaches_every_depth_and_one_without_a_match_is_wrong_use(tmp_path: Path) -> None:
    make_dumps(tmp_path / "deep", "vmcore.1")
    assert names_of(tmp_path / "**" / "vmcore.*") == ["vmcore.1"]
    with pytest.raises(WrongUseError, match="no file matches"):
        list_inputs([str(tmp_path / "*.none")])


def test_a_file_whose_name_holds_a_star_is_no_glob(tmp_path: Path) -> None:
    make_dumps(tmp_path, "vm*", "vmcore")
    assert names_of(tmp_path / "vm*") == ["vm*"]


@pytest.mark.parametrize("uri", ["s3://bucket/vmcore", "file://elsewhere/vmcore"])
def test_a_place_that_is_not_local_is_wrong_use(uri: str) -> None:
    with pytest.raises(WrongUseError, match="only local files"):
        list_inputs([uri])


@pytest.mark.parametrize("path", ["/dumps/vm core", "/dumps/\udcff\udc80", "/dumps/ä%20", "/dumps/a\nb"])
def test_a_path_survives_its_uri(path: str) -> None:
    assert from_uri(to_uri(path)) == path
    assert to_uri(path).isascii()


def test_the_input_id_is_the_digest_of_uri_size_and_version() -> None:
    expected = hashlib.blake2b(b"file:///a\x0012\x0034", digest_size=16).hexdigest()
    assert input_id("file:///a", 12, "34") == expected


def test_an_unknown_size_is_not_a_size_of_zero() -> None:
    assert input_id("file:///a", None, None) != input_id("file:///a", 0, None)


def test_a_file_that_changes_is_a_new_input(tmp_path: Path) -> None:
    (dump,) = make_dumps(tmp_path, "vmcore")
    before = list_inputs([str(dump)]).inputs[0]
    os.utime(dump, ns=(0, before.modified_ns + 1 if before.modified_ns else 1))
    after = list_inputs([str(dump)]).inputs[0]
    assert before.uri == after.uri
    assert before.input_id != after.input_id


def test_parts_in_a_folder_and_parts_that_are_named_make_the_same_input(tmp_path: Path) -> None:
    ranges = {"c": (0, 10), "a": (10, 21), "b": (21, 64)}
    for name, split_range in ranges.items():
        (tmp_path / name).write_bytes(KdumpFile({0: bytes(4096)}, split=split_range).build())
    (tmp_path / "whole").write_bytes(KdumpFile({0: bytes(4096)}).build())
    listing = list_inputs([str(tmp_path)])
    assert [list(map(os.path.basename, dump.paths)) for dump in listing.inputs] == [["c", "a", "b"], ["whole"]]
    assert list_inputs([str(tmp_path / name) for name in ("a", "b", "c", "whole")]) == listing


@pytest.mark.corpus
def test_a_split_set_is_one_input_its_lowest_part_first(corpus: Path) -> None:
    parts = sorted(path for path in (corpus / "ppc32").rglob("vmcore*.part*"))
    folder = parts[0].parent
    mine = {str(part) for part in parts if part.parent == folder}
    sets = [dump for dump in list_inputs([str(folder)]).inputs if len(dump.paths) > 1]
    assert [set(dump.paths) for dump in sets] == [mine]
    assert list_one(str(parts[-1] if parts[-1].parent == folder else parts[0])) == sets[0]
    assert sets[0].size_bytes == sum(Path(part).stat().st_size for part in mine)
