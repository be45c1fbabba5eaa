"""The closed lists of the records: one enum each, with a sentence and a remedy for every member.

Members may be added within a major version of the records; none is renamed or removed.
"""

from enum import StrEnum


class Code(StrEnum):
    """A member of a closed list: its value is what stands in the record."""

    sentence: str
    remedy: str

    def __new__(cls, value: str, sentence: str = "", remedy: str = "") -> "Code":
        member = str.__new__(cls, value)
        member._value_ = value
        member.sentence = sentence
        member.remedy = remedy
        return member


class NoteState(Code):
    """What a CPU's ``crash_notes`` buffer says."""

    SAVED = "saved", "the buffer holds a whole NT_PRSTATUS note"
    NOT_SAVED = "not_saved", "the CPU was online and its buffer is empty: it never answered the crash IPI"
    OFFLINE = "offline", "the CPU was not online and its buffer is empty"
    INVALID = "invalid", "the buffer holds something that is no whole note"
    UNREADABLE = "unreadable", "the buffer or the pointer to it cannot be read"
    NOT_POPULATED = (
        "not_populated",
        "every buffer is empty, yet the file has notes: its maker does not fill crash_notes",
    )


class Evidence(Code):
    """What ties a note to a CPU, strongest first."""

    CRASH_NOTES = "crash_notes", "the note equals the CPU's own crash_notes buffer"
    CRASH_IPI = "crash_ipi", "the note's registers are those that the crash IPI interrupted on this CPU"
    PACA = "paca", "r13 is the PACA of the CPU"
    CURRENT_TASK = "current_task", "r2 is the task that runs on the CPU"
    THREAD_INFO_CPU = "thread_info_cpu", "the task in r2 says itself which CPU it runs on"
    STACK = "stack", "r1 lies in a stack that belongs to this CPU alone"
    PR_PID = "pr_pid", "the note's pid is that of this CPU's current task alone"
    NOTE_ORDER = "note_order", "what is left in the file was given to what is left of the CPUs, in order"


class NoteMethod(Code):
    """The weakest means that decided a CPU."""

    CRASH_NOTES = "crash_notes", "every CPU was decided from its own buffer"
    WITNESSES = "witnesses", "at least one CPU was decided by the crash IPI, registers, stack or pid"
    ORDER = "order", "at least one CPU was decided by the order of the notes"
    NONE = "none", "no note was given to any CPU"


class RegistersFrom(Code):
    """Where a CPU's registers come from."""

    NOTE = "note", "from the note in the file"
    CRASH_NOTES = "crash_notes", "from the CPU's buffer: the file lacks that note"
    HYPERVISOR = "hypervisor", "from a hypervisor's note, taken after the crash"
    FIRMWARE = "firmware", "from a note made by firmware, taken after the crash"
    EXCEPTION_FRAME = "exception_frame", "recovered from an exception frame on the stack"
    DMESG = "dmesg", "recovered from the kernel's log"


class TaskFoundBy(Code):
    """How the task of a CPU was found."""

    RUN_QUEUE = "run_queue", "curr of the CPU's run queue"
    PACA = "paca", "__current of the CPU's PACA"
    REGISTER = "register", "the register that holds the current task"
    IDLE_TASK = "idle_task", "the idle task of an offline CPU"


class PanicFoundBy(Code):
    """How the panicking CPU was found."""

    CRASHING_CPU = "crashing_cpu", "the variable crashing_cpu"
    PANIC_CPU = "panic_cpu", "the variable panic_cpu"
    REGISTERS = "registers", "the only CPU whose stack is in the crash path"
    DMESG = "dmesg", "the kernel's log"


class CpuMode(Code):
    """What a CPU was executing."""

    KERNEL = "kernel", "kernel code"
    USER = "user", "a process in user mode"
    FIRMWARE = "firmware", "firmware (RTAS, OPAL)"


class Trust(Code):
    """How sure a frame is."""

    REGISTERS = "registers", "the instruction pointer of a saved CPU"
    LINK_REGISTER = "link_register", "the return address was still in LR"
    BACK_CHAIN = "back_chain", "the saved LR of a frame of the back chain"
    EXCEPTION = "exception", "the interrupted context in an exception frame"
    CALLEE = "callee", "inferred: a function without a frame"
    SCAN = "scan", "found by scanning the stack"


class StackKind(Code):
    """The stack that a frame's stack pointer lies in."""

    TASK = "task", "the task's own kernel stack"
    HARDIRQ = "hardirq", "the CPU's hard interrupt stack"
    SOFTIRQ = "softirq", "the CPU's soft interrupt stack"
    CRITICAL = "critical", "the CPU's critical interrupt stack (BookE)"
    DEBUG = "debug", "the CPU's debug interrupt stack (BookE)"
    EMERGENCY = "emergency", "the CPU's emergency stack"
    NMI = "nmi", "the CPU's NMI stack"
    MACHINE_CHECK = "machine_check", "the CPU's machine check stack"
    UNKNOWN = "unknown", "none of the CPU's own stacks"


