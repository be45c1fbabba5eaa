"""The registers of a context, as ``pr_reg`` of a note and ``pt_regs`` on a stack hold them."""

from __future__ import annotations

import struct

from msgspec import Struct

from crashbeam.vmcore.arch.architecture import (
    MSR_EXTERNAL_INTERRUPTS,
    MSR_INSTRUCTION_RELOCATE,
    MSR_LITTLE_ENDIAN,
    MSR_PROBLEM_STATE,
    Architecture,
)

_STACK_POINTER, _NIP, _MSR, _ORIG_R3, _LR, _TRAP = 1, 32, 33, 34, 36, 40
"""Places of registers in ``pt_regs`` and ``pr_reg`` (asm/ptrace.h, the same on 32 and 64 bit)."""
REGISTER_COUNT = 44


class Registers(Struct, frozen=True):
    """The 44 registers of a context, in the order of ``pt_regs``."""

    words: tuple[int, ...]

    @property
    def nip(self) -> int:
        """The next instruction."""
        return self.words[_NIP]

    @property
    def stack_pointer(self) -> int:
        """r1."""
        return self.words[_STACK_POINTER]

    @property
    def lr(self) -> int:
        """The link register."""
        return self.words[_LR]

    @property
    def trap(self) -> int:
        """The vector that was taken; 0 in registers that the kernel saved by itself."""
        return self.words[_TRAP]

    @property
    def is_user(self) -> bool:
        """Whether a user process was running (MSR[PR])."""
        return bool(self.words[_MSR] & MSR_PROBLEM_STATE)

    @property
    def takes_interrupts(self) -> bool:
        """Whether external interrupts were taken (MSR[EE]); 64-bit kernels mask them by softe instead, at first."""
        return bool(self.words[_MSR] & MSR_EXTERNAL_INTERRUPTS)

    @property
    def is_translated(self) -> bool:
        """Whether instruction addresses were translated (MSR[IR]); if not, NIP and LR may be physical."""
        return bool(self.words[_MSR] & MSR_INSTRUCTION_RELOCATE)

    @property
    def is_little_endian(self) -> bool:
        """Whether data accesses were little endian (MSR[LE])."""
        return bool(self.words[_MSR] & MSR_LITTLE_ENDIAN)

    @property
    def is_self_saved(self) -> bool:
        """Whether ``ppc_save_regs`` made them: it zeroes trap and orig_gpr3, which no exception does."""
        return self.words[_TRAP] == 0 and self.words[_ORIG_R3] == 0


def decode_registers(arch: Architecture, byte_order: str, data: bytes, offset: int = 0) -> Registers:
    """The registers at ``offset`` of a note's descriptor or of a ``pt_regs``."""
    letter = "I" if arch.word_bytes == 4 else "Q"
    order = ">" if byte_order == "big" else "<"
    return Registers(struct.unpack_from(f"{order}{REGISTER_COUNT}{letter}", data, offset))


def name_registers(arch: Architecture, registers: Registers) -> dict[str, str]:
    """The registers as they stand in a report: lower-case hex by name."""
    letter = "I" if arch.word_bytes == 4 else "Q"
    words = struct.pack(f">{REGISTER_COUNT}{letter}", *registers.words)
    return dict(zip(arch.registers, words.hex(" ", arch.word_bytes).split(" "), strict=True))
