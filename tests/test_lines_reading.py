"""Source lines and inlined calls come out of a vmlinux's DWARF as the compiler put them in."""

import base64
import contextlib
import json
import lzma
import struct
import zlib
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Literal

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given
from hypothesis import strategies as st

from crashbeam.schemas.crash_report import Inlined, SourceLine
from crashbeam.vmcore.errors import SymbolError
from crashbeam.vmcore.symbols.compiled import ARCHES, Arch
from crashbeam.vmcore.symbols.line_table import LineTable
from crashbeam.vmcore.symbols.lines import read_lines
from crashbeam.vmcore.symbols.profile import KernelProfile, compile_profile
from crashbeam.vmcore.symbols.vmlinux import read_vmlinux
from tests.builders.dwarf import (
    BLOCK,
    FUNCTION,
    INLINED,
    STRUCT,
    VARIABLE,
    Dwarf,
    Entry,
    LineProgram,
    Rows,
    Unit,
    member,
)
from tests.builders.vmlinux import Symbol, Vmlinux

BASE = 0xC0000000
SOURCE, BUILD = "/home/jo/linux", "/home/jo/build"
MAIN = Unit(f"{SOURCE}/init/main.c", BASE, (), BUILD, 0)
FOLDERS = (f"{SOURCE}/kernel", f"{SOURCE}/include/linux", "include/generated", "/opt/gcc/include", ".")
FILES = ((1, "panic.c"), (2, "list.h"), (3, "bounds.h"), (4, "stddef.h"), (5, "../local.c"))
PANIC, LIST, BOUNDS, STDDEF, LOCAL = "kernel/panic.c", "include/linux/list.h", "include/generated/bounds.h", 4, 5
ROWS = Rows(
    [
        (BASE + 0x100, 1, 10),
        (BASE + 0x104, 1, 12),
        (BASE + 0x108, 2, 500),
        (BASE + 0x10C, 3, 3),
        (BASE + 0x190, 1, 11),
        (BASE + 0x194, 4, 77),
        (BASE + 0x198, 5, 7),
    ],
    BASE + 0x1A0,
)

Version = Literal[2, 3, 4, 5]


def program(version: Version, sequences: Sequence[Rows], *, has_digests: bool = False) -> LineProgram:
    """The same folders and files in each version: DWARF 5 begins to count at the unit's folder and file."""
    if version < 5:
        return LineProgram(FOLDERS, FILES, sequences, version)
    return LineProgram((BUILD, *FOLDERS), ((1, "unit.c"), *FILES), sequences, version, has_digests)


def vmlinux(
    sequences: Sequence[Rows] = (ROWS,),
    entries: Sequence[Entry] = (),
    *,
    version: Version = 4,
    arch: Arch = "ppc32",
    has_digests: bool = False,
) -> Vmlinux:
    word_bytes, byte_order = ARCHES[arch]
    dwarf = Dwarf(byte_order, word_bytes, 5 if version == 5 else 4)
    sections = dwarf.sections([replace(MAIN, entries=entries)])
    lines = program(version, sequences, has_digests=has_digests).write(byte_order, word_bytes)
    return Vmlinux(arch, symbols=(Symbol("panic", BASE + 0x100),), sections=sections | {".debug_line": lines})


def opened(folder: Path, kernel: Vmlinux | bytes) -> KernelProfile:
    path = folder / "vmlinux"
    path.write_bytes(kernel if isinstance(kernel, bytes) else kernel.build())
    return KernelProfile(compile_profile(read_vmlinux(str(path))))


def place(profile: KernelProfile, offset: int) -> tuple[str, int] | None:
    source = profile.source_at(BASE + offset)
    return None if source is None else (source.file, source.line)


@pytest.mark.parametrize("version", [2, 3, 4, 5])
@pytest.mark.parametrize("arch", ["ppc32", "ppc64", "ppc64le"])
def test_each_instruction_has_the_line_of_the_last_row_before_it(tmp_path: Path, version: Version, arch: Arch) -> None:
    profile = opened(tmp_path, vmlinux(version=version, arch=arch))
    assert profile.lines
    assert place(profile, 0x100) == (PANIC, 10)
    assert place(profile, 0x104) == (PANIC, 12)
    assert place(profile, 0x108) == (LIST, 500)
    assert place(profile, 0x10C) == place(profile, 0x18C) == (BOUNDS, 3)
    assert place(profile, 0x190) == (PANIC, 11)