class StopReason(Code):
    """Why a stack ends where it ends."""

    USER_MODE = "user_mode", "the next context is a process in user mode"
    END_OF_STACK = "end_of_stack", "back chain 0"
    THREAD_START = "thread_start", "back chain 0 below the function that starts a thread"
    FIRMWARE = "firmware", "the stack pointer lies in firmware"
    VECTOR_ENTRY = "vector_entry", "first instruction of a vector: the stack pointer is still the user's"
    LEFT_KNOWN_STACKS = (
        "left_known_stacks",
        "the stack pointer is in none of the CPU's stacks and no call site proves the step",
    )
    NOT_CODE = "not_code", "the return address is not in kernel or module text"
    NOT_ASCENDING = "not_ascending", "the back chain goes down"
    UNALIGNED = "unaligned", "the stack pointer is not aligned"
    CYCLE = "cycle", "the back chain points to a frame that was passed already"
    UNREADABLE = "unreadable", "the stack's memory cannot be read"
    LIMIT = "limit", "more frames than the limit"


class DiagnosisCode(Code):
    """Why a CPU saved no note, or what it was doing."""

    INTERRUPTS_OFF = "interrupts_off", "it ran with interrupts disabled"
    SPINNING_ON_LOCK = "spinning_on_lock", "it spun on a lock"
    SKIPPED_BY_KERNEL = "skipped_by_kernel", "this kernel saves no note of idle tasks"
    IN_FIRMWARE = "in_firmware", "it was in firmware"
    IN_NMI = "in_nmi", "it was in an NMI"
    OFFLINE = "offline", "it was offline"
    PANICKED_TOO = "panicked_too", "it panicked at the same time"
    NOT_SCHEDULED = "not_scheduled", "the hypervisor did not run it"
    UNKNOWN = "unknown", "the dump does not tell"


class SymbolNames(Code):
    """Where names come from."""

    VMLINUX = "vmlinux", "the symbol table of a vmlinux"
    KALLSYMS = "kallsyms", "the dump's own kallsyms"
    SYSTEM_MAP = "system_map", "a System.map"
    NONE = "none", "no names"


class SymbolLayouts(Code):
    """Where struct layouts come from."""

    DWARF = "dwarf", "DWARF of a vmlinux"
    BTF = "btf", "BTF of a vmlinux or of the dump"
    NONE = "none", "no layouts"


class MatchedBy(Code):
    """How the symbols were shown to belong to the dump."""

    BUILD_ID = "build_id", "equal build ids"
    BANNER = "banner", "equal banners"
    ADDRESSES = "addresses", "equal addresses and release"
    DUMP_ITSELF = "dump_itself", "they come out of the dump"


class WarningCode(Code):
    """What a report could not know, or knew only by weaker means."""

    NOTE_NOT_SAVED = (
        "note_not_saved",
        "the CPU never saved its note",
        "look at what the CPU was doing: lost notes often name the culprit",
    )
    NOTE_INVALID = (
        "note_invalid",
        "the CPU's buffer holds no whole note",
        "the CPU was interrupted while it saved, or memory is corrupt",
    )
    NOTE_MISSING_FROM_FILE = (
        "note_missing_from_file",
        "the CPU's buffer holds a note that the file lacks",
        "none: the registers come from the buffer",
    )
    CRASH_NOTES_UNREADABLE = (
        "crash_notes_unreadable",
        "a crash_notes buffer, or the pointer to them, cannot be read",
        "the weaker witnesses decide; dump with a lower dump level",
    )
    NOTE_ORDER_USED = (
        "note_order_used",
        "notes were given to CPUs by their order in the file",
        "do not rely on which CPU is which",
    )
    NOTE_UNASSIGNED = "note_unassigned", "a note could not be shown to belong to any CPU", "see unassigned_notes"
    NOTE_EVIDENCE_CONFLICT = (
        "note_evidence_conflict",
        "two witnesses contradict each other",
        "the stronger one was followed; both are named",
    )
    NOTE_COUNT_MISMATCH = "note_count_mismatch", "the kernel's own count of CPUs that answered differs", "see the log"
    CPUS_UNKNOWN = (
        "cpus_unknown",
        "the mask of possible CPUs cannot be read",
        "give the matching vmlinux, or a complete dump",
    )
    SYMBOLS_MISSING = "symbols_missing", "no symbols for this kernel build", "give the vmlinux with --symbols"
    SYMBOLS_MISMATCH = (
        "symbols_mismatch",
        "the given symbols are of another kernel build",
        "give the vmlinux of the build id named",
    )
    LAYOUTS_MISSING = "layouts_missing", "the symbols carry no struct layouts", "give a vmlinux with DWARF or BTF"
    DUMP_INCOMPLETE = "dump_incomplete", "the dump is cut off or its writer ran out of space", "copy the dump again"
    PAGES_UNREADABLE = "pages_unreadable", "pages that were needed cannot be read", "the dump is damaged"
    PART_MISSING = "part_missing", "a part of a split dump is missing or broken", "put all parts into one folder"
    STACK_CUT = "stack_cut", "a stack could not be followed to its end", "see its stop_reason"
    TRACE_DIFFERS = "trace_differs", "the kernel's own trace differs", "see the log"
    LOG_UNREADABLE = (
        "log_unreadable",
        "the kernel's log, or a part of it, cannot be read",
        "put the vmcore-dmesg.txt beside the dump",
    )
    COSTLY_INPUT = "costly_input", "the dump had to be searched", "none"
    BUDGET_REACHED = "budget_reached", "a limit of the analysis was reached", "raise the limit"


