"""Where a 64-bit function keeps its return address: its own instructions, tables in the text, prefixes."""

import random
from collections.abc import Sequence

import pytest

from crashbeam.vmcore.arch.code import Flow, ReturnAddress
from crashbeam.vmcore.arch.instructions import Kind, decode_32, decode_64
from crashbeam.vmcore.arch.jump_tables import find_jump_tables
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
    jump_table,
    ld,
    li,
    mflr,
    mr,
    mtlr,
    std,
    stdu,
    stdu_to,
    stwu,
)

LIVE, FRAME_LIVE = ReturnAddress(False, True, False), ReturnAddress(True, True, False)
SLOT, FRAME_SLOT = ReturnAddress(False, False, True), ReturnAddress(True, False, True)
FRAME_BOTH = ReturnAddress(True, True, True)
FAR = 0x1000
ADDIS_R2, ADDI_R2 = 0x3C4C0053, 0x3842EA94
"""``addis r2,r12,83; addi r2,r2,-5484``: how an ELFv2 function finds its TOC."""
PADDI_R30, PLD_R30 = (0x06000001, 0x3BC62345), (0x04000001, 0xE7C62345)
PADDI_R0, PADDI_R5 = (0x06000001, 0x38062345), (0x06000001, 0x38A62345)
HOLDER_REGISTERS = (0, 3, 5, 6, 12, 30, 31)


def at(words: Sequence[int], index: int, lr_savers: range = range(0)) -> ReturnAddress:
    return Flow(words, 16, decode_64, lr_savers).at(index)


def holder_after(words: Sequence[int], register: int) -> int | None:
    """Whether ``register`` still holds the return address after ``words``: it, or ``None``."""
    before = (stdu(32), mflr(register), li(0, 0) if register else NOP, mtlr(9))
    return at((*before, *words, NOP), len(before) + len(words)).in_register


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (2, LIVE),
        (3, LIVE),
        (4, ReturnAddress(False, True, True)),
        (5, FRAME_BOTH),
        (6, FRAME_SLOT),
        (7, SLOT),
        (9, SLOT),
    ],
)
def test_step_by_step_through_a_common_function(index: int, expected: ReturnAddress) -> None:
    """ELFv2, as GCC makes it: LR is stored above the frame that is not yet made, and loaded when it is gone."""
    body = (ADDIS_R2, ADDI_R2, mflr(0), std(0, 16), stdu(64), bl(FAR), addi_r1(64), ld(0, 16), ld(31, -8), mtlr(0), BLR)
    found = at(body, index)
    assert (found.has_frame, found.in_lr, found.in_slot) == (expected.has_frame, expected.in_lr, expected.in_slot)
    assert at(body, 10).in_lr


def test_lr_may_be_stored_after_the_frame_is_made() -> None:
    words = (mflr(0), stdu(48), std(0, 64), bl(FAR), NOP, BLR)
    assert at(words, 4) == FRAME_SLOT
    assert at(words, 2) == FRAME_LIVE


def test_a_shrink_wrapped_path_never_stores_lr() -> None:
    words = (stdu(48), beq(5), mflr(0), std(0, 64), bl(FAR), BLR, li(3, 0), addi_r1(48), BLR)
    assert at(words, 6) == FRAME_LIVE
    assert at(words, 5) == FRAME_SLOT


def test_the_word_of_32_bit_code_is_not_the_slot() -> None:
    words = (mflr(0), stdu(48), std(0, 52), bl(FAR), NOP, BLR)
    assert at(words, 4) == ReturnAddress(True, False, False)


def test_a_frame_of_32_bit_code_is_none() -> None:
    assert at((stwu(48), NOP, BLR), 1) == LIVE


@pytest.mark.parametrize(
    ("name", "allocate", "free"),
    [
        ("stdu and ld r1,0(r1)", stdu(64), ld(1, 0)),
        ("stdu and addi", stdu(64), addi_r1(64)),
        ("stdu and mr r1,r31", stdu(64), mr(1, 31)),
        ("stdu and addi r1,r11,0", stdu(64), 0x382B0000),
        ("stdux and add r1,r1,r12", 0x7C21016A, 0x7C216214),
        ("stdu of the largest frame", stdu(32752), addi_r1(32752)),
    ],
)
def test_frames_come_and_go(name: str, allocate: int, free: int) -> None:
    words = (NOP, allocate, NOP, free, NOP, BLR)
    assert [at(words, index).has_frame for index in range(1, 6)] == [False, True, True, False, False], name


