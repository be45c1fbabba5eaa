"""Where a function keeps its return address, before each of its instructions."""

import bisect
import lzma
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import pytest
from elftools.dwarf.callframe import FDE
from elftools.elf.elffile import ELFFile

from crashbeam.vmcore.arch.code import Flow, ReturnAddress
from crashbeam.vmcore.arch.instructions import Instruction, decode_32, decode_64
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

LIVE, FRAME_LIVE = ReturnAddress(False, True, False), ReturnAddress(True, True, False)
FRAME_BOTH, FRAME_SLOT = ReturnAddress(True, True, True), ReturnAddress(True, False, True)
FAR = 0x1000


def at(words: Sequence[int], index: int) -> ReturnAddress:
    return Flow(words, 4, decode_32).at(index)


COMMON = (stwu(32), mflr(0), stw(0, 36), bl(FAR), lwz(0, 36), mtlr(0), addi_r1(32), BLR)


@pytest.mark.parametrize(
    ("index", "expected"),
    [(0, LIVE), (1, FRAME_LIVE), (2, FRAME_LIVE), (3, FRAME_BOTH), (4, FRAME_SLOT), (5, FRAME_SLOT), (6, FRAME_BOTH)],
)
def test_step_by_step_through_a_common_function(index: int, expected: ReturnAddress) -> None:
    assert expected == at(COMMON, index)


def test_before_the_return_the_frame_is_gone_and_lr_is_back() -> None:
    last = at(COMMON, 7)
    assert (last.has_frame, last.in_lr) == (False, True)


def test_lr_may_be_stored_before_the_frame_is_made() -> None:
    words = (mflr(0), stw(0, 4), stwu(16), bl(FAR), NOP, BLR)
    assert at(words, 4) == FRAME_SLOT


def test_a_shrink_wrapped_path_never_stores_lr() -> None:
    """The way that faults leaves the slot as it was, however far it lies behind the store of the other way."""
    words = (stwu(16), beq(5), mflr(0), stw(0, 20), bl(FAR), BLR, NOP, NOP, addi_r1(16), BLR)
    assert at(words, 7) == FRAME_LIVE
    assert at(words, 5) == FRAME_SLOT


def test_a_leaf_has_neither_frame_nor_store() -> None:
    assert at((li(3, 0), NOP, BLR), 2) == LIVE


def test_after_an_early_epilogue_the_body_still_has_its_frame() -> None:
    words = (stwu(16), mflr(0), stw(0, 20), beq(5), lwz(0, 20), mtlr(0), addi_r1(16), BLR, bl(FAR), NOP, BLR)
    assert at(words, 9) == FRAME_SLOT


def test_what_follows_a_call_that_does_not_return_says_nothing_of_the_next_block() -> None:
    """``panic()`` at the end of one path, the next path behind it: it is reached by its branch alone."""
    words = (stwu(16), beq(5), mflr(0), stw(0, 20), bl(FAR), NOP, li(3, 0), addi_r1(16), BLR)
    assert at(words, 6) == FRAME_LIVE


def test_what_follows_bug_says_nothing_either_but_warn_comes_back() -> None:
    bug = (stwu(16), beq(4), mflr(0), stw(0, 20), TRAP, li(3, 0), addi_r1(16), BLR)
    assert at(bug, 5) == FRAME_LIVE
    warn = (stwu(16), mflr(0), stw(0, 20), TRAP, li(3, 0), BLR)
    assert at(warn, 4) == FRAME_BOTH


def test_a_holder_that_is_overwritten_holds_no_longer() -> None:
    words = (mflr(0), li(0, 5), stw(0, 4), bl(FAR), NOP)
    assert ReturnAddress(False, False, False) == at(words, 4)


def test_a_register_holds_the_address_where_neither_lr_nor_the_slot_does() -> None:
    words = (mflr(30), bl(FAR), NOP, mtlr(30), BLR)
    assert at(words, 2).in_register == 30
    assert at(words, 4).in_lr


def test_nop_and_the_priority_hint_change_nothing() -> None:
    assert at((stwu(16), NOP, mr(1, 1), NOP, BLR), 4) == FRAME_LIVE


@pytest.mark.parametrize("word", [0x7C000146, 0x7C000124, 0x7C0004AC, 0x7C0007A4, 0x7C00186C])
def test_instructions_of_the_kernel_that_write_no_register_leave_the_holder(word: int) -> None:
    """``wrteei``, ``mtmsr``, ``sync``, ``tlbwe`` and ``dcbst`` name r0 in a field that they do not write."""
    words = (mflr(0), word, stw(0, 4), bl(FAR), NOP)
    assert at(words, 4).in_slot


def test_a_call_of_the_profiler_in_the_prologue_keeps_lr() -> None:
    words = (mflr(0), stw(0, 4), bl(FAR), stwu(16), NOP, BLR)
    assert at(words, 3).in_lr


def test_a_stack_switch_brings_its_frame_back() -> None:
    """``__do_IRQ``: r1 is stored at the top of the interrupt stack, and loaded from there after the call."""
    words = (stwu(32), mflr(0), stw(0, 36), stwu_to(3, 8176), mr(1, 3), bl(FAR), lwz(1, 0), lwz(0, 36), mtlr(0), BLR)
    during = at(words, 6)
    assert (during.has_frame, during.switched) == (True, True)
    assert at(words, 7) == FRAME_SLOT


