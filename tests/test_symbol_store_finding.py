"""The symbols of exactly the dump's kernel are found, each kernel is compiled once, and others are never used."""

import dataclasses
import json
import lzma
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import pytest
from msgspec.structs import replace

from crashbeam.schemas.codes import MatchedBy, SymbolLayouts, SymbolNames, WarningCode
from crashbeam.vmcore.errors import SymbolError
from crashbeam.vmcore.symbols import cache as caches
from crashbeam.vmcore.symbols import given as given_symbols
from crashbeam.vmcore.symbols import identity as identities
from crashbeam.vmcore.symbols import index as indexes
from crashbeam.vmcore.symbols import store as stores
from crashbeam.vmcore.symbols.compiled import CompiledKernel
from crashbeam.vmcore.symbols.file_kind import FileKind
from crashbeam.vmcore.symbols.identity import identify
from crashbeam.vmcore.symbols.profile import KernelProfile, compile_profile
from crashbeam.vmcore.symbols.store import ProfileStore, SymbolSearch, WantedKernel
from crashbeam.vmcore.symbols.vmlinux import read_vmlinux
from tests.builders.btf import Btf
from tests.builders.vmlinux import BANNER, BUILD_ID, Symbol, Vmlinux
from tests.test_system_map_reading import LINES

Read = TypeVar("Read")
OTHER_ID = "f" * 40
KERNEL = Vmlinux().with_symbols(Symbol("schedule", 0xC0000100))
OTHER = dataclasses.replace(KERNEL, build_id=OTHER_ID, banner=BANNER.replace("6.12.0", "6.12.1"))
WANTED = WantedKernel(build_id=BUILD_ID, release="6.12.0-test")
SYMBOLS_OF_MAP = {"_stext": 0xC0000000, "linux_banner": 0xC0020000, "prb": 0xC0040000, "mem_section": 0xC7FF0000}


def with_btf(kernel: Vmlinux) -> Vmlinux:
    blob = Btf()
    blob.struct("rq", 64, [("curr", blob.pointer(), 64)])
    return dataclasses.replace(kernel, sections={".BTF": blob.build()})


def put(folder: Path, name: str, kernel: Vmlinux | bytes) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(kernel if isinstance(kernel, bytes) else kernel.build())
    return str(path)


class Count(Generic[Read]):
    """A reader of files that keeps the names of those that it was asked for."""

    def __init__(self, reader: Callable[[str], Read]) -> None:
        self.reader = reader
        self.paths: list[str] = []

    def __call__(self, path: str) -> Read:
        self.paths.append(os.path.basename(path))
        return self.reader(path)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Count[CompiledKernel]:
    """The names of the vmlinux files that were compiled."""
    count = Count(read_vmlinux)

    def read(kind: FileKind, path: str) -> CompiledKernel:
        return count(path) if kind is FileKind.VMLINUX else read_kernel(kind, path)

    read_kernel = given_symbols.read_kernel
    monkeypatch.setattr(given_symbols, "read_kernel", read)
    return count


def found(search: SymbolSearch) -> KernelProfile:
    assert search.profile is not None, search.message
    assert search.warning is None
    return search.profile


def test_a_vmlinux_of_the_same_build_id_is_compiled_once_for_ever(
    tmp_path: Path, compiled: Count[CompiledKernel]
) -> None:
    path = put(tmp_path, "vmlinux", KERNEL)
    store = ProfileStore(tmp_path / "cache")
    search = store.find([path], WANTED)
    assert search.matched_by is MatchedBy.BUILD_ID
    assert found(search).build_id == BUILD_ID
    assert store.find([path], WANTED) is search
    assert found(ProfileStore(tmp_path / "cache").find([path], WANTED)).build_id == BUILD_ID
    assert found(ProfileStore(tmp_path / "cache").find([], WANTED)).build_id == BUILD_ID
    assert compiled.paths == ["vmlinux"]
    assert sorted(os.listdir(tmp_path / "cache")) == [f"{BUILD_ID}.profile", "index.json"]