def test_a_tail_call_ends_its_path() -> None:
    words = (mflr(0), std(0, 16), stdu(64), beq(5), addi_r1(64), ld(0, 16), mtlr(0), b(FAR), bl(FAR), NOP, BLR)
    before = at(words, 7)
    assert (before.has_frame, before.in_lr) == (False, True)
    assert at(words, 9) == FRAME_SLOT


def test_a_tail_call_through_ctr_is_no_jump_table() -> None:
    """An instruction behind ``bctr`` is no distance within the function."""
    words = (mflr(0), std(0, 16), stdu(64), beq(3), addi_r1(64), BCTR, bl(FAR), NOP, BLR)
    assert at(words, 7) == FRAME_SLOT
    assert find_jump_tables(words) == {}


def test_a_stack_switch_brings_its_frame_back() -> None:
    """``call_do_irq``: r1 is stored at the top of the interrupt stack, and loaded from there after the call."""
    words = (mflr(0), std(0, 16), stdu(32), stdu_to(3, 16352), mr(1, 3), bl(FAR), ld(1, 0), addi_r1(32), ld(0, 16), BLR)
    during = at(words, 6)
    assert (during.has_frame, during.in_lr, during.in_slot, during.switched) == (True, False, True, True)
    assert at(words, 7) == FRAME_SLOT
    assert at(words, 8) == SLOT


def test_stdux_onto_another_stack_is_a_switch_as_well() -> None:
    words = (stdu(32), 0x7C23216A, mr(1, 3), bl(FAR), ld(1, 0), NOP, BLR)
    assert at(words, 4).switched
    assert not at(words, 5).switched


@pytest.mark.parametrize("before", [(ADDIS_R2, ADDI_R2), ()], ids=["ELFv2", "ELFv1"])
def test_a_call_of_the_profiler_in_the_prologue_keeps_lr(before: tuple[int, ...]) -> None:
    """``-mprofile-kernel``: ``mflr r0; std r0,16(r1); bl _mcount``, which becomes ``ftrace_caller``."""
    words = (*before, mflr(0), std(0, 16), bl(FAR), mflr(0), std(0, 16), stdu(48), bl(FAR), NOP, BLR)
    called = len(before) + 2
    assert at(words, called + 1).in_lr
    assert at(words, called + 4) == FRAME_BOTH
    assert at(words, called + 5) == FRAME_SLOT


def test_a_profiler_of_two_instructions_keeps_lr_in_a_leaf() -> None:
    """From GCC 6 on LR is not stored for ``_mcount``, and a leaf does not store it at all."""
    words = (mflr(0), bl(FAR), stdu(48), li(3, 0), addi_r1(48), BLR)
    assert at(words, 3) == FRAME_LIVE


def test_savegpr0_stores_lr_for_its_caller() -> None:
    """Code for size: ``bl _savegpr0_29`` stores r29 to r31 and, with ``std r0,16(r1)``, LR."""
    words = (mflr(0), bl(FAR), stdu(64), bl(FAR + 100), NOP, addi_r1(64), b(FAR + 30))
    savers = range(FAR - 14, FAR + 4)
    assert at(words, 2, savers) == ReturnAddress(False, False, True)
    assert at(words, 3, savers) == FRAME_SLOT
    assert at(words, 4, savers) == FRAME_SLOT
    assert at(words, 6, savers) == SLOT
    assert at(words, 3, range(FAR + 2, FAR + 10)).in_lr


def test_a_routine_that_saves_lr_saves_nothing_that_r0_does_not_hold() -> None:
    words = (NOP, bl(FAR), stdu(64), NOP, BLR)
    assert at(words, 3, range(FAR, FAR + 4)) == ReturnAddress(True, False, False)


