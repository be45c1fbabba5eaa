"""32-bit PowerPC: notes, registers, frames, vectors, linear map and page tables (Linux arch/powerpc, 4.x to 6.12).

The linear map is found from evidence: a text that is known (the release in ``init_uts_ns``, the banner) must lie
where the map puts it. Page tables have two levels; the sizes of ``pgd_t`` and ``pte_t`` give their geometry
(asm/pgtable.h), the family of the CPU the format of an entry.
"""

import struct
from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

from crashbeam.schemas.codes import StackKind
from crashbeam.vmcore.arch.architecture import Architecture, Layouts, LinearMap, NoteFormat, StackArray
from crashbeam.vmcore.arch.instructions import decode_32
from crashbeam.vmcore.errors import TranslationError
from crashbeam.vmcore.memory import KernelMemory, PhysicalMemory

_PAGE_OFFSET = 0xC0000000
"""CONFIG_PAGE_OFFSET of nearly every configuration; others are found by their distance all the same."""
_RELOCATION_STEP = 1 << 20
_RELOCATION_LIMIT = 4096
"""A relocated kernel is looked for at every MiB of the first 4 GiB."""
_OTHER_PAGE_OFFSETS = (0x80000000, 0x40000000, 0xB0000000, 0x70000000)
"""The other choices of arch/powerpc/Kconfig and of boards that moved the user's part of the address space."""

REGISTERS = (
    *(f"r{number}" for number in range(32)),
    *("nip", "msr", "orig_r3", "ctr", "lr", "xer", "cr", "mq", "trap", "dar", "dsisr", "result"),
)

_CLASSIC_AND_BOOKE = {
    0x000: "Stack Overflow",
    0x100: "System Reset",
    0x102: "Critical Input",
    0x200: "Machine Check",
    0x300: "Data Access",
    0x400: "Instruction Access",
    0x500: "External Interrupt",
    0x600: "Alignment",
    0x700: "Program Check",
    0x7D0: "Debug",
    0x800: "FP Unavailable",
    0x900: "Decrementer",
    0xA00: "Reserved",
    0xB00: "Reserved",
    0xC00: "System Call",
    0xD00: "Single Step",
    0xE00: "FP Assist",
    0xF00: "Performance Monitor",
    0xF20: "Altivec Unavailable",
    0x1000: "Software Emulation or TLB Miss",
    0x1010: "Fixed Interval Timer",
    0x1022: "Watchdog",
    0x1020: "Watchdog",
    0x1100: "TLB Miss",
    0x1200: "TLB Miss",
    0x1300: "Instruction Breakpoint or TLB Error",
    0x1400: "System Management or TLB Error",
    0x1600: "Altivec Assist",
    0x1700: "Thermal Management",
    0x1C00: "Data Breakpoint",
    0x1D00: "Instruction Breakpoint",
    0x2000: "Run Mode",
    0x2010: "SPE Unavailable",
    0x2020: "AP Unavailable",
    0x2030: "SPE FP Data",
    0x2040: "SPE FP Data",
    0x2050: "SPE FP Round",
    0x2060: "Performance Monitor",
    0x2070: "Doorbell",
    0x2080: "Doorbell Critical",
    0x2900: "AP Unavailable",
    0x3100: "Fixed Interval Timer",
    0x3200: "Watchdog",
}


def find_linear_map(physical: PhysicalMemory, evidence: Sequence[tuple[int, bytes]]) -> LinearMap | None:
    """The linear map that puts one of the texts of ``evidence`` at its kernel address; ``None`` if no place shows
    any.
    """
    for offset, start in _places():
        if any(physical.holds(address - offset, text) for address, text in evidence):
            return LinearMap(offset, start, 1 << 32)
    return None


def _places() -> Iterator[tuple[int, int]]:
    """Distances of virtual and physical addresses with the first virtual address, likely ones first: memory at 0, then
    a kernel moved up by whole MiB.
    """
    yield _PAGE_OFFSET, _PAGE_OFFSET
    for page_offset in _OTHER_PAGE_OFFSETS:
        yield page_offset, page_offset
    for step in range(1, _RELOCATION_LIMIT):
        yield _PAGE_OFFSET - step * _RELOCATION_STEP, _PAGE_OFFSET


def bound_linear_map(linear: LinearMap, layouts: Layouts, memory: KernelMemory) -> LinearMap:
    """The linear map with its end as the kernel's ``high_memory`` gives it. Raises PageError, TranslationError."""
    variable = layouts.address_of("high_memory")
    if variable is None:
        return linear
    end = memory.word(variable)
    return LinearMap(linear.offset, linear.start, end) if linear.start < end else linear


class _EntryFormat(Struct, frozen=True):
    """A page table entry: the bit that says it is valid, and how its physical page is found."""

    present: int
    shift: int
    leaf_size: int = 0
    """Bits of a directory entry that make it a page itself, and tell how large."""


_BOOK3E_64 = _EntryFormat(present=0x1, shift=24, leaf_size=0xF00)
"""85xx and BookE with 64-bit entries: PTE_RPN_SHIFT 24, _PAGE_PSIZE_MSK 0xf00 (asm/nohash/pte-e500.h)."""
_BOOK3E_32 = _EntryFormat(present=0x2, shift=0)
_OTHERS = _EntryFormat(present=0x1, shift=0)


_LABELS_OF_44X = ("finish_tlb_load_44x", "finish_tlb_load_47x")
"""head_44x.S, which has an ``interrupt_base`` as head_85xx.S does."""


