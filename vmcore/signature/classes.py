"""What a class of crash means for its signature: at which exceptions it begins, whose stack is blamed, what its key is
made of; and the class of a crash of which no text is left.
"""

from collections.abc import Mapping, Sequence
from enum import Enum, auto

from msgspec import Struct

from crashbeam.schemas.codes import CrashClass
from crashbeam.vmcore.signature.names import FunctionName
from crashbeam.vmcore.signature.points import Context, Point, Points
from crashbeam.vmcore.signature.rules import Rules


class Key(Enum):
    """What stands in a key beside the class."""

    FRAMES = auto()
    """Functions of the blamed stack."""
    DETAILS = auto()
    """What the text says: for crashes that strike anywhere."""
    NOTHING = auto()
    """All crashes of the class are one."""


class ClassRule(Struct, frozen=True):
    """How a class is signed. ``vectors``: the exceptions at which its stacks begin (``begins_at_any``: all will do;
    ``is_certain_to``: always at one). ``is_stall``: the text says which CPU is to blame; ``uses_anchors``: the
    innermost function is a chance sample; ``details``: the text's words that make its key.
    """

    vectors: frozenset[int] = frozenset()
    begins_at_any: bool = False
    is_certain_to: bool = True
    key: Key = Key.FRAMES
    details: tuple[str, ...] = ()
    is_stall: bool = False
    uses_anchors: bool = False

    def begins_at(self, vector: int) -> bool:
        """Whether a crash of the class can begin at the exception (0: no exception)."""
        return bool(vector) and (self.begins_at_any or vector in self.vectors)

    @property
    def needs_exception(self) -> bool:
        """Whether every crash of the class begins at an exception."""
        return self.is_certain_to and bool(self.vectors)


ASYNCHRONOUS = frozenset({0x100, 0x500, 0x900, 0xA00, 0x2070})
"""Exceptions that the interrupted code did not cause: reset, external, decrementer, doorbell (book3s, BookE)."""
_ACCESS = frozenset({0x300, 0x380, 0x400, 0x480, 0xE00, 0xE20})
_JUMP = frozenset({0x400, 0x480, 0xE20})
_PROGRAM = frozenset({0x700, 0xE40})
_UNAVAILABLE = frozenset({0x800, 0xF20, 0xF40, 0xF60, 0xF80, 0x2010, 0x2020, 0x2030})

_FAULT = ClassRule(_ACCESS)
_ANY = ClassRule(begins_at_any=True, is_certain_to=False)
_TRAP = ClassRule(_PROGRAM)
_NO_VECTOR = ClassRule()
_ONE = ClassRule(key=Key.NOTHING)
_STALL = ClassRule(ASYNCHRONOUS, is_stall=True, uses_anchors=True)

RULE_OF: Mapping[CrashClass, ClassRule] = {
    **dict.fromkeys((CrashClass.NULL_DEREF, CrashClass.BAD_ACCESS, CrashClass.KUAP), _FAULT),
    **dict.fromkeys((CrashClass.BAD_JUMP, CrashClass.EXEC_USER), ClassRule(_ACCESS)),
    CrashClass.UNALIGNED: ClassRule(frozenset({0x600})),
    **dict.fromkeys((CrashClass.BUG, CrashClass.WARN, CrashClass.PROGRAM_CHECK, CrashClass.REFCOUNT), _TRAP),
    **dict.fromkeys((CrashClass.LIST_CORRUPTION, CrashClass.USERCOPY, CrashClass.SLAB), _TRAP),
    **dict.fromkeys((CrashClass.SOFT_LOCKUP, CrashClass.RCU_STALL), _STALL),
    CrashClass.HARD_LOCKUP: ClassRule(ASYNCHRONOUS, is_stall=True),
    CrashClass.UNAVAILABLE: ClassRule(_UNAVAILABLE),
    CrashClass.KFENCE: ClassRule(_ACCESS, is_certain_to=False),
    **dict.fromkeys((CrashClass.STACK_OVERFLOW, CrashClass.BAD_STACK, CrashClass.UNKNOWN_OOPS), _ANY),
    CrashClass.UNRECOVERABLE: _ANY,
    CrashClass.MACHINE_CHECK: ClassRule(frozenset({0x200}), key=Key.DETAILS, details=("type", "subtype", "kind")),
    CrashClass.BAD_MODULE: ClassRule(_ACCESS, key=Key.DETAILS, details=("unloaded",)),
    CrashClass.HW_ERROR: ClassRule(key=Key.DETAILS, details=("kind",)),
    CrashClass.OOM: ClassRule(key=Key.DETAILS, details=("kind",)),
    CrashClass.INIT_KILLED: ClassRule(key=Key.DETAILS, details=("exit_code",)),
    **dict.fromkeys((CrashClass.SYSTEM_RESET, CrashClass.SYSRQ_CRASH, CrashClass.NO_ROOT), _ONE),
    **dict.fromkeys((CrashClass.RCU_STARVED, CrashClass.WQ_LOCKUP), _ONE),
}
"""Every class that is not here begins at no exception of its own, on the panicking CPU, and is signed by functions."""

STALLS = frozenset(class_ for class_, rule in RULE_OF.items() if rule.is_stall)

