"""A log as text: what ``dmesg`` prints, what a serial console shows, what kdump writes beside a dump."""

import os
import re
import stat
from collections.abc import Iterator, Sequence

from crashbeam.schemas.clean import clean_text
from crashbeam.vmcore.dmesg.memory import BATCH_RECORDS, Losses
from crashbeam.vmcore.errors import FormatError, SourceError
from crashbeam.vmcore.log_line import CALLER_IS_CPU, LogLine

SIDECAR = "vmcore-dmesg.txt"
"""The log that kdump's scripts took out of a dump, in the dump's folder."""
MAX_TEXT_BYTES = 4 << 20
"""Of a longer text the end is read."""
_ESCAPED_CHARACTERS = 4
_PREFIX = re.compile(
    r"(?:<(?P<level>[0-9]{1,3})>)?"
    r"(?:\[ {0,10}(?P<seconds>[0-9]{1,10})\.(?P<microseconds>[0-9]{6})\])?"
    # The column of the caller is six wide in the kernel, eight in makedumpfile, which puts a blank before it.
    r"(?: ?\[(?=[^]]{6,11}\]) {0,9}(?P<kind>[TC])(?P<caller>[0-9]{1,10})\])?"
)


class TextLines:
    """Lines that are read already, as a buffer."""

    def __init__(self, lines: Sequence[LogLine]) -> None:
        self._lines = lines

    def batches_backwards(self) -> Iterator[list[LogLine]]:
        """The lines, the newest batch first, each batch in order; the lines of one record stay together."""
        lines, end = self._lines, len(self._lines)
        while end > 0:
            start = max(end - BATCH_RECORDS, 0)
            while start > 0 and lines[start - 1].sequence == lines[start].sequence:
                start -= 1
            yield list(lines[start:end])
            end = start


def parse_log_text(text: bytes) -> list[LogLine]:
    """The lines of a log as it was printed, with level, time and caller as far as they stand before the text.

    Their numbers count from 0. A line that is indented to where the one before it has its text belongs to the same
    record: so makedumpfile prints a record of several lines.
    """
    lines: list[LogLine] = []
    indent = 0
    for line in map(_without_return, text.decode("utf-8", "replace").split("\n")):
        if line.isspace() or not line:
            continue
        if indent > 0 and line.startswith(" " * indent):
            lines.append(_continued(lines[-1], line[indent:]))
            continue
        parsed, indent = _parse_line(len(lines), line)
        lines.append(parsed)
    return lines


def caller_name(caller: int) -> str:
    """A ``caller_id`` as the kernel prints it: ``T81`` for a thread, ``C5`` for a CPU outside of any."""
    return f"C{caller ^ CALLER_IS_CPU}" if caller & CALLER_IS_CPU else f"T{caller}"


def format_line(line: LogLine, *, with_caller: bool = False) -> str:
    """A line as the kernel prints it (``print_time`` and ``print_caller`` of ``kernel/printk/printk.c``)."""
    time = caller = ""
    if line.time_ns is not None:
        seconds, rest_ns = divmod(line.time_ns, 10**9)
        time = f"[{seconds:5}.{rest_ns // 1000:06}]"
    if with_caller and line.caller is not None:
        caller = f"[{caller_name(line.caller):>6}]"
    return f"{time}{caller} {line.text}" if time or caller else line.text


def _without_return(line: str) -> str:
    return line.rstrip("\r")


def _parse_line(sequence: int, line: str) -> tuple[LogLine, int]:
    """A line, and how many characters stand before its text (0 if it has no time)."""
    found = _PREFIX.match(line)
    if found is None or not found.group():
        return LogLine(sequence, None, None, None, _clean(line)), 0
    level, seconds, microseconds, kind, number = found.groups()
    end = found.end()
    if (seconds or kind) and line.startswith(" ", end):
        end += 1
    caller = None
    if kind is not None:
        caller = int(number) & (CALLER_IS_CPU - 1) | (CALLER_IS_CPU if kind == "C" else 0)
    time_ns = None if seconds is None else int(seconds) * 10**9 + int(microseconds) * 1000
    parsed = LogLine(sequence, time_ns, caller, None if level is None else int(level) & 7, _clean(line[end:]))
    return parsed, end if seconds else 0


def _continued(before: LogLine, text: str) -> LogLine:
    return LogLine(before.sequence, before.time_ns, before.caller, before.level, _clean(text))


def _clean(line: str) -> str:
    return clean_text(line, len(line) * _ESCAPED_CHARACTERS)


def read_sidecar(dump_path: str, losses: Losses) -> TextLines | None:
    """The log beside a dump, or ``None`` if there is none. Raises SourceError, FormatError for one that is no text."""
    path = os.path.join(os.path.dirname(dump_path), SIDECAR)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FormatError(f"{path} is no file of text")
        start = max(status.st_size - MAX_TEXT_BYTES, 0)
        text = os.pread(descriptor, MAX_TEXT_BYTES, start)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)
    if start:
        losses.cut = f"only the last {MAX_TEXT_BYTES >> 20} MiB of {SIDECAR} were read"
        text = text.partition(b"\n")[2]
    return TextLines(parse_log_text(text))
