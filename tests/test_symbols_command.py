"""``crashbeam symbols``: what a cache of kernel profiles holds is added, told, proved and thrown away."""

import dataclasses
import json
import os
import signal
import struct
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from crashbeam.pipeline.cli import main
from crashbeam.schemas.codes import SymbolNames
from crashbeam.vmcore.symbols import cache as caches
from crashbeam.vmcore.symbols import given as given_symbols
from crashbeam.vmcore.symbols import profile as profiles
from crashbeam.vmcore.symbols.compiled import CompiledKernel
from crashbeam.vmcore.symbols.file_kind import FileKind
from crashbeam.vmcore.symbols.index import SymbolIndex
from crashbeam.vmcore.symbols.profile import KernelProfile, compile_profile
from crashbeam.vmcore.symbols.vmlinux import read_vmlinux
from tests.builders.vmlinux import BANNER, BUILD_ID, Symbol
from tests.running import crashbeam
from tests.test_profile_lookup import KERNEL as COMPILED
from tests.test_symbol_store_finding import KERNEL, OTHER, OTHER_ID, put, with_btf
from tests.test_system_map_reading import LINES

DAY_SECONDS = 86400


@pytest.fixture(autouse=True)
def _keep_signals() -> Generator[None, None, None]:
    """The commands end the process at SIGINT and SIGTERM: pytest must be left as it was."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def kernels(tmp_path: Path) -> Path:
    """Two kernels and a System.map, among files that hold no symbols."""
    folder = tmp_path / "kernels"
    put(folder, "vmlinux-a", with_btf(KERNEL))
    put(folder, "vmlinux-b", OTHER)
    put(folder, "System.map-c", LINES.encode())
    put(folder, "crashlab.ko", b"\x7fELF")
    put(folder, "README", b"no symbols")
    return folder


class Symbols:
    """``crashbeam symbols`` over one cache, in this process."""

    def __init__(self, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.cache = cache
        self.capsys = capsys

    def __call__(self, command: str, *arguments: object, code: int = 0) -> list[str]:
        """The lines on standard output; ``said`` keeps standard error."""
        assert main(["symbols", command, *map(str, arguments), "--profiles", str(self.cache)]) == code
        captured = self.capsys.readouterr()
        self.said = captured.err
        return captured.out.splitlines()

    def listed(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self("list", "--json")]

    def file_of(self, build: str) -> Path:
        return self.cache / f"{build}.profile"


@pytest.fixture
def symbols(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Symbols:
    return Symbols(tmp_path / "cache", capsys)


def words(lines: Sequence[str]) -> list[list[str]]:
    return [line.split() for line in lines]


def damage(path: Path) -> None:
    """Changes the last letter of the last name: loading does not look at it."""
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    path.write_bytes(data)


def age(path: Path, days: float) -> None:
    then = time.time() - days * DAY_SECONDS
    os.utime(path, (then, then))


def of_older_tables(path: Path, monkeypatch: pytest.MonkeyPatch, names: SymbolNames = SymbolNames.VMLINUX) -> None:
    """Puts the profile there as a crashbeam compiled it that wanted less."""
    with monkeypatch.context() as earlier:
        earlier.setattr(profiles, "_TABLES", "less")
        path.write_bytes(compile_profile(replace(COMPILED, names=names)))


def test_every_kernel_is_compiled_and_told_and_is_known_the_next_time(kernels: Path, symbols: Symbols) -> None:
    first = words(symbols("add", kernels))
    assert [line[:1] + line[2:5] + line[7:] for line in first] == [
        ["new", "6.12.0-test", "ppc32", "vmlinux/btf", "vmlinux-a"],
        ["new", "6.12.1-test", "ppc32", "vmlinux/none", "vmlinux-b"],
        ["new", "-", "ppc32", "system_map/none", "System.map-c"],
    ]
    assert [line[1] for line in first][:2] == [BUILD_ID, OTHER_ID]
    assert symbols.said == f"crashbeam: 3 new, 0 known in {symbols.cache}\n"
    again = words(symbols("add", kernels))
    assert [line[0] for line in again] == ["known"] * 3
    assert [line[1:] for line in again] == [line[1:] for line in first]


def test_a_poorer_file_of_a_known_build_changes_nothing_and_a_richer_one_is_new(
    tmp_path: Path, symbols: Symbols
) -> None:
    poor, rich = put(tmp_path, "poor", KERNEL), put(tmp_path, "rich", with_btf(KERNEL))
    assert words(symbols("add", poor, rich, poor))[0][4] == "vmlinux/none"
    (known,) = words(symbols("add", poor))
    assert (known[0], known[4]) == ("known", "vmlinux/btf")


def test_a_compiled_profile_is_copied_into_the_cache(tmp_path: Path, symbols: Symbols) -> None:
    data = compile_profile(COMPILED)
    path = put(tmp_path, "given.profile", data)
    assert words(symbols("add", path))[0][:2] == ["new", BUILD_ID]
    assert symbols.file_of(BUILD_ID).read_bytes() == data
    damage(Path(path))
    assert words(symbols("add", path, code=2)) == []
    assert "has changed since it was made" in symbols.said


def test_what_cannot_be_used_is_named_and_the_rest_is_used(tmp_path: Path, symbols: Symbols) -> None:
    stripped = put(tmp_path, "stripped", dataclasses.replace(KERNEL, has_symtab=False))
    text = put(tmp_path, "text", b"no symbols")
    good = put(tmp_path, "vmlinux", KERNEL)
    (line,) = symbols("add", stripped, text, tmp_path / "missing", good)
    assert line.startswith(f"new    {BUILD_ID}")
    reasons = symbols.said.splitlines()
    assert len(reasons) == 4
    assert "stripped" in reasons[0]
    assert reasons[1] == f"crashbeam: {text} is no vmlinux for PowerPC, no System.map and no compiled profile"
    assert "No such file" in reasons[2]


def test_adding_nothing_that_can_be_used_is_wrong_use(tmp_path: Path, symbols: Symbols) -> None:
    assert symbols("add", put(tmp_path, "text", b"no symbols"), code=2) == []
    assert "none of the files could be used" in symbols.said


def test_a_damaged_profile_is_mended_by_adding_its_kernel_again(kernels: Path, symbols: Symbols) -> None:
    symbols("add", kernels)
    whole = symbols.file_of(BUILD_ID).read_bytes()
    damage(symbols.file_of(BUILD_ID))
    assert sorted(line[0] for line in words(symbols("add", kernels))) == ["known", "known", "new"]
    assert symbols.file_of(BUILD_ID).read_bytes() == whole


def test_another_builds_profile_under_a_builds_name_is_put_right_by_adding(kernels: Path, symbols: Symbols) -> None:
    symbols("add", kernels)
    symbols.file_of(OTHER_ID).write_bytes(symbols.file_of(BUILD_ID).read_bytes())
    assert [cached["state"] for cached in symbols.listed() if cached["build"] == OTHER_ID] == ["damaged"]
    symbols("add", kernels)
    assert KernelProfile.open(symbols.file_of(OTHER_ID)).build_id == OTHER_ID


def test_a_cache_that_cannot_be_made_is_wrong_use_and_one_that_fills_up_breaks_the_promise(
    kernels: Path, symbols: Symbols, monkeypatch: pytest.MonkeyPatch
) -> None:
    (symbols.cache.parent / "file").touch()
    assert main(["symbols", "add", str(kernels), "--profiles", str(symbols.cache.parent / "file" / "x")]) == 2

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(caches, "write_profile", full)
    symbols("add", kernels, code=3)
    assert "could not be written" in symbols.said


def test_the_list_tells_of_each_build_from_what_it_is(kernels: Path, symbols: Symbols) -> None:
    symbols("add", kernels)
    os.utime(symbols.file_of(BUILD_ID), (0, 86399))
    first, second, third = symbols.listed()
    # Text: schedule, _stext, _sinittext. Data: linux_banner and the bounds of the two texts.
    assert first == {
        "build": BUILD_ID,
        "state": "ok",
        "reason": None,
        "path": str(symbols.file_of(BUILD_ID)),
        "size_bytes": symbols.file_of(BUILD_ID).stat().st_size,
        "changed": "1970-01-01T23:59:59Z",
        "build_id": BUILD_ID,
        "release": "6.12.0-test",
        "banner": BANNER,
        "arch": "ppc32",
        "names": "vmlinux",
        "layouts": "btf",
        "symbols": 8,
    }
    assert (second["build"], second["release"], second["layouts"]) == (OTHER_ID, "6.12.1-test", "none")
    assert (third["build_id"], third["release"], third["names"]) == (None, None, "system_map")
    assert third["build"].startswith("map-")


def test_the_table_is_aligned_and_sorted_by_release(kernels: Path, symbols: Symbols) -> None:
    symbols("add", kernels)
    heading, *rows = symbols("list")
    assert heading.split() == [
        *("BUILD", "RELEASE", "ARCH", "NAMES", "LAYOUTS", "SYMBOLS", "SIZE", "CHANGED", "(UTC)", "STATE")
    ]
    assert [row.split()[1] for row in rows] == ["6.12.0-test", "6.12.1-test", "-"]
    for column in ("RELEASE", "ARCH", "NAMES", "LAYOUTS", "CHANGED", "STATE"):
        at = heading.index(column)
        assert all(row[at - 1] == " " and row[at] != " " for row in rows)


def test_an_empty_or_missing_cache_lists_nothing(symbols: Symbols) -> None:
    for _ in range(2):
        assert symbols("list") == symbols("list", "--json") == []
        assert symbols.said == f"crashbeam: there are no profiles in {symbols.cache}\n"
        assert symbols("verify") == []
        assert symbols("gc") == ["freed 0 B: 0 files, 0 index entries"]
        symbols.cache.mkdir(exist_ok=True)


def prelude_of_version(data: bytes, version: int) -> bytes:
    return data[:8] + struct.pack("<I", version) + data[12:]


def test_profiles_that_cannot_be_used_are_listed_with_their_state(
    kernels: Path, symbols: Symbols, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = compile_profile(COMPILED)
    contents = {
        "a" * 40: data[:-1],
        "b" * 40: b"",
        "c" * 40: prelude_of_version(data, 0),
        "d" * 40: prelude_of_version(data, 99),
    }
    for build, content in contents.items():
        put(symbols.cache, f"{build}.profile", content)
    of_older_tables(symbols.file_of(BUILD_ID), monkeypatch)
    put(symbols.cache, "notes.profile", b"a stranger's")
    os.mkfifo(symbols.file_of("e" * 40))
    assert {cached["build"]: cached["state"] for cached in symbols.listed()} == {
        "a" * 40: "damaged",
        "b" * 40: "damaged",
        "c" * 40: "older format",
        "d" * 40: "newer format",
        BUILD_ID: "older tables",
    }
    assert [line.split("  ")[-1] for line in symbols("list")[1:]] == [
        "older tables",
        "damaged",
        "damaged",
        "older format",
        "newer format",
    ]


def test_control_characters_of_a_kernel_do_not_reach_the_terminal(tmp_path: Path, symbols: Symbols) -> None:
    wild = dataclasses.replace(KERNEL, banner=BANNER.replace("6.12.0", "6.12\x1b[31m\n"))
    assert "\x1b" not in "".join(symbols("add", put(tmp_path, "vmlinux", wild)))
    assert "\x1b" not in "".join(symbols("list") + symbols("list", "--json"))


def test_a_file_name_that_is_no_text_is_told_and_not_remembered(tmp_path: Path, symbols: Symbols) -> None:
    path = os.fsencode(tmp_path) + b"/vmlinux-\xff"
    with open(path, "wb") as file:
        file.write(KERNEL.build())
    other = put(tmp_path, "vmlinux-b", OTHER)
    assert [line[0] for line in words(symbols("add", os.fsdecode(path), other))] == ["new", "new"]
    assert list(json.loads((symbols.cache / "index.json").read_bytes())["entries"]) == [other]


def test_profiles_are_compiled_anew_from_their_files_and_compared(kernels: Path, symbols: Symbols) -> None:
    symbols("add", kernels)
    lines = symbols("verify")
    assert [line[-1] for line in words(lines)] == [
        str(kernels / name) for name in ("vmlinux-a", "vmlinux-b", "System.map-c")
    ]
    assert all(line[40:].startswith("  ok (recompiled)  /") for line in lines)


def test_profiles_whose_files_are_gone_or_have_changed_are_checked_by_their_digest(
    kernels: Path, symbols: Symbols
) -> None:
    symbols("add", kernels)
    (kernels / "vmlinux-a").unlink()
    put(kernels, "vmlinux-b", dataclasses.replace(OTHER, has_symtab=False))
    (kernels / "System.map-c").write_text(LINES + "c0100000 D another\n")
    assert [line[1:] for line in words(symbols("verify"))] == [["ok"]] * 3


def test_a_damaged_profile_is_found_and_breaks_the_promise(kernels: Path, symbols: Symbols) -> None:
    symbols("add", kernels)
    damage(symbols.file_of(BUILD_ID))
    assert [line[1] for line in words(symbols("verify", code=3))] == ["damaged", "ok", "ok"]
    assert symbols.said.startswith("crashbeam: 1 of 3 profiles cannot be trusted")
    assert words(symbols("verify", OTHER_ID))[0][:2] == [OTHER_ID, "ok"]


def other_names(kind: FileKind, path: str) -> CompiledKernel:
    """The kernel of a reader that gets every name wrong."""
    kernel = read_vmlinux(path)
    return replace(kernel, text=[(address, name + "x") for address, name in kernel.text])


def test_a_profile_that_differs_from_what_its_file_gives_breaks_the_promise(
    tmp_path: Path, symbols: Symbols, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path, "vmlinux", KERNEL)
    symbols("add", path)
    monkeypatch.setattr(given_symbols, "read_kernel", other_names)
    (line,) = words(symbols("verify", code=3))
    assert line[:3] == [BUILD_ID, "differs", path]


def test_with_symbols_the_given_files_are_what_is_compared_with(tmp_path: Path, symbols: Symbols) -> None:
    path = put(tmp_path / "a", "vmlinux", KERNEL)
    symbols("add", path)
    same = put(tmp_path / "b", "vmlinux", KERNEL)
    assert symbols("verify", "--symbols", tmp_path / "b") == [f"{BUILD_ID}  ok (recompiled)  {same}"]
    forged = put(tmp_path / "c", "vmlinux", KERNEL.with_symbols(Symbol("forged", 0xC0000200)))
    assert words(symbols("verify", "--symbols", forged, code=3))[0][1:3] == ["differs", forged]
    assert words(symbols("verify", "--symbols", forged, "--symbols", same))[0][1:] == ["ok", "(recompiled)", same]
    richer = put(tmp_path / "d", "vmlinux", with_btf(KERNEL))
    (line,) = symbols("verify", "--symbols", richer)
    assert line == f"{BUILD_ID}  ok               {richer} gives vmlinux/btf: not compared"
    assert words(symbols("verify", "--symbols", put(tmp_path / "e", "vmlinux", OTHER))) == [[BUILD_ID, "ok"]]


def test_a_profile_is_not_compared_with_itself(tmp_path: Path, symbols: Symbols) -> None:
    symbols("add", put(tmp_path, "vmlinux", KERNEL))
    assert words(symbols("verify", "--symbols", symbols.cache)) == [[BUILD_ID, "ok"]]


def test_a_system_map_is_found_among_those_given_by_what_it_gives(tmp_path: Path, symbols: Symbols) -> None:
    symbols("add", put(tmp_path, "System.map-a", LINES.encode()))
    other = put(tmp_path / "given", "System.map-1", LINES.encode() + b"c0100000 D crash_notes\n")
    same = put(tmp_path / "given", "System.map-2", LINES.encode())
    damaged = put(tmp_path / "given", "System.map-3", LINES.encode() + b"no symbol\n")
    (line,) = symbols("verify", "--symbols", tmp_path / "given")
    assert line.endswith(f"  ok (recompiled)  {same}")
    assert damaged in symbols.said
    assert other not in symbols.said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["verify", "abcd"], "there is no profile of build abcd"),
        (["verify", "--symbols", "/no/such/vmlinux"], "No such file"),
        (["add"], "Missing argument 'PATH...'"),
        (["gc", "--max-size", "-1"], "is not in the range"),
        (["gc", "--older-than", "soon"], "not a valid integer"),
    ],
)
def test_wrong_use_is_said_in_one_line(symbols: Symbols, arguments: list[str], said: str) -> None:
    assert symbols(*arguments, code=2) == []
    (line,) = symbols.said.splitlines()
    assert line.startswith("crashbeam: ")
    assert said in line


def test_a_folder_that_is_a_file_is_wrong_use(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for command in ("list", "verify", "gc"):
        assert main(["symbols", command, "--profiles", str(tmp_path / "file")]) == 2


def test_without_a_home_a_folder_must_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert main(["symbols", "list"]) == 2


def test_the_users_cache_and_the_environment_name_the_folder(kernels: Path, tmp_path: Path) -> None:
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    assert crashbeam("symbols", "add", kernels, fake=False, env=environment).returncode == 0
    assert len(crashbeam("symbols", "list", "--json", fake=False, env=environment).stdout.splitlines()) == 3
    environment |= {"CRASHBEAM_PROFILES": str(tmp_path / "crashbeam"), "XDG_CACHE_HOME": "/proc/none"}
    assert len(crashbeam("symbols", "list", "--json", fake=False, env=environment).stdout.splitlines()) == 3


def test_what_is_of_no_use_goes_and_all_else_stays(
    kernels: Path, symbols: Symbols, monkeypatch: pytest.MonkeyPatch
) -> None:
    symbols("add", kernels)
    data = compile_profile(COMPILED)
    outside = Path(put(symbols.cache.parent, "outside", b"not ours"))
    gone = {
        f"{'a' * 40}.profile": data[:-1],
        f"{'b' * 40}.profile": prelude_of_version(data, 0),
        f"{'c' * 40}.profile": data,
        f".{BUILD_ID}.profile.abcd_123": b"half",
        ".index.json.abcd_123": b"half",
    }
    kept = {
        f"{'d' * 40}.profile": prelude_of_version(data, 99),
        "notes.profile": b"a stranger's",
        "README": b"a stranger's",
        ".index.json.keep": b"a stranger's",
        f".{OTHER_ID}.profile.fresh_12": b"being written",
    }
    for name, content in (gone | kept).items():
        path = put(symbols.cache, name, content)
        if "fresh" not in name:
            age(Path(path), 1)
    symbols.file_of("e" * 40).symlink_to(outside)
    (symbols.cache / f"{'9' * 40}.profile").mkdir()
    before = set(os.listdir(symbols.cache))
    freed_bytes = sum(map(len, gone.values()))
    planned = symbols("gc", "--dry-run")
    assert planned[-1] == f"would free {freed_bytes / 1024:.0f} KiB: 5 files, 0 index entries"
    assert set(os.listdir(symbols.cache)) == before
    removed = symbols("gc")
    assert removed[:-1] == planned[:-1]
    assert removed[-1] == f"freed {freed_bytes / 1024:.0f} KiB: 5 files, 0 index entries"
    assert before - set(os.listdir(symbols.cache)) == set(gone)
    assert outside.read_bytes() == b"not ours"


def test_a_profile_of_older_tables_goes_only_if_its_file_can_give_it_anew(
    tmp_path: Path, symbols: Symbols, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path, "vmlinux", KERNEL)
    symbols("add", path)
    of_older_tables(symbols.file_of(BUILD_ID), monkeypatch)
    os.rename(path, path + "-away")
    assert symbols("gc", "--dry-run")[-1] == "would free 0 B: 0 files, 1 index entry"
    os.rename(path + "-away", path)
    assert symbols("gc")[0].endswith(f"{BUILD_ID}.profile  older tables: add {path} again")
    assert words(symbols("add", path))[0][0] == "new"


def test_a_profile_of_older_tables_that_a_dump_gave_goes(symbols: Symbols, monkeypatch: pytest.MonkeyPatch) -> None:
    symbols.cache.mkdir()
    of_older_tables(symbols.file_of(BUILD_ID), monkeypatch, SymbolNames.KALLSYMS)
    assert symbols("gc")[0].endswith("older tables: dumps of that build give it anew")
    assert symbols.listed() == []


def test_index_entries_of_files_that_are_gone_are_forgotten(kernels: Path, symbols: Symbols) -> None:
    symbols("add", kernels)
    os.unlink(kernels / "vmlinux-a")
    lines = symbols("gc")
    assert lines == [
        f"       -  index.json: {kernels / 'vmlinux-a'}  no longer there",
        "freed 0 B: 0 files, 1 index entry",
    ]
    assert SymbolIndex(symbols.cache).missing() == []
    entries = json.loads((symbols.cache / "index.json").read_bytes())["entries"]
    assert sorted(map(os.path.basename, entries)) == ["README", "System.map-c", "vmlinux-b"]


def test_profiles_written_long_ago_go_if_that_is_asked(kernels: Path, symbols: Symbols) -> None:
    symbols("add", kernels)
    age(symbols.file_of(OTHER_ID), 31)
    age(symbols.file_of(BUILD_ID), 29)
    assert symbols("gc")[-1] == "freed 0 B: 0 files, 0 index entries"
    assert words(symbols("gc", "--older-than", 30))[0][2:] == [f"{OTHER_ID}.profile", "older", "than", "30", "days"]
    assert symbols.file_of(BUILD_ID).exists()
    assert not symbols.file_of(OTHER_ID).exists()


def test_beyond_a_size_those_written_longest_ago_go_first(kernels: Path, symbols: Symbols) -> None:
    symbols("add", kernels)
    age(symbols.file_of(BUILD_ID), 2)
    age(symbols.file_of(OTHER_ID), 3)
    sizes = {cached["build"]: cached["size_bytes"] for cached in symbols.listed()}
    whole = sum(sizes.values())
    assert symbols("gc", "--max-size", whole)[-1].endswith("0 files, 0 index entries")
    assert words(symbols("gc", "--max-size", whole - 1))[0][2] == f"{OTHER_ID}.profile"
    assert words(symbols("gc", "--max-size", whole - sizes[OTHER_ID] - 1))[0][2] == f"{BUILD_ID}.profile"
    assert len(symbols("gc", "--max-size", 0)) == 2
    assert symbols.listed() == []


def test_what_cannot_be_removed_breaks_the_promise(symbols: Symbols, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_path: object) -> None:
        raise PermissionError(13, "Permission denied")

    put(symbols.cache, f"{BUILD_ID}.profile", b"damaged")
    monkeypatch.setattr(os, "unlink", refused)
    symbols("gc", code=3)
    assert "cannot be removed: Permission denied" in symbols.said
