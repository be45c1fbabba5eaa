"""A cache of profiles that many processes share is never seen half written, whoever writes, reads, dies or cleans."""

import dataclasses
import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from crashbeam.pipeline import command_symbols
from crashbeam.pipeline.cli import main
from crashbeam.schemas.codes import SymbolLayouts
from crashbeam.vmcore.errors import SymbolError
from crashbeam.vmcore.symbols import profile as profiles
from crashbeam.vmcore.symbols.cache import ProfileCache
from crashbeam.vmcore.symbols.index import SymbolIndex, list_symbol_files
from crashbeam.vmcore.symbols.profile import KernelProfile, compile_profile, exclusive, write_profile
from crashbeam.vmcore.symbols.store import ProfileStore, WantedKernel
from crashbeam.vmcore.symbols.vmlinux import read_vmlinux
from tests.builders.vmlinux import BUILD_ID, Symbol
from tests.running import REPO, command
from tests.test_profile_lookup import BASE
from tests.test_profile_lookup import KERNEL as COMPILED
from tests.test_symbol_store_finding import KERNEL, put, with_btf
from tests.test_symbols_command import age, damage

BUILDS = 6
WRITER_ROUNDS = 25
REPLACEMENTS = 200
KILLS = 6
SEED = 20261125
SECONDS = 60
"""More than any of this needs, however slow the machine."""


def put_kernels(folder: Path, *names: str) -> list[str]:
    """One kernel for each name, each of another build."""
    return [
        put(folder, name, dataclasses.replace(with_btf(KERNEL), build_id=f"{number:040x}"))
        for number, name in enumerate(names)
    ]


def names_of(count: int) -> list[str]:
    return [f"vmlinux-{number}" for number in range(count)]


