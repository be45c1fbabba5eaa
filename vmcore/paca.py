"""The PACA of each CPU (``struct paca_struct``, asm/paca.h): what a 64-bit kernel knows its CPU by, and its emergency
stacks.

The crash path puts a copy of the crashing CPU's PACA, the static ``kexec_paca``, into ``paca_ptrs``
(``default_machine_kexec``); the register of that CPU still holds the original.
"""

from __future__ import annotations

from collections.abc import Iterator

from crashbeam.schemas.codes import StackKind
from crashbeam.vmcore.errors import VmcoreError
from crashbeam.vmcore.kernel import Kernel

_LOCK_TOKEN = 0x8000
_ALIGNMENT = 8


def read_paca_address(kernel: Kernel, cpu: int) -> int:
    """The PACA of a CPU, as the kernel's table has it.

    ``paca_ptrs`` is a table of pointers since Linux 4.18, before that ``paca`` one of structs. Raises SymbolError,
    TranslationError, PageError.
    """
    if kernel.profile.address_of("paca_ptrs") is not None:
        return kernel.memory.word(kernel.word_of("paca_ptrs") + cpu * kernel.arch.word_bytes)
    return kernel.word_of("paca") + cpu * kernel.size_of("paca_struct")


def cpu_of_paca(kernel: Kernel, address: int) -> int | None:
    """The CPU whose PACA lies at ``address``; ``None`` if that is no PACA: a user's r13 is not."""
    if address < kernel.arch.lowest_kernel_address or address % _ALIGNMENT:
        return None
    try:
        if kernel.number_at(address, "paca_struct", "lock_token") != _LOCK_TOKEN:
            return None
        cpu = kernel.number_at(address, "paca_struct", "paca_index")
        if cpu not in kernel.possible:
            return None
        known = read_paca_address(kernel, cpu)
    except VmcoreError:
        return None
    return cpu if known in (address, kernel.profile.address_of("kexec_paca")) else None


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
