"""A vmlinux gives names, addresses, identity and layouts, for each PowerPC, packed or plain."""

import gzip
import lzma
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from crashbeam.schemas.codes import SymbolLayouts, SymbolNames
from crashbeam.vmcore.errors import SymbolError
from crashbeam.vmcore.symbols import compressed, vmlinux
from crashbeam.vmcore.symbols.compiled import ARCHES, Arch, CompiledKernel
from crashbeam.vmcore.symbols.file_kind import FileKind
from crashbeam.vmcore.symbols.identity import Identity, identify
from crashbeam.vmcore.symbols.vmlinux import read_vmlinux
from tests.builders.btf import Btf
from tests.builders.dwarf import BASE, STRUCT, Dwarf, Entry, Unit, member
from tests.builders.vmlinux import (
    BANNER,
    BUILD_ID,
    FILE,
    LOCAL,
    NO_TYPE,
    OBJECT,
    SECTION,
    WEAK,
    Symbol,
    Vmlinux,
)

ARCH = pytest.mark.parametrize("arch", ["ppc32", "ppc64", "ppc64le"])


def read(tmp_path: Path, kernel: Vmlinux) -> CompiledKernel:
    path = tmp_path / "vmlinux"
    path.write_bytes(kernel.build())
    return read_vmlinux(str(path))


@ARCH
def test_identity_text_and_variables(tmp_path: Path, arch: Arch) -> None:
    base = 0xC0000000 if arch == "ppc32" else 0xC000000000000000
    kernel = Vmlinux(arch, base).with_symbols(
        Symbol("schedule", base + 0x100),
        Symbol("start_kernel", base + 0x10020, ".init.text"),
        Symbol("crash_notes", base + 0x40010, ".data", OBJECT),
        Symbol("not_wanted", base + 0x40020, ".data", OBJECT),
    )
    found = read(tmp_path, kernel)
    assert (found.build_id, found.banner, found.release, found.arch) == (BUILD_ID, BANNER, "6.12.0-test", arch)
    assert found.text_ranges == ((base, base + 0x8000), (base + 0x10000, base + 0x11000))
    assert found.text == [
        (base, "_stext"),
        (base + 0x100, "schedule"),
        (base + 0x10000, "_sinittext"),
        (base + 0x10020, "start_kernel"),
    ]
    assert found.variables["crash_notes"] == base + 0x40010
    assert "not_wanted" not in found.variables
    assert (found.names, found.layouts) == (SymbolNames.VMLINUX, SymbolLayouts.NONE)


def test_labels_without_a_type_are_names_but_not_those_of_assembler_sections_and_files(tmp_path: Path) -> None:
    base = 0xC0000000
    kernel = Vmlinux().with_symbols(
        Symbol("Decrementer", base + 0x10, kind=NO_TYPE, binding=LOCAL),
        Symbol(".Llocal", base + 0x20, kind=NO_TYPE, binding=LOCAL),
        Symbol("$d", base + 0x24, kind=NO_TYPE, binding=LOCAL),
        Symbol(".text", base + 0x28, kind=SECTION, binding=LOCAL),
        Symbol("head.o", base + 0x2C, kind=FILE, binding=LOCAL),
        Symbol("", base + 0x30),
        Symbol("undefined", base + 0x34, section="none"),
        Symbol("beyond", base + 0x9000),
    )
    assert [name for _, name in read(tmp_path, kernel).text] == ["_stext", "Decrementer", "_sinittext"]


def test_an_elfv1_function_is_named_by_its_code_not_its_descriptor(tmp_path: Path) -> None:
    base = 0xC000000000000000
    kernel = Vmlinux("ppc64", base).with_symbols(
        Symbol(".LZ4_decompress", base + 0x40),
        Symbol(".schedule", base + 0x100),
        Symbol("schedule", base + 0x40000, ".data"),
    )
    assert read(tmp_path, kernel).text[1:3] == [(base + 0x40, "LZ4_decompress"), (base + 0x100, "schedule")]


