"""What code says of frames that are looked at from their callers: how large a function's frame is, where the function
goes by tail call, and what may run behind a call without leaving a trace on the stack.

A function that stores LR writes its return address into the LR save word of its caller's frame, which so names the
last call that left a trace. What runs behind that call until the next of its kind leaves none: loops of the function
itself, and functions that store no LR, or not yet (shrink-wrapped ones).
"""

from __future__ import annotations

from msgspec import Struct

from crashbeam.vmcore.arch.architecture import Architecture
from crashbeam.vmcore.arch.code import MAX_FUNCTION_BYTES
from crashbeam.vmcore.errors import VmcoreError
from crashbeam.vmcore.memory import KernelMemory
from crashbeam.vmcore.modules import Function, Text
from crashbeam.vmcore.recover.outline import EMPTY, Outline, Turn, outline_of

_MOST_BLOCKS = 2048
_MOST_TAIL_CALLS = 3
_MOST_OWNERS = 64
_MOST_NESTED = 24
"""Bounds for made-up code: of functions that go on in each other, and of those that call each other without a trace."""


class Reach(Struct, frozen=True):
    """What may run without leaving a trace: ``loops``, the function goes round by itself; ``returns``, it may return;
    ``callees``, the functions that it may call and that go round without a trace; ``calls_unknown``, it may call
    through a register.
    """

    loops: bool
    returns: bool
    callees: tuple[Function, ...] = ()
    calls_unknown: bool = False

    @property
    def may_stay(self) -> bool:
        """Whether the CPU may be there for long."""
        return self.loops or bool(self.callees) or self.calls_unknown


class Owners(Struct, frozen=True):
    """The functions that may own a frame, as far as the code tells; ``is_open``: there may be others."""

    functions: tuple[Function, ...]
    is_open: bool


_ROUND = Reach(loops=True, returns=False)
"""Of a function that is entered again before it stored LR: a circle of several functions."""
_ANYWHERE = Reach(loops=True, returns=True)