def test_code_that_no_row_covers_has_no_line(tmp_path: Path) -> None:
    profile = opened(tmp_path, vmlinux())
    assert place(profile, 0x19C) is not None
    for offset in (-4, 0, 0xFC, 0x1A0, 0x1A4, 0x7FFC, 0x8000, 0x10000, 0x20000):
        assert place(profile, offset) is None


def test_files_are_named_from_the_top_of_the_source_or_of_the_build(tmp_path: Path) -> None:
    """The source is where ``init/main.c`` is; what lies elsewhere keeps its path."""
    profile = opened(tmp_path, vmlinux())
    assert place(profile, 0x108) == ("include/linux/list.h", 500)
    assert place(profile, 0x10C) == ("include/generated/bounds.h", 3)
    assert place(profile, 0x194) == ("/opt/gcc/include/stddef.h", 77)
    assert place(profile, 0x198) == ("/home/jo/local.c", 7)


def test_files_of_dwarf_5_may_have_digests(tmp_path: Path) -> None:
    profile = opened(tmp_path, vmlinux(version=5, has_digests=True))
    assert place(profile, 0x108) == (LIST, 500)
    assert place(profile, 0x10C) == (BOUNDS, 3)


def test_of_several_rows_at_one_address_the_last_one_counts(tmp_path: Path) -> None:
    rows = [(BASE + 0x100, 1, 10), (BASE + 0x104, 1, 11), (BASE + 0x104, 2, 12), (BASE + 0x104, 1, 13)]
    profile = opened(tmp_path, vmlinux([Rows(rows, BASE + 0x110)]))
    assert place(profile, 0x104) == (PANIC, 13)


def test_a_row_where_its_sequence_ends_covers_nothing(tmp_path: Path) -> None:
    """GCC ends functions so that the linker then pads; what is there may be another function's."""
    ends_early = Rows([(BASE + 0x100, 1, 10), (BASE + 0x110, 1, 20)], BASE + 0x110)
    following = Rows([(BASE + 0x120, 1, 30)], BASE + 0x130)
    profile = opened(tmp_path, vmlinux([ends_early, following]))
    assert place(profile, 0x10C) == (PANIC, 10)
    assert place(profile, 0x110) is None
    assert place(profile, 0x11C) is None
    assert place(profile, 0x120) == (PANIC, 30)


def test_a_sequence_may_begin_where_another_ends_in_any_order(tmp_path: Path) -> None:
    first, second = Rows([(BASE + 0x100, 1, 10)], BASE + 0x110), Rows([(BASE + 0x110, 1, 20)], BASE + 0x120)
    for sequences in ([first, second], [second, first]):
        profile = opened(tmp_path, vmlinux(sequences))
        assert (place(profile, 0x10C), place(profile, 0x110)) == ((PANIC, 10), (PANIC, 20))
        assert place(profile, 0x120) is None


def test_functions_that_the_linker_dropped_are_left_out(tmp_path: Path) -> None:
    """Their rows begin at address 0."""
    profile = opened(tmp_path, vmlinux([Rows([(0, 1, 10)], 0x100), ROWS, Rows([(BASE - 8, 1, 99)], BASE + 8)]))
    assert place(profile, 0x100) == (PANIC, 10)
    assert place(profile, 0) is None


def test_line_0_is_no_line(tmp_path: Path) -> None:
    rows = [(BASE + 0x100, 1, 10), (BASE + 0x104, 1, 0), (BASE + 0x108, 1, 11)]
    profile = opened(tmp_path, vmlinux([Rows(rows, BASE + 0x110)]))
    assert [place(profile, offset) for offset in (0x100, 0x104, 0x108)] == [(PANIC, 10), None, (PANIC, 11)]


def code(*entries: Entry) -> Entry:
    """A function with code at BASE + 0x100."""
    return Entry(FUNCTION, "panic", at=((BASE + 0x100, BASE + 0x1A0),), has_sibling=True, children=entries)


