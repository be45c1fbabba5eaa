"""The outline of a function: where its code turns, what it stores first, how large its frames are.

Everything here follows from the function's own words, so an outline is kept as long as its code is met: in thousands
of dumps of one kernel it is made once, while the code itself is read from each.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from functools import lru_cache
from itertools import islice

from msgspec import Struct

from crashbeam.vmcore.arch import ARCHITECTURES
from crashbeam.vmcore.arch.instructions import Instruction, Kind, signed
from crashbeam.vmcore.arch.jump_tables import find_jump_tables
from crashbeam.vmcore.symbols.compiled import Arch

_PROLOGUE_WORDS = 64
_STMW_OF_STACK = 47 << 10 | 1
"""The upper half of ``stmw rS,n(r1)`` without its register field."""
_CONDITIONAL_STORES = frozenset((150, 182, 214, 694, 726))
"""Extended opcodes of stwcx., stqcx., stdcx., stbcx., sthcx. (Power ISA book II, "load and reserve")."""
_TO_LR_MASK, _TO_LR = 0xFC0007FF, 0x4C000020
"""``bclr`` without LK, whatever its condition."""
_BRANCH_LINK_CONDITIONAL = 16


class Turn(IntEnum):
    """Where control may leave the next instruction's path, or what else tells calls apart."""

    CALL = 0
    CALL_BY_REGISTER = 1
    JUMP = 2
    BRANCH = 3
    TAIL_CALL = 4
    CONDITIONAL_TAIL_CALL = 5
    RETURN = 6
    CONDITIONAL_RETURN = 7
    UNKNOWN = 8
    READS_LR = 9


class TurnAt(Struct, frozen=True):
    """A turn: the index of its instruction, and of those it leads to (outside the function of calls)."""

    index: int
    turn: Turn
    targets: tuple[int, ...] = ()


class Outline(Struct, frozen=True):
    """What one function's code says. ``count`` is the number of its words; targets are indexes, counted from its start.

    ``frame_sizes`` are in bytes; ``saved_places``, in bytes from the caller's frame, are where the first instructions
    store registers. ``leaves_by_ctr``: it may go on through CTR to where nothing tells.
    """

    count: int
    turns: tuple[TurnAt, ...]
    indexes: tuple[int, ...]
    frame_sizes: frozenset[int]
    saved_places: frozenset[int]
    tail_targets: tuple[int, ...]
    call_targets: tuple[int, ...]
    leaves_by_ctr: bool

    def from_index(self, index: int) -> Iterator[TurnAt]:
        """The turns from an instruction on, in order."""
        return islice(self.turns, bisect_left(self.indexes, index), None)


EMPTY = Outline(0, (), (), frozenset(), frozenset(), (), (), leaves_by_ctr=False)
"""Of code that cannot be read."""


@lru_cache(maxsize=4096)
def outline_of(arch_name: Arch, code: bytes) -> Outline:
    """The outline of the function with this code."""
    arch = ARCHITECTURES[arch_name]
    words = struct.unpack(f"{'>' if arch.byte_order == 'big' else '<'}{len(code) // 4}I", code)
    turns = tuple(_turns(words, arch.decode))
    kinds = (Turn.TAIL_CALL, Turn.CONDITIONAL_TAIL_CALL)
    steps = [arch.decode(word) for word in words if word >> 16 in (0x9421, 0xF821)]
    return Outline(
        count=len(words),
        turns=turns,
        indexes=tuple(turn.index for turn in turns),
        frame_sizes=frozenset(step.value for step in steps if step.kind is Kind.ALLOCATE),
        saved_places=_saved_places(words, arch.decode),
        tail_targets=tuple(turn.targets[0] for turn in turns if turn.turn in kinds),
        call_targets=tuple(turn.targets[0] for turn in turns if turn.turn is Turn.CALL),
        leaves_by_ctr=any(turn.turn is Turn.UNKNOWN for turn in turns),
    )


def _turns(words: Sequence[int], decode: Callable[[int], Instruction]) -> Iterator[TurnAt]:
    tables = find_jump_tables(words)
    data = {index for table in tables.values() for index in table.words}
    index = -1
    while (index := index + 1) < len(words):
        if index in data:
            continue
        word = words[index]
        step = decode(word)
        kind = step.kind
        if kind is Kind.PREFIX:
            index += 1
        elif kind is Kind.CALL and word >> 26 != _BRANCH_LINK_CONDITIONAL:
            by_register = word >> 26 != 18
            yield TurnAt(index, Turn.CALL_BY_REGISTER) if by_register else _call(index, step, Turn.CALL)
        elif kind is Kind.BRANCH or kind is Kind.CONDITIONAL:
            yield from _branch(words, index, step)
        elif kind is Kind.LEAVE:
            yield TurnAt(index, Turn.RETURN)
        elif kind is Kind.TABLE:
            table = tables.get(index)
            yield TurnAt(index, Turn.JUMP, tuple(sorted(table.targets))) if table else TurnAt(index, Turn.UNKNOWN)
        elif kind is Kind.FROM_LR:
            yield TurnAt(index, Turn.READS_LR)
        elif word & _TO_LR_MASK == _TO_LR:
            yield TurnAt(index, Turn.CONDITIONAL_RETURN)


def _call(index: int, step: Instruction, turn: Turn) -> TurnAt:
    return TurnAt(index, turn, (index + step.value // 4,))


def _branch(words: Sequence[int], index: int, step: Instruction) -> Iterator[TurnAt]:
    target, is_always = index + step.value // 4, step.kind is Kind.BRANCH
    if not 0 <= target < len(words):
        yield _call(index, step, Turn.TAIL_CALL if is_always else Turn.CONDITIONAL_TAIL_CALL)
    elif is_always:
        yield TurnAt(index, Turn.JUMP, (target,))
    elif not (target <= index and index and _is_conditional_store(words[index - 1])):
        # The branch back to a reservation that was lost is no loop that a CPU stays in.
        yield TurnAt(index, Turn.BRANCH, (target,))


def _is_conditional_store(word: int) -> bool:
    return word >> 26 == 31 and (word >> 1) & 0x3FF in _CONDITIONAL_STORES


def _saved_places(words: Sequence[int], decode: Callable[[int], Instruction]) -> frozenset[int]:
    places: list[int] = []
    depth = 0
    for word in words[:_PROLOGUE_WORDS]:
        step = decode(word)
        if step.kind is Kind.ALLOCATE:
            depth += step.value
        elif step.kind is Kind.STORE:
            places.append(step.value - depth)
        elif word >> 16 & 0xFC1F == _STMW_OF_STACK:
            first = signed(word & 0xFFFF, 16) - depth
            places += range(first, first + 4 * (32 - (word >> 21 & 31)), 4)
        elif step.kind not in (Kind.PLAIN, Kind.FROM_LR):
            break
    return frozenset(places)
