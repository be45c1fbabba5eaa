"""One whole CrashReport and one FailureRecord, for tests of what is derived from records."""

from crashbeam.schemas.codes import (
    CpuMode,
    Evidence,
    FailureCode,
    MatchedBy,
    NoteMethod,
    NoteState,
    PanicFoundBy,
    RegistersFrom,
    StackKind,
    Stage,
    StopReason,
    SymbolLayouts,
    SymbolNames,
    TaskFoundBy,
    Trust,
    WarningCode,
)
from crashbeam.schemas.crash_report import (
    CRASH_REPORT,
    Cpu,
    CpuMasks,
    CpuNote,
    CrashReport,
    ExceptionFrame,
    Frame,
    Kernel,
    Notes,
    Panic,
    ReportWarning,
    Source,
    SourceLine,
    Stack,
    Symbols,
    System,
    Taint,
    Task,
)
from crashbeam.schemas.failure import FAILURE, FailureRecord

INPUT_ID = "0123456789abcdef0123456789abcdef"
CRASH_ID = "fedcba9876543210fedcba9876543210"
SOURCE = Source("file:///dumps/vmcore", ("file:///dumps/vmcore",), 1_500_000, "2026-01-02T03:04:05.678900Z", "kdump")

_NO_STACK = Stack((), None, False)
_INTERRUPTED = Frame(
    level=1,
    stack_pointer="c1234560",
    address="c0423378",
    symbol="crashlab_null",
    offset=24,
    module="crashlab",
    trust=Trust.EXCEPTION,
    may_have_returned=False,
    on=StackKind.TASK,
    exception=ExceptionFrame("300", "Data Storage", {"nip": "c0423378"}),
    source=SourceLine("drivers/crashlab.c", 42, ()),
)
_INNERMOST = Frame(
    level=0,
    stack_pointer="c1234500",
    address="c0011223",
    symbol="crash_kexec",
    offset=8,
    module=None,
    trust=Trust.REGISTERS,
    may_have_returned=False,
    on=StackKind.TASK,
    exception=None,
    source=None,
)
_LOST = Cpu(
    cpu=0,
    online=True,
    note=CpuNote(NoteState.NOT_SAVED, None, (), None),
    registers_from=None,
    task=None,
    mode=None,
    registers=None,
    recovered_registers=None,
    stack=_NO_STACK,
    diagnosis=(),
)
_SAVED = Cpu(
    cpu=1,
    online=True,
    note=CpuNote(NoteState.SAVED, 0, (Evidence.CRASH_NOTES, Evidence.STACK), 77),
    registers_from=RegistersFrom.NOTE,
    task=Task("c2000000", 77, "bash", TaskFoundBy.RUN_QUEUE, "c1234000"),
    mode=CpuMode.KERNEL,
    registers={"r1": "c1234500", "nip": "c0011223"},
    recovered_registers=None,
    stack=Stack((_INNERMOST, _INTERRUPTED), StopReason.USER_MODE, False),
    diagnosis=(),
)

REPORT = CrashReport(
    schema=CRASH_REPORT,
    input_id=INPUT_ID,
    crash_id=CRASH_ID,
    source=SOURCE,
    kernel=Kernel(
        release="6.12.0",
        banner="Linux version 6.12.0",
        build_id="ad749de309526934bdff56fcf7a26f75ef32f43e",
        arch="ppc32",
        page_size=4096,
        machine="ppc",
        symbols=Symbols(SymbolNames.VMLINUX, SymbolLayouts.DWARF, True, MatchedBy.BUILD_ID),
    ),
    system=System(
        nodename="board-7",
        crash_time="2026-01-02T03:04:05Z",
        uptime_seconds=3600,
        cpus=CpuMasks((0, 1), (0, 1), (0, 1)),
        memory_bytes=128 << 20,
        hardware=None,
        taint=Taint(4096, "O", None),
    ),
    panic=Panic(1, 77, "bash", "c2000000", "Oops", ("kernel panic",), "Fatal exception", PanicFoundBy.CRASHING_CPU),
    notes=Notes(in_file=1, saved=1, not_saved=1, unassigned=0, method=NoteMethod.CRASH_NOTES, order_would_mislead=True),
    cpus=(_LOST, _SAVED),
    unassigned_notes=(),
    signature=None,
    dmesg=None,
    quirks=(),
    warnings=(
        ReportWarning(WarningCode.DUMP_INCOMPLETE, None, "the dump is cut off"),
        ReportWarning(WarningCode.NOTE_NOT_SAVED, 0, "cpu 0: NT_PRSTATUS note was not saved by the crashing system"),
    ),
)

FAILED = FailureRecord(
    schema=FAILURE,
    input_id=INPUT_ID,
    source=SOURCE,
    stage=Stage.HEADERS,
    code=FailureCode.TRUNCATED,
    message="the file ends inside its sub header",
    hint=FailureCode.TRUNCATED.remedy,
    facts={"size_bytes": 4096, "where": "sub header"},
)