def inlined(origin: Entry, at: Sequence[tuple[int, int]], call: tuple[int, int], *children: Entry) -> Entry:
    places = [(BASE + start, BASE + end) for start, end in at]
    return Entry(INLINED, origin=origin, at=places, call=call, has_sibling=True, children=children)


OUTER = Entry(FUNCTION, "list_add", is_inline=True, has_sibling=True, children=(Entry(VARIABLE, "entry"),))
INNER = Entry(FUNCTION, "__list_add", is_inline=True)
PAGE = Entry(STRUCT, size=8, has_sibling=True, children=(member("flags", None, 0),))


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("arch", ["ppc32", "ppc64", "ppc64le"])
def test_inlined_calls_from_the_innermost_outwards(tmp_path: Path, version: Version, arch: Arch) -> None:
    innermost = inlined(INNER, [(0x104, 0x108), (0x190, 0x194)], (2, 90))
    block = Entry(
        BLOCK, at=((BASE + 0x104, BASE + 0x110),), children=(Entry(VARIABLE, "x", location=b"\x91\x08"), innermost)
    )
    function = code(Entry(VARIABLE, "y"), inlined(OUTER, [(0x104, 0x110), (0x190, 0x194)], (1, 45), block))
    other = Entry(FUNCTION, "other", at=((BASE + 0x1A0, BASE + 0x1B0),))
    profile = opened(tmp_path, vmlinux(entries=(PAGE, OUTER, INNER, function, other), version=version, arch=arch))
    outer, inner = Inlined("list_add", PANIC, 45), Inlined("__list_add", LIST, 90)
    assert profile.source_at(BASE + 0x100) == SourceLine(PANIC, 10, ())
    assert profile.source_at(BASE + 0x104) == SourceLine(PANIC, 12, (inner, outer))
    assert profile.source_at(BASE + 0x108) == SourceLine(LIST, 500, (outer,))
    assert profile.source_at(BASE + 0x110) == SourceLine(BOUNDS, 3, ())
    assert profile.source_at(BASE + 0x190) == SourceLine(PANIC, 11, (inner, outer))


def test_a_call_reaches_into_the_middle_of_a_row(tmp_path: Path) -> None:
    profile = opened(tmp_path, vmlinux(entries=(OUTER, code(inlined(OUTER, [(0x110, 0x114)], (1, 45))))))
    assert [
        bool(source.inlined) for offset in (0x10C, 0x110, 0x114) if (source := profile.source_at(BASE + offset))
    ] == [
        False,
        True,
        False,
    ]


def test_the_name_of_a_call_may_lead_over_another_instance(tmp_path: Path) -> None:
    instance = Entry(FUNCTION, origin=OUTER, at=((BASE + 0x1A0, BASE + 0x1B0),))
    profile = opened(tmp_path, vmlinux(entries=(OUTER, instance, code(inlined(instance, [(0x104, 0x108)], (1, 45))))))
    source = profile.source_at(BASE + 0x104)
    assert source is not None
    assert source.inlined == (Inlined("list_add", PANIC, 45),)


def test_what_a_dropped_function_inlined_is_left_out(tmp_path: Path) -> None:
    dropped = Entry(FUNCTION, "dropped", at=((0, 0x100),), children=(inlined(OUTER, [(-BASE, 0x10 - BASE)], (1, 9)),))
    profile = opened(tmp_path, vmlinux(entries=(OUTER, dropped, code())))
    assert profile.source_at(BASE + 0x100) == SourceLine(PANIC, 10, ())


def test_entries_that_lead_back_are_refused(tmp_path: Path) -> None:
    kernel = vmlinux(entries=(PAGE,))
    info = bytearray(kernel.sections[".debug_info"])
    sibling_at = info.index(b"flags\0") - 1 - 4
    info[sibling_at : sibling_at + 4] = struct.pack(">I", 11)
    sections = {**kernel.sections, ".debug_info": bytes(info)}
    with pytest.raises(SymbolError, match="go round"):
        opened(tmp_path, replace(kernel, sections=sections))


@pytest.mark.parametrize("arch", ["ppc32", "ppc64le"])
def test_sections_may_be_compressed(tmp_path: Path, arch: Arch) -> None:
    kernel = vmlinux(entries=(OUTER, code(inlined(OUTER, [(0x104, 0x108)], (1, 45)))), arch=arch)
    assert opened(tmp_path, compressed(kernel)).source_at(BASE + 0x104) == opened(tmp_path, kernel).source_at(
        BASE + 0x104
    )


