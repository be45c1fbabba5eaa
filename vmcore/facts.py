"""What travels between the stages: small, picklable, typed values, each holding the one before.

``Opened`` says what the headers and the kernel say, ``Mapped`` whose each note is, ``Unwound`` has the stacks. No
open file, no profile and no page is held: a stage that finds itself in another process opens the dump again.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from crashbeam.schemas.codes import CpuMode, FailureCode, LogSource, NoteMethod, RegistersFrom, Stage
from crashbeam.schemas.crash_report import Diagnosis, Kernel, Panic, ReportWarning, Source, Stack, System
from crashbeam.vmcore.log_line import LogLine
from crashbeam.vmcore.note_map import CpuNoteMap, FileNote
from crashbeam.vmcore.oops import LogFacts, Oops
from crashbeam.vmcore.stacks import Stack as KernelStack
from crashbeam.vmcore.tasks import CurrentTask


class DumpInput(Struct, frozen=True):
    """One input: a file, or the files of a split set, as it was listed.

    ``uri`` is the canonical URI (of the part with the lowest start_pfn), ``paths`` the local files, that part first;
    ``size_bytes`` and ``version`` (mtime in ns as text; of a set, those of its parts joined) are ``None`` where the
    input cannot be stat'ed. ``input_id`` is made of uri, size and version.
    """

    input_id: str
    uri: str
    paths: tuple[str, ...]
    size_bytes: int | None
    version: str | None
    modified_ns: int | None


class AnalysisOptions(Struct, frozen=True):
    """What a report may depend on beside the dump.

    ``symbols`` are the paths given with ``--symbols``; ``profiles`` is the folder of compiled
    kernel profiles, by default the user's cache. ``dmesg_lines`` of the log are put into the report; ``rules`` is a
    folder of lists for classes and signatures, beside those that ship.
    """

    symbols: tuple[str, ...] = ()
    profiles: str | None = None
    dmesg_lines: int = 0
    rules: str | None = None


class Failed(Struct, frozen=True):
    """An input that a stage could not go on with; later stages pass it through untouched."""

    input: DumpInput
    stage: Stage
    code: FailureCode
    message: str
    hint: str
    facts: dict[str, int | str]


class PagesMet(Struct, frozen=True):
    """What the pages read so far have shown: their codecs, and the numbers of those that could not be read as they
    are.
    """

    codecs: frozenset[str] = frozenset()
    unreadable: frozenset[int] = frozenset()
    zeros_assumed: frozenset[int] = frozenset()

    def joined(self, other: PagesMet) -> PagesMet:
        """Both together."""
        return PagesMet(
            self.codecs | other.codecs, self.unreadable | other.unreadable, self.zeros_assumed | other.zeros_assumed
        )


class Opened(Struct, frozen=True):
    """What the headers of a dump and the kernel in it say of themselves."""

    input: DumpInput
    source: Source
    crash_id: str | None
    kernel: Kernel
    system: System
    warnings: tuple[ReportWarning, ...]
    pages: PagesMet


class MappedCpu(Struct, frozen=True):
    """One possible CPU with its note and its task."""

    cpu: int
    online: bool | None
    note: CpuNoteMap
    task: CurrentTask | None


class CrashLog(Struct, frozen=True):
    """The log as far as it was read: ``lines`` are its newest.

    ``whole`` tells whether nothing before ``lines`` is missing that the log could still hold.
    """

    lines: tuple[LogLine, ...]
    oopses: tuple[Oops, ...]
    facts: LogFacts
    whole: bool
    source: LogSource

    @property
    def cause(self) -> Oops | None:
        """The report of the cause: the first one."""
        return self.oopses[0] if self.oopses else None


class Mapped(Struct, frozen=True):
    """Whose each note is, and the stacks of each CPU."""

    opened: Opened
    notes_in_file: int
    cpus: tuple[MappedCpu, ...]
    stacks: Mapping[int, tuple[KernelStack, ...]]
    unassigned: tuple[FileNote, ...]
    method: NoteMethod
    order_would_mislead: bool
    panic: Panic
    log: CrashLog | None
    warnings: tuple[ReportWarning, ...]
    pages: PagesMet


class UnwoundContext(Struct, frozen=True):
    """The stack of a CPU's or a note's registers, and what was running.

    ``recovered_from`` says where the registers of a recovered stack were found, if they were.
    """

    mode: CpuMode
    stack: Stack
    recovered_from: RegistersFrom | None = None


class Unwound(Struct, frozen=True):
    """The stacks: one for each CPU of ``mapped`` (``None`` where there are no registers and nothing was recovered), and
    one for each unassigned note, in the same order; ``diagnoses`` are those of each CPU.
    """

    mapped: Mapped
    cpus: tuple[UnwoundContext | None, ...]
    unassigned: tuple[UnwoundContext, ...]
    diagnoses: tuple[tuple[Diagnosis, ...], ...]
    quirks: tuple[str, ...]
    warnings: tuple[ReportWarning, ...]
    pages: PagesMet
