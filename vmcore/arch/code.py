"""Where a function keeps its return address at one of its instructions, by data flow over its own words.

A saved NIP may lie before the prologue stored LR, in a shrink-wrapped body that never stores it, or behind an
epilogue that loaded it back. Looking at the first instructions, or at any store before NIP, gives wrong callers; so
the few facts that matter are followed along every path from the entry:

    depth       bytes that r1 lies below its value at entry
    slot        the LR save word of the caller's frame (entry r1 + 4, 64 bit: + 16) holds the return address
    holders     the registers (LR among them) that hold it

Edges have three strengths. A call may not return (``panic()``), a trap seldom does (``BUG()``; ``WARN()`` does): what
they say of the next instruction is believed only where no stronger edge arrives.

The save areas are those of the 32-bit and 64-bit ELF ABI supplements, "stack frame".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import cached_property
from typing import NamedTuple

from msgspec import Struct

from crashbeam.vmcore.arch.instructions import PADDING, Instruction, Kind, prefixed_writes
from crashbeam.vmcore.arch.jump_tables import find_jump_tables

LR = 1 << 32
"""The bit of LR in a set of holders; bit n is GPR n."""
_VOLATILE = 1 | 0x1FF8
"""r0 and r3 to r12: a call may write them (r2 and r13 are never written by compiled code)."""
MAX_FUNCTION_BYTES = 1 << 17
"""The longest function that is followed; the longest of the corpus' kernels has 28 KiB."""
_MOST_TABLES, _MOST_PROBES = 512, 1 << 17
"""Bounds for made-up code: branches to CTR whose states are kept, blocks that are tried with states. The corpus'
kernels need at most 223 and 14,550 (``___bpf_prog_run``).
"""
_FIRST_BRANCH, _FIRST_LONG_BRANCH, _BRANCHES_END = 16 << 26, 18 << 26, 19 << 26
"""``bc`` has primary opcode 16, ``b`` 18; ``sc`` between them has one of the low bits set."""
_PROLOGUE_WORDS = 8
"""A call of the profiler (``_mcount``, ``ftrace_caller``) stands within these."""


class ReturnAddress(Struct, frozen=True):
    """What is known of a function's return address before one of its instructions.

    ``has_frame``: r1 points to the function's own frame, whose back chain word is the caller's frame. ``in_lr``: LR
    holds the return address, and the word in memory may be stale. ``in_slot``: the caller's LR save word holds it.
    ``in_register``: a GPR that holds it, if neither does. ``switched``: r1 is on another stack than at entry.
    """

    has_frame: bool
    in_lr: bool
    in_slot: bool
    in_register: int | None = None
    switched: bool = False


class Strength(IntEnum):
    """How much an edge says."""

    AFTER_TRAP = 0
    AFTER_CALL = 1
    NORMAL = 2


class State(NamedTuple):
    """What is known before one instruction (a tuple, since one is made at every branch)."""

    depth: int = 0
    slot: bool = False
    holders: int = LR
    switched: bool = False


ENTRY = State()
NO_LR_SAVERS = range(0)
_UNKNOWN_FRAME = 16
"""Depth that stands for a frame of unknown size."""