class CrashClass(Code):
    """What kind of crash it was: the class of a signature, and of a report in the kernel's log."""

    NULL_DEREF = "null_deref", "an access through a NULL pointer"
    BAD_ACCESS = "bad_access", "an access to an address that is not mapped"
    BAD_JUMP = "bad_jump", "a jump to an address that is no code"
    UNALIGNED = "unaligned", "an unaligned access that cannot be done"
    EXEC_USER = "exec_user", "the kernel tried to execute a user's page"
    KUAP = "kuap", "the kernel accessed a user's page that it had not unlocked"
    BUG = "bug", "BUG()"
    LIST_CORRUPTION = "list_corruption", "a linked list is corrupt"
    USERCOPY = "usercopy", "a copy to or from user space that leaves its object"
    SLAB = "slab", "the slab allocator found corruption"
    WARN = "warn", "WARN() with panic_on_warn"
    REFCOUNT = "refcount", "a reference count that overflowed or was used after free"
    KASAN = "kasan", "KASAN found a bad access"
    KFENCE = "kfence", "KFENCE found a bad access"
    UBSAN = "ubsan", "UBSAN found undefined behaviour"
    SOFT_LOCKUP = "soft_lockup", "a CPU did not schedule for too long"
    HARD_LOCKUP = "hard_lockup", "a CPU took no interrupts for too long"
    RCU_STALL = "rcu_stall", "an RCU grace period did not end"
    RCU_STARVED = "rcu_starved", "the RCU grace-period thread did not run"
    HUNG_TASK = "hung_task", "a task was blocked for too long"
    WQ_LOCKUP = "wq_lockup", "a workqueue made no progress"
    ATOMIC_SLEEP = "atomic_sleep", "code that may not sleep slept"
    SPINLOCK = "spinlock", "a spinlock was misused"
    STACK_OVERFLOW = "stack_overflow", "a kernel stack overflowed"
    BAD_STACK = "bad_stack", "the stack pointer was no kernel stack's"
    STACK_PROTECTOR = "stack_protector", "a stack frame was overwritten"
    MACHINE_CHECK = "machine_check", "a machine check"
    SYSTEM_RESET = "system_reset", "a system reset, by an operator or a hypervisor"
    UNAVAILABLE = "unavailable", "a facility that the kernel may not use was used"
    UNRECOVERABLE = "unrecoverable", "an exception that cannot be recovered from"
    PROGRAM_CHECK = "program_check", "an illegal or privileged instruction"
    HW_ERROR = "hw_error", "the hardware reported an error"
    INIT_KILLED = "init_killed", "init was killed"
    NO_ROOT = "no_root", "the root filesystem could not be mounted"
    OOM = "oom", "out of memory"
    PANIC = "panic", "panic() of another kind"
    SYSRQ_CRASH = "sysrq_crash", "a crash that was asked for"
    BAD_MODULE = "bad_module", "code of a module that is not loaded any more, or does not fit"
    UNKNOWN_OOPS = "unknown_oops", "an oops whose cause is lost"
    UNCLASSIFIED = "unclassified", "there is a stack, and no text that names a kind"
    EMPTY = "empty", "there is neither text nor stack"


class BlamedWhy(Code):
    """Why this CPU's or task's stack is the one that a signature is made from."""

    PANICKING_CPU = "panicking_cpu", "it panicked"
    NAMED_IN_LOG = "named_in_log", "the log names the CPU"
    LISTED_IN_LOG = "listed_in_log", "the log lists it among those that stalled"
    TASK_IN_LOG = "task_in_log", "the log names the task"


