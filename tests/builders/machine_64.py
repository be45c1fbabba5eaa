"""A 64-bit kernel of a few functions, with the stacks of one CPU and frames of every form that Linux has had."""

from dataclasses import dataclass

from crashbeam.schemas.codes import StackKind
from crashbeam.schemas.crash_report import Stack as StackRecord
from crashbeam.vmcore.arch.architecture import Architecture
from crashbeam.vmcore.arch.ppc64 import PPC64, PPC64LE
from crashbeam.vmcore.registers import Registers
from crashbeam.vmcore.stacks import Stack
from tests.builders.instructions import BCTRL, BLR, NOP, mflr, std, stdu
from tests.builders.kernel_memory import PAGE_OFFSET_64, MadeUpKernel
from tests.builders.stacks import registers

THREAD_BYTES = 16384
KERNEL_MSR = 0x8000000000009032
USER_MSR = 0x800000000280F032
REAL_MSR = 0x8000000000001002
"""Interrupts and address translation are off."""
REGSHERE, REGS, REGS_LITTLE = 0x7265677368657265, 0x52454753, 0x53474552
"""``STACK_FRAME_REGS_MARKER`` until 6.0, since 6.1, and the latter on little endian."""
FRAMED_64 = (mflr(0), std(0, 16), stdu(32), BCTRL, NOP, BLR)
"""A function with a frame; behind its call (word 4) its return address is in memory."""
AFTER_CALL = 4


def stack_at(kind: StackKind, place: int) -> Stack:
    """A stack at one of a few places in memory."""
    low = PAGE_OFFSET_64 + 0x1000000 + place * 0x10000
    return Stack(kind, low, low + THREAD_BYTES)


TASK = stack_at(StackKind.TASK, 3)
HARDIRQ = stack_at(StackKind.HARDIRQ, 1)
SOFTIRQ = stack_at(StackKind.SOFTIRQ, 5)
EMERGENCY = stack_at(StackKind.EMERGENCY, 0)
NMI = stack_at(StackKind.NMI, 6)
MACHINE_CHECK = stack_at(StackKind.MACHINE_CHECK, 2)
STACKS = (TASK, HARDIRQ, SOFTIRQ, EMERGENCY, NMI, MACHINE_CHECK)


@dataclass(frozen=True, slots=True)
class FrameForm:
    """How a kernel lays out exception frames: where marker and ``pt_regs`` lie, how long a frame is that interrupts the
    kernel (STACK_INT_FRAME_SIZE and the red zone), and how far below its end an interrupt stack begins.
    """

    name: str
    arch: Architecture
    marker: int
    marker_at: int = 32
    registers_at: int = 48
    interrupt_bytes: int = 720
    switch_bytes: int = 32


LITTLE = FrameForm("ELFv2 since 6.2, little endian", PPC64LE, REGS_LITTLE)
BIG = FrameForm("ELFv1 since 6.1", PPC64, REGS, 96, 112, 784, 112)
FORMS = (
    LITTLE,
    FrameForm("ELFv2 since 6.2, big endian", PPC64, REGS),
    FrameForm("ELFv2 6.1", PPC64LE, REGS_LITTLE, 96, 112, 784, 112),
    FrameForm("ELFv2 until 6.0", PPC64LE, REGSHERE, 96, 112, 784, 112),
    BIG,
    FrameForm("ELFv1 until 6.0", PPC64, REGSHERE, 96, 112, 784, 112),
    FrameForm("ELFv1 of 4.19, 352 bytes of registers", PPC64, REGSHERE, 96, 112, 752, 112),
)


class Machine64:
    """``worker`` on the task stack, called by ``start_kernel_thread``; ``handler`` is what exceptions call."""

    def __init__(self, form: FrameForm = LITTLE) -> None:
        self.form = form
        self.made = MadeUpKernel(arch=form.arch)
        self.start = self.made.function("start_kernel_thread", (BCTRL, NOP))
        self.worker = self.made.function("worker", FRAMED_64)
        self.handler = self.made.function("handler", FRAMED_64)
        self.entry = self.made.function("entry", (NOP, BCTRL, NOP))
        for stack in STACKS:
            self.made.put(stack.low, bytes(THREAD_BYTES))
        self.top = TASK.high - 0x200
        self.bottom = TASK.high - form.switch_bytes
        self.frame(self.top, self.bottom)
        self.frame(self.bottom, 0, self.start.at(1))

    def context(self, nip: int, stack_pointer: int, lr: int = 0, *, trap: int = 0x900, **more: int) -> Registers:
        """Registers of a kernel context."""
        return registers(nip, stack_pointer, lr, trap=trap, **{"msr": KERNEL_MSR, **more})

    @property
    def interrupted(self) -> Registers:
        """``worker`` behind its call."""
        return self.context(self.worker.at(AFTER_CALL), self.top, self.worker.at(AFTER_CALL))

    def frame(self, place: int, following: int, return_address: int = 0xDEADBEEFDEADBEEC) -> None:
        """A frame: back chain, CR save word, and the LR save word that its callee filled."""
        self.made.words(place, following, 0, return_address)

    def exception(self, place: int, interrupted: Registers, *, marker: int | None = None) -> None:
        """An exception frame whose handler was called by ``entry``."""
        form = self.form
        self.frame(place, interrupted.stack_pointer, self.entry.at(2))
        self.made.words(place + form.marker_at, form.marker if marker is None else marker)
        self.made.words(place + form.registers_at, *interrupted.words)

    def interrupt(self, place: int, interrupted: Registers) -> Registers:
        """An exception frame with ``handler`` above it, behind its own call: the registers of that."""
        self.exception(place, interrupted)
        self.frame(place - 64, place)
        return self.context(self.handler.at(AFTER_CALL), place - 64, self.handler.at(AFTER_CALL), trap=0x100)

    def walk(self, start: Registers) -> StackRecord:
        """The stack of a CPU with these registers."""
        return self.made.unwinder().unwind(start, STACKS)


def chain(stack: StackRecord) -> list[tuple[str | None, int, str, str]]:
    """Symbol, stack pointer, trust and stack of each frame."""
    return [(frame.symbol, int(frame.stack_pointer, 16), frame.trust.value, frame.on.value) for frame in stack.frames]