def compressed(kernel: Vmlinux) -> bytes:
    """The file with all its DWARF as SHF_COMPRESSED sections (0x800) of ELFCOMPRESS_ZLIB (1)."""
    wide, little = kernel.arch != "ppc32", kernel.arch == "ppc64le"
    order = "<" if little else ">"
    sections = {}
    for name, content in kernel.sections.items():
        header = (1, 0, len(content), 1) if wide else (1, len(content), 1)
        sections[name] = struct.pack(order + ("IIQQ" if wide else "III"), *header) + zlib.compress(content)
    data = bytearray(replace(kernel, sections=sections).build())
    elf = ELFFile(BytesIO(bytes(data)))
    for number, section in enumerate(elf.iter_sections()):
        if section.name.startswith(".debug"):
            at = elf["e_shoff"] + number * elf["e_shentsize"] + 8
            data[at : at + (8 if wide else 4)] = struct.pack(order + ("Q" if wide else "I"), 0x800)
    return bytes(data)


def test_a_kernel_without_line_tables_has_no_lines(tmp_path: Path) -> None:
    kernel = vmlinux()
    for missing in (".debug_line", ".debug_info"):
        sections = {name: content for name, content in kernel.sections.items() if name != missing}
        profile = opened(tmp_path, replace(kernel, sections=sections))
        assert not profile.lines
        assert profile.source_at(BASE + 0x100) is None


WHOLE = vmlinux(entries=(PAGE, OUTER, INNER, code(inlined(OUTER, [(0x104, 0x110)], (1, 45)))), version=5)


@given(st.sampled_from(sorted(WHOLE.sections)), st.integers(0, 400), st.integers(0, 255))
def test_any_changed_byte_of_dwarf_gives_a_profile_or_a_reason(
    tmp_path_factory: pytest.TempPathFactory, section: str, at: int, value: int
) -> None:
    content = bytearray(WHOLE.sections[section])
    if not content:
        return
    content[at % len(content)] = value
    kernel = replace(WHOLE, sections={**WHOLE.sections, section: bytes(content)})
    try:
        profile = opened(tmp_path_factory.getbasetemp(), kernel)
    except SymbolError:
        return
    for offset in range(0x100, 0x1A0, 4):
        profile.source_at(BASE + offset)


@given(st.sampled_from([".debug_line", ".debug_info", ".debug_abbrev", ".debug_rnglists"]), st.integers(0, 400))
def test_dwarf_that_was_cut_off_gives_a_profile_or_a_reason(
    tmp_path_factory: pytest.TempPathFactory, section: str, size: int
) -> None:
    kernel = replace(WHOLE, sections={**WHOLE.sections, section: WHOLE.sections[section][:size]})
    with contextlib.suppress(SymbolError):
        opened(tmp_path_factory.getbasetemp(), kernel)


@pytest.mark.parametrize("arch", ["ppc32", "ppc64le"])
def test_dwarf_5_of_clang_with_its_indexes_of_strings_addresses_and_ranges(arch: Arch) -> None:
    """A program of three inlined functions that clang 14 compiled: what llvm-addr2line says of each instruction."""
    golden = json.loads(lzma.decompress((Path(__file__).parent / "golden" / "clang-dwarf5.json.xz").read_bytes()))[arch]
    elf = ELFFile(BytesIO(base64.b64decode(golden["elf"])))
    text = elf.get_section_by_name(".text")
    assert text is not None
    lines = read_lines(elf, [(text["sh_addr"], text["sh_addr"] + text["sh_size"])])
    assert lines is not None
    table = LineTable(lines, "clang")
    assert len(golden["places"]) == text["sh_size"] // 4
    for number, places in enumerate(golden["places"]):
        source = table.source_at(number)
        if source is None:
            assert places == []
            continue
        assert [source.file, source.line] == places[0][1:]
        assert [call.function for call in source.inlined] == [function for function, *_ in places[:-1]]
        assert [[call.file, call.line] for call in source.inlined] == [place for _, *place in places[1:]]
