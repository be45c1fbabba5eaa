"""A System.map gives names and addresses, and the same names as the vmlinux that it was made of."""

import lzma
from pathlib import Path

import pytest

from crashbeam.schemas.codes import SymbolLayouts, SymbolNames
from crashbeam.vmcore.errors import SymbolError
from crashbeam.vmcore.symbols import system_map
from crashbeam.vmcore.symbols.file_kind import FileKind
from crashbeam.vmcore.symbols.identity import Identity, identify
from crashbeam.vmcore.symbols.system_map import read_system_map
from crashbeam.vmcore.symbols.vmlinux import read_vmlinux

LINES = """\
c0000000 T _stext
c0000000 T _text
c0000010 t Decrementer
c0000020 t .Llocal
c0000100 T schedule
c0000180 W compat_sys_fork
c0000180 T sys_ni_syscall
c0008000 T _etext
c0008010 D schedule_in_data
c0010000 T _sinittext
c0010020 T start_kernel
c0011000 T _einittext
c0020000 R linux_banner
c0040000 b prb
c0040010 b modules
c0040020 b modules
c0040030 d rtas
c0040040 B rtas
"""


def written(tmp_path: Path, text: str, name: str = "System.map") -> str:
    path = tmp_path / name
    path.write_bytes(text.encode())
    return str(path)


def test_names_addresses_and_ranges(tmp_path: Path) -> None:
    kernel = read_system_map(written(tmp_path, LINES))
    assert kernel.text == [
        (0xC0000000, "_stext"),
        (0xC0000010, "Decrementer"),
        (0xC0000100, "schedule"),
        (0xC0000180, "sys_ni_syscall"),
        (0xC0010000, "_sinittext"),
        (0xC0010020, "start_kernel"),
    ]
    assert kernel.text_ranges == ((0xC0000000, 0xC0008000), (0xC0010000, 0xC0011000))
    assert (kernel.arch, kernel.build_id, kernel.banner) == ("ppc32", None, None)
    assert (kernel.names, kernel.layouts, kernel.structs) == (SymbolNames.SYSTEM_MAP, SymbolLayouts.NONE, {})


def test_a_global_variable_goes_before_static_ones_and_two_static_ones_mean_neither(tmp_path: Path) -> None:
    variables = read_system_map(written(tmp_path, LINES)).variables
    assert (variables["linux_banner"], variables["prb"], variables["rtas"]) == (0xC0020000, 0xC0040000, 0xC0040040)
    assert "modules" not in variables


def test_64_bit_addresses_and_elfv1_names(tmp_path: Path) -> None:
    text = "".join(
        f"c0000000{line}\n"
        for line in ("00000000 T _stext", "00000100 T .schedule", "00008000 T _etext", "00009000 D schedule")
    )
    kernel = read_system_map(written(tmp_path, text))
    assert kernel.arch == "ppc64"
    assert kernel.text == [(0xC000000000000000, "_stext"), (0xC000000000000100, "schedule")]


def test_a_packed_map_reads_as_a_plain_one(tmp_path: Path) -> None:
    path = tmp_path / "System.map.xz"
    path.write_bytes(lzma.compress(LINES.encode()))
    assert read_system_map(str(path)) == read_system_map(written(tmp_path, LINES))
    assert identify(str(path)) == Identity(FileKind.SYSTEM_MAP)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LINES + "\n", "line 19"),
        (LINES.replace("c0000100", "schedule"), "line 5"),
        (LINES + "c0050000 B", "line 19"),
        ("c0000000 T _start\n", "_stext"),
        ("", "_stext"),
    ],
)
def test_what_is_no_system_map_of_a_kernel_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SymbolError, match=message):
        read_system_map(written(tmp_path, text))


def test_a_map_that_is_larger_than_any_kernels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_map, "MAX_SYSTEM_MAP_BYTES", 100)
    with pytest.raises(SymbolError, match="larger"):
        read_system_map(written(tmp_path, LINES))


@pytest.mark.corpus
@pytest.mark.parametrize(
    ("vmlinux", "name"),
    [
        ("vmlinux-e500-61-nodebug.zst", "System.map-e500-61.xz"),
        ("vmlinux-p64be-612-nodebug.zst", "System.map-p64be-612.xz"),
    ],
)
def test_a_real_map_names_every_address_as_its_vmlinux_does(corpus: Path, vmlinux: str, name: str) -> None:
    of_map = read_system_map(str(corpus / "kernels" / name))
    of_vmlinux = read_vmlinux(str(corpus / "kernels" / vmlinux))
    assert of_map.text == of_vmlinux.text
    assert of_map.variables == of_vmlinux.variables
    assert len(of_map.text) > 10_000