def test_what_ends_in_restgpr0_needs_no_lr() -> None:
    """Behind a table in .rodata no edge leads on; the frame with LR in its slot fits what ends in ``_restgpr0_29``."""
    words = (mflr(0), bl(FAR), stdu(64), beq(2), BCTR, li(3, 0), bl(FAR + 9), addi_r1(64), b(FAR + 30), li(3, 1), b(-4))
    savers = range(FAR, FAR + 4)
    assert Flow(words, 16, decode_64, savers).at_all()[9] == FRAME_SLOT


SWITCH = (stdu(48), beq(10), BCTR, *jump_table(3, 7, 9, 7, 9), li(3, 1), BLR, li(3, 2), BLR, bl(FAR), NOP, BLR)


def test_the_targets_of_a_table_behind_bctr_start_as_the_table_was_left() -> None:
    assert at(SWITCH, 7) == FRAME_LIVE
    assert at(SWITCH, 9) == FRAME_LIVE


def test_a_table_ends_where_the_code_begins_that_it_leads_to() -> None:
    tables = find_jump_tables(SWITCH)
    assert (tables[2].words, tables[2].targets) == (range(3, 7), frozenset({7, 9}))


def test_a_table_ends_where_a_word_leads_out_of_the_function() -> None:
    words = (BCTR, *jump_table(1, 6, 5), 0x4000, NOP, NOP, BLR)
    assert find_jump_tables(words)[0].words == range(1, 3)


@pytest.mark.parametrize("word", [0, 2, 12, 0xFFFFFFF0, 0x38600000, 0xEBE1FFF8, 0xFFFFFFFE])
def test_what_leads_into_the_table_or_out_or_between_words_is_no_table(word: int) -> None:
    assert find_jump_tables((NOP, NOP, BCTR, word, BLR, NOP)) == {}


def test_a_table_may_lead_back() -> None:
    words = (stdu(48), b(6), li(3, 0), addi_r1(48), BLR, li(3, 1), BLR, BCTR, *jump_table(8, 2, 5, 10), li(3, 2), BLR)
    assert find_jump_tables(words)[7].words == range(8, 10)
    assert at(words, 5) == FRAME_LIVE
    assert at(words, 4) == LIVE


def test_the_words_of_a_table_are_no_instructions() -> None:
    found = Flow(SWITCH, 16, decode_64).at_all()
    assert [answer is None for answer in found] == [False] * 3 + [True] * 4 + [False] * 7


def test_tables_one_behind_another_are_all_read() -> None:
    words = (BCTR, *jump_table(1, 3, 6), BCTR, *jump_table(4, 6, 7), li(3, 0), BLR)
    assert {index: table.targets for index, table in find_jump_tables(words).items()} == {0: {3, 6}, 3: {6, 7}}


def test_a_block_that_only_a_table_reaches_keeps_what_was_stored_before_it() -> None:
    """A trap before the target says less than the table does (``BUG()`` in the ``default:`` of a switch)."""
    words = (mflr(0), std(0, 16), stdu(48), BCTR, *jump_table(4, 6, 9), addi_r1(48), ld(0, 16), TRAP, bl(FAR), NOP, BLR)
    assert at(words, 9) == FRAME_BOTH
    assert at(words, 10) == FRAME_SLOT


def test_32_bit_code_has_its_tables_elsewhere() -> None:
    words = (stwu(16), BCTR, NOP, li(3, 0), addi_r1(16), BLR)
    assert find_jump_tables(words) == {}
    assert Flow(words, 4, decode_32).at(3) == FRAME_LIVE


@pytest.mark.parametrize(
    ("name", "words", "writes"),
    [
        ("paddi r30,r6,74565", PADDI_R30, {30}),
        ("plwz r30,74565(r6)", (0x06000001, 0x83C62345), {30}),
        ("pld r30,74565(r6)", PLD_R30, {30}),
        ("plwa r30,74565(r6)", (0x04000001, 0xA7C62345), {30}),
        ("plq r30,74565(r6)", (0x04000001, 0xE3C62345), {30, 31}),
        ("pstd r30,74565(r31)", (0x04000001, 0xF7DF2345), set()),
        ("pstw r30,74565(r31)", (0x06000001, 0x93DF2345), set()),
        ("plxv vs31,74565(r30)", (0x04000001, 0xCBFE2345), set()),
        ("xxspltiw vs31,5", (0x05000000, 0x83E60005), set()),
        ("pnop", (0x07000000, 0), set()),
    ],
)
def test_a_prefixed_instruction_writes_just_its_target_registers(
    name: str, words: tuple[int, int], writes: set[int]
) -> None:
    assert writes == {register for register in HOLDER_REGISTERS if holder_after(words, register) is None}, name