def test_blocks_of_a_jump_table_start_as_the_table_was_left() -> None:
    words = (stwu(16), BCTR, NOP, li(3, 0), addi_r1(16), BLR, NOP, mflr(0), stw(0, 20), bl(FAR), NOP, BLR)
    assert at(words, 3) == FRAME_LIVE
    assert at(words, 7) == FRAME_LIVE
    assert at(words, 10) == FRAME_SLOT


def test_outside_the_function_lr_is_live() -> None:
    assert at((BLR,), 5) == LIVE
    assert at((BLR,), -1) == LIVE


def test_an_indirect_call_counts_as_a_call() -> None:
    assert at((stwu(16), mflr(0), stw(0, 20), BCTRL, NOP, BLR), 4) == FRAME_SLOT


def test_any_words_at_all_end_in_an_answer() -> None:
    numbers = random.Random(7)
    for _ in range(300):
        words = [numbers.choice((*COMMON, BCTR, TRAP, b(-3), beq(4), numbers.getrandbits(32))) for _ in range(40)]
        flow = Flow(words, 4, decode_32)
        assert isinstance(flow.at(numbers.randrange(40)), ReturnAddress)
        assert len(Flow(words, 4, decode_32).at_all()) == 40


@pytest.mark.corpus
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "slot_offset", "decode", "fewest", "limit_percent"),
    [("e500-612", 4, decode_32, 800_000, 0.002), ("p64le-612", 16, decode_64, 1_100_000, 0.001)],
)
def test_against_the_call_frame_information_of_a_whole_kernel(
    corpus: Path, kernel: str, slot_offset: int, decode: Callable[[int], Instruction], fewest: int, limit_percent: float
) -> None:
    """Every instruction of the kernel's functions: where DWARF's .debug_frame says that the return address is."""
    elf = ELFFile(BytesIO(lzma.decompress((corpus / "kernels" / f"vmlinux-{kernel}.xz").read_bytes())))
    order = "<" if elf.little_endian else ">"
    table = cast(Any, elf.get_section_by_name(".symtab"))
    starts = sorted({symbol["st_value"] for symbol in table.iter_symbols() if _names_code(symbol)})
    sections = [(section["sh_addr"], section.data()) for section in elf.iter_sections() if section["sh_flags"] & 4]
    compared = different = 0
    for start, size_bytes, rows in _call_frames(elf):
        place = bisect.bisect_left(starts, start)
        text = next(((at, data) for at, data in sections if at <= start < at + len(data)), None)
        if text is None or place == len(starts) or starts[place] != start:
            continue
        end = max(starts[place + 1] if place + 1 < len(starts) else 0, start + size_bytes)
        data = text[1][start - text[0] : min(end, text[0] + len(text[1])) - text[0]]
        words = struct.unpack(f"{order}{len(data) // 4}I", data[: len(data) // 4 * 4])
        found = Flow(words, slot_offset, decode).at_all()
        for answer, (framed, place_of_lr) in zip(found, _rules(rows, start, size_bytes), strict=False):
            if answer is None:
                continue
            compared += 1
            different += answer.has_frame != framed or not _is_at(answer, place_of_lr)
    share = 100 * different / compared
    print(f"{kernel}: {different} of {compared} instructions differ: {share:.4f} %")
    assert compared > fewest
    assert share <= limit_percent


def _is_at(answer: ReturnAddress, place: int | str) -> bool:
    if place == "slot":
        return answer.in_slot
    return answer.in_lr or answer.in_register == place


def _names_code(symbol: Any) -> bool:
    return symbol["st_info"]["type"] in ("STT_FUNC", "STT_NOTYPE") and not symbol.name.startswith((".L", "$"))


def _call_frames(elf: ELFFile) -> Iterator[tuple[int, int, list[Any]]]:
    """Start, size and rows of each function: address, whether it has a frame, what holds LR: "slot", "lr" or a GPR."""
    entries = cast(Sequence[Any], elf.get_dwarf_info(relocate_dwarf_sections=False).CFI_entries())
    for entry in entries:
        if isinstance(entry, FDE) and entry["address_range"]:
            link = cast(Any, entry.cie)["return_address_register"]
            rows = [
                (row["pc"], row["cfa"].offset != 0 or row["cfa"].reg != 1, _place_of_lr(row.get(link)))
                for row in entry.get_decoded().table
            ]
            yield entry["initial_location"], entry["address_range"], rows


def _place_of_lr(rule: Any) -> int | str:
    if rule is None or rule.type not in ("OFFSET", "REGISTER"):
        return "lr"
    return "slot" if rule.type == "OFFSET" else int(rule.arg)


def _rules(rows: list[Any], start: int, size_bytes: int) -> Iterator[tuple[bool, int | str]]:
    row = -1
    for address in range(start, start + size_bytes, 4):
        while row + 1 < len(rows) and rows[row + 1][0] <= address:
            row += 1
        yield rows[row][1], rows[row][2]
