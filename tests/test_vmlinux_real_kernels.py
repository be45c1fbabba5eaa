"""Real kernels: what is known of them from their source and their dumps is what a profile says."""

import json
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from crashbeam.schemas.codes import SymbolLayouts
from crashbeam.vmcore.symbols import btf, dwarf
from crashbeam.vmcore.symbols.compressed import open_unpacked
from crashbeam.vmcore.symbols.file_kind import FileKind
from crashbeam.vmcore.symbols.identity import Identity, identify
from crashbeam.vmcore.symbols.layouts import LAYOUTS
from crashbeam.vmcore.symbols.profile import KernelProfile, compile_profile
from crashbeam.vmcore.symbols.vmlinux import read_vmlinux

pytestmark = pytest.mark.corpus

BUILD_IDS = {
    "vmlinux-e500-612.xz": "ad749de309526934bdff56fcf7a26f75ef32f43e",
    "vmlinux-e500-612-lostnote-nodebug.gz": "a67f7fd7248591b32da313af052ad09f765cac78",
    "vmlinux-e500-61-nodebug.zst": "b1bae08838d64df1abc8d16993549bc3c19993e9",
    "vmlinux-p64le-612.xz": "fc61c261b8f8de5fc6e350aad16665dd8f1a8a4d",
    "vmlinux-p64le-612-lostnote.xz": "a5798f8e2054768e3eb0723716f1f09e6e837b6b",
    "vmlinux-p64be-612-nodebug.zst": "66072f3e585dd9876f885083341581061431c71a",
}


def profile_of(corpus: Path, name: str) -> KernelProfile:
    return KernelProfile(compile_profile(read_vmlinux(str(corpus / "kernels" / name))))


@pytest.fixture(scope="module")
def lostnote(corpus: Path) -> KernelProfile:
    """The 32-bit kernel of the mailing-list case."""
    return profile_of(corpus, "vmlinux-e500-612-lostnote-nodebug.gz")


@pytest.mark.parametrize(("name", "build_id"), BUILD_IDS.items())
def test_each_kernel_is_identified_without_being_unpacked_whole(corpus: Path, name: str, build_id: str) -> None:
    found = identify(str(corpus / "kernels" / name))
    assert (found.kind, found.build_id) == (FileKind.VMLINUX, build_id)
    assert found.banner is not None
    assert found.banner.endswith("2026")


def test_files_beside_the_kernels_are_no_kernels(corpus: Path) -> None:
    assert identify(str(corpus / "kernels" / "crashlab-e500-61.ko.xz")) == Identity(FileKind.OTHER)
    assert identify(str(corpus / "kernels" / "config-e500-61")) == Identity(FileKind.OTHER)


def test_sizes_that_are_known_of_a_32_bit_kernel(lostnote: KernelProfile) -> None:
    names = ("pt_regs", "elf_prstatus", "note_buf_t", "pgd_t", "pte_t", "new_utsname")
    assert [lostnote.size_of(name) for name in names] == [224, 268, 300, 8, 8, 390]
    assert lostnote.layouts is SymbolLayouts.BTF


def test_labels_of_the_exception_vectors_are_names(lostnote: KernelProfile) -> None:
    for name in ("Decrementer", "ExternalInput", "Doorbell", "ret_from_syscall"):
        address = lostnote.address_of(name)
        assert address is not None
        symbol = lostnote.symbol_at(address)
        assert symbol is not None
        assert symbol.name == name


def test_a_64_bit_kernel_that_is_elfv1_has_names_without_dots(corpus: Path) -> None:
    profile = profile_of(corpus, "vmlinux-p64be-612-nodebug.zst")
    assert (profile.arch, profile.byte_order, profile.size_of("elf_prstatus")) == ("ppc64", "big", 504)
    address = profile.address_of("crash_save_cpu")
    assert address == 0xC000000000152EA8
    symbol = profile.symbol_at(address + 4)
    assert symbol is not None
    assert symbol.name == "crash_save_cpu"


def test_every_kernel_frame_of_the_known_stacks_has_its_name(corpus: Path, lostnote: KernelProfile) -> None:
    """Return addresses are looked up at the call, the others as they are; modules and user space are other tests'."""
    seen = 0
    for truth in corpus.glob("ppc32/*lostnote*/truth.json"):
        for frame in _kernel_frames(json.loads(truth.read_text())):
            address = int(frame["pc"], 16)
            found = {symbol.name for at in (address, address - 4) if (symbol := lostnote.symbol_at(at))}
            assert found & set(frame["fn"].split("|")), frame
            seen += 1
    assert seen > 50


def _kernel_frames(truth: dict[str, Any]) -> list[dict[str, Any]]:
    frames = [frame for cpu in truth["cpus"] for frame in cpu.get("frames") or []]
    return [frame for frame in frames if frame.get("fn", "(").isidentifier() or "|" in frame.get("fn", "")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vmlinux-e500-612.xz", "vmlinux-p64le-612.xz"])
def test_dwarf_and_btf_of_one_kernel_agree(corpus: Path, name: str) -> None:
    with open_unpacked(str(corpus / "kernels" / name)) as stream:
        elf = ELFFile(stream)
        section, table = elf.get_section_by_name(".BTF"), elf.get_section_by_name(".symtab")
        assert section is not None
        assert isinstance(table, SymbolTableSection)
        of_btf = btf.read_layouts(section.data(), LAYOUTS, elf.elfclass // 8)
        found = {function: table.get_symbol_by_name(function) for function in dwarf.UNITS}
        addresses = {function: symbols[0]["st_value"] for function, symbols in found.items() if symbols}
        of_dwarf = dwarf.read_layouts(elf, LAYOUTS, addresses)
    assert len(of_dwarf) > 25
    assert of_dwarf == {name: of_btf[name] for name in of_dwarf}
    assert of_btf.keys() - of_dwarf.keys() <= {"p4d_t"}