def test_the_second_word_of_a_prefixed_instruction_is_none_of_its_own() -> None:
    """``pnop`` may end in any word that is no branch, here in one that alone would give the frame back."""
    words = (stdu(48), 0x07000000, addi_r1(48), NOP, BLR)
    assert at(words, 3) == FRAME_LIVE
    found = Flow(words, 16, decode_64).at_all()
    assert [answer is None for answer in found] == [False, False, True, False, False]


def test_what_looks_like_a_prefix_in_a_second_word_is_none() -> None:
    found = Flow((0x07000000, 0x07000000, stdu(48), NOP, BLR), 16, decode_64).at_all()
    assert [answer is None for answer in found] == [False, True, False, False, False]
    assert found[3] == FRAME_LIVE


def test_a_prefix_at_the_end_of_a_function_ends_it() -> None:
    assert at((stdu(48), 0x06000001), 1) == FRAME_LIVE
    assert len(Flow((stdu(48), 0x06000001), 16, decode_64).at_all()) == 2


def test_a_prefixed_load_between_mflr_and_its_store_leaves_r0_alone() -> None:
    assert at((mflr(0), *PADDI_R5, std(0, 16), bl(FAR), NOP, BLR), 5).in_slot
    assert not at((mflr(0), *PADDI_R0, std(0, 16), bl(FAR), NOP, BLR), 5).in_slot


