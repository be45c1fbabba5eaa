"""DWARF says where a struct keeps its members; a few compile units have all that is wanted."""

from io import BytesIO
from typing import Literal

import pytest
from elftools.elf.elffile import ELFFile

from crashbeam.vmcore.errors import SymbolError
from crashbeam.vmcore.symbols import dwarf
from crashbeam.vmcore.symbols.compiled import ARCHES, Arch
from crashbeam.vmcore.symbols.layouts import Field, StructLayout, WantedLayouts
from tests.builders import dwarf as tags
from tests.builders.dwarf import Dwarf, Entry, Unit, member
from tests.builders.vmlinux import Vmlinux

SCHED, CRASH = 0xC0000100, 0xC0000200
ADDRESSES = {"schedule": SCHED, "crash_save_cpu": CRASH}
WORD = Entry(tags.BASE, "unsigned int", size=4)


def read(
    *units: Unit, wanted: WantedLayouts, arch: Arch = "ppc32", version: Literal[4, 5] = 4, aranges: bool = True
) -> dict[str, StructLayout]:
    word_bytes, byte_order = ARCHES[arch]
    sections = Dwarf(byte_order, word_bytes, version).sections(units, aranges=aranges)
    elf = ELFFile(BytesIO(Vmlinux(arch, sections=sections).build()))
    return dwarf.read_layouts(elf, wanted, ADDRESSES)


def scheduler(*entries: Entry) -> Unit:
    return Unit("kernel/sched/core.c", SCHED, [WORD, *entries])


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("arch", ["ppc32", "ppc64", "ppc64le"])
def test_members_have_offsets_and_sizes(arch: Arch, version: Literal[4, 5]) -> None:
    pointer = Entry(tags.POINTER)
    rq = Entry(tags.STRUCT, "rq", size=64, children=[member("cpu", WORD, 4), member("curr", pointer, 8)])
    found = read(scheduler(pointer, rq), wanted={"rq": ("cpu", "curr", "idle")}, arch=arch, version=version)
    assert found == {"rq": StructLayout(64, {"cpu": Field(4, 4), "curr": Field(8, ARCHES[arch][0])})}


def test_anonymous_members_typedefs_arrays_and_dots() -> None:
    registers = Entry(tags.ARRAY, type=WORD, children=[Entry(tags.SUBRANGE, upper=31)])
    inner = Entry(tags.STRUCT, size=132, children=[member("gpr", registers, 0), member("nip", WORD, 128)])
    either = Entry(tags.UNION, size=132, children=[member("user_regs", inner, None), member("", inner, None)])
    constant = Entry(tags.CONST, type=either)
    named = Entry(tags.TYPEDEF, "regs_t", type=constant)
    pt_regs = Entry(tags.STRUCT, "pt_regs", size=140, children=[member("", named, 8)])
    found = read(
        scheduler(registers, inner, either, constant, named, pt_regs),
        wanted={"pt_regs": ("gpr", "nip", "user_regs.nip", "nip.x"), "regs_t": ("nip",)},
    )
    fields = {"gpr": Field(8, 128, 32), "nip": Field(136, 4), "user_regs.nip": Field(136, 4)}
    assert found == {
        "pt_regs": StructLayout(140, fields),
        "regs_t": StructLayout(132, {"nip": Field(128, 4)}),
    }


def test_arrays_with_counts_without_bounds_and_of_two_dimensions() -> None:
    table = Entry(tags.ARRAY, type=WORD, children=[Entry(tags.SUBRANGE, count=7), Entry(tags.SUBRANGE, count=2)])
    flexible = Entry(tags.ARRAY, type=WORD, children=[Entry(tags.SUBRANGE)])
    struct = Entry(tags.STRUCT, "module", size=56, children=[member("mem", table, 0), member("args", flexible, 56)])
    found = read(scheduler(table, flexible, struct), wanted={"module": ("mem", "args")})
    assert found["module"].fields == {"mem": Field(0, 56, 7), "args": Field(56, 0, 0)}


def test_bitfields_are_left_out_and_declarations_define_nothing() -> None:
    info = Entry(tags.STRUCT, "printk_info", size=8, children=[member("flags", WORD, 0, bits=5), member("id", WORD, 4)])
    declared = Entry(tags.STRUCT, "module", declaration=True)
    found = read(scheduler(info, declared), wanted={"printk_info": ("flags", "id"), "module": ()})
    assert found == {"printk_info": StructLayout(8, {"id": Field(4, 4)})}


