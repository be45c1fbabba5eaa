"""What differs between 32-bit and 64-bit PowerPC, as one table each; everything above asks the table, never which one
it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from crashbeam.schemas.codes import StackKind
from crashbeam.vmcore.arch.instructions import Instruction
from crashbeam.vmcore.containers import ByteOrder
from crashbeam.vmcore.memory import KernelMemory, PhysicalMemory
from crashbeam.vmcore.symbols.compiled import Arch

MSR_PROBLEM_STATE = 0x4000
"""MSR[PR]: the registers are a user process'. The same bit in every PowerPC (Power ISA book III, MSR)."""
MSR_INSTRUCTION_RELOCATE = 0x20
"""MSR[IR]: instruction addresses are translated (BookE: the address space)."""
MSR_EXTERNAL_INTERRUPTS = 0x8000
"""MSR[EE]: external interrupts and the decrementer are taken."""
MSR_LITTLE_ENDIAN = 0x1
"""MSR[LE]: 64-bit kernels run in either byte order."""


class Layouts(Protocol):
    """What an architecture asks of the kernel's symbols: addresses of variables, sizes of types."""

    def address_of(self, name: str) -> int | None:
        """The address of a variable, or ``None``."""
        ...

    def size_of(self, struct: str) -> int | None:
        """The size of a struct or typedef in bytes, or ``None``."""
        ...


_HEXADECIMAL = {4: "{:08x}".format, 8: "{:016x}".format}
"""By bytes of a word."""


class LinearMap(Struct, frozen=True):
    """The kernel's direct map: physical address = virtual address - ``offset`` for ``start`` <= virtual < ``end``."""

    offset: int
    start: int
    end: int


class NoteFormat(Struct, frozen=True):
    """Where an ``elf_prstatus`` of one size keeps pid and registers (byte offsets)."""

    pid_at: int
    registers_at: int


class StackArray(Struct, frozen=True):
    """A kernel array of per-CPU stacks: a pointer to the lowest address for each CPU, ``entries_per_cpu`` apart."""

    variable: str
    kind: StackKind
    by_hardware_id: bool = False
    entries_per_cpu: int = 1


class Firmware(Struct, frozen=True):
    """A variable that says where firmware lies: a struct with ``base`` and ``size``, physical addresses."""

    variable: str
    struct: str


class Architecture(Struct, frozen=True):
    """One PowerPC architecture (``reference``: Linux arch/powerpc, asm/ptrace.h, asm/elf.h, the ELF ABI supplements).

    ``registers`` names the words of ``pr_reg`` and ``pt_regs`` in order. ``lr_slot`` is the LR save word of a frame;
    ``exception_places`` are (marker, pt_regs) offsets from an exception frame's stack pointer; ``switch_offsets`` how
    far below the end of an interrupt stack its first frame lies. ``vectors`` has names by trap word, raw words before
    masked ones.

    A kernel knows its CPU by the current task in ``task_register`` or by the PACA in ``paca_register``; ``paca_stacks``
    are members of a PACA that point to the highest addresses of stacks. Addresses below ``lowest_kernel_address`` are a
    user's, or those of real mode, where they mean the linear map's memory. ``lr_savers`` are the first and the last of
    the routines of size-optimised code that store LR for their caller.
    """

    name: Arch
    word_bytes: int
    byte_order: ByteOrder
    notes: Mapping[int, NoteFormat]
    kernel_note_bytes: int
    registers: tuple[str, ...]
    lr_slot: int
    stack_alignment: int
    exception_places: tuple[tuple[int, int], ...]
    markers: frozenset[int]
    switch_offsets: tuple[int, ...]
    vectors: Mapping[int, str]
    stack_arrays: tuple[StackArray, ...]
    default_thread_bytes: int
    decode: Callable[[int], Instruction]
    find_linear_map: Callable[[PhysicalMemory, Sequence[tuple[int, bytes]]], LinearMap | None]
    bound_linear_map: Callable[[LinearMap, Layouts, KernelMemory], LinearMap]
    page_walk: Callable[[LinearMap, Layouts, KernelMemory, int], Callable[[int], int] | None]
    task_register: int | None
    paca_register: int | None = None
    paca_stacks: tuple[tuple[str, StackKind], ...] = ()
    lowest_kernel_address: int = 0
    firmware: tuple[Firmware, ...] = ()
    lr_savers: tuple[str, str] | None = None

    def vector_name(self, trap: int) -> str | None:
        """The exception's name of a trap word, or ``None`` for one that the architecture does not have.

        The lowest four bits are flags; Linux 5.8 to 5.12 has one more (``set_trap_norestart``, asm/ptrace.h).
        """
        return self.vectors.get(trap) or self.vectors.get(trap & ~0xF) or self.vectors.get(trap & ~0x1F)

    def hexadecimal(self, value: int) -> str:
        """An address or register as it stands in a report."""
        return _HEXADECIMAL[self.word_bytes](value)