_CLASS_OF_VECTOR = {
    **dict.fromkeys(_JUMP, CrashClass.BAD_JUMP),
    **dict.fromkeys(_UNAVAILABLE, CrashClass.UNAVAILABLE),
    0x100: CrashClass.SYSTEM_RESET,
    0x200: CrashClass.MACHINE_CHECK,
    0x600: CrashClass.UNALIGNED,
}
_CLASS_OF_FUNCTION = {
    "sysrq_handle_crash": CrashClass.SYSRQ_CRASH,
    "watchdog_timer_fn": CrashClass.SOFT_LOCKUP,
    "watchdog_hardlockup_check": CrashClass.HARD_LOCKUP,
    "soft_nmi_interrupt": CrashClass.HARD_LOCKUP,
    "watchdog_smp_panic": CrashClass.HARD_LOCKUP,
    "panic_on_rcu_stall": CrashClass.RCU_STALL,
    "print_cpu_stall": CrashClass.RCU_STALL,
    "print_other_cpu_stall": CrashClass.RCU_STALL,
    "check_hung_task": CrashClass.HUNG_TASK,
    "check_hung_uninterruptible_tasks": CrashClass.HUNG_TASK,
    "__stack_chk_fail": CrashClass.STACK_PROTECTOR,
    "kasan_report": CrashClass.KASAN,
    "kasan_report_invalid_free": CrashClass.KASAN,
    "kfence_report_error": CrashClass.KFENCE,
    "ubsan_epilogue": CrashClass.UBSAN,
    "out_of_memory": CrashClass.OOM,
    "do_exit": CrashClass.INIT_KILLED,
    "mount_block_root": CrashClass.NO_ROOT,
    "mount_root_generic": CrashClass.NO_ROOT,
    "__warn": CrashClass.WARN,
    "check_panic_on_warn": CrashClass.WARN,
    "stack_overflow_exception": CrashClass.STACK_OVERFLOW,
    "kernel_bad_stack": CrashClass.BAD_STACK,
    "unrecoverable_exception": CrashClass.UNRECOVERABLE,
}
"""What called ``panic()``, where no exception tells; of two the first here, since some go through others."""
BLAMES_OTHERS = frozenset({"watchdog_smp_panic", "print_other_cpu_stall"})
"""Here the panicking CPU speaks of others, which only the text names."""

_SMALLEST_PAGE_BYTES = 4096
_TRAP_REASONS = 0x0002_0000
"""SRR1 at a program check, as ``pt_regs.msr`` keeps it (book3s): it was a trap instruction."""
_OTHER_REASONS = 0x001C_0000
"""The same: floating point, illegal or privileged instruction."""
_TRAP_REASON_ESR = 0x0200_0000
_OTHER_REASONS_ESR = 0x0C00_0000
"""ESR at a program check, as ``pt_regs.dsisr`` keeps it (BookE): trap; illegal or privileged instruction."""


def rule_of(class_: CrashClass) -> ClassRule:
    """How the class is signed."""
    return RULE_OF.get(class_, _NO_VECTOR)


def class_of_stack(stack: Points, rules: Rules, page_bytes: int | None, is_book_e: bool) -> CrashClass:
    """The class of a crash of which there is a stack alone: by the exception it began with, else by what called panic.

    ``page_bytes`` is the kernel's page size: an access below it is one through NULL.
    """
    if not stack.points:
        return CrashClass.EMPTY
    path, context = _crash_path(stack.points, rules)
    names = [name.function for name in path]
    for function, class_ in _CLASS_OF_FUNCTION.items():
        if function in names:
            return class_
    if context is not None and context.vector not in ASYNCHRONOUS - {0x100}:
        return _class_of_context(context, page_bytes or _SMALLEST_PAGE_BYTES, is_book_e)
    return CrashClass.PANIC if {"panic", "vpanic", "nmi_panic"} & set(names) else CrashClass.UNCLASSIFIED


def _crash_path(points: Sequence[Point], rules: Rules) -> tuple[list[FunctionName], Context | None]:
    """The functions of the crash path and the one that called it, and the exception that it began with, if any."""
    path: list[FunctionName] = []
    for point in points:
        if point.context is not None and point.context.vector and not point.is_user:
            return [*path, *filter(None, (point.name,))], point.context
        if point.name is not None:
            path.append(point.name)
            if not rules.has("crash_path", point.name):
                break
    return path, None


def _class_of_context(context: Context, page_bytes: int, is_book_e: bool) -> CrashClass:
    vector = context.vector
    if vector in _CLASS_OF_VECTOR:
        return _CLASS_OF_VECTOR[vector]
    if vector in _ACCESS:
        is_null = context.dar is not None and context.dar < page_bytes
        return CrashClass.NULL_DEREF if is_null else CrashClass.BAD_ACCESS
    if vector in _PROGRAM:
        reasons = context.dsisr if is_book_e else context.msr
        trap, others = (_TRAP_REASON_ESR, _OTHER_REASONS_ESR) if is_book_e else (_TRAP_REASONS, _OTHER_REASONS)
        illegal = reasons is not None and bool(reasons & others) and not reasons & trap
        return CrashClass.PROGRAM_CHECK if illegal else CrashClass.BUG
    return CrashClass.UNRECOVERABLE