def test_void_and_functions_have_no_size() -> None:
    void = Entry(tags.TYPEDEF, "nothing")
    function = Entry(tags.FUNCTION, "f")
    handler = Entry(tags.TYPEDEF, "handler_t", type=function)
    found = read(scheduler(void, function, handler), wanted={"nothing": ("x",), "handler_t": ()})
    assert found == {"nothing": StructLayout(0, {}), "handler_t": StructLayout(0, {})}


def test_an_offset_may_be_an_expression_as_in_dwarf_2() -> None:
    struct = Entry(tags.STRUCT, "rq", size=512, children=[member("curr", WORD, b"\x23\x80\x03")])
    assert read(scheduler(struct), wanted={"rq": ("curr",)})["rq"].fields == {"curr": Field(384, 4)}


@pytest.mark.parametrize("expression", [b"", b"\x10\x04", b"\x23" + b"\x80" * 9])
def test_an_expression_that_is_no_offset_is_refused(expression: bytes) -> None:
    struct = Entry(tags.STRUCT, "rq", size=8, children=[member("curr", WORD, expression)])
    with pytest.raises(SymbolError, match="no offset"):
        read(scheduler(struct), wanted={"rq": ("curr",)})


@pytest.mark.parametrize("aranges", [True, False])
def test_units_are_found_by_address_or_else_by_name_and_the_first_definition_counts(aranges: bool) -> None:
    elsewhere = Unit("drivers/other.c", 0xC0000300, [Entry(tags.STRUCT, "rq", size=1)])
    crash = Unit(
        "src/kernel/crash_core.c",
        CRASH,
        [Entry(tags.STRUCT, "elf_prstatus", size=268), Entry(tags.STRUCT, "rq", size=2)],
    )
    core = Unit("src/kernel/sched/core.c", SCHED, [Entry(tags.STRUCT, "rq", size=3)])
    found = read(elsewhere, crash, core, wanted={"rq": (), "elf_prstatus": (), "module": ()}, aranges=aranges)
    assert {name: layout.size for name, layout in found.items()} == {"rq": 3, "elf_prstatus": 268}


def test_no_more_units_are_read_than_needed() -> None:
    broken = Unit("kernel/crash_core.c", CRASH, [Entry(tags.TYPEDEF, "rq", type=Entry(tags.BASE))])
    assert read(scheduler(Entry(tags.STRUCT, "rq", size=3)), broken, wanted={"rq": ()})["rq"].size == 3


def test_a_file_without_dwarf_has_no_layouts() -> None:
    assert dwarf.read_layouts(ELFFile(BytesIO(Vmlinux().build())), {"rq": ()}, ADDRESSES) == {}


def test_a_typedef_of_itself_a_struct_in_itself_and_an_array_of_itself_are_refused() -> None:
    loop = Entry(tags.TYPEDEF, "loop")
    loop.type = loop
    with pytest.raises(SymbolError, match="leads nowhere"):
        read(scheduler(loop), wanted={"loop": ()})
    struct = Entry(tags.STRUCT, "rq", size=8)
    struct.children = [member("", struct, 0)]
    with pytest.raises(SymbolError, match="anonymous members too deeply"):
        read(scheduler(struct), wanted={"rq": ("curr",)})
    array = Entry(tags.ARRAY, children=[Entry(tags.SUBRANGE, count=1)])
    array.type = array
    with pytest.raises(SymbolError, match="arrays too deeply"):
        read(scheduler(array, Entry(tags.TYPEDEF, "note_buf_t", type=array)), wanted={"note_buf_t": ()})


def test_what_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    array = Entry(tags.ARRAY, type=WORD, children=[Entry(tags.SUBRANGE, count=2**30)])
    with pytest.raises(SymbolError, match="too large"):
        read(scheduler(array, Entry(tags.TYPEDEF, "note_buf_t", type=array)), wanted={"note_buf_t": ()})
    monkeypatch.setattr(dwarf, "_MAX_ENTRIES", 3)
    with pytest.raises(SymbolError, match="more entries"):
        read(scheduler(*[Entry(tags.BASE, "int", size=4)] * 4), wanted={"rq": ()})
    monkeypatch.setattr(dwarf, "_MAX_SECTION_BYTES", 16)
    with pytest.raises(SymbolError, match="larger"):
        read(scheduler(), wanted={"rq": ()})
