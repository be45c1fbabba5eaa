"""A kernel profile answers for addresses, names and layouts as the kernel does."""

import itertools
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from crashbeam.schemas.codes import SymbolLayouts, SymbolNames
from crashbeam.vmcore.symbols import profile as profiles
from crashbeam.vmcore.symbols.compiled import ARCHES, Arch, CompiledKernel, name_text
from crashbeam.vmcore.symbols.layouts import Field, StructLayout
from crashbeam.vmcore.symbols.profile import KernelProfile, TextSymbol, compile_profile, write_profile
from tests.builders.vmlinux import BANNER, BUILD_ID

BASE = 0xC0000000
KERNEL = CompiledKernel(
    build_id=BUILD_ID,
    banner=BANNER,
    arch="ppc32",
    names=SymbolNames.VMLINUX,
    layouts=SymbolLayouts.BTF,
    text_ranges=((BASE, BASE + 0x8000), (BASE + 0x10000, BASE + 0x11000)),
    text=[
        (BASE + 0x10, "Decrementer"),
        (BASE + 0x100, "schedule"),
        (BASE + 0x180, "show"),
        (BASE + 0x200, "show"),
        (BASE + 0x10020, "start_kernel"),
    ],
    variables={"crash_notes": BASE + 0x40000, "schedule_variable": 4},
    structs={
        "rq": StructLayout(64, {"curr": Field(8, 4), "gpr": Field(16, 128, 32)}),
        "note_buf_t": StructLayout(300, {}),
    },
)


def opened(kernel: CompiledKernel = KERNEL) -> KernelProfile:
    return KernelProfile(compile_profile(kernel))


@pytest.mark.parametrize(
    ("address", "symbol"),
    [
        (BASE + 0x100, TextSymbol("schedule", BASE + 0x100, BASE + 0x180)),
        (BASE + 0x17F, TextSymbol("schedule", BASE + 0x100, BASE + 0x180)),
        (BASE + 0x180, TextSymbol("show", BASE + 0x180, BASE + 0x200)),
        (BASE + 0x7FFF, TextSymbol("show", BASE + 0x200, BASE + 0x8000)),
        (BASE + 0x10020, TextSymbol("start_kernel", BASE + 0x10020, BASE + 0x11000)),
        (BASE + 0xF, None),
        (BASE - 1, None),
        (BASE + 0x8000, None),
        (BASE + 0x10000, None),
        (BASE + 0x1001F, None),
        (BASE + 0x11000, None),
        (0, None),
    ],
)
def test_a_symbol_reaches_to_the_next_one_or_to_the_end_of_its_text(address: int, symbol: TextSymbol | None) -> None:
    profile = opened()
    assert profile.symbol_at(address) == symbol
    assert profile.symbol_at(address) == symbol


def test_few_symbols_are_kept_but_all_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "_KEPT_SYMBOLS", 2)
    profile = opened()
    names = [symbol.name for address, _ in KERNEL.text if (symbol := profile.symbol_at(address))]
    assert names == [name for _, name in KERNEL.text]


def test_addresses_by_name() -> None:
    profile = opened()
    assert profile.address_of("crash_notes") == BASE + 0x40000
    assert profile.address_of("start_kernel") == BASE + 0x10020
    assert profile.address_of("show") == BASE + 0x180
    assert profile.address_of("sched") is None
    assert profile.address_of("zzz") is None
    assert dict(profile.variables) == KERNEL.variables


def test_layouts_by_name() -> None:
    profile = opened()
    assert profile.size_of("rq") == 64
    assert profile.size_of("note_buf_t") == 300
    assert profile.size_of("module") is None
    assert profile.field("rq", "curr") == Field(8, 4)
    assert profile.field("rq", "gpr") == Field(16, 128, 32)
    assert profile.field("rq", "idle") is None
    assert profile.field("module", "name") is None


def test_what_the_kernel_is() -> None:
    profile = opened()
    assert (profile.build_id, profile.banner, profile.release) == (BUILD_ID, BANNER, "6.12.0-test")
    assert (profile.arch, profile.word_bytes, profile.byte_order) == ("ppc32", 4, "big")
    assert (profile.names, profile.layouts, profile.lines) == (SymbolNames.VMLINUX, SymbolLayouts.BTF, False)
    assert profile.text_ranges == KERNEL.text_ranges