def test_in_a_folder_only_the_right_kernel_is_compiled_and_each_file_is_looked_into_once(
    tmp_path: Path, compiled: Count[CompiledKernel], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = tmp_path / "kernels"
    put(kernels, "vmlinux-a.xz", lzma.compress(OTHER.build()))
    put(kernels / "deep", "vmlinux-b", KERNEL)
    put(kernels, "crashlab.ko", b"\x7fELF")
    put(kernels, "config-x", b"CONFIG_X=y\n")
    put(kernels, ".vmlinux-part", KERNEL)
    put(kernels, "notes", b"nothing")
    looked = Count(identify)
    monkeypatch.setattr(identities, "identify", looked)
    assert found(ProfileStore(tmp_path / "cache").find([str(kernels)], WANTED)).build_id == BUILD_ID
    assert sorted(looked.paths) == ["notes", "vmlinux-a.xz", "vmlinux-b"]
    wanted_other = WantedKernel(build_id=OTHER_ID)
    assert found(ProfileStore(tmp_path / "cache").find([str(kernels)], wanted_other)).build_id == OTHER_ID
    assert len(looked.paths) == 3
    assert compiled.paths == ["vmlinux-b", "vmlinux-a.xz"]


def test_folders_are_followed_two_levels_down(tmp_path: Path) -> None:
    put(tmp_path / "kernels" / "a" / "b", "vmlinux", KERNEL)
    put(tmp_path / "far" / "a" / "b" / "c", "vmlinux", KERNEL)
    assert ProfileStore(None).find([str(tmp_path / "kernels")], WANTED).profile is not None
    assert ProfileStore(None).find([str(tmp_path / "far")], WANTED).profile is None


def test_a_file_that_has_changed_is_looked_into_again(tmp_path: Path) -> None:
    path = put(tmp_path, "vmlinux", OTHER)
    assert ProfileStore(tmp_path / "cache").find([path], WANTED).profile is None
    put(tmp_path, "vmlinux", with_btf(KERNEL))
    assert found(ProfileStore(tmp_path / "cache").find([path], WANTED)).layouts is SymbolLayouts.BTF


def test_an_answer_that_found_nothing_is_asked_anew_only_when_something_changed(tmp_path: Path) -> None:
    folder = tmp_path / "kernels"
    put(folder, "vmlinux-a", OTHER)
    store = ProfileStore(tmp_path / "cache")
    nothing = store.find([str(folder)], WANTED)
    assert nothing.profile is None
    assert store.find([str(folder)], WANTED) is nothing
    put(folder, "vmlinux-b", KERNEL)
    os.utime(folder, ns=(0, 12345))
    assert found(store.find([str(folder)], WANTED)).build_id == BUILD_ID


def test_what_another_process_compiles_is_found(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path / "cache")
    assert store.find([], WANTED).warning is WarningCode.SYMBOLS_MISSING
    ProfileStore(tmp_path / "cache").compile_given([put(tmp_path, "vmlinux", KERNEL)])
    assert found(store.find([], WANTED)).build_id == BUILD_ID


def test_another_build_is_never_used_and_both_sides_are_named(tmp_path: Path) -> None:
    path = put(tmp_path, "vmlinux", OTHER)
    search = ProfileStore(None).find([path], WANTED)
    assert (search.profile, search.matched_by, search.warning) == (None, None, WarningCode.SYMBOLS_MISMATCH)
    assert search.message is not None
    assert BUILD_ID in search.message
    assert f"vmlinux has build id {OTHER_ID} (6.12.1-test)" in search.message


def test_many_mismatches_are_named_briefly(tmp_path: Path) -> None:
    for number in range(6):
        put(tmp_path / "kernels", f"vmlinux-{number}", dataclasses.replace(OTHER, build_id=f"{number}" * 40))
    message = ProfileStore(None).find([str(tmp_path / "kernels")], WANTED).message
    assert message is not None
    assert message.count("vmlinux-") == 4
    assert message.endswith("2 more files have others")


@pytest.mark.parametrize("content", [None, b"", b"no symbols", KERNEL.build()[:100]])
def test_where_no_symbols_are_that_is_said(tmp_path: Path, content: bytes | None) -> None:
    path = str(tmp_path / "vmlinux") if content is None else put(tmp_path, "vmlinux", content)
    search = ProfileStore(None).find([path], WANTED)
    assert search.warning is not None
    assert search.profile is None
    assert BUILD_ID in (search.message or "")
    if content is None:
        assert "No such file" in (search.message or "")


def test_a_path_that_is_no_regular_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    search = ProfileStore(None).find([str(tmp_path / "pipe")], WANTED)
    assert search.warning is WarningCode.SYMBOLS_MISSING
    assert "no regular file" in (search.message or "")


def test_a_matching_file_that_is_damaged_is_named_and_the_next_one_used(tmp_path: Path) -> None:
    damaged = put(tmp_path, "vmlinux-1", dataclasses.replace(KERNEL, has_symtab=False))
    alone = ProfileStore(None).find([damaged], WANTED)
    assert (alone.profile, alone.warning) == (None, WarningCode.SYMBOLS_MISMATCH)
    assert "stripped" in (alone.message or "")
    whole = put(tmp_path, "vmlinux-2", KERNEL)
    assert found(ProfileStore(None).find([damaged, whole], WANTED)).build_id == BUILD_ID


def test_a_kernel_without_build_id_matches_by_its_exact_banner(tmp_path: Path) -> None:
    path = put(tmp_path, "vmlinux", dataclasses.replace(KERNEL, build_id=None))
    store = ProfileStore(tmp_path / "cache")
    wanted = WantedKernel(banner=BANNER)
    assert store.find([path], wanted).matched_by is MatchedBy.BANNER
    assert store.find([path], WantedKernel(banner=BANNER + " ")).profile is None
    assert found(ProfileStore(tmp_path / "cache").find([], wanted)).banner == BANNER


def test_equal_banners_do_not_outweigh_different_build_ids(tmp_path: Path) -> None:
    path = put(tmp_path, "vmlinux", dataclasses.replace(KERNEL, build_id=OTHER_ID))
    assert ProfileStore(None).find([path], WantedKernel(build_id=BUILD_ID, banner=BANNER)).profile is None


def test_a_system_map_matches_by_addresses(tmp_path: Path) -> None:
    path = put(tmp_path, "System.map", LINES.encode())
    wanted = WantedKernel(build_id=BUILD_ID, vmcoreinfo_symbols=SYMBOLS_OF_MAP)
    search = ProfileStore(tmp_path / "cache").find([path], wanted)
    assert search.matched_by is MatchedBy.ADDRESSES
    assert found(search).names is SymbolNames.SYSTEM_MAP
    assert found(ProfileStore(tmp_path / "cache").find([], wanted)).names is SymbolNames.SYSTEM_MAP
    assert found(ProfileStore(None).find([path], wanted)).address_of("linux_banner") == 0xC0020000


@pytest.mark.parametrize(
    "symbols", [{}, {"_stext": 0xC0000000, "prb": 0xC0040000}, {**SYMBOLS_OF_MAP, "_etext": 0xC0008004}]
)
def test_one_different_address_or_too_few_equal_ones_do_not_match(tmp_path: Path, symbols: dict[str, int]) -> None:
    path = put(tmp_path, "System.map", LINES.encode())
    search = ProfileStore(tmp_path / "cache").find([path], WantedKernel(vmcoreinfo_symbols=symbols))
    assert (search.profile, search.warning) == (None, WarningCode.SYMBOLS_MISMATCH)


def test_a_vmlinux_goes_before_a_system_map(tmp_path: Path) -> None:
    put(tmp_path / "kernels", "System.map", LINES.encode())
    put(tmp_path / "kernels", "vmlinux", KERNEL)
    wanted = replace(WANTED, vmcoreinfo_symbols=SYMBOLS_OF_MAP)
    search = ProfileStore(tmp_path / "cache").find([str(tmp_path / "kernels")], wanted)
    assert search.matched_by is MatchedBy.BUILD_ID


def test_a_dump_that_says_nothing_else_is_matched_by_addresses_and_release(tmp_path: Path) -> None:
    path = put(tmp_path, "vmlinux", KERNEL)
    symbols = {"_stext": 0xC0000000, "_etext": 0xC0008000, "linux_banner": KERNEL.rodata}
    same = WantedKernel(vmcoreinfo_symbols=symbols, release="6.12.0-test")
    assert ProfileStore(None).find([path], same).matched_by is MatchedBy.ADDRESSES
    assert ProfileStore(None).find([path], replace(same, release="6.12.0")).profile is None


def test_a_compiled_profile_can_be_given(tmp_path: Path) -> None:
    path = put(tmp_path, "vmlinux", KERNEL)
    given = put(tmp_path / "profiles", "kernel.profile", compile_profile(read_vmlinux(path)))
    search = ProfileStore(tmp_path / "cache").find([given], WANTED)
    assert search.matched_by is MatchedBy.BUILD_ID
    assert found(search).name == given
    assert ProfileStore(None).find([given], WantedKernel(build_id=OTHER_ID)).warning is WarningCode.SYMBOLS_MISMATCH


def test_of_one_build_the_richest_profile_is_kept(tmp_path: Path, compiled: Count[CompiledKernel]) -> None:
    poor = put(tmp_path, "vmlinux-stripped", KERNEL)
    rich = put(tmp_path, "vmlinux-btf", with_btf(KERNEL))
    cache = tmp_path / "cache"
    assert found(ProfileStore(cache).find([poor], WANTED)).layouts is SymbolLayouts.NONE
    assert found(ProfileStore(cache).find([rich], WANTED)).layouts is SymbolLayouts.BTF
    assert found(ProfileStore(cache).find([poor], WANTED)).layouts is SymbolLayouts.BTF
    assert found(ProfileStore(cache).find([poor, rich], WANTED)).layouts is SymbolLayouts.BTF
    assert found(ProfileStore(None).find([poor, rich], WANTED)).layouts is SymbolLayouts.BTF
    assert compiled.paths[:2] == ["vmlinux-stripped", "vmlinux-btf"]


@pytest.mark.parametrize("damage", [b"", b"garbage", b"crshbeam\x63"])
def test_a_cached_profile_that_cannot_be_used_is_made_again(tmp_path: Path, damage: bytes) -> None:
    path = put(tmp_path, "vmlinux", KERNEL)
    cache = tmp_path / "cache"
    ProfileStore(cache).find([path], WANTED)
    cached = cache / f"{BUILD_ID}.profile"
    whole = cached.read_bytes()
    cached.write_bytes(damage)
    assert found(ProfileStore(cache).find([path], WANTED)).build_id == BUILD_ID
    assert cached.read_bytes() == whole


def test_a_cached_profile_under_another_builds_name_is_not_used(tmp_path: Path) -> None:
    path = put(tmp_path, "vmlinux", OTHER)
    cache = tmp_path / "cache"
    put(cache, f"{BUILD_ID}.profile", compile_profile(read_vmlinux(path)))
    assert ProfileStore(cache).find([], WANTED).profile is None


@pytest.mark.parametrize("content", [b"", b"[]", b'{"version":99,"entries":{}}', b"\xff"])
def test_an_index_that_cannot_be_used_is_made_again(tmp_path: Path, content: bytes) -> None:
    path = put(tmp_path, "vmlinux", KERNEL)
    put(tmp_path / "cache", "index.json", content)
    assert found(ProfileStore(tmp_path / "cache").find([path], WANTED)).build_id == BUILD_ID
    assert list(json.loads((tmp_path / "cache" / "index.json").read_bytes())["entries"]) == [path]


def test_an_index_keeps_what_another_process_wrote(tmp_path: Path) -> None:
    paths = [put(tmp_path, "vmlinux-a", KERNEL), put(tmp_path, "vmlinux-b", OTHER)]
    first, second = ProfileStore(tmp_path / "cache"), ProfileStore(tmp_path / "cache")
    first.compile_given([paths[0]])
    second.compile_given([paths[1]])
    assert list(json.loads((tmp_path / "cache" / "index.json").read_bytes())["entries"]) == paths


def test_a_cache_that_cannot_be_made_is_done_without(tmp_path: Path, compiled: Count[CompiledKernel]) -> None:
    (tmp_path / "file").touch()
    path = put(tmp_path, "vmlinux", KERNEL)
    store = ProfileStore(tmp_path / "file" / "cache")
    assert found(store.find([path], WANTED)).build_id == BUILD_ID
    assert found(store.find([], WANTED)).build_id == BUILD_ID
    assert compiled.paths == ["vmlinux"]


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(caches, "write_profile", refused)
    monkeypatch.setattr(indexes, "write_profile", refused)
    path = put(tmp_path, "System.map", LINES.encode())
    store = ProfileStore(tmp_path / "cache")
    wanted = WantedKernel(vmcoreinfo_symbols=SYMBOLS_OF_MAP)
    assert found(store.find([path], wanted)).names is SymbolNames.SYSTEM_MAP
    assert found(store.find([], wanted)).names is SymbolNames.SYSTEM_MAP
    assert os.listdir(tmp_path / "cache") == []


@pytest.mark.parametrize("build_id", ["../../etc/passwd", "", "0123", "a" * 4096, "zz" * 20])
def test_nothing_in_a_dump_chooses_a_path(tmp_path: Path, build_id: str) -> None:
    places = caches.ProfileCache(tmp_path).places_of(WantedKernel(build_id=build_id, banner="../x"))
    assert len(places) == 1
    assert re.fullmatch(r"banner-[0-9a-f]{32}\.profile", os.path.relpath(places[0], tmp_path))
    assert ProfileStore(tmp_path).find([], WantedKernel(build_id=build_id)).profile is None


def test_compiling_beforehand_takes_every_kernel_and_passes_over_what_cannot_be_used(tmp_path: Path) -> None:
    put(tmp_path / "kernels", "vmlinux-a", KERNEL)
    put(tmp_path / "kernels", "vmlinux-b", OTHER)
    put(tmp_path / "kernels", "vmlinux-c", dataclasses.replace(KERNEL, has_symtab=False))
    put(tmp_path / "kernels", "System.map", LINES.encode())
    profiles = ProfileStore(tmp_path / "cache").compile_given([str(tmp_path / "kernels")])
    assert {profile.build_id for profile in profiles} == {BUILD_ID, OTHER_ID, None}
    with pytest.raises(SymbolError, match="No such file"):
        ProfileStore(tmp_path / "cache").compile_given([str(tmp_path / "missing")])


def test_only_few_profiles_and_answers_are_kept_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "_MAX_OPEN", 1)
    monkeypatch.setattr(stores, "_MAX_ANSWERS", 1)
    paths = [put(tmp_path, "vmlinux-a", KERNEL), put(tmp_path, "vmlinux-b", OTHER)]
    store = ProfileStore(tmp_path / "cache")
    for _ in range(2):
        for build_id in (BUILD_ID, OTHER_ID):
            assert found(store.find(paths, WantedKernel(build_id=build_id))).build_id == build_id


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"XDG_CACHE_HOME": "/cache", "HOME": "/home/x"}, Path("/cache/crashbeam")),
        ({"XDG_CACHE_HOME": "cache", "HOME": "/home/x"}, Path("/home/x/.cache/crashbeam")),
        ({"HOME": "/home/x"}, Path("/home/x/.cache/crashbeam")),
    ],
)
def test_the_cache_is_where_caches_are(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], folder: Path
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert stores.default_folder() == folder


def test_without_a_home_there_is_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert stores.default_folder() is None
