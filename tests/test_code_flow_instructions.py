"""What single instructions do to r1, to LR and to the registers that hold the return address."""

import bisect
import lzma
import random
import struct
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import pytest
from elftools.elf.elffile import ELFFile

from crashbeam.vmcore.arch.code import MAX_FUNCTION_BYTES, Flow, ReturnAddress
from crashbeam.vmcore.arch.instructions import Instruction, Kind, decode_32, decode_64
from tests.builders.instructions import (
    BCTR,
    BCTRL,
    BLR,
    NOP,
    TRAP,
    addi_r1,
    b,
    beq,
    bl,
    li,
    lwz,
    mflr,
    mr,
    mtlr,
    stw,
    stwu,
    stwu_to,
)

FAR = 0x1000
BEQLR, BLRL, RFI = 0x4D820020, 0x4E800021, 0x4C000064
HOLDER_REGISTERS = (0, 3, 5, 12, 30, 31)


def x_form(first: int, second: int, third: int, extended: int) -> int:
    return 31 << 26 | first << 21 | second << 16 | third << 11 | extended << 1


def at(words: Sequence[int], index: int) -> ReturnAddress:
    return Flow(words, 4, decode_32).at(index)


def holder_after(word: int, register: int) -> int | None:
    """Whether ``register`` still holds the return address after ``word``: it, or ``None``."""
    return at((stwu(16), mflr(register), li(0, 0) if register else NOP, mtlr(9), word, NOP), 5).in_register


@pytest.mark.parametrize(
    ("name", "word", "writes"),
    [
        ("add r5,r6,r7", x_form(5, 6, 7, 266), {5}),
        ("or r30,r6,r7", x_form(6, 30, 7, 444), {30}),
        ("slw r30,r6,r7", x_form(6, 30, 7, 24), {30}),
        ("srawi r12,r6,3", x_form(6, 12, 3, 824), {12}),
        ("extsb r3,r6", x_form(6, 3, 0, 954), {3}),
        ("cntlzw r31,r6", x_form(6, 31, 0, 26), {31}),
        ("lwzx r31,r6,r7", x_form(31, 6, 7, 23), {31}),
        ("lwzux r31,r30,r7", x_form(31, 30, 7, 55), {31, 30}),
        ("stwux r6,r30,r7", x_form(6, 30, 7, 183), {30}),
        ("stbux r6,r30,r7", x_form(6, 30, 7, 247), {30}),
        ("stwx r31,r30,r7", x_form(31, 30, 7, 151), set()),
        ("cmpw r30,r31", x_form(0, 30, 31, 0), set()),
        ("mtctr r30", x_form(30, 9, 0, 467), set()),
        ("mfctr r30", x_form(30, 9, 0, 339), {30}),
        ("mfcr r12", x_form(12, 0, 0, 19), {12}),
        ("mtmsr r30", x_form(30, 0, 0, 146), set()),
        ("mfmsr r30", x_form(30, 0, 0, 83), {30}),
        ("sync", x_form(0, 0, 0, 598), set()),
        ("dcbf 0,r30", x_form(0, 0, 30, 86), set()),
        ("dcbtls 0,r6,r30", x_form(0, 6, 30, 166), set()),
        ("mtpmr 400,r30", 0x7FD0639C, set()),
        ("tlbsx 0,r30", x_form(0, 0, 30, 914), set()),
        ("lis r30,1", 0x3FC00001, {30}),
        ("addic r5,r6,1", 12 << 26 | 5 << 21 | 6 << 16 | 1, {5}),
        ("ori r30,r6,1", 24 << 26 | 6 << 21 | 30 << 16 | 1, {30}),
        ("rlwinm r12,r6,1,2,3", 21 << 26 | 6 << 21 | 12 << 16 | 1 << 11 | 2 << 6 | 3 << 1, {12}),
        ("lwz r31,8(r6)", 32 << 26 | 31 << 21 | 6 << 16 | 8, {31}),
        ("lwzu r31,8(r30)", 33 << 26 | 31 << 21 | 30 << 16 | 8, {31, 30}),
        ("stw r31,8(r30)", 36 << 26 | 31 << 21 | 30 << 16 | 8, set()),
        ("stwu r31,8(r30)", 37 << 26 | 31 << 21 | 30 << 16 | 8, {30}),
        ("lmw r30,8(r6)", 46 << 26 | 30 << 21 | 6 << 16 | 8, {30, 31}),
        ("stmw r30,8(r6)", 47 << 26 | 30 << 21 | 6 << 16 | 8, set()),
        ("lfd f30,8(r6)", 50 << 26 | 30 << 21 | 6 << 16 | 8, set()),
        ("cmpwi r30,0", 11 << 26 | 30 << 16, set()),
        ("crclr 4*cr1+eq", 0x4CC63182, set()),
        ("isync", 0x4C00012C, set()),
        ("nop", NOP, set()),
        ("nop of group ends", 0x60420000, set()),
        ("bl", bl(FAR), {0, 3, 5, 12}),
        ("bctrl", BCTRL, {0, 3, 5, 12}),
        ("blrl", BLRL, {0, 3, 5, 12}),
        ("bcl 20,31,.+4", 0x429F0005, {0, 3, 5, 12}),
    ],
)
def test_an_instruction_writes_just_its_target_registers(name: str, word: int, writes: set[int]) -> None:
    lost = {register for register in HOLDER_REGISTERS if holder_after(word, register) is None}
    assert writes & set(HOLDER_REGISTERS) == lost, name


