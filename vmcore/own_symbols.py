"""The symbols that a dump carries itself: kallsyms and BTF in the dumped kernel's memory, to one kernel profile.

They are read through a second opening of the dump, with an allowance of its own: a report must not show whether its
profile was made just now or found in the cache.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from crashbeam.vmcore.arch.architecture import Architecture
from crashbeam.vmcore.containers import Container
from crashbeam.vmcore.containers.detect import open_container
from crashbeam.vmcore.limits import Budget
from crashbeam.vmcore.memory import KernelMemory, PhysicalMemory
from crashbeam.vmcore.symbols.dump_symbols import DumpSymbols, read_dump_symbols
from crashbeam.vmcore.vmcoreinfo import Vmcoreinfo


class OwnSymbols(Struct, frozen=True):
    """What a dump says of its kernel, as it was linked, and the page numbers where that lies: whoever trims the dump
    needs them.
    """

    symbols: DumpSymbols
    pfns: tuple[int, ...]


def read_own_symbols(
    paths: tuple[str, ...], arch: Architecture, translate: Callable[[int], int], info: Vmcoreinfo
) -> OwnSymbols:
    """Reads the kernel in a dump's memory. Raises VmcoreError if it carries no kallsyms, or none that can be read."""
    budget = Budget()
    container = open_container(paths, budget)
    try:
        physical = PhysicalMemory(container, budget)
        memory = KernelMemory(physical, translate, word_bytes=arch.word_bytes, byte_order=arch.byte_order)
        symbols = read_dump_symbols(
            memory.read_code,
            arch=arch.name,
            vmcoreinfo_symbols=info.symbols,
            build_id=info.build_id,
            scan=_unlogged(container, translate),
        )
        symbols = replace(symbols, kernel=symbols.kernel.moved(-(info.kernel_offset or 0)))
        return OwnSymbols(symbols, tuple(pfn for pfn, status in physical.needed.items() if status is None))
    finally:
        container.close()


def _unlogged(container: Container, translate: Callable[[int], int]) -> Callable[[int, int], bytes]:
    """Reads that leave no trace among the pages that were needed."""
    block_size = container.facts.block_size

    def read(address: int, size_bytes: int) -> bytes:
        physical = translate(address)
        pfn, offset = divmod(physical, block_size)
        data = container.read_page(pfn)[offset:]
        while len(data) < size_bytes:
            pfn += 1
            data += container.read_page(pfn)
        return data[:size_bytes]

    return read