class CodeFacts:
    """Answers about the functions of one dump, each found once."""

    def __init__(self, memory: KernelMemory, arch: Architecture, text: Text) -> None:
        self._memory = memory
        self._arch = arch
        self._text = text
        self._outlines: dict[int, Outline] = {}
        self._owners: dict[int, Owners] = {}
        self._silent: dict[int, Reach] = {}
        self._behind: dict[tuple[int, int], Reach] = {}
        self._nested = 0

    def _outline(self, function: Function) -> Outline:
        found = self._outlines.get(function.start)
        if found is None:
            size_bytes = min(function.end - function.start, MAX_FUNCTION_BYTES) & ~3
            try:
                found = outline_of(self._arch.name, self._memory.read_code(function.start, size_bytes))
            except VmcoreError:
                found = EMPTY
            self._outlines[function.start] = found
        return found

    def frame_sizes(self, function: Function) -> frozenset[int]:
        """The sizes that a frame of the function may have, in bytes."""
        return self._outline(function).frame_sizes

    def saved_places(self, function: Function) -> frozenset[int]:
        """Where a function's first instructions store registers, in bytes from its caller's frame: what these places
        held before is lost.
        """
        return self._outline(function).saved_places

    def owners(self, function: Function) -> Owners:
        """The functions that may own the frame below a call of ``function``: itself, and where it goes by tail call."""
        known = self._owners.get(function.start)
        if known is None:
            found, fresh, is_open = [function], [function], False
            for _ in range(_MOST_TAIL_CALLS):
                targets = []
                for one in fresh:
                    outline = self._outline(one)
                    is_open |= outline.leaves_by_ctr
                    targets += self._functions_at(one, outline.tail_targets)
                fresh = [target for target in dict.fromkeys(targets) if target not in found]
                found += fresh
                if len(found) > _MOST_OWNERS:
                    found, is_open = found[:1], True
                    break
            known = self._owners[function.start] = Owners(tuple(found), is_open)
        return known

    def callees(self, function: Function) -> frozenset[Function]:
        """The functions that a function calls by their names."""
        return frozenset(self._functions_at(function, self._outline(function).call_targets))

    def _functions_at(self, function: Function, targets: tuple[int, ...]) -> list[Function]:
        found = [self._text.function_at(function.start + 4 * target) for target in targets]
        return [one for one in found if one is not None]

    def behind(self, function: Function, address: int) -> Reach:
        """What may run from ``address`` in ``function`` on until a call that leaves a trace."""
        key = (function.start, address)
        if key not in self._behind:
            self._behind[key] = self._reach(function, (address - function.start) // 4, ends_at_lr=False)
        return self._behind[key]

    def silent_part(self, function: Function) -> Reach:
        """What may run in a function that was called, before it stores LR in its caller's frame."""
        known = self._silent.get(function.start)
        if known is None:
            if self._nested >= _MOST_NESTED:
                return _ANYWHERE
            self._nested += 1
            self._silent[function.start] = _ROUND
            known = self._silent[function.start] = self._reach(function, 0, ends_at_lr=True)
            self._nested -= 1
        return known

    def _reach(self, function: Function, index: int, *, ends_at_lr: bool) -> Reach:
        outline = self._outline(function)
        if not 0 <= index < outline.count:
            return _ANYWHERE
        return _Search(self, self._text, function, outline, ends_at_lr=ends_at_lr).run(index)


class _Search:
    """One search through a function's instructions, block by block."""

    def __init__(self, facts: CodeFacts, text: Text, function: Function, outline: Outline, *, ends_at_lr: bool) -> None:
        self._facts = facts
        self._text = text
        self._function = function
        self._outline = outline
        self._ends_at_lr = ends_at_lr
        self._edges: dict[int, tuple[int, ...]] = {}
        self._returns = False
        self._is_lost = False
        """A branch to CTR was met, and where it leads is not known."""
        self._callees: dict[Function, None] = {}
        self._calls_unknown = False

    def run(self, index: int) -> Reach:
        """Follows every path from an instruction."""
        edges, todo = self._edges, [index]
        leads_back = False
        while todo:
            start = todo.pop()
            if start in edges:
                continue
            if len(edges) >= _MOST_BLOCKS:
                return _ANYWHERE
            edges[start] = self._follow(start)
            if self._is_lost:
                return _ANYWHERE
            for following in edges[start]:
                todo.append(following)
                leads_back |= following <= start
        # Every circle has a way back.
        return Reach(leads_back and goes_round(edges), self._returns, tuple(self._callees), self._calls_unknown)

    def _follow(self, index: int) -> tuple[int, ...]:
        """The blocks behind the block at ``index``."""
        for turn in self._outline.from_index(index):
            behind = (turn.index + 1,)
            match turn.turn:
                case Turn.CALL:
                    return behind if self._enter(turn.targets[0]) else ()
                case Turn.CALL_BY_REGISTER:
                    # It is taken for a call that leaves a trace.
                    self._calls_unknown = True
                    return ()
                case Turn.JUMP:
                    return turn.targets
                case Turn.BRANCH:
                    return (*behind, *turn.targets)
                case Turn.TAIL_CALL:
                    self._returns |= self._enter(turn.targets[0])
                    return ()
                case Turn.CONDITIONAL_TAIL_CALL:
                    self._returns |= self._enter(turn.targets[0])
                case Turn.RETURN:
                    self._returns = True
                    return ()
                case Turn.CONDITIONAL_RETURN:
                    self._returns = True
                case Turn.UNKNOWN:
                    self._is_lost = True
                    return ()
                case Turn.READS_LR if self._ends_at_lr:
                    return ()
        return ()

    def _enter(self, target: int) -> bool:
        """Notes what the function at an index outside this one may do without a trace; whether it may return so."""
        callee = self._text.function_at(self._function.start + 4 * target)
        if callee is None:
            return False
        reach = self._facts.silent_part(callee)
        if reach.loops:
            self._callees[callee] = None
        self._callees.update(dict.fromkeys(reach.callees))
        self._calls_unknown |= reach.calls_unknown
        return reach.returns


def goes_round(edges: dict[int, tuple[int, ...]]) -> bool:
    """Whether the blocks have a circle: some are left when those without a way on are taken away, and again."""
    ways = {block: len(set(following)) for block, following in edges.items()}
    before: dict[int, list[int]] = {block: [] for block in edges}
    for block, following in edges.items():
        for other in set(following):
            before[other].append(block)
    ended = [block for block, count in ways.items() if count == 0]
    left = len(ways)
    while ended:
        left -= 1
        for block in before[ended.pop()]:
            ways[block] -= 1
            if ways[block] == 0:
                ended.append(block)
    return left > 0