@pytest.mark.parametrize(
    ("name", "allocate", "free"),
    [
        ("stwux r1,r1,r0", x_form(1, 1, 0, 183), lwz(1, 0)),
        ("stwu and addi", stwu(64), addi_r1(64)),
        ("stwu and mr r1,r31", stwu(64), mr(1, 31)),
        ("stwu and addi r1,r11,0", stwu(64), 14 << 26 | 1 << 21 | 11 << 16),
        ("stwux and add r1,r1,r12", x_form(1, 1, 0, 183), x_form(1, 1, 12, 266)),
        ("stwu and subf r1,r12,r1", stwu(64), x_form(1, 12, 1, 40)),
    ],
)
def test_frames_come_and_go(name: str, allocate: int, free: int) -> None:
    words = (NOP, allocate, NOP, free, NOP, BLR)
    assert [at(words, index).has_frame for index in range(1, 6)] == [False, True, True, False, False], name


@pytest.mark.parametrize("leave", [BLR, RFI, BCTR, 0x4C000066, 0x4C00004E, 0x4C00004C])
def test_what_follows_the_end_of_a_path_is_another_path(leave: int) -> None:
    """blr, rfi, bctr, rfci, rfdi, rfmci: behind them a frame stands only where a branch brings one."""
    words = (beq(5), stwu(16), mflr(0), stw(0, 20), leave, li(3, 0), BLR)
    assert at(words, 5) == ReturnAddress(False, True, False)


def test_a_conditional_return_goes_on_as_well() -> None:
    assert at((stwu(16), BEQLR, li(3, 0), BLR), 2) == ReturnAddress(True, True, False)


def test_a_conditional_branch_that_always_branches_does_not_fall_through() -> None:
    always = 0x42800000 | 5 * 4
    words = (always, stwu(16), mflr(0), stw(0, 20), BLR, li(3, 0), BLR)
    assert at(words, 5) == ReturnAddress(False, True, False)


@pytest.mark.parametrize("trap", [TRAP, 0x7FE00008], ids=["twi 31,0,0", "trap"])
def test_both_forms_of_an_unconditional_trap(trap: int) -> None:
    words = (stwu(16), beq(4), mflr(0), stw(0, 20), trap, li(3, 0), addi_r1(16), BLR)
    assert at(words, 5) == ReturnAddress(True, True, False)


def test_a_conditional_trap_goes_on() -> None:
    """``twnei r3,0``: BUG_ON()."""
    words = (stwu(16), mflr(0), stw(0, 20), 0x0F030000, li(3, 0), BLR)
    assert at(words, 4) == ReturnAddress(True, True, True)


def test_a_tail_call_ends_its_path() -> None:
    words = (stwu(16), mflr(0), stw(0, 20), lwz(0, 20), mtlr(0), addi_r1(16), b(FAR), li(3, 0), BLR)
    before = at(words, 6)
    assert (before.has_frame, before.in_lr) == (False, True)


def test_alignment_padding_between_paths_says_nothing() -> None:
    """A branch over two nops that follow a noreturn call: what the call left does not reach the target."""
    words = (stwu(16), beq(7), mflr(0), stw(0, 20), bl(FAR), NOP, NOP, NOP, li(3, 0), addi_r1(16), BLR)
    assert at(words, 8) == ReturnAddress(True, True, False)
    assert Flow(words, 4, decode_32).at_all()[8] == ReturnAddress(True, True, False)


def test_padding_that_no_edge_reaches_has_no_answer_but_code_has_one() -> None:
    found = Flow((BLR, NOP, NOP, stwu(16), BLR), 4, decode_32).at_all()
    assert found[1] is None
    assert found[3] is not None


def test_where_paths_meet_only_what_both_say_is_kept() -> None:
    """One way stores LR and clobbers it, the other does neither: at the join neither place is sure, so LR is used."""
    words = (stwu(16), beq(4), mflr(0), stw(0, 20), li(0, 0), li(3, 0), BLR)
    joined = at(words, 5)
    assert (joined.has_frame, joined.in_lr, joined.in_slot) == (True, True, False)