@pytest.mark.parametrize(
    ("name", "word", "writes"),
    [
        ("ld r5,64(r6)", 0xE8A60040, {5}),
        ("ldu r31,64(r30)", 0xEBFE0041, {30, 31}),
        ("lwa r31,64(r6)", 0xEBE60042, {31}),
        ("ldx r31,r6,r7", 0x7FE6382A, {31}),
        ("ldux r31,r30,r7", 0x7FFE386A, {30, 31}),
        ("ldarx r31,0,r7", 0x7FE038A8, {31}),
        ("lwax r31,r6,r7", 0x7FE63AAA, {31}),
        ("lwaux r31,r30,r7", 0x7FFE3AEA, {30, 31}),
        ("std r31,64(r30)", 0xFBFE0040, set()),
        ("stdu r6,64(r30)", 0xF8DE0041, {30}),
        ("stdux r6,r30,r7", 0x7CDE396A, {30}),
        ("stdx r31,r30,r7", 0x7FFE392A, set()),
        ("stdcx. r31,0,r30", 0x7FE0F1AD, set()),
        ("lq r30,64(r6)", 0xE3C60040, {30, 31}),
        ("lqarx r30,0,r7", 0x7FC03A28, {30, 31}),
        ("stq r30,64(r6)", 0xFBC60042, set()),
        ("stqcx. r30,0,r7", 0x7FC0396D, set()),
        ("sradi r30,r31,3", 0x7FFE1E74, {30}),
        ("extsw r12,r31", 0x7FEC07B4, {12}),
        ("rldicl r30,r31,3,32", 0x7BFE1820, {30}),
        ("rldic r12,r31,3,32", 0x7BEC1828, {12}),
        ("rldimi r30,r31,3,32", 0x7BFE182C, {30}),
        ("rldcl r30,r31,r6,3", 0x7BFE30D0, {30}),
        ("cntlzd r30,r31", 0x7FFE0074, {30}),
        ("popcntd r30,r31", 0x7FFE03F4, {30}),
        ("cnttzd r30,r31", 0x7FFE0474, {30}),
        ("mulld r30,r6,r7", 0x7FC639D2, {30}),
        ("divdu r30,r6,r7", 0x7FC63B92, {30}),
        ("isel r30,r6,r7,eq", 0x7FC6389E, {30}),
        ("maddld r30,r6,r7,r8", 0x13C63A33, {30}),
        ("addpcis r30,1", 0x4FC00005, {30}),
        ("mfvsrd r30,vs31", 0x7FFE0066, {30}),
        ("mfvsrwz r30,vs31", 0x7FFE00E6, {30}),
        ("mfvsrld r30,vs31", 0x7FFE0266, {30}),
        ("mtvsrd vs31,r30", 0x7FFE0166, set()),
        ("mtvsrwz vs31,r30", 0x7FFE01E6, set()),
        ("mtvsrdd vs31,r30,r12", 0x7FFE6366, set()),
        ("xsxexpdp r30,vs31", 0xF3C0FD6C, {30}),
        ("lxvd2x vs31,0,r30", 0x7FE0F698, set()),
        ("stxvd2x vs31,0,r30", 0x7FE0F798, set()),
        ("lxv vs31,64(r30)", 0xF7FE0041, set()),
        ("vaddubm v30,v31,v12", 0x13DF6000, set()),
        ("vextublx r30,r6,v7", 0x13C63E0D, {30}),
        ("vclzlsbb r30,v31", 0x13C0FE02, {30}),
        ("vnegw v30,v31", 0x13C6FE02, set()),
        ("lfd f31,64(r30)", 0xCBFE0040, set()),
        ("setb r30,cr0", 0x7FC00100, {30}),
        ("darn r30,1", 0x7FC105E6, {30}),
        ("mcrxrx cr0", 0x7C000480, set()),
        ("slbmte r30,r31", 0x7FC0FB24, set()),
        ("slbmfee r30,r31", 0x7FC0FF26, {30}),
        ("tlbie r30,r31", 0x7FE0F264, set()),
        ("mtmsrd r30", 0x7FC00164, set()),
        ("mfocrf r30,1", 0x7FD01026, {30}),
        ("tdnei r30,0", 0x0B1E0000, set()),
        ("lwz r31,64(r6)", 0x83E60040, {31}),
        ("lwz r31,8(r1)", 0x83E10008, {31}),
        ("stw r31,8(r1)", 0x93E10008, set()),
        ("bl", bl(FAR), {0, 3, 5, 6, 12}),
        ("bctrl", BCTRL, {0, 3, 5, 6, 12}),
        ("ori r2,r2,0", 0x60420000, set()),
    ],
)
def test_an_instruction_writes_just_its_target_registers(name: str, word: int, writes: set[int]) -> None:
    assert writes == {register for register in HOLDER_REGISTERS if holder_after((word,), register) is None}, name


def test_a_trap_of_doublewords_that_is_always_taken_is_a_trap() -> None:
    assert decode_64(0x0BE00000).kind is Kind.TRAP
    assert decode_64(TRAP).kind is Kind.TRAP
    assert decode_64(0x0B030000).kind is Kind.PLAIN


@pytest.mark.parametrize("leave", [BLR, 0x4C000224, 0x4C000024], ids=["blr", "hrfid", "rfid"])
def test_what_follows_the_end_of_a_path_is_another_path(leave: int) -> None:
    assert at((beq(5), mflr(0), std(0, 16), stdu(48), leave, li(3, 0), BLR), 5) == LIVE


def test_any_words_at_all_end_in_an_answer() -> None:
    numbers = random.Random(7)
    choice = (*SWITCH, *PADDI_R30, *PLD_R30, stdu(48), mflr(0), std(0, 64), TRAP, b(-3), BCTR, 4, 8, 64)
    for _ in range(300):
        words = [numbers.choice((*choice, numbers.getrandbits(32))) for _ in range(40)]
        assert isinstance(Flow(words, 16, decode_64).at(numbers.randrange(40)), ReturnAddress)
        assert len(Flow(words, 16, decode_64).at_all()) == 40


@pytest.mark.parametrize("block", [(stdu(16), beq(2), BCTR), (stdu(16), TRAP), (BCTR, 8, 12, 16)])
def test_code_made_up_to_take_long_does_not(block: tuple[int, ...]) -> None:
    """Paths that are tried with every state at every table would take minutes; what is tried is bounded."""
    words = (BCTR, *block * 2500, BLR, *(li(3, 0), BLR) * 2500)
    assert isinstance(at(words, len(words) - 2), ReturnAddress)
