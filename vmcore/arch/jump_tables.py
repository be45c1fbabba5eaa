"""Jump tables that 64-bit compilers put into the text: words behind ``bctr`` that are data, and where they lead.

Each word is the signed distance of a target from the table's start (GCC, rs6000: ``JUMP_TABLES_IN_TEXT_SECTION``). A
table's length is written nowhere: it ends where a word leads out of the function, or where the code begins that an
earlier word of it leads to.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from crashbeam.vmcore.arch.instructions import signed

_BCTR = 0x4E800420


class JumpTable(Struct, frozen=True):
    """The words of a table and the instructions that they lead to, as indices into the function's words."""

    words: range
    targets: frozenset[int]


def find_jump_tables(words: Sequence[int]) -> dict[int, JumpTable]:
    """The table behind each ``bctr`` that has one, by the index of the ``bctr``.

    Code is not taken for a table: instructions are larger numbers than distances within a function. 32-bit code has
    its tables elsewhere, so none is found.
    """
    tables: dict[int, JumpTable] = {}
    start = 0
    while True:
        try:
            start = words.index(_BCTR, start) + 1
        except ValueError:
            return tables
        table = _read_table(words, start)
        if table.words:
            tables[start - 1] = table
            start = table.words.stop


def _read_table(words: Sequence[int], start: int) -> JumpTable:
    targets: set[int] = set()
    at, end = start, len(words)
    while at < end:
        distance = signed(words[at], 32)
        target = start + (distance >> 2)
        if distance & 3 or not 0 <= target < len(words) or start <= target <= at:
            break
        targets.add(target)
        if target > at:
            end = min(end, target)
        at += 1
    return JumpTable(range(start, at), frozenset(targets))
