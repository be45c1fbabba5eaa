"""The CrashReport record: what crashbeam knows of one crash.

Addresses and registers are lower-case hex strings of the word size without ``0x``; counts and sizes are integers; times
are RFC 3339 UTC; what is not known is ``None``. Keys appear in JSON in the order of definition here; ``class_`` and
``from_``, words of Python, are ``class`` and ``from`` there.
"""

from __future__ import annotations

from dataclasses import dataclass

from crashbeam.schemas.codes import (
    BlamedWhy,
    CpuMode,
    CrashClass,
    DiagnosisCode,
    Evidence,
    Grade,
    GradeReason,
    LogSource,
    MatchedBy,
    NoteMethod,
    NoteState,
    PanicFoundBy,
    RegistersFrom,
    StackKind,
    StopReason,
    SymbolLayouts,
    SymbolNames,
    TaskFoundBy,
    Trust,
    WarningCode,
)
from crashbeam.schemas.privacy import Internal, Personal, Public
from crashbeam.schemas.words import Digest, HexDigits, Word

CRASH_REPORT = "crashbeam.crash_report/1"


@dataclass(frozen=True, slots=True)
class Source:
    """The file, or the files of a split set, that a record was made from."""

    uri: Personal[str]
    parts: Personal[tuple[str, ...]]
    size_bytes: Public[int | None]
    modified: Internal[str | None]
    container: Public[str | None] = None
    wrapping: Public[tuple[str, ...]] = ()
    header_version: Public[int | None] = None
    written_by: Public[str | None] = None
    page_codecs: Public[tuple[str, ...]] = ()
    complete: Public[bool | None] = None
    incomplete_reason: Public[str | None] = None
    dump_level: Public[int | None] = None
    quirks: Public[tuple[str, ...]] = ()


@dataclass(frozen=True, slots=True)
class Symbols:
    """Where names and layouts came from, and how they were shown to fit."""

    names: Public[SymbolNames]
    layouts: Public[SymbolLayouts]
    lines: Public[bool]
    matched_by: Public[MatchedBy | None]


@dataclass(frozen=True, slots=True)
class Kernel:
    """The kernel that crashed."""

    release: Internal[str | None]
    banner: Internal[str | None]
    build_id: Internal[str | None]
    arch: Public[str | None]
    page_size: Public[int | None]
    machine: Public[str | None]
    symbols: Public[Symbols]


@dataclass(frozen=True, slots=True)
class CpuMasks:
    """The kernel's CPU masks as lists of CPU numbers."""

    possible: Public[tuple[int, ...] | None]
    present: Public[tuple[int, ...] | None]
    online: Public[tuple[int, ...] | None]


@dataclass(frozen=True, slots=True)
class Taint:
    """The kernel's taint flags."""

    mask: Public[int]
    letters: Public[str]
    before_crash: Public[str | None]


@dataclass(frozen=True, slots=True)
class System:
    """The machine that crashed."""

    nodename: Personal[str | None]
    crash_time: Internal[str | None]
    uptime_seconds: Public[int | None]
    cpus: Public[CpuMasks]
    memory_bytes: Public[int | None]
    hardware: Internal[str | None]
    taint: Public[Taint | None]


@dataclass(frozen=True, slots=True)
class Panic:
    """Who panicked, and of what."""

    cpu: Public[int | None]
    pid: Public[int | None]
    comm: Personal[str | None]
    task: Internal[Word | None]
    title: Internal[str | None]
    alternative_titles: Internal[tuple[str, ...]]
    message: Personal[str | None]
    found_by: Public[PanicFoundBy | None]


@dataclass(frozen=True, slots=True)
class Notes:
    """The NT_PRSTATUS notes of the file against the CPUs of the kernel."""

    in_file: Public[int]
    saved: Public[int]
    not_saved: Public[int]
    unassigned: Public[int]
    method: Public[NoteMethod]
    order_would_mislead: Public[bool]


@dataclass(frozen=True, slots=True)
class ExceptionFrame:
    """The exception that interrupted a frame: its ``pt_regs`` as they lie on the stack."""

    vector: Public[HexDigits]
    name: Public[str | None]
    registers: Internal[dict[str, Word]]


@dataclass(frozen=True, slots=True)
class Inlined:
    """A function inlined at a frame's address: ``file`` and ``line`` are where it was called from.

    The place is ``None`` where the compiler gave none.
    """

    function: Public[str]
    file: Internal[str | None]
    line: Public[int | None]