def test_a_store_to_the_slot_of_something_else_empties_it() -> None:
    words = (stwu(16), mflr(0), stw(0, 20), bl(FAR), stw(5, 20), NOP, BLR)
    assert at(words, 5) == ReturnAddress(True, False, False)


def test_a_store_beside_the_slot_is_no_store_of_lr() -> None:
    words = (stwu(16), mflr(0), stw(0, 16), bl(FAR), NOP, BLR)
    assert at(words, 4) == ReturnAddress(True, False, False)


def test_lr_given_something_else_no_longer_holds_the_address() -> None:
    words = (mflr(30), mtlr(9), NOP, BLR)
    assert at(words, 2) == ReturnAddress(False, False, False, 30)


def test_r1_stored_on_another_stack_is_not_yet_r1_moved_there() -> None:
    words = (stwu(32), mflr(0), stw(0, 36), stwu_to(3, 8176), NOP, mr(1, 3), bl(FAR), lwz(1, 0), NOP, BLR)
    assert [at(words, index).switched for index in (3, 4, 6, 7, 8)] == [False, True, True, True, False]
    assert all(at(words, index).has_frame for index in range(3, 9))


def test_stwux_onto_another_stack_is_a_switch_as_well() -> None:
    words = (stwu(32), x_form(1, 3, 4, 183), mr(1, 3), bl(FAR), lwz(1, 0), NOP, BLR)
    assert at(words, 4).switched
    assert not at(words, 5).switched


def test_the_call_after_a_switch_is_none_of_the_profiler() -> None:
    """``call_do_irq``: r0 holds the return address at depth 0, but the call is a real one, and clobbers both."""
    words = (mflr(0), stw(0, 4), stwu_to(4, 8176), mr(1, 4), bl(FAR), lwz(1, 0), lwz(0, 4), mtlr(0), BLR)
    assert at(words, 5) == ReturnAddress(False, False, True, None, True)


def test_a_late_call_of_a_leaf_is_none_of_the_profiler() -> None:
    words = (mflr(0), *(NOP,) * 8, bl(FAR), NOP, BLR)
    assert at(words, 10) == ReturnAddress(False, False, False)


def test_a_branch_to_itself_ends() -> None:
    assert at((stwu(16), b(0), NOP), 1) == ReturnAddress(True, True, False)


def test_a_function_is_followed_only_so_far() -> None:
    words = (stwu(16), *(NOP,) * (MAX_FUNCTION_BYTES // 4 + 8))
    assert at(words, MAX_FUNCTION_BYTES // 4 - 1).has_frame
    assert at(words, MAX_FUNCTION_BYTES // 4) == ReturnAddress(False, True, False)


@pytest.mark.parametrize("word", [0, 0xFFFFFFFF, 0xCCCCCCCC, 0x44000002])
def test_words_that_are_no_instruction_or_a_system_call_change_nothing(word: int) -> None:
    assert decode_32(word).kind is Kind.PLAIN
    assert at((stwu(16), word, NOP, BLR), 2).has_frame


@pytest.mark.corpus
@pytest.mark.parametrize(
    ("kernel", "slot_offset", "decode"),
    [("e500-612", 4, decode_32), pytest.param("p64le-612", 16, decode_64, marks=pytest.mark.slow)],
)
def test_one_instruction_asked_for_has_the_answer_of_all_of_them(
    corpus: Path, kernel: str, slot_offset: int, decode: Callable[[int], Instruction]
) -> None:
    """In functions of a real kernel: ``at(i)`` stops early, ``at_all()`` follows everything."""
    elf = ELFFile(BytesIO(lzma.decompress((corpus / "kernels" / f"vmlinux-{kernel}.xz").read_bytes())))
    order = "<" if elf.little_endian else ">"
    symbols = cast(Any, elf.get_section_by_name(".symtab"))
    text = cast(Any, elf.get_section_by_name(".text"))
    base, data = text["sh_addr"], text.data()
    functions = [
        (symbol["st_value"], symbol["st_size"])
        for symbol in symbols.iter_symbols()
        if symbol["st_info"]["type"] == "STT_FUNC" and base <= symbol["st_value"] < base + len(data)
    ]
    functions.sort()
    numbers = random.Random(3)
    compared = different = 0
    for start, size in numbers.sample(functions, 150):
        end = functions[bisect.bisect_right(functions, (start, 1 << 64))][0]
        words = struct.unpack_from(f"{order}{max(size, min(end - start, size + 64)) // 4}I", data, start - base)
        everywhere = Flow(words, slot_offset, decode).at_all()
        for index in numbers.sample(range(size // 4), min(size // 4, 6)):
            compared += 1
            different += everywhere[index] not in (None, Flow(words, slot_offset, decode).at(index))
    assert compared > 500
    assert different == 0
