"""The PACAs of a made-up 64-bit kernel (asm/paca.h, CONFIG_PPC_PSERIES)."""

from collections.abc import Mapping, Sequence

from crashbeam.vmcore.arch.architecture import Architecture
from crashbeam.vmcore.symbols.layouts import Field, StructLayout
from tests.builders.kernel_memory import PAGE_OFFSET_64, MadeUpKernel

PACA_BYTES = 0x400
LOCK_TOKEN = 0x8000
TABLE = PAGE_OFFSET_64 + 0x500000
PACAS = PAGE_OFFSET_64 + 0x510000
KEXEC_PACA = PAGE_OFFSET_64 + 0x520000
_VARIABLES = PAGE_OFFSET_64 + 0x530000
_PER_CPU_OFFSETS = PAGE_OFFSET_64 + 0x540000
PER_CPU_STEP = 0x10000
KEXEC_DATA_OFFSET = 0xEDEADDEADEEEEEEE
"""What the crash path puts into ``kexec_paca.data_offset``."""


def paca_layout(arch: Architecture) -> StructLayout:
    """Token and index change places with the byte order, so that both are one word."""
    index_at, token_at = (8, 10) if arch.byte_order == "little" else (10, 8)
    return StructLayout(
        PACA_BYTES,
        {
            "paca_index": Field(index_at, 2),
            "lock_token": Field(token_at, 2),
            "emergency_sp": Field(40, 8),
            "data_offset": Field(48, 8),
            "__current": Field(0x280, 8),
            "nmi_emergency_sp": Field(0x300, 8),
            "mc_emergency_sp": Field(0x308, 8),
        },
    )


class PacaKernel:
    """A kernel with a PACA for each of ``cpus``, 0x400 bytes apart, and a table of them.

    ``old``: the table is that of kernels before 4.17. ``crashed``: the CPU that ran the crash path, if one did.
    """

    def __init__(
        self, arch: Architecture, cpus: Sequence[int] = range(4), *, old: bool = False, crashed: int | None = None
    ) -> None:
        self.made = made = MadeUpKernel(arch=arch)
        self.cpus = cpus
        made.structs["paca_struct"] = paca_layout(arch)
        made.structs["cpumask"] = StructLayout(8, {})
        self._variable("__cpu_possible_mask", sum(1 << cpu for cpu in cpus))
        made.variables["kexec_paca"] = KEXEC_PACA
        made.put(KEXEC_PACA, bytes(PACA_BYTES))
        made.variables["__per_cpu_offset"] = _PER_CPU_OFFSETS
        self.addresses = {cpu: PACAS + cpu * PACA_BYTES for cpu in cpus}
        for cpu in cpus:
            made.words(_PER_CPU_OFFSETS + 8 * cpu, cpu * PER_CPU_STEP)
            self.write(self.addresses[cpu], cpu)
        if crashed is not None:
            self.write(KEXEC_PACA, crashed, data_offset=KEXEC_DATA_OFFSET)
        if old:
            self._variable("paca", PACAS if crashed is None else KEXEC_PACA - crashed * PACA_BYTES)
        else:
            self._variable("paca_ptrs", TABLE)
            for cpu, address in self.addresses.items():
                made.words(TABLE + 8 * cpu, KEXEC_PACA if cpu == crashed else address)

    def write(self, address: int, cpu: int, *, token: int = LOCK_TOKEN, **members: int) -> None:
        """A PACA of ``cpu``."""
        fields = self.made.structs["paca_struct"].fields
        values: Mapping[str, int] = {
            "lock_token": token,
            "paca_index": cpu,
            "data_offset": cpu * PER_CPU_STEP,
            **members,
        }
        self.made.put(address, bytes(PACA_BYTES))
        for name, value in values.items():
            self.made.number(address + fields[name].offset, value, fields[name].size)

    def _variable(self, name: str, value: int) -> None:
        made = self.made
        made.variables[name] = _VARIABLES + 8 * len(made.variables)
        made.words(made.variables[name], value)
