"""The PACA of each CPU (``struct paca_struct``, asm/paca.h): what a 64-bit kernel knows its CPU by, and its emergency
stacks.

The crash path puts a copy of the crashing CPU's PACA, the static ``kexec_paca``, into ``paca_ptrs``
(``default_machine_kexec``); the register of that CPU still holds the original. Kernels before 4.17 had ``paca``, a
table of structs, and moved its start so that the copy became the crashing CPU's entry: where the others lay is then
written nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator

from crashbeam.schemas.codes import StackKind
from crashbeam.vmcore.errors import SymbolError, VmcoreError
from crashbeam.vmcore.kernel import Kernel
from crashbeam.vmcore.limits import MAX_CPUS

_LOCK_TOKEN = 0x8000
_ALIGNMENT = 8


def read_paca_address(kernel: Kernel, cpu: int) -> int:
    """The PACA of a CPU, as the kernel's table has it.

    Raises SymbolError (also where the crash path lost the table), TranslationError, PageError.
    """
    if kernel.profile.address_of("paca_ptrs") is not None:
        return kernel.memory.word(kernel.word_of("paca_ptrs") + cpu * kernel.arch.word_bytes)
    if _table_moved_for(kernel) not in (None, cpu):
        raise SymbolError(f"the crash path moved the table of PACAs: where that of cpu {cpu} lies is not known")
    return kernel.word_of("paca") + cpu * kernel.size_of("paca_struct")


def _table_moved_for(kernel: Kernel) -> int | None:
    """The CPU whose entry of ``paca`` is ``kexec_paca``, or ``None`` if that table stands where it was."""
    copy = kernel.profile.address_of("kexec_paca")
    if copy is None:
        return None
    cpu = kernel.number_at(copy, "paca_struct", "paca_index")
    is_moved = kernel.word_of("paca") + cpu * kernel.size_of("paca_struct") == copy
    return cpu if is_moved else None


def cpu_of_paca(kernel: Kernel, address: int) -> int | None:
    """The CPU whose PACA lies at ``address``; ``None`` if that is no PACA: a user's r13 is not."""
    if address < kernel.arch.lowest_kernel_address or address % _ALIGNMENT:
        return None
    try:
        if kernel.number_at(address, "paca_struct", "lock_token") != _LOCK_TOKEN:
            return None
        cpu = kernel.number_at(address, "paca_struct", "paca_index")
        return cpu if _may_exist(kernel, cpu) and _is_own(kernel, cpu, address) else None
    except VmcoreError:
        return None


def _may_exist(kernel: Kernel, cpu: int) -> bool:
    """Whether the mask of possible CPUs has ``cpu``; where it cannot be read, it excludes none."""
    try:
        possible = kernel.possible
    except VmcoreError:
        return cpu < MAX_CPUS
    return not possible or cpu in possible


def _is_own(kernel: Kernel, cpu: int, address: int) -> bool:
    """Whether the kernel has its PACA of ``cpu`` at ``address``: by its table, or, where that was lost, by the CPU's
    per-CPU offset, which stands in its PACA too.
    """
    if kernel.profile.address_of("paca_ptrs") is None and _table_moved_for(kernel) not in (None, cpu):
        return kernel.number_at(address, "paca_struct", "data_offset") == kernel.per_cpu(0, cpu)
    return read_paca_address(kernel, cpu) in (address, kernel.profile.address_of("kexec_paca"))


def read_current(kernel: Kernel, cpu: int) -> int:
    """The task that a CPU runs (``__current``). Raises SymbolError, TranslationError, PageError."""
    return kernel.number_at(read_paca_address(kernel, cpu), "paca_struct", "__current")


def read_stack_ends(kernel: Kernel, cpu: int) -> Iterator[tuple[StackKind, int]]:
    """The highest addresses of a CPU's own stacks; what the kernel lacks or memory does not give is left out."""
    try:
        address = read_paca_address(kernel, cpu)
    except VmcoreError:
        return
    for member, kind in kernel.arch.paca_stacks:
        try:
            end = kernel.number_at(address, "paca_struct", member)
        except VmcoreError:
            continue
        if end:
            yield kind, end
