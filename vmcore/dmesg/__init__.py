"""The kernel's log out of a dump, as lines: the lockless ring (5.10), structured records (3.5), plain text before.

What is told is what the dump's memory holds: records that were cleared for readers (``dmesg -C``) are still there.
"""

from collections.abc import Iterator
from itertools import count
from typing import Protocol

from crashbeam.vmcore.dmesg.memory import HINT, LogMemory, Losses
from crashbeam.vmcore.dmesg.old import PlainText, StructuredRecords
from crashbeam.vmcore.dmesg.ring import LocklessRing
from crashbeam.vmcore.dmesg.text import read_sidecar
from crashbeam.vmcore.errors import SymbolError, VmcoreError
from crashbeam.vmcore.kernel import Kernel
from crashbeam.vmcore.log_line import LogLine
from crashbeam.vmcore.memory import KernelMemory
from crashbeam.vmcore.vmcoreinfo import Vmcoreinfo


class LogBuffer(Protocol):
    """What holds the records: one of the kernel's three kinds of buffers."""

    def batches_backwards(self) -> Iterator[list[LogLine]]:
        """The lines, the newest batch first, each batch in order."""
        ...


_NOT_KNOWN = "neither symbols nor VMCOREINFO tell where the kernel keeps its log"
_MAX_LINES = 1 << 20
_KINDS: tuple[tuple[str, type[LocklessRing] | type[StructuredRecords] | type[PlainText]], ...] = (
    ("prb", LocklessRing),
    ("log_first_idx", StructuredRecords),
    ("log_end", PlainText),
)
"""A variable that only kernels with this kind of buffer have."""


class LogReader:
    """A log that is found, and read as far as it is asked for. ``losses`` counts what reading has met so far.

    ``sidecar_because`` is ``None`` for the log in the dump's memory; for the one in a file beside it, why it is taken.
    """

    def __init__(self, buffer: LogBuffer, losses: Losses, sidecar_because: str | None = None) -> None:
        self.losses = losses
        self.sidecar_because = sidecar_because
        self._batches: list[list[LogLine]] = []
        self._rest = buffer.batches_backwards()

    def batches_backwards(self) -> Iterator[list[LogLine]]:
        """The lines, the newest batch first, each batch in order: whoever has seen enough stops. What was read once is
        given again without reading.

        Raises LimitError when the dump's allowance is used up.
        """
        lines_left = _MAX_LINES
        for number in count():
            if number == len(self._batches):
                batch = next(self._rest, None)
                if batch is None:
                    return
                self._batches.append(batch)
            yield self._batches[number]
            lines_left -= len(self._batches[number])
            if lines_left < 0:
                self.losses.cut = f"only the newest {_MAX_LINES} lines of the log were read"
                return

    def read(self, last_records: int | None = None) -> list[LogLine]:
        """The lines in order: all, or those of the last records. Raises LimitError as ``batches_backwards`` does."""
        batches = []
        wanted = last_records
        for batch in self.batches_backwards():
            if wanted is None:
                batches.append(batch)
                continue
            kept = _last_records(batch, wanted)
            batches.append(kept)
            wanted -= len({line.sequence for line in kept})
            if wanted <= 0:
                break
        return [line for batch in reversed(batches) for line in batch]

    @property
    def problem(self) -> str | None:
        """Why what was read is not the whole log, or ``None``."""
        return self.losses.sentence()

    @property
    def overwritten_records(self) -> int:
        """Of a log that was read to its beginning: how many records the kernel has overwritten by newer ones."""
        return self._batches[-1][0].sequence if self._batches and self.sidecar_because is None else 0


def open_log(kernel: Kernel, info: Vmcoreinfo | None = None) -> LogReader:
    """The log of a kernel. ``info`` gives what its symbols lack.

    Raises SymbolError where the log's variables are not known, FormatError, TranslationError and PageError where they
    make no sense or cannot be read.
    """
    return _open(LogMemory(kernel.memory, kernel.profile, info))


def open_log_by_vmcoreinfo(memory: KernelMemory, info: Vmcoreinfo) -> LogReader:
    """The log of a kernel without symbols. Raises as ``open_log`` does."""
    return _open(LogMemory(memory, None, info))


def open_sidecar(dump_path: str, because: str) -> LogReader | None:
    """The log that lies beside a dump as ``vmcore-dmesg.txt``, its last 4 MiB; ``None`` if there is none.

    Raises SourceError and FormatError for one that cannot be read.
    """
    losses = Losses()
    lines = read_sidecar(dump_path, losses)
    return None if lines is None else LogReader(lines, losses, because)


def find_log(dump_path: str, kernel: Kernel | None, memory: KernelMemory | None, info: Vmcoreinfo | None) -> LogReader:
    """The log in the dump's memory, as far as any line of it can be read; else the one beside the dump.

    ``memory`` and ``info`` serve where the kernel's symbols are not known. Raises what ``open_log`` raises if there is
    neither.
    """
    try:
        found = _find_own(kernel, memory, info)
    except VmcoreError as error:
        sidecar = open_sidecar(dump_path, error.message)
        if sidecar is None:
            raise
        return sidecar
    if next(found.batches_backwards(), None) is None and found.problem is not None:
        return open_sidecar(dump_path, found.problem) or found
    return found


def _find_own(kernel: Kernel | None, memory: KernelMemory | None, info: Vmcoreinfo | None) -> LogReader:
    if kernel is not None:
        return open_log(kernel, info)
    if memory is not None and info is not None:
        return open_log_by_vmcoreinfo(memory, info)
    raise SymbolError(_NOT_KNOWN, hint=HINT)


def _open(memory: LogMemory) -> LogReader:
    for variable, kind in _KINDS:
        if memory.has(variable):
            return LogReader(kind(memory), memory.losses)
    raise SymbolError(_NOT_KNOWN, hint=HINT)


def _last_records(lines: list[LogLine], count: int) -> list[LogLine]:
    """The lines of the last ``count`` records."""
    sequence: int | None = None
    for place in range(len(lines) - 1, -1, -1):
        if lines[place].sequence != sequence:
            sequence = lines[place].sequence
            count -= 1
            if count < 0:
                return lines[place + 1 :]
    return lines
