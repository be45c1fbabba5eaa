"""The registers and the trace that a report in the kernel's log shows (``show_regs``, ``show_stack`` of arch/powerpc).

Both layouts of the register block are read (32 and 64 bit), with ``DAR``/``DSISR`` and BookE's ``DEAR``/``ESR``, and
the two forms of an interrupt in a trace: ``--- interrupt: 900 at F`` with a block of registers (5.11 and later), or
with a line ``LR = F`` (before).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from msgspec import Struct

MAX_TRACE_LINES = 512
_HEADING = "Call Trace:"
_VECTOR_MASK = ~0xF
"""The low bits of the trap word are flags (``TRAP_FLAGS_MASK``, asm/ptrace.h)."""
_SYMBOL = (
    r"(?:(?P<function>[^\s+]+)\+0x(?P<offset>[0-9a-f]+)/0x[0-9a-f]+|0x[0-9a-f]+)"
    r"(?: \[(?P<module>[\w-]+)(?: [0-9a-f]{16,})?\])?"
)
_AMONG_FRAMES = ("NIP", "REGS", "MSR", "CFAR", "GPR", "LR ", "LR:", "IRQMASK", "DEAR", "DAR", "SOFTE", "VSR", "FPR")
"""How the lines of the block begin that stand between the frames of an interrupted context."""
_SAME_NAMES = ("NIP", "LR", "CTR", "REGS", "TRAP", "MSR", "CR", "XER", "DAR", "DSISR", "CFAR", "SOFTE")
_NAMES = {name: name.lower() for name in _SAME_NAMES} | {"DEAR": "dar", "ESR": "dsisr", "IRQMASK": "softe"}


class Place(Struct, frozen=True):
    """A place in code as the kernel writes it: ``F+0x10/0x20 [module]``; all ``None`` where it had no symbol."""

    function: str | None = None
    offset: int | None = None
    module: str | None = None


class TraceLine(Struct, frozen=True):
    """A line of a ``Call Trace:``; one of an interrupt has only ``vector``, and the place that was interrupted."""

    stack_pointer: int | None
    address: int | None
    function: str | None
    offset: int | None
    module: str | None
    is_unreliable: bool
    vector: int | None = None


class RegisterBlock(Struct, frozen=True):
    """A block of registers, by the names of a report (``regs``: where they were saved), and what NIP and LR lie in."""

    registers: Mapping[str, int]
    nip: Place
    lr: Place


@cache
def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def place_of(groups: Mapping[str, str | None]) -> Place:
    """The place in the groups ``function``, ``offset`` (hex) and ``module`` of a match."""
    function = groups.get("function")
    if function is not None and function.startswith(".") and not function[1:].isdigit():
        function = function[1:]
    offset = groups.get("offset")
    module = groups.get("module")
    return Place(function or None, int(offset, 16) if offset else None, module.replace("-", "_") if module else None)


def read_registers(texts: Iterable[str]) -> RegisterBlock | None:
    """The first block of registers before the first ``Call Trace:``, or ``None``."""
    registers: dict[str, int] = {}
    places = {"NIP": Place(), "LR": Place()}
    seen = False
    for text in texts:
        if text.startswith(_HEADING):
            break
        if not seen:
            seen = text.startswith("NIP:")
        if not seen:
            continue
        if match := _expression(rf"(NIP|LR) \[[0-9a-f]{{8,16}}\] {_SYMBOL}").match(text):
            places[match[1]] = place_of(match.groupdict())
            if match[1] == "LR":
                break
        elif text.startswith("GPR"):
            _read_general_registers(text, registers)
        elif text.startswith(_AMONG_FRAMES):
            for name, value in _expression(r"\b([A-Z]{2,7}):\s+([0-9a-f]{1,16})(?![\w.])").findall(text):
                if name in _NAMES:
                    registers.setdefault(_NAMES[name], int(value, 16))
    return RegisterBlock(registers, places["NIP"], places["LR"]) if registers else None


def _read_general_registers(text: str, registers: dict[str, int]) -> None:
    first, _, words = text[3:].partition(":")
    if not first.isdigit():
        return
    for number, word in enumerate(words.split()[:8], int(first)):
        if number > 31 or not _expression(r"[0-9a-f]{8,16}").fullmatch(word):
            return
        registers.setdefault(f"r{number}", int(word, 16))


def read_trace(texts: Sequence[str]) -> tuple[TraceLine, ...] | None:
    """The lines of the first ``Call Trace:``, outermost last, or ``None`` where there is no such heading."""
    start = next((number for number, text in enumerate(texts) if text.startswith(_HEADING)), None)
    if start is None:
        return None
    frame = _expression(rf"\[([0-9a-f]{{8,16}})\] \[([0-9a-f]{{8,16}})\] {_SYMBOL}")
    interrupt = _expression(rf"--- (?:interrupt|Exception): ([0-9a-f]+)(?: at {_SYMBOL})?")
    lines: list[TraceLine] = []
    for text in texts[start + 1 : start + 1 + MAX_TRACE_LINES]:
        if match := frame.match(text):
            place = place_of(match.groupdict())
            sp, address, unreliable = int(match[1], 16), int(match[2], 16), "(unreliable)" in text
            lines.append(TraceLine(sp, address, place.function, place.offset, place.module, unreliable))
        elif match := interrupt.match(text):
            if " at " not in text:
                continue
            place = place_of(match.groupdict())
            vector = int(match[1], 16) & _VECTOR_MASK
            lines.append(TraceLine(None, None, place.function, place.offset, place.module, False, vector))
        elif not (text.strip() == "" or text.startswith(_AMONG_FRAMES) or text.lstrip().startswith("LR = ")):
            break
    return tuple(lines)