def _entry_format(layouts: Layouts, entry_bytes: int) -> _EntryFormat:
    is_85xx = layouts.address_of("next_tlbcam_idx") is not None or (
        layouts.address_of("interrupt_base") is not None
        and not any(layouts.address_of(label) is not None for label in _LABELS_OF_44X)
    )
    if not is_85xx:
        return _OTHERS
    return _BOOK3E_64 if entry_bytes == 8 else _BOOK3E_32


_ENTRY_BYTES_8XX_16K = 16


class PageTables(Struct, frozen=True):
    """The two levels below ``swapper_pg_dir``."""

    memory: KernelMemory
    directory: int
    directory_entry_bytes: int
    entry_bytes: int
    entry: _EntryFormat
    page_shift: int
    linear: LinearMap

    def translate(self, address: int) -> int:
        """The physical address of a mapped kernel address. Raises TranslationError, PageError."""
        is_quarter = self.page_shift == 18 or self.entry_bytes == _ENTRY_BYTES_8XX_16K
        table_shift = self.page_shift - self.entry_bytes.bit_length() + 1 - (2 if is_quarter else 0)
        directory_shift = self.page_shift + table_shift
        upper = self.directory + (address >> directory_shift) * self.directory_entry_bytes
        whole = self.memory.number(upper, self.directory_entry_bytes)
        if self.directory_entry_bytes == 8 and whole & self.entry.leaf_size:
            return self._huge(whole, address)
        pointer = whole & 0xFFFFFFFF
        if pointer == 0:
            raise TranslationError(f"{address:08x} is not mapped", address=address)
        index = (address >> self.page_shift) & ((1 << table_shift) - 1)
        table = pointer & ~((self.entry_bytes << table_shift) - 1) & 0xFFFFFFFF
        value = self._entry(table, index)
        if not value & self.entry.present:
            raise TranslationError(f"{address:08x} is not mapped", address=address)
        page_mask = (1 << self.page_shift) - 1
        frame = (value >> self.entry.shift) << 12 if self.entry.shift else value & ~page_mask
        return frame & ~page_mask | address & page_mask

    def _huge(self, entry: int, address: int) -> int:
        """A directory entry of 85xx that maps a page by itself: of 1 KiB times a power of 2 (TSIZE, 6.11)."""
        inside = (1 << ((entry & self.entry.leaf_size) >> 7) + 10) - 1
        return (entry >> self.entry.shift) << 12 & ~inside | address & inside

    def _entry(self, table: int, index: int) -> int:
        """BookE directories hold the kernel's addresses of tables, book3s ones physical addresses.

        On 8xx with 16K pages an entry is four equal words (``pte_t`` of asm/pgtable-types.h), one for each hardware
        page.
        """
        place = index * self.entry_bytes
        value_bytes = 4 if self.entry_bytes == _ENTRY_BYTES_8XX_16K else self.entry_bytes
        if self.linear.start <= table < self.linear.end:
            return self.memory.number(table + place, value_bytes)
        return int.from_bytes(self.memory.physical.read(table + place, value_bytes), "big")


def page_walk(
    linear: LinearMap, layouts: Layouts, memory: KernelMemory, page_bytes: int
) -> Callable[[int], int] | None:
    """A walk of the kernel's page tables, or ``None`` where the symbols do not tell their geometry."""
    directory = layouts.address_of("swapper_pg_dir")
    directory_entry_bytes, entry_bytes = layouts.size_of("pgd_t"), layouts.size_of("pte_t")
    if directory is None or directory_entry_bytes not in (4, 8) or entry_bytes not in (4, 8, _ENTRY_BYTES_8XX_16K):
        return None
    tables = PageTables(
        memory,
        directory,
        directory_entry_bytes,
        entry_bytes,
        _entry_format(layouts, entry_bytes),
        page_bytes.bit_length() - 1,
        linear,
    )
    return tables.translate


PPC32 = Architecture(
    name="ppc32",
    word_bytes=4,
    byte_order="big",
    notes={268: NoteFormat(pid_at=24, registers_at=72), 328: NoteFormat(pid_at=32, registers_at=112)},
    kernel_note_bytes=268,
    registers=REGISTERS,
    lr_slot=4,
    stack_alignment=16,
    exception_places=((8, 16),),
    markers=frozenset({struct.unpack(">I", b"REGS")[0], struct.unpack(">I", b"regs")[0]}),
    switch_offsets=(16,),
    vectors=_CLASSIC_AND_BOOKE,
    stack_arrays=(
        StackArray("hardirq_ctx", StackKind.HARDIRQ),
        StackArray("softirq_ctx", StackKind.SOFTIRQ),
        StackArray("critirq_ctx", StackKind.CRITICAL, by_hardware_id=True),
        StackArray("dbgirq_ctx", StackKind.DEBUG, by_hardware_id=True),
        StackArray("mcheckirq_ctx", StackKind.MACHINE_CHECK, by_hardware_id=True),
        # vmap_stack_overflow of head_32.h takes entry 2n on CPU n (slwi by 3 into an array of words).
        StackArray("emergency_ctx", StackKind.EMERGENCY, entries_per_cpu=2),
    ),
    default_thread_bytes=8192,
    decode=decode_32,
    find_linear_map=find_linear_map,
    bound_linear_map=bound_linear_map,
    page_walk=page_walk,
    task_register=2,
)
