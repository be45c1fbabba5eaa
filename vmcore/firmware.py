"""Firmware that runs on the kernel's CPUs, and addresses as they are in real mode.

RTAS and OPAL are called with address translation off: NIP and LR are physical addresses there. MSR[LE] too may differ
from the kernel's byte order.
"""

from __future__ import annotations

from functools import cached_property

from crashbeam.schemas.codes import CpuMode
from crashbeam.vmcore.arch.architecture import Architecture
from crashbeam.vmcore.errors import VmcoreError
from crashbeam.vmcore.kernel import Kernel
from crashbeam.vmcore.registers import Registers

_HIGHEST_PHYSICAL = 1 << 60
"""Above it are kernel addresses, also of BookE, whose MSR[IS] is 0 though addresses are translated."""


def kernel_address(arch: Architecture, registers: Registers, address: int) -> int:
    """The kernel's own address of what a context has at ``address``: of a physical one, its place in the linear map."""
    if registers.is_translated or registers.is_user or address >= _HIGHEST_PHYSICAL:
        return address
    return address | arch.lowest_kernel_address


class FirmwareAreas:
    """Where firmware lies in memory."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    @cached_property
    def _areas(self) -> tuple[tuple[int, int], ...]:
        found = []
        for firmware in self._kernel.arch.firmware:
            try:
                address = self._kernel.address_of(firmware.variable)
                base = self._kernel.number_at(address, firmware.struct, "base")
                size = self._kernel.number_at(address, firmware.struct, "size")
            except VmcoreError:
                continue
            found.append((base, base + size))
        return tuple(found)

    def holds(self, address: int) -> bool:
        """Whether a physical address, or its place in the linear map, lies in firmware."""
        lowest = self._kernel.arch.lowest_kernel_address
        physical = address & ~lowest
        return bool(lowest) and any(start <= physical < end for start, end in self._areas)

    def mode_of(self, registers: Registers) -> CpuMode:
        """What a context was executing."""
        if registers.is_user:
            return CpuMode.USER
        return CpuMode.FIRMWARE if self.is_firmware(registers) else CpuMode.KERNEL

    def is_firmware(self, registers: Registers) -> bool:
        """Whether firmware was running: in real mode, at an address of its own."""
        return not registers.is_user and not registers.is_translated and self.holds(registers.nip)