class Flow:
    """The data flow of one function: ``words`` from its symbol to the next one.

    ``slot_offset`` is the place of the LR save word in a frame (4, 64 bit: 16), ``decode`` the decoder of the word
    size. ``lr_savers`` are the routines that store r0 into that word for a caller which has no frame yet
    (``_savegpr0_14`` to ``_savegpr0_31``, one instruction each; 64-bit ELF ABI supplement, "register saving and
    restoring functions"): their places in words from the function's start.
    """

    def __init__(
        self,
        words: Sequence[int],
        slot_offset: int,
        decode: Callable[[int], Instruction],
        lr_savers: range = NO_LR_SAVERS,
    ) -> None:
        self._words = words[: MAX_FUNCTION_BYTES // 4]
        self._slot_offset = slot_offset
        self._decode = decode
        self._lr_savers = lr_savers
        self._tables = find_jump_tables(self._words)
        self._leaders = self._branch_targets()
        self._states: dict[int, tuple[Strength, State]] = {}
        self._at_tables: dict[int, State] = {}
        self._oddities = 0
        self._probes_left = _MOST_PROBES
        self._pending: tuple[list[tuple[int, State]], ...] = ([], [], [])

    def at(self, index: int) -> ReturnAddress:
        """What is known before the instruction with this index."""
        if not 0 <= index < len(self._words):
            return ReturnAddress(has_frame=False, in_lr=True, in_slot=False)
        self._leaders.add(index)
        self._run(0, ENTRY)
        found = self._states.get(index)
        if found:
            return _answer(found[1])
        everywhere = Flow(self._words, self._slot_offset, self._decode, self._lr_savers).at_all()
        return everywhere[index] or _answer(self._unreached(index))

    def at_all(self) -> list[ReturnAddress | None]:
        """What is known before every instruction (for tests against call frame information).

        ``None`` stands for what is no instruction, and for padding that no edge reaches.
        """
        self._leaders.update(range(len(self._words)))
        self._run(0, ENTRY)
        data = self._data()
        for index in range(len(self._words)):
            if index not in self._states and index not in data and self._decode(self._words[index]) is not PADDING:
                self._run(index, self._unreached(index), Strength.AFTER_CALL)
        return [_answer(self._states[index][1]) if index in self._states else None for index in range(len(self._words))]

    def _branch_targets(self) -> set[int]:
        leaders = {0}.union(*(table.targets for table in self._tables.values()))
        count = len(self._words)
        for index, word in enumerate(self._words):
            if _FIRST_BRANCH <= word < _BRANCHES_END and not word & 3:
                sign = 0x8000 if word < _FIRST_LONG_BRANCH else 0x2000000
                target = index + ((word & (2 * sign - 1) ^ sign) - sign >> 2)
                if 0 <= target < count:
                    leaders.add(target)
        return leaders

    def _data(self) -> set[int]:
        """The words that are no instruction: jump tables, and the second words of prefixed instructions."""
        data = {index for table in self._tables.values() for index in table.words}
        for index, word in enumerate(self._words[:-1]):
            if index not in data and self._decode(word).kind is Kind.PREFIX:
                data.add(index + 1)
        return data

    def _run(self, index: int, state: State, strength: Strength = Strength.NORMAL) -> None:
        pending = self._pending
        pending[strength].append((index, state))
        while True:
            for level in (Strength.NORMAL, Strength.AFTER_CALL, Strength.AFTER_TRAP):
                if pending[level]:
                    break
            else:
                return
            index, state = pending[level].pop()
            if index not in self._states and self._at_tables and self._doubtful(index, level):
                state = self._best(index, [state, *self._at_tables.values()])
            self._arrive(index, state, level)

    def _arrive(self, index: int, state: State, strength: Strength) -> None:
        known = self._states.get(index)
        if known is not None:
            if known[0] > strength:
                return
            if known[0] == strength:
                state = _meet(known[1], state)
                if state == known[1]:
                    return
        self._states[index] = (strength, state)
        self._follow(index, state, strength)

    def _follow(self, index: int, state: State, strength: Strength = Strength.NORMAL) -> None:
        words, leaders, decode = self._words, self._leaders, self._decode
        pending = self._pending
        normal, after_call, after_trap = pending[2 if strength else 0], pending[min(strength, 1)], pending[0]
        depth, slot, holders, switched = state.depth, state.slot, state.holders, state.switched
        slot_offset, lr_savers, count, start = self._slot_offset, self._lr_savers, len(words), index
        only_padding = strength < Strength.NORMAL
        while index < count:
            if index != start and index in leaders:
                (pending[strength] if only_padding else normal).append((index, State(depth, slot, holders, switched)))
                return
            step = decode(words[index])
            kind = step.kind
            only_padding = only_padding and step is PADDING
            if kind is Kind.PLAIN:
                holders &= ~step.writes
            elif kind is Kind.BRANCH or kind is Kind.CONDITIONAL:
                target = index + (step.value >> 2)
                if not step.base and 0 <= target < count:
                    normal.append((target, State(depth, slot, holders, switched)))
                elif depth or not (holders & LR or (slot and lr_savers)):
                    self._oddities += 1
                if kind is Kind.BRANCH:
                    return
            elif kind is Kind.STORE:
                if step.value == depth + slot_offset and not switched:
                    slot = bool(holders & 1 << step.register)
            elif kind is Kind.LOAD:
                holders &= ~step.writes
                if step.value == depth + slot_offset and not switched:
                    holders |= step.writes if slot else 0
                    self._oddities += not slot
            elif kind is Kind.CALL:
                if lr_savers and index + (step.value >> 2) in lr_savers:
                    slot = bool(holders & 1)
                    holders &= ~LR
                elif not (depth == 0 and not switched and index < _PROLOGUE_WORDS and holders & 1):
                    holders &= ~(LR | _VOLATILE)
                after_call.append((index + 1, State(depth, slot, holders, switched)))
                leaders.add(index + 1)
                return
            elif kind is Kind.ALLOCATE:
                depth += step.value
            elif kind is Kind.FROM_LR:
                self._oddities += not holders & LR
                holders = holders | step.writes if holders & LR else holders & ~step.writes
            elif kind is Kind.TO_LR:
                holders = holders | LR if holders & 1 << step.register else holders & ~LR
            elif kind is Kind.ADD_STACK:
                depth = depth - step.value if step.register == 1 else 0
            elif switched and kind is Kind.MOVE_STACK:
                # r1 goes to the other stack; the frame on this one stays.
                index += 1
                continue
            elif switched and kind is Kind.LOAD_STACK:
                switched = False
            elif kind is Kind.MOVE_STACK or kind is Kind.LOAD_STACK:
                depth = 0
            elif kind is Kind.SWITCH:
                switched = True
                holders &= ~step.writes
            elif kind is Kind.ALLOCATE_INDEXED:
                depth += _UNKNOWN_FRAME
            elif kind is Kind.TRAP:
                after_trap.append((index + 1, State(depth, slot, holders, switched)))
                leaders.add(index + 1)
                return
            elif kind is Kind.PREFIX:
                index += 1
                holders &= ~prefixed_writes(words[index - 1], words[index] if index < count else 0)
            else:
                if kind is Kind.LEAVE:
                    self._oddities += bool(depth or not holders & LR)
                elif index in self._tables:
                    before = State(depth, slot, holders, switched)
                    normal.extend([(target, before) for target in self._tables[index].targets])
                elif len(self._at_tables) < _MOST_TABLES:
                    self._at_tables[index] = State(depth, slot, holders, switched)
                return
            index += 1

    def _unreached(self, index: int) -> State:
        """The state of an instruction that no edge reaches, chosen as the one that fits best what it flows into."""
        framed = State(self._frame_bytes, True, 0), State(self._frame_bytes, False, LR)
        return self._best(index, [*self._at_tables.values(), *framed, ENTRY])

    def _doubtful(self, index: int, level: Strength) -> bool:
        """Whether control may never arrive here: behind a trap, or behind a call where LR is read as if none had
        been.
        """
        if index >= len(self._words) or level is Strength.NORMAL:
            return False
        before, here = self._decode(self._words[index - 1]).kind, self._decode(self._words[index]).kind
        return before is Kind.TRAP or (before is Kind.CALL and here is Kind.FROM_LR)

    @cached_property
    def _frame_bytes(self) -> int:
        for word in self._words:
            step = self._decode(word)
            if step.kind is Kind.ALLOCATE:
                return step.value
        return _UNKNOWN_FRAME

    def _best(self, index: int, candidates: list[State]) -> State:
        if self._probes_left <= 0:
            return candidates[0]
        return min(dict.fromkeys(candidates), key=lambda candidate: self._contradictions(index, candidate))

    def _contradictions(self, index: int, state: State) -> int:
        probe = Flow.__new__(Flow)
        vars(probe).update(vars(self))
        probe._states, probe._at_tables, probe._pending, probe._oddities = {}, {}, ([], [], []), 0
        known, wrong = self._states, 0
        todo = [(index, state)]
        seen: set[int] = set()
        while todo and len(seen) < 256:
            at, before = todo.pop()
            if at in seen:
                continue
            seen.add(at)
            if at in known:
                wrong += _differs(known[at][1], before)
                continue
            probe._follow(at, before)
            for edges in probe._pending:
                todo.extend(edges)
                edges.clear()
        self._probes_left -= len(seen)
        return wrong + probe._oddities


def _meet(first: State, second: State) -> State:
    """What both say; of two depths the first that arrived stays."""
    if first == second:
        return first
    return State(
        first.depth, first.slot and second.slot, first.holders & second.holders, first.switched and second.switched
    )


def _differs(first: State, second: State) -> int:
    return (
        ((first.depth != 0) != (second.depth != 0))
        + (first.slot != second.slot)
        + (bool(first.holders & LR) != bool(second.holders & LR))
    )


def _answer(state: State) -> ReturnAddress:
    in_lr = bool(state.holders & LR)
    registers = state.holders & 0xFFFFFFFF
    other = None if in_lr or state.slot or not registers else (registers & -registers).bit_length() - 1
    return ReturnAddress(state.depth != 0, in_lr, state.slot, other, state.switched)