def test_a_weak_alias_gives_way(tmp_path: Path) -> None:
    at = 0xC0000100
    kernel = Vmlinux().with_symbols(Symbol("compat_sys_fork", at, binding=WEAK), Symbol("sys_ni_syscall", at))
    assert (at, "sys_ni_syscall") in read(tmp_path, kernel).text


def test_a_wanted_name_that_two_files_have_for_themselves_means_neither(tmp_path: Path) -> None:
    data = 0xC0040000
    kernel = Vmlinux().with_symbols(
        Symbol("modules", data, ".data", OBJECT, LOCAL),
        Symbol("modules", data + 8, ".data", OBJECT, LOCAL),
        Symbol("prb", data + 16, ".data", OBJECT, LOCAL),
        Symbol("rtas", data + 24, ".data", OBJECT, LOCAL),
        Symbol("rtas", data + 32, ".data", OBJECT),
    )
    variables = read(tmp_path, kernel).variables
    assert (variables.get("modules"), variables["prb"], variables["rtas"]) == (None, data + 16, data + 32)


@pytest.mark.parametrize("with_dwarf", [False, True])
def test_layouts_come_from_dwarf_and_what_it_lacks_from_btf(tmp_path: Path, with_dwarf: bool) -> None:
    blob = Btf()
    word = blob.integer("int", 4)
    blob.struct("rq", 99, [("curr", word, 64)])
    blob.struct("thread_union", 8192, [])
    sections = {".BTF": blob.build()}
    if with_dwarf:
        number = Entry(BASE, "int", size=4)
        rq = Entry(STRUCT, "rq", size=64, children=[member("curr", number, 8)])
        unit = Unit("kernel/sched/core.c", 0xC0000100, [number, rq])
        sections |= Dwarf("big", 4).sections([unit])
    found = read(tmp_path, Vmlinux(symbols=[Symbol("schedule", 0xC0000100)], sections=sections))
    assert found.layouts is (SymbolLayouts.DWARF if with_dwarf else SymbolLayouts.BTF)
    assert found.structs["rq"].size == (64 if with_dwarf else 99)
    assert found.structs["rq"].fields["curr"].offset == 8
    assert found.structs["thread_union"].size == 8192


def test_btf_that_defines_nothing_wanted_is_no_source(tmp_path: Path) -> None:
    assert read(tmp_path, Vmlinux(sections={".BTF": Btf().build()})).layouts is SymbolLayouts.NONE


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [("xz", lzma.compress), ("gz", gzip.compress), ("zst", zstandard.ZstdCompressor().compress)],
)
def test_a_packed_vmlinux_reads_as_a_plain_one(tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]) -> None:
    kernel = Vmlinux().with_symbols(Symbol("schedule", 0xC0000100))
    path = tmp_path / f"vmlinux.{suffix}"
    path.write_bytes(pack(kernel.build()))
    assert read_vmlinux(str(path)) == read(tmp_path, kernel)
    assert identify(str(path)) == Identity(FileKind.VMLINUX, BUILD_ID, BANNER)


def test_a_kernel_without_build_id_or_banner_says_so(tmp_path: Path) -> None:
    found = read(tmp_path, Vmlinux(build_id=None, banner=None))
    assert (found.build_id, found.banner, found.release) == (None, None, None)
    assert identify(str(tmp_path / "vmlinux")) == Identity(FileKind.VMLINUX)


def test_a_banner_that_is_something_else_is_none(tmp_path: Path) -> None:
    assert read(tmp_path, Vmlinux(banner="Windows")).banner is None


def test_a_file_of_debug_information_alone_has_no_banner(tmp_path: Path) -> None:
    kernel = Vmlinux(banner=None).with_symbols(Symbol("linux_banner", 0xC0040000, ".data", OBJECT))
    assert read(tmp_path, kernel).banner is None


@ARCH
def test_the_first_bytes_identify_a_kernel(tmp_path: Path, arch: Arch) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(Vmlinux(arch).build())
    assert identify(str(path)) == Identity(FileKind.VMLINUX, BUILD_ID, BANNER)