@pytest.mark.parametrize("arch", ["ppc64", "ppc64le"])
def test_64_bit_addresses(arch: Arch) -> None:
    high = 0xC000000000000000
    kernel = replace(KERNEL, arch=arch, text_ranges=((high, high + 64),), text=[(high + 8, "a")], variables={"b": high})
    profile = opened(kernel)
    assert profile.symbol_at(high + 63) == TextSymbol("a", high + 8, high + 64)
    assert profile.address_of("b") == high
    assert (profile.word_bytes, profile.byte_order) == ARCHES[arch]


def test_a_kernel_without_any_names_has_no_symbols() -> None:
    profile = opened(replace(KERNEL, text=[], build_id=None, banner=None))
    assert profile.symbol_at(BASE + 0x100) is None
    assert profile.address_of("schedule") is None
    assert profile.release is None


def test_profiles_are_the_same_whoever_makes_them_and_whatever_the_order() -> None:
    shuffled = replace(
        KERNEL,
        variables=dict(reversed(list(KERNEL.variables.items()))),
        structs=dict(reversed(list(KERNEL.structs.items()))),
    )
    assert compile_profile(shuffled) == compile_profile(KERNEL)
    assert opened().digest == opened(shuffled).digest
    assert opened().digest != opened(replace(KERNEL, variables={})).digest


def test_a_big_endian_host_reads_and_writes_the_same_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """On this host the swapped arrays hold swapped numbers; read back the same way they are whole again."""
    monkeypatch.setattr(sys, "byteorder", "big")
    data = compile_profile(KERNEL)
    profile = KernelProfile(data)
    assert profile.symbol_at(BASE + 0x150) == TextSymbol("schedule", BASE + 0x100, BASE + 0x180)
    assert profile.address_of("start_kernel") == BASE + 0x10020


def test_a_profile_in_a_file_is_mapped(tmp_path: Path) -> None:
    path = tmp_path / "kernel.profile"
    write_profile(path, compile_profile(KERNEL))
    profile = KernelProfile.open(path)
    assert profile.name == str(path)
    assert profile.symbol_at(BASE + 0x100) == TextSymbol("schedule", BASE + 0x100, BASE + 0x180)
    assert [entry.name for entry in tmp_path.iterdir()] == ["kernel.profile"]


def test_richness_goes_by_names_then_layouts_then_amount() -> None:
    ordered = [
        replace(KERNEL, names=SymbolNames.SYSTEM_MAP, layouts=SymbolLayouts.NONE),
        replace(KERNEL, layouts=SymbolLayouts.NONE),
        replace(KERNEL, variables={}),
        replace(KERNEL, structs={}),
        KERNEL,
        replace(KERNEL, layouts=SymbolLayouts.DWARF, text=[]),
    ]
    richness = [opened(kernel).richness for kernel in ordered]
    assert richness == sorted(richness)
    assert len(set(richness)) == len(richness)


def test_a_profile_made_before_more_was_wanted_is_poorer(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(profiles, "_TABLES", "of an older version")
        old = compile_profile(replace(KERNEL, layouts=SymbolLayouts.DWARF))
    assert KernelProfile(old).richness < opened().richness


@given(st.lists(st.tuples(st.integers(0, 4000), st.text(max_size=6)), max_size=40), st.integers(-10, 4100))
def test_every_address_finds_the_last_symbol_at_or_below_it(symbols: list[tuple[int, str]], address: int) -> None:
    ranges = ((0, 1000), (2000, 3000))
    text = name_text(((at, name, False) for at, name in symbols), ranges)
    profile = opened(replace(KERNEL, text=text, text_ranges=ranges))
    within = next((bounds for bounds in ranges if bounds[0] <= address < bounds[1]), None)
    below = [at for at, _ in text if within and within[0] <= at <= address]
    found = profile.symbol_at(address)
    assert (found.start if found else None) == (max(below) if below else None)
    if found and within:
        assert found.end == min(itertools.chain((at for at, _ in text if at > address), (within[1],)))