class Grade(Code):
    """How much a signature can be relied on."""

    A = "A", "text and stack agree"
    B = "B", "one source alone, and a sound one"
    C = "C", "weak evidence"
    D = "D", "no signature of a defect: never in one bucket with an A or B"


class GradeReason(Code):
    """What lowers the grade of a signature."""

    NO_LOG = "no_log", "the kernel's log has no report, or cannot be read"
    CAUSE_LOST = "cause_lost", "the report of the cause is not in the log any more"
    FIRST_OOPS_LOST = "first_oops_lost", "the first oops is not in the log any more"
    TEXT_CORRUPTED = "text_corrupted", "the report in the log is cut or mixed with another"
    TEXT_DISAGREES = "text_disagrees", "the log names another function than the stack"
    BLAMED_NOT_SAVED = "blamed_not_saved", "the blamed CPU saved no note"
    BLAMED_RECOVERED = "blamed_recovered", "the blamed CPU's stack was recovered without a note"
    BLAMED_UNKNOWN = "blamed_unknown", "it is not known which CPU or task is to blame"
    STACK_FROM_TEXT = "stack_from_text", "the stack is that which the kernel printed"
    STACK_CUT = "stack_cut", "the blamed stack was not followed to its end"
    NO_EXCEPTION_FRAME = "no_exception_frame", "the frame at which the crash began was not found"
    FEW_FRAMES = "few_frames", "fewer than two frames say anything"
    WEAK_FRAMES = "weak_frames", "frames are inferred, or may have returned"
    CULPRIT_BY_LINK_REGISTER = "culprit_by_link_register", "the culprit is known through LR alone"
    SYMBOLS_MISSING = "symbols_missing", "functions of the blamed stack have no names"
    STACK_OVERFLOWED = "stack_overflowed", "the stack had overflowed: what was found may be a consequence"
    KIND_UNKNOWN = "kind_unknown", "the log does not say of what kind it was"


class LogSource(Code):
    """Where the kernel's log was read."""

    DUMP = "dump", "in the dump's memory"
    SIDECAR = "sidecar", "in a vmcore-dmesg.txt beside the dump"
    TEXT = "text", "in a file that holds the log alone: there is no dump"


class FailureCode(Code):
    """Why an input has no report."""

    EMPTY = "empty", "the file is empty", "the copy failed: copy it again"
    NOT_REGULAR = "not_regular", "the path is not a regular file", "name a dump file, or a folder of them"
    IO_ERROR = "io_error", "the file cannot be read", "check that it exists and may be read"
    UNKNOWN_FORMAT = (
        "unknown_format",
        "the file is no crash dump that is known here",
        "name a kdump, flattened or ELF vmcore",
    )
    TRUNCATED = "truncated", "the file ends before its headers or notes do", "the copy was cut: copy it again"
    MALFORMED = "malformed", "the file contradicts itself", "make the dump anew"
    UNSUPPORTED = "unsupported", "the file is known but not supported", "convert it with makedumpfile"
    INPUT_CHANGED = "input_changed", "the file changed since it was listed", "run again when it is complete"
    BUDGET_EXCEEDED = (
        "budget_exceeded",
        "the dump asks for more than the limits allow",
        "raise the limit, or distrust the file",
    )
    DEADLINE = "deadline", "the analysis took longer than its deadline", "raise the deadline"
    OUT_OF_MEMORY = "out_of_memory", "the analysis needed more memory than its limit", "raise the limit"
    WORKER_KILLED = (
        "worker_killed",
        "the process that analysed the dump died",
        "look at the machine's log (out of memory killer?)",
    )
    INTERNAL_ERROR = "internal_error", "a defect of crashbeam", "report it, with a trimmed dump"


class Stage(Code):
    """The step that a failed input was in."""

    OPEN = "open", "opening the file"
    HEADERS = "headers", "reading its headers"
    SYMBOLS = "symbols", "finding the kernel's symbols"
    NOTES = "notes", "mapping notes to CPUs"
    STACKS = "stacks", "unwinding"
    REPORT = "report", "building the report"


CLOSED_LISTS: tuple[type[Code], ...] = (
    NoteState,
    Evidence,
    NoteMethod,
    RegistersFrom,
    TaskFoundBy,
    PanicFoundBy,
    CpuMode,
    Trust,
    StackKind,
    StopReason,
    DiagnosisCode,
    SymbolNames,
    SymbolLayouts,
    MatchedBy,
    CrashClass,
    BlamedWhy,
    Grade,
    GradeReason,
    LogSource,
    WarningCode,
    FailureCode,
    Stage,
)
