"""Stacks written word by word, over a kernel of a few functions, without any dump file."""

import struct
from collections.abc import Mapping, Sequence

from crashbeam.schemas.codes import StackKind, SymbolLayouts, SymbolNames
from crashbeam.vmcore.arch.ppc32 import PPC32
from crashbeam.vmcore.errors import TranslationError
from crashbeam.vmcore.firmware import FirmwareAreas
from crashbeam.vmcore.kernel import Kernel
from crashbeam.vmcore.limits import Budget
from crashbeam.vmcore.memory import KernelMemory, PhysicalMemory
from crashbeam.vmcore.modules import Text
from crashbeam.vmcore.registers import Registers
from crashbeam.vmcore.stacks import Stack
from crashbeam.vmcore.symbols.compiled import CompiledKernel
from crashbeam.vmcore.symbols.layouts import StructLayout
from crashbeam.vmcore.symbols.profile import KernelProfile, compile_profile
from crashbeam.vmcore.unwind import Unwinder
from tests.builders.instructions import BCTRL, BLR, NOP, bl, mflr, stw, stwu
from tests.builders.kernel_memory import FakeContainer, container_facts

LINEAR = 0xC0000000
PAGE = 4096
TASK = Stack(StackKind.TASK, 0xC0100000, 0xC0102000)
HARDIRQ = Stack(StackKind.HARDIRQ, 0xC0110000, 0xC0112000)
SOFTIRQ = Stack(StackKind.SOFTIRQ, 0xC0120000, 0xC0122000)
CRITICAL = Stack(StackKind.CRITICAL, 0xC0130000, 0xC0132000)
STACKS = (TASK, HARDIRQ, SOFTIRQ, CRITICAL)

FRAMED = (stwu(32), mflr(0), stw(0, 36), BCTRL, NOP, BLR)
"""A function with a frame; behind its call through a register (word 4) its return address is in memory."""
CODE: Mapping[str, tuple[int, Sequence[int]]] = {
    "leaf": (0xC0001000, (NOP, NOP, BLR)),
    "inner": (0xC0001100, FRAMED),
    "middle": (0xC0001200, FRAMED),
    "outer": (0xC0001300, FRAMED),
    "caller": (0xC0001400, (stwu(16), mflr(0), stw(0, 20), bl((0xC0001100 - 0xC000140C) // 4), NOP, BLR)),
    "__do_IRQ": (0xC0001500, FRAMED),
    "frameless_switch": (0xC0001600, (mflr(5), BCTRL, NOP, BLR)),
    "ExternalInput": (0xC0001700, (NOP, BCTRL, NOP)),
    "start_kernel_thread": (0xC0001800, (BCTRL, NOP)),
    "last": (0xC0001900, (BLR,)),
}
TEXT = (0xC0001000, 0xC0002000)


def behind_call(name: str) -> int:
    """The return address of a function's call."""
    start, words = CODE[name]
    place = next(index for index, word in enumerate(words) if word & 1 and word >> 26 in (18, 19) and word != BLR)
    return start + 4 * place + 4


class Made:
    """Memory of a made-up kernel: its text, and what a test writes."""

    def __init__(self) -> None:
        self.pages: dict[int, bytearray] = {}
        for start, words in CODE.values():
            self.write(start, *words)
        for stack in STACKS:
            self.write(stack.low, *(0,) * ((stack.high - stack.low) // 4))

    def write(self, address: int, *words: int) -> None:
        """Words at a kernel address."""
        for place, word in enumerate(words):
            at = address + 4 * place - LINEAR
            page = self.pages.setdefault(at // PAGE, bytearray(PAGE))
            struct.pack_into(">I", page, at % PAGE, word)

    def frame(self, stack_pointer: int, following: int, return_address: int = 0xDEADBEEC) -> None:
        """A frame: its back chain word, and the LR save word that its callee filled."""
        self.write(stack_pointer, following, return_address)

    def exception(
        self, stack_pointer: int, return_address: int, registers: Registers, marker: int = 0x52454753
    ) -> None:
        """An exception frame: 16 bytes with the marker, then ``pt_regs``."""
        self.write(stack_pointer, registers.stack_pointer, return_address, marker, 0, *registers.words)

    def unwinder(self) -> Unwinder:
        """An unwinder over this memory."""
        physical = PhysicalMemory(FakeContainer(container_facts(), self.pages), Budget())
        memory = KernelMemory(physical, _translate, word_bytes=4, byte_order="big")
        kernel = Kernel(memory, _profile(), PPC32)
        return Unwinder(memory, PPC32, Text(kernel), FirmwareAreas(kernel))


def registers(
    nip: int, stack_pointer: int, lr: int = 0, *, trap: int = 0x300, msr: int = 0x29002, **more: int
) -> Registers:
    """Registers of a context: the few that a walk asks for."""
    words = [0] * 44
    words[1], words[32], words[33], words[36], words[40] = stack_pointer, nip, msr, lr, trap
    for name, value in more.items():
        words[PPC32.registers.index(name)] = value
    return Registers(tuple(words))


def _translate(address: int) -> int:
    if not LINEAR <= address < LINEAR + 0x10000000:
        raise TranslationError(f"{address:#x} is not mapped")
    return address - LINEAR


def _profile() -> KernelProfile:
    return KernelProfile(
        compile_profile(
            CompiledKernel(
                build_id=None,
                banner=None,
                arch="ppc32",
                names=SymbolNames.VMLINUX,
                layouts=SymbolLayouts.BTF,
                text_ranges=(TEXT,),
                text=sorted((start, name) for name, (start, _) in CODE.items()),
                variables={},
                structs={"cpumask": StructLayout(4, {})},
            )
        )
    )