def test_the_banner_that_was_made_before_the_last_link_identifies_nothing(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    early = b"Linux version 6.12.0-test (builder@host) (gcc 12.2.0) # SMP \n\0"
    path.write_bytes(Vmlinux(banner=None, sections={".early": early}).build())
    assert identify(str(path)) == Identity(FileKind.VMLINUX, BUILD_ID, None)


def test_without_program_headers_the_banner_identifies(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(Vmlinux(has_program_headers=False).build())
    assert identify(str(path)) == Identity(FileKind.VMLINUX, None, BANNER)


@pytest.mark.parametrize("content", [b"", b"KDUMP   ", b"\x7fELF", Vmlinux(elf_type=1).build(), b"x" * 8192])
def test_other_files_are_other(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert identify(str(path)) == Identity(FileKind.OTHER)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (Vmlinux(has_symtab=False), "stripped"),
        (Vmlinux(text_bounds=False), "_stext"),
        (Vmlinux(text_bounds=False, symbols=[Symbol("_stext", 0xC0000000)]), "_stext"),
        (Vmlinux(elf_type=1), "no vmlinux for PowerPC"),
    ],
)
def test_what_is_no_whole_kernel_is_refused(tmp_path: Path, kernel: Vmlinux, message: str) -> None:
    with pytest.raises(SymbolError, match=message):
        read(tmp_path, kernel)


def test_damage_is_refused_with_a_reason_wherever_it_is(tmp_path: Path) -> None:
    number = Entry(BASE, "int", size=4)
    unit = Unit("kernel/sched/core.c", 0xC0000100, [number, Entry(STRUCT, "rq", size=8)])
    sections = Dwarf("big", 4).sections([unit])
    whole = Vmlinux(symbols=[Symbol("schedule", 0xC0000100)], sections=sections).build()
    path = tmp_path / "vmlinux"
    refused = 0
    for place in range(0, len(whole), 151):
        data = bytearray(whole)
        data[place : place + 4] = b"\xff\xff\xff\xff"
        path.write_bytes(data)
        try:
            read_vmlinux(str(path))
        except SymbolError:
            refused += 1
    assert refused > 3


def test_a_symbol_table_that_is_larger_than_any_kernels_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vmlinux, "_MAX_SYMTAB_BYTES", 16)
    with pytest.raises(SymbolError, match="larger"):
        read(tmp_path, Vmlinux())


def test_what_unpacks_to_more_than_a_kernel_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "vmlinux.xz"
    path.write_bytes(lzma.compress(bytes(5000)))
    monkeypatch.setattr(compressed, "MAX_UNPACKED_BYTES", 4999)
    with pytest.raises(SymbolError, match="more than a kernel"):
        read_vmlinux(str(path))


def test_a_packed_file_that_was_cut_off_or_is_missing_cannot_be_read(tmp_path: Path) -> None:
    for name, packed in (("a.xz", lzma.compress(bytes(5000))), ("a.gz", gzip.compress(bytes(5000)))):
        path = tmp_path / name
        path.write_bytes(packed[:-9])
        with pytest.raises(SymbolError, match="cannot be read"):
            read_vmlinux(str(path))
    with pytest.raises(SymbolError, match="No such file"):
        read_vmlinux(str(tmp_path / "missing"))


def test_every_architecture_has_a_word_size_and_a_byte_order() -> None:
    assert ARCHES == {"ppc32": (4, "big"), "ppc64": (8, "big"), "ppc64le": (8, "little")}


def test_a_vmlinux_that_there_is_no_room_to_unpack_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that may write no files: what is kept in memory goes on, what would be written does not."""

    def full(*_: object) -> int:
        raise OSError(27, "File too large")

    path = tmp_path / "vmlinux.xz"
    path.write_bytes(lzma.compress(Vmlinux().build()))
    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "write", full)
    with pytest.raises(SymbolError, match="unpacked: File too large"):
        read_vmlinux(str(path))
