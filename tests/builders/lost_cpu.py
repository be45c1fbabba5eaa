"""A 32-bit kernel whose CPU saved no note: functions that call each other by name, and stacks written word by word."""

from collections.abc import Mapping

from crashbeam.schemas.codes import StackKind, TaskFoundBy
from crashbeam.vmcore.modules import Text
from crashbeam.vmcore.recover.code import CodeFacts
from crashbeam.vmcore.recover.steps import Means
from crashbeam.vmcore.registers import Registers
from crashbeam.vmcore.stacks import Stack
from crashbeam.vmcore.symbols.layouts import Field, StructLayout
from crashbeam.vmcore.tasks import CurrentTask
from crashbeam.vmcore.unwind import Unwinder
from tests.builders.instructions import BCTRL, BLR, NOP, addi_r1, b, beq, bl, lwz, mflr, mtlr, stw, stwu, stwu_to
from tests.builders.kernel_memory import MadeUpKernel, Placed
from tests.builders.stacks import registers

TASK = Stack(StackKind.TASK, 0xC1000000, 0xC1002000)
HARDIRQ = Stack(StackKind.HARDIRQ, 0xC1010000, 0xC1012000)
SOFTIRQ = Stack(StackKind.SOFTIRQ, 0xC1020000, 0xC1022000)
STACKS = (TASK, HARDIRQ, SOFTIRQ)
TASK_STRUCT, KTHREAD = 0xC1030000, 0xC1030100
VARIABLES = 0xC1040000
BASES = VARIABLES + 0x100
"""``hrtimer_bases`` of CPU 0; this kernel has no per-CPU offsets, so it is that of every CPU."""
RFI = 0x4C000064
MARKER = 0x52454753
FRAME, CALLS_AT = 32, 3
"""Of ``framed`` functions: the size of a frame, and the place of the call."""

_PLACES = (
    *("start_kernel_thread", "kthread", "driver_thread", "work", "deeper", "spin", "short", "lock", "schedule"),
    *("shrink_wrapped", "entry", "timer_interrupt", "smp_handle_nmi_ipi", "crash_ipi_callback", "stop_others"),
    *("do_softirq_own_stack", "handle_softirqs", "irq_exit", "panic", "__crash_kexec", "die", "indirect", "tail"),
    *("tail_target", "busy", "do_exit", "small"),
)
_AT = {name: 0xC0001000 + 0x100 * place for place, name in enumerate(_PLACES)}


def after(name: str, instruction: int = CALLS_AT) -> int:
    """The return address of a call in a function (that of a ``framed`` one unless told)."""
    return _AT[name] + 4 * instruction + 4


def address_of(name: str) -> int:
    """Where a function starts."""
    return _AT[name]