@dataclass(frozen=True, slots=True)
class SourceLine:
    """Where a frame's address is in the kernel's source; of a return address, where its call is.

    ``file`` and ``line`` are the place of the instruction itself, in the innermost function that was inlined there.
    ``inlined`` holds these functions from the innermost outwards: the first has ``file:line`` in its body, and the
    place it was called from lies in the next one's, that of the last one in the frame's ``symbol``. Without inlined
    functions ``file:line`` lies in ``symbol``. Paths are relative to the top of the kernel's source, or to the folder
    that it was built in; others are as the compiler had them.
    """

    file: Internal[str]
    line: Public[int]
    inlined: Public[tuple[Inlined, ...]]


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a stack, innermost first."""

    level: Public[int]
    stack_pointer: Internal[Word]
    address: Internal[Word]
    symbol: Public[str | None]
    offset: Public[int | None]
    module: Public[str | None]
    trust: Public[Trust]
    may_have_returned: Public[bool]
    on: Public[StackKind]
    exception: Public[ExceptionFrame | None]
    source: Public[SourceLine | None]


@dataclass(frozen=True, slots=True)
class Stack:
    """An unwound stack."""

    frames: Public[tuple[Frame, ...]]
    stop_reason: Public[StopReason | None]
    recovered: Public[bool]


@dataclass(frozen=True, slots=True)
class CpuNote:
    """What became of a CPU's note."""

    state: Public[NoteState]
    index: Public[int | None]
    evidence: Public[tuple[Evidence, ...]]
    pid: Public[int | None]


@dataclass(frozen=True, slots=True)
class Task:
    """The task that ran on a CPU."""

    address: Internal[Word]
    pid: Public[int | None]
    comm: Personal[str | None]
    found_by: Public[TaskFoundBy]
    stack_base: Internal[Word | None]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why a CPU did not answer, or what it was doing."""

    code: Public[DiagnosisCode]
    message: Internal[str]
    facts: Internal[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Cpu:
    """One possible CPU. ``recovered_registers`` are those of the first frame of a stack that was recovered, as far as
    they are known: what was saved is never mixed with them.
    """

    cpu: Public[int]
    online: Public[bool | None]
    note: Public[CpuNote]
    registers_from: Public[RegistersFrom | None]
    task: Public[Task | None]
    mode: Public[CpuMode | None]
    registers: Internal[dict[str, Word] | None]
    recovered_registers: Internal[dict[str, Word] | None]
    stack: Public[Stack]
    diagnosis: Public[tuple[Diagnosis, ...]]


@dataclass(frozen=True, slots=True)
class UnassignedNote:
    """A note of the file that no CPU could be shown to own."""

    index: Public[int]
    pid: Public[int]
    mode: Public[CpuMode]
    registers: Internal[dict[str, Word]]
    stack: Public[Stack]


@dataclass(frozen=True, slots=True)
class Blamed:
    """Whose stack a signature is made from."""

    cpu: Public[int | None]
    why: Public[BlamedWhy | None]


@dataclass(frozen=True, slots=True)
class Signature:
    """What the crash is filed under: ``id`` is the key of a bucket, ``wide`` and ``narrow`` are keys of larger and of
    smaller ones. ``frames`` are normalised function names, innermost first. ``rules`` is the digest of the lists.
    """

    algorithm: Public[str]
    rules: Public[Digest]
    class_: Public[CrashClass]
    culprit: Public[str | None]
    module: Public[str | None]
    frames: Public[tuple[str, ...]]
    blamed: Public[Blamed]
    id: Public[str]
    wide: Public[str]
    narrow: Public[str]
    grade: Public[Grade]
    reasons: Public[tuple[GradeReason, ...]]
    intentional: Public[bool]
    recursive: Public[bool]


@dataclass(frozen=True, slots=True)
class LogReport:
    """A report in the kernel's log: an oops, a warning, a stall, a panic.

    ``at_line`` is the number of the log's record that it begins with, from 0 at boot (of a file beside the dump, of the
    line).
    """

    class_: Public[CrashClass]
    title: Internal[str]
    at_line: Public[int]
    lines: Personal[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Dmesg:
    """The kernel's log: the reports in it, up to 50 lines ``before`` the first, and all ``lines`` if they were asked
    for. ``truncated``: the log is not whole, or more lines were left out.
    """

    reports: Public[tuple[LogReport, ...]]
    before: Personal[tuple[str, ...]]
    lines: Personal[tuple[str, ...] | None]
    truncated: Public[bool]
    from_: Public[LogSource]


@dataclass(frozen=True, slots=True)
class ReportWarning:
    """What could not be known, or only by weaker means."""

    code: Public[WarningCode]
    cpu: Public[int | None]
    message: Internal[str]


@dataclass(frozen=True, slots=True)
class CrashReport:
    """Everything that crashbeam knows of one crash: a pure function of the dump, the symbols and the options."""

    schema: Public[str]
    input_id: Public[Digest]
    crash_id: Public[Digest | None]
    source: Public[Source]
    kernel: Public[Kernel]
    system: Public[System]
    panic: Public[Panic]
    notes: Public[Notes]
    cpus: Public[tuple[Cpu, ...]]
    unassigned_notes: Public[tuple[UnassignedNote, ...]]
    signature: Public[Signature | None]
    dmesg: Public[Dmesg | None]
    quirks: Public[tuple[str, ...]]
    warnings: Public[tuple[ReportWarning, ...]]
