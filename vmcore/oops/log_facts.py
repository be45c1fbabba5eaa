"""What the kernel's log tells besides its reports: machine, taint, modules, and how the other CPUs were stopped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from msgspec import Struct

from crashbeam.vmcore.limits import MAX_MODULES
from crashbeam.vmcore.log_line import LogLine
from crashbeam.vmcore.taint import printed_letters

_HARDWARE = "Hardware name: "
_MODULES = "Modules linked in:"
_MAX_MODULE_LINES = 64
_LISTED = r"[\w-]+(?:\([A-Z+-]*\))?"
_MAX_TEXT_LENGTH = 4096
_NS_PER_SECOND = 1_000_000_000


class LogFacts(Struct, frozen=True):
    """``hardware``: the text of ``Hardware name:``. ``taint``: the letters at the log's last report; ``taint_before``:
    those at the first, before the crash added its own (``""``: not tainted). ``uptime_seconds``: the last time stamp.
    ``modules`` as in ``Modules linked in:``, without their marks, ``last_unloaded`` the one in its brackets.
    ``not_responding``: the number in ``ERROR: n cpu(s) not responding``. ``ipi_complete``: every other CPU answered.
    Each is ``None`` (``modules``: empty) where the log does not tell.
    """

    hardware: str | None
    taint: str | None
    taint_before: str | None
    uptime_seconds: float | None
    modules: tuple[str, ...]
    last_unloaded: str | None
    not_responding: int | None
    ipi_complete: bool


@cache
def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def log_facts(lines: Sequence[LogLine]) -> LogFacts:
    """The facts of a log's lines; give those from THE report's header on, for taint and modules at the crash."""
    hardware: str | None = None
    taints: list[str] = []
    modules: tuple[str, ...] = ()
    unloaded: str | None = None
    not_responding: int | None = None
    is_complete = False
    for number, line in enumerate(lines):
        text = line.text
        if text.startswith(_HARDWARE):
            hardware = hardware or text[len(_HARDWARE) : _MAX_TEXT_LENGTH].strip() or None
        elif text.startswith("CPU: ") or " PID: " in text[:80]:
            taints.extend(_taint_of(text))
        elif text.startswith(_MODULES):
            modules, unloaded = _modules_of(lines[number : number + _MAX_MODULE_LINES])
        elif text.startswith("ERROR: "):
            if match := _expression(r"ERROR: (\d{1,5}) cpu\(s\) not responding").match(text):
                not_responding = int(match[1])
        elif text.startswith("IPI complete"):
            is_complete = True
    times = (line.time_ns for line in reversed(lines) if line.time_ns is not None)
    last_ns = next(times, None)
    return LogFacts(
        hardware=hardware,
        taint=taints[-1] if taints else None,
        taint_before=taints[0] if taints else None,
        uptime_seconds=None if last_ns is None else last_ns / _NS_PER_SECOND,
        modules=modules,
        last_unloaded=unloaded,
        not_responding=not_responding,
        ipi_complete=is_complete,
    )


def _taint_of(text: str) -> list[str]:
    if "Not tainted " in text:
        return [""]
    match = _expression(r".*?\bTainted: ([A-Z ]{1,40}) ").match(text[:_MAX_TEXT_LENGTH])
    return [printed_letters(match[1])] if match else []


def _modules_of(lines: Sequence[LogLine]) -> tuple[tuple[str, ...], str | None]:
    """The modules of a list that may go on over further lines, each as long as a record can be."""
    words = lines[0].text[len(_MODULES) : _MAX_TEXT_LENGTH]
    for line in lines[1:]:
        text = line.text[:_MAX_TEXT_LENGTH].partition("[last unloaded: ")[0]
        if not text.strip() or not all(map(_expression(_LISTED).fullmatch, text.split())):
            break
        words += " " + line.text[:_MAX_TEXT_LENGTH]
    listed, _, tail = words.partition("[last unloaded: ")
    names = [_module_name(word) for word in listed.split()[:MAX_MODULES]]
    unloaded = _module_name(tail.partition("]")[0].strip())
    return tuple(name for name in names if name), unloaded or None


def _module_name(word: str) -> str:
    return word.partition("(")[0].replace("-", "_")
