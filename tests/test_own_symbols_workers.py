"""What child processes make of dumps' own symbols, and how it comes into the cache that they may not write."""

from pathlib import Path

import orjson
import pytest
from msgspec.structs import replace

from crashbeam.pipeline.inputs import list_inputs
from crashbeam.schemas.codes import SymbolNames
from crashbeam.vmcore.errors import SymbolError
from crashbeam.vmcore.facts import AnalysisOptions
from crashbeam.vmcore.symbols.profile import KernelProfile, compile_profile
from crashbeam.vmcore.symbols.store import ProfileStore, WantedKernel, set_profile_hook
from crashbeam.workers.pool import PoolSettings, close_pools, record_lines
from tests.test_profile_lookup import KERNEL

BUILD_ID = "66072f3e585dd9876f885083341581061431c71a"


def test_a_process_that_may_not_write_hands_its_profile_over(tmp_path: Path) -> None:
    kernel = replace(KERNEL, names=SymbolNames.KALLSYMS)
    handed_over: list[bytes] = []
    set_profile_hook(handed_over.append)
    try:
        store = ProfileStore(tmp_path / "cache")
        profile = store.add(kernel)
        found = store.find((), WantedKernel(build_id=kernel.build_id))
    finally:
        set_profile_hook(None)
    assert handed_over == [compile_profile(kernel)]
    assert found.profile is profile
    assert list((tmp_path / "cache").iterdir()) == []
    ProfileStore(tmp_path / "cache").keep_from_dump(handed_over[0])
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"{kernel.build_id}.profile"]


@pytest.mark.parametrize("damage", ["cut", "changed", "claims a vmlinux"])
def test_what_is_handed_over_is_not_trusted(damage: str, tmp_path: Path) -> None:
    names = SymbolNames.VMLINUX if damage == "claims a vmlinux" else SymbolNames.KALLSYMS
    data = compile_profile(replace(KERNEL, names=names))
    if damage == "cut":
        data = data[:-8]
    elif damage == "changed":
        data = data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
    with pytest.raises(SymbolError):
        ProfileStore(tmp_path).keep_from_dump(data)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.corpus
def test_the_first_dump_of_a_build_fills_the_cache_for_all_children(corpus: Path, tmp_path: Path) -> None:
    inputs = list_inputs([str(corpus / "ppc64" / name / "vmcore.zlib") for name in ("be-null", "be-sysrq")]).inputs
    cache = tmp_path / "cache"
    settings = PoolSettings(workers=2, options=AnalysisOptions((), str(cache)))
    try:
        lines = [line for line in record_lines(inputs, settings, isolated=True) if line is not None]
    finally:
        close_pools()
    symbols = [orjson.loads(line)["kernel"]["symbols"] for line in lines]
    assert symbols == 2 * [{"names": "kallsyms", "layouts": "btf", "lines": False, "matched_by": "dump_itself"}]
    assert [path.name for path in cache.iterdir()] == [f"{BUILD_ID}.profile"]
    KernelProfile.open(cache / f"{BUILD_ID}.profile").verify()