def call(caller: str, instruction: int, callee: str) -> int:
    """``bl callee`` as this instruction of ``caller``."""
    return bl((_AT[callee] - _AT[caller]) // 4 - instruction)


def branch(caller: str, instruction: int, callee: str) -> int:
    """``b callee`` as this instruction of ``caller``."""
    return b((_AT[callee] - _AT[caller]) // 4 - instruction)


def framed(name: str, callee: str, *behind: int) -> tuple[int, ...]:
    """A function with a frame that calls one function, then does what ``behind`` says, else returns."""
    tail = behind or (lwz(0, FRAME + 4), mtlr(0), addi_r1(FRAME), BLR)
    return (stwu(FRAME), mflr(0), stw(0, FRAME + 4), call(name, CALLS_AT, callee), *tail)


SPIN = (b(0),)
"""A loop of one instruction: no frame, no trace."""


def _functions() -> Mapping[str, tuple[int, ...]]:
    return {
        "start_kernel_thread": (BCTRL, NOP),
        "kthread": (stwu(FRAME), mflr(0), stw(0, FRAME + 4), BCTRL, call("kthread", 4, "do_exit"), NOP),
        "driver_thread": (*framed("driver_thread", "work", call("driver_thread", 4, "spin")), BLR),
        "work": framed("work", "deeper"),
        "deeper": framed("deeper", "work"),
        "spin": SPIN,
        "short": (NOP, BLR),
        "lock": (NOP, beq(-1), BLR),
        "schedule": framed("schedule", "work"),
        "shrink_wrapped": (beq(3), beq(0), BLR, stwu(FRAME), mflr(0), stw(0, FRAME + 4), NOP, BLR),
        "entry": (NOP, BCTRL, RFI),
        "timer_interrupt": framed("timer_interrupt", "work", call("timer_interrupt", 4, "do_exit")),
        "smp_handle_nmi_ipi": (stwu(FRAME), mflr(0), stw(0, FRAME + 4), BCTRL, NOP, BLR),
        "crash_ipi_callback": framed("crash_ipi_callback", "stop_others"),
        "stop_others": framed("stop_others", "work"),
        "do_softirq_own_stack": (
            *(stwu(FRAME), mflr(0), stw(0, FRAME + 4), stwu_to(3, 0x2000 - 16), 0x7C611B78),
            *(call("do_softirq_own_stack", 5, "handle_softirqs"), lwz(1, 0), BLR),
        ),
        "handle_softirqs": framed("handle_softirqs", "work"),
        "irq_exit": framed("irq_exit", "do_softirq_own_stack"),
        "panic": framed("panic", "__crash_kexec", *SPIN),
        "__crash_kexec": framed("__crash_kexec", "work"),
        "die": framed("die", "panic", *SPIN),
        "indirect": (stwu(FRAME), mflr(0), stw(0, FRAME + 4), BCTRL, call("indirect", 4, "do_exit"), NOP),
        "tail": (NOP, branch("tail", 1, "tail_target")),
        "tail_target": framed("tail_target", "work"),
        "busy": framed("busy", "work", *SPIN),
        "do_exit": (*framed("do_exit", "work", *SPIN),),
        "small": (stwu(16), mflr(0), stw(0, 20), call("small", 3, "work"), NOP, BLR),
    }


class LostCpuKernel:
    """The kernel, and a task whose stack tests fill from the bottom."""

    def __init__(self, preempt_count: int | None = 0, threadfn: str | None = "driver_thread") -> None:
        self.made = MadeUpKernel()
        self.functions: dict[str, Placed] = {}
        for name, words in _functions().items():
            self.functions[name] = self.made.function(name, words, _AT[name])
        for stack in STACKS:
            self.made.put(stack.low, bytes(stack.high - stack.low))
        self.made.put(TASK_STRUCT, bytes(0x200))
        self.made.put(VARIABLES, bytes(0x400))
        self.made.structs["task_struct"] = StructLayout(
            256,
            {"worker_private": Field(8, 4)}
            | ({} if preempt_count is None else {"thread_info.preempt_count": Field(4, 4)}),
        )
        self.made.structs["kthread"] = StructLayout(16, {"threadfn": Field(4, 4)})
        self.made.structs["cpumask"] = StructLayout(4, {})
        self.made.words(TASK_STRUCT + 4, preempt_count or 0)
        if threadfn is not None:
            self.made.words(TASK_STRUCT + 8, KTHREAD)
            self.made.words(KTHREAD + 4, _AT[threadfn])
        self.task = CurrentTask(TASK_STRUCT, 77, "driver", TASK.low, TaskFoundBy.RUN_QUEUE)
        self.top = TASK.high - 16
        """Where the innermost frame lies that was put on the stack."""
        self.made.words(self.top, 0, after("start_kernel_thread", 0))

    def call(self, name: str, size: int = FRAME, instruction: int = CALLS_AT) -> int:
        """The frame of a function that the innermost one called, behind a call of its own; its place."""
        place = self.top - size
        self.made.words(place, self.top, after(name, instruction))
        self.top = place
        return place

    def thread(self, *names: str) -> None:
        """``kthread`` and what it called, by frames of 32 bytes."""
        for name in ("kthread", *names):
            self.call(name)

    def exception(self, interrupted: Registers, *, size: int = 240, at: int | None = None) -> int:
        """An exception frame below the innermost frame, whose handler ``entry`` called on; its place."""
        place = self.top - size if at is None else at
        self.made.words(place, interrupted.stack_pointer, after("entry", 1), MARKER, 0, *interrupted.words)
        self.top = place
        return place

    def context(self, name: str, instruction: int, *, trap: int = 0x2070, **more: int) -> Registers:
        """Registers of the innermost frame's function."""
        return registers(_AT[name] + 4 * instruction, self.top, more.pop("lr", 0), trap=trap, **more)

    def answer(self, *cpus: int) -> None:
        """``cpus_state_saved`` has these CPUs."""
        self.made.variables["cpus_state_saved"] = VARIABLES
        self.made.words(VARIABLES, sum(1 << cpu for cpu in cpus))

    def unwinder(self) -> Unwinder:
        """An unwinder over what was made so far."""
        return self.made.unwinder()

    def means(self) -> Means:
        """What recovery works with."""
        return Means(self.made.kernel(), self.unwinder())

    def code(self) -> CodeFacts:
        """The answers about its functions."""
        kernel = self.made.kernel()
        return CodeFacts(kernel.memory, self.made.arch, Text(kernel))
