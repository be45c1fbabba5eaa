"""BTF says where a struct keeps its members, in the byte order of its kernel."""

from typing import Literal

import pytest

from crashbeam.vmcore.symbols.btf import read_layouts
from crashbeam.vmcore.symbols.layouts import Field, StructLayout, WantedLayouts
from tests.builders import btf as kinds
from tests.builders.btf import Btf

BOTH_ORDERS = pytest.mark.parametrize("byte_order", ["big", "little"])
ByteOrder = Literal["big", "little"]


def layouts_of(blob: Btf, wanted: WantedLayouts, word_bytes: int = 4) -> dict[str, StructLayout]:
    return read_layouts(blob.build(), wanted, word_bytes)


@BOTH_ORDERS
def test_members_have_offsets_and_sizes_in_bytes(byte_order: ByteOrder) -> None:
    blob = Btf(byte_order)
    word = blob.integer("unsigned int", 4)
    blob.struct("thread_info", 8, [("preempt_count", word, 0), ("cpu", word, 32)])
    assert layouts_of(blob, {"thread_info": ("cpu", "task")}) == {"thread_info": StructLayout(8, {"cpu": Field(4, 4)})}


@pytest.mark.parametrize("word_bytes", [4, 8])
def test_a_pointer_has_the_size_of_a_word(word_bytes: int) -> None:
    blob = Btf()
    blob.struct("rq", 16, [("curr", blob.pointer(), 64)])
    assert layouts_of(blob, {"rq": ("curr",)}, word_bytes)["rq"].fields["curr"] == Field(8, word_bytes)


def test_members_of_anonymous_structs_and_unions_count_as_the_structs_own() -> None:
    blob = Btf()
    word = blob.integer("unsigned long", 4)
    registers = blob.array(word, 32)
    user = blob.struct("", 132, [("gpr", registers, 0), ("nip", word, 128 * 8)])
    either = blob.struct("", 132, [("user_regs", user, 0), ("", user, 0)], kind=kinds.UNION)
    blob.struct("pt_regs", 140, [("before", word, 0), ("", either, 32)])
    assert layouts_of(blob, {"pt_regs": ("gpr", "nip", "user_regs")})["pt_regs"].fields == {
        "gpr": Field(4, 128, 32),
        "nip": Field(132, 4),
        "user_regs": Field(4, 132),
    }


def test_dots_lead_into_members_that_are_structs_but_not_through_pointers() -> None:
    blob = Btf()
    word = blob.integer("int", 4)
    thread_info = blob.struct("thread_info", 8, [("flags", word, 0), ("cpu", word, 32)])
    pointer = blob.pointer(thread_info)
    blob.struct("task_struct", 64, [("thread_info", thread_info, 16 * 8), ("old", pointer, 0)])
    found = layouts_of(blob, {"task_struct": ("thread_info.cpu", "old.cpu", "thread_info.cpu.x")})["task_struct"]
    assert found.fields == {"thread_info.cpu": Field(20, 4)}


@BOTH_ORDERS
def test_a_typedef_of_an_array_is_as_large_as_all_its_elements(byte_order: ByteOrder) -> None:
    blob = Btf(byte_order)
    word = blob.integer("u32", 4)
    u32 = blob.add(kinds.TYPEDEF, "__u32", word)
    blob.add(kinds.TYPEDEF, "note_buf_t", blob.array(blob.add(kinds.CONST, "", u32), 75))
    assert layouts_of(blob, {"note_buf_t": ()}) == {"note_buf_t": StructLayout(300, {})}


def test_arrays_of_arrays_count_the_outer_elements() -> None:
    blob = Btf()
    row = blob.array(blob.integer("char", 1), 10)
    blob.struct("table", 70, [("rows", blob.array(row, 7), 0), ("open", blob.array(row, 0), 560)])
    assert layouts_of(blob, {"table": ("rows", "open")})["table"].fields == {
        "rows": Field(0, 70, 7),
        "open": Field(70, 0, 0),
    }


def test_bitfields_have_no_place_of_their_own_but_their_neighbours_do() -> None:
    blob = Btf()
    byte = blob.integer("u8", 1)
    members = [("facility", byte, 18 * 8), ("flags", byte, 5 << 24 | 19 * 8), ("caller_id", byte, 20 * 8)]
    blob.struct("printk_info", 24, members, kflag=True)
    assert layouts_of(blob, {"printk_info": ("facility", "flags", "caller_id")})["printk_info"].fields == {
        "facility": Field(18, 1),
        "caller_id": Field(20, 1),
    }


def test_an_old_bitfield_between_bytes_is_left_out() -> None:
    blob = Btf()
    blob.struct("old", 4, [("bit", blob.integer("int", 4), 3)])
    assert layouts_of(blob, {"old": ("bit",)})["old"].fields == {}


def test_a_struct_goes_before_a_typedef_of_the_same_name_and_the_first_before_later_ones() -> None:
    blob = Btf()
    blob.add(kinds.TYPEDEF, "module", blob.integer("int", 4))
    blob.struct("module", 384, [])
    blob.struct("module", 12, [])
    assert layouts_of(blob, {"module": ()})["module"].size == 384


def test_a_forward_declaration_defines_nothing() -> None:
    blob = Btf()
    blob.add(kinds.FORWARD, "opal", 0)
    assert layouts_of(blob, {"opal": ()}) == {}


def test_a_name_that_is_the_tail_of_another_string_is_found() -> None:
    blob = Btf()
    whole = blob.name("note_buf_t")
    word = blob.integer("int", 4)
    blob.add(kinds.TYPEDEF, "", word)
    data = bytearray(blob.build())
    last_record = 24 + 16
    data[last_record : last_record + 4] = (whole + len("note_")).to_bytes(4, "big")
    assert read_layouts(bytes(data), {"buf_t": ()}, 4) == {"buf_t": StructLayout(4, {})}


def test_records_of_every_kind_are_passed_over() -> None:
    blob = Btf()
    word = blob.integer("int", 4)
    blob.add(kinds.ENUM, "state", 4, blob.name("LIVE"), 0, blob.name("GOING"), 2, listed=2)
    blob.add(kinds.ENUM64, "wide", 8, blob.name("X"), 1, 2, listed=1)
    blob.add(kinds.PROTOTYPE, "", word, 0, word, 0, 0, listed=2)
    blob.add(kinds.FUNCTION, "f", 4)
    blob.add(kinds.VARIABLE, "v", word, 1)
    blob.add(kinds.DATA_SECTION, ".data", 4, 1, 0, 4, listed=1)
    blob.add(kinds.FLOAT, "double", 8)
    blob.add(kinds.DECLARATION_TAG, "tag", word, 0)
    blob.add(kinds.TYPE_TAG, "user", word)
    blob.add(kinds.FORWARD, "f", 0)
    blob.add(kinds.VOLATILE, "", word)
    blob.struct("last", 4, [("it", word, 0)])
    assert layouts_of(blob, {"last": ("it",)})["last"].fields == {"it": Field(0, 4)}


def test_what_has_no_size_has_size_zero() -> None:
    blob = Btf()
    blob.add(kinds.TYPEDEF, "nothing", 0)
    blob.add(kinds.TYPEDEF, "function", blob.add(kinds.FUNCTION, "f", 0))
    found = layouts_of(blob, {"nothing": (), "function": ()})
    assert (found["nothing"].size, found["function"].size) == (0, 0)