def start(call: str, *arguments: object) -> subprocess.Popen[str]:
    """A function of this file, by itself in a process."""
    program = f"from tests import test_profiles_shared as shared; shared.{call}(*{list(map(str, arguments))!r})"
    return subprocess.Popen(
        [sys.executable, "-c", program], cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def end_well(processes: Sequence[subprocess.Popen[str]]) -> list[str]:
    """What the processes print, once all have ended with exit code 0."""
    printed = []
    for process in processes:
        out, said = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, said
        printed.append(out)
    return printed


def write_again_and_again(cache: str, kernels: str, seed: str) -> None:
    """A writer: compiles all kernels into the cache, in another order each time."""
    order = random.Random(seed)
    paths = [file.path for file in list_symbol_files(kernels)]
    for _ in range(WRITER_ROUNDS):
        order.shuffle(paths)
        found = ProfileStore(Path(cache)).compile_given(paths)
        assert len(found) == len(paths)
        for profile in found:
            profile.verify()


def clean_again_and_again(cache: str, stop: str) -> None:
    """One that empties the cache over and over, until the file ``stop`` is there."""
    while not os.path.exists(stop):
        assert main(["symbols", "gc", "--max-size", "0", "--profiles", cache]) == 0


def read_again_and_again(cache: str, kernels: str, stop: str) -> None:
    """A reader: whatever bears a profile's name is one, whole, and that of its build; the index is whole too."""
    expected = {
        profile.build_id: profile.digest
        for file in list_symbol_files(kernels)
        for profile in [KernelProfile(compile_profile(read_vmlinux(file.path)))]
    }
    reads = 0
    while not os.path.exists(stop) or reads == 0:
        for build_id in expected:
            path = Path(cache, f"{build_id}.profile")
            try:
                profile = KernelProfile.open(path)
            except SymbolError as error:
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise
                continue
            time.sleep(0)
            profile.verify()
            assert (profile.build_id, profile.digest) == (build_id, expected[build_id])
            reads += 1
        index = Path(cache, "index.json")
        if index.exists():
            entries = json.loads(index.read_bytes())["entries"]
            assert set(entries) <= {file.path for file in list_symbol_files(kernels)}
    print(reads)


def test_writers_readers_and_a_cleaner_at_once(tmp_path: Path) -> None:
    kernels, cache, stop = tmp_path / "kernels", tmp_path / "cache", tmp_path / "stop"
    put_kernels(kernels, *names_of(BUILDS))
    others = [start("read_again_and_again", cache, kernels, stop), start("clean_again_and_again", cache, stop)]
    end_well([start("write_again_and_again", cache, kernels, seed) for seed in range(3)])
    stop.touch()
    reads, cleaned = end_well(others)
    assert int(reads) > 0
    assert ".profile  beyond the size allowed" in cleaned
    end_well([start("write_again_and_again", cache, kernels, 4)])
    assert sorted(os.listdir(cache)) == sorted([*(f"{number:040x}.profile" for number in range(BUILDS)), "index.json"])


def large_profile(build_id: str) -> bytes:
    """A profile whose writing takes a while."""
    text = [(BASE + 4 * number, f"function_{number}") for number in range(0x2000)]
    return compile_profile(replace(COMPILED, build_id=build_id, text=text))


def read_one_again_and_again(path: str, stop: str) -> None:
    """A reader of one profile; prints how many it has seen of each build."""
    seen: Counter[str | None] = Counter()
    print("ready", flush=True)
    while not os.path.exists(stop):
        profile = KernelProfile.open(path)
        profile.verify()
        seen[profile.build_id] += 1
    print(json.dumps(seen))


def test_a_reader_never_sees_half_of_a_profile_that_is_being_replaced(tmp_path: Path) -> None:
    path, stop = tmp_path / "kernel.profile", tmp_path / "stop"
    contents = [large_profile(letter * 40) for letter in "ab"]
    write_profile(path, contents[1])
    process = start("read_one_again_and_again", path, stop)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for number in range(REPLACEMENTS):
        write_profile(path, contents[number % 2])
    stop.touch()
    (seen,) = end_well([process])
    assert set(json.loads(seen)) == {"a" * 40, "b" * 40}


def test_the_same_bytes_are_there_however_many_add_the_same_builds_at_once(tmp_path: Path) -> None:
    kernels = tmp_path / "kernels"
    put_kernels(kernels, *names_of(3))
    assert main(["symbols", "add", str(kernels), "--profiles", str(tmp_path / "alone")]) == 0
    add = command("symbols", "add", kernels, "--profiles", tmp_path / "shared", fake=False)
    end_well(
        [subprocess.Popen(add, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    )
    contents = [
        {path.name: path.read_bytes() for path in (tmp_path / folder).glob("*.profile")}
        for folder in ("alone", "shared")
    ]
    assert len(contents[0]) == 3
    assert contents[0] == contents[1]


def index_one(cache: str, path: str, go: str) -> None:
    """Looks into one file, and saves what it is once the file ``go`` is there, as all others do."""
    index = SymbolIndex(Path(cache))
    index.entry_of(list_symbol_files(path)[0])
    print("ready", flush=True)
    while not os.path.exists(go):
        time.sleep(0.001)
    index.save()


def test_no_entry_of_the_index_is_lost_when_many_save_at_once(tmp_path: Path) -> None:
    cache, go = tmp_path / "cache", tmp_path / "go"
    cache.mkdir()
    paths = put_kernels(tmp_path / "kernels", *names_of(4))
    processes = [start("index_one", cache, path, go) for path in paths]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    go.touch()
    end_well(processes)
    assert sorted(json.loads((cache / "index.json").read_bytes())["entries"]) == sorted(paths)


def add_one(cache: str, path: str) -> None:
    """Adds one kernel; prints what the cache then has of it."""
    print("waiting", flush=True)
    print(ProfileStore(Path(cache)).compile_given([path])[0].layouts)


def test_a_writer_that_was_overtaken_keeps_the_richer_profile(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    poor, rich = put(tmp_path, "poor", KERNEL), put(tmp_path, "rich", with_btf(KERNEL))
    with exclusive(cache):
        process = start("add_one", cache, poor)
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        time.sleep(0.3)
        assert list(cache.iterdir()) == []
        write_profile(cache / f"{BUILD_ID}.profile", compile_profile(read_vmlinux(rich)))
    assert end_well([process]) == [f"{SymbolLayouts.BTF}\n"]
    assert KernelProfile.open(cache / f"{BUILD_ID}.profile").layouts is SymbolLayouts.BTF


def test_a_writer_that_was_stopped_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "_LOCK_TRIES", 3)
    path = put(tmp_path, "vmlinux", KERNEL)
    (tmp_path / "cache").mkdir()
    with exclusive(tmp_path / "cache"):
        ProfileStore(tmp_path / "cache").compile_given([path])
    assert sorted(os.listdir(tmp_path / "cache")) == [f"{BUILD_ID}.profile", "index.json"]


def test_a_folder_that_cannot_be_locked_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    ProfileStore(tmp_path / "cache").compile_given([put(tmp_path, "vmlinux", KERNEL)])
    assert sorted(os.listdir(tmp_path / "cache")) == [f"{BUILD_ID}.profile", "index.json"]


def die_before_it_is_in_place(cache: str, path: str) -> None:
    """A writer that is killed when its file is written but not yet in place, with the lock in its hand."""
    os.replace = lambda *_: os.kill(os.getpid(), 9)
    ProfileStore(Path(cache)).compile_given([path])


def test_what_a_killed_writer_leaves_disturbs_nobody_and_goes_after_an_hour(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    path = put(tmp_path, "vmlinux", KERNEL)
    process = start("die_before_it_is_in_place", cache, path)
    process.communicate(timeout=SECONDS)
    assert process.returncode == -9
    (leftover,) = cache.iterdir()
    assert leftover.name.startswith(f".{BUILD_ID}.profile.")
    began = time.monotonic()
    ProfileStore(cache).compile_given([path])
    assert time.monotonic() - began < profiles._LOCK_TRIES * profiles._LOCK_PAUSE_SECONDS
    assert main(["symbols", "gc", "--profiles", str(cache)]) == 0
    assert leftover.exists()
    age(leftover, 1 / 23)
    assert main(["symbols", "gc", "--profiles", str(cache)]) == 0
    assert f"{leftover.name}  left by an interrupted writer" in capsys.readouterr().out
    assert sorted(os.listdir(cache)) == [f"{BUILD_ID}.profile", "index.json"]


def test_writers_killed_at_random_moments_leave_nothing_damaged(tmp_path: Path) -> None:
    kernels, cache = tmp_path / "kernels", tmp_path / "cache"
    put_kernels(kernels, *names_of(BUILDS))
    moments = random.Random(SEED)
    for seed in range(KILLS):
        process = start("write_again_and_again", cache, kernels, seed)
        time.sleep(moments.uniform(0.25, 0.7))
        process.kill()
        process.communicate(timeout=SECONDS)
        for path in cache.glob("*.profile"):
            KernelProfile.open(path).verify()
            if moments.random() < 0.5:
                path.unlink()
        if (cache / "index.json").exists():
            json.loads((cache / "index.json").read_bytes())
    end_well([start("write_again_and_again", cache, kernels, KILLS)])
    assert len([cached for cached in command_symbols.examined(cache) if cached.state == "ok"]) == BUILDS


def test_a_profile_that_is_open_stays_readable_when_it_is_thrown_away(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    kernel = KERNEL.with_symbols(Symbol("panic", 0xC0000200))
    store = ProfileStore(cache)
    store.compile_given([put(tmp_path, "vmlinux", kernel)])
    wanted = WantedKernel(build_id=BUILD_ID)
    open_profile = store.find([], wanted).profile
    assert open_profile is not None
    assert main(["symbols", "gc", "--max-size", "0", "--profiles", str(cache)]) == 0
    assert os.listdir(cache) == ["index.json"]
    open_profile.verify()
    assert open_profile.address_of("panic") == 0xC0000200
    assert store.find([], wanted).profile is open_profile
    assert ProfileStore(cache).find([], wanted).profile is None


@pytest.mark.parametrize("state", ["damaged", "old"])
def test_what_a_writer_puts_in_place_after_it_was_judged_is_not_removed(tmp_path: Path, state: str) -> None:
    cache = ProfileCache(tmp_path)
    kernel = read_vmlinux(put(tmp_path, "vmlinux", KERNEL))
    cache.add(kernel)
    path = tmp_path / f"{BUILD_ID}.profile"
    if state == "damaged":
        damage(path)
    age(path, 3)
    (removal,) = command_symbols._removals(tmp_path, 2, None)
    assert cache.keep(compile_profile(replace(kernel, layouts=SymbolLayouts.BTF)))[1]
    assert not command_symbols._remove(removal)
    KernelProfile.open(path).verify()


def test_what_goes_while_it_is_looked_at_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ProfileStore(tmp_path / "cache").compile_given(put_kernels(tmp_path / "kernels", "vmlinux-a", "vmlinux-b"))
    turns = itertools.count()

    def going(opens: Callable[[Path], KernelProfile], path: Path) -> KernelProfile:
        if next(turns) == 0:
            path.unlink()
        return opens(path)

    opens = KernelProfile.open
    monkeypatch.setattr(KernelProfile, "open", lambda path: going(opens, path))
    assert [cached.build for cached in command_symbols.examined(tmp_path / "cache")] == [f"{1:040x}"]
    (removal,) = command_symbols._removals(tmp_path / "cache", None, 0)
    removal.path.unlink()
    assert not command_symbols._remove(removal)
