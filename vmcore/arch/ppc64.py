"""64-bit PowerPC, both byte orders: notes, registers, frames, vectors, linear map and page tables (Linux
arch/powerpc, 4.7 to 6.12).

The linear map needs no evidence: PAGE_OFFSET is 0xc000000000000000 in every configuration, physical memory begins at
0. What lies above the end of memory is looked up in the page tables. Those of book3s have four levels, whose sizes
are variables of the kernel; their entries are big endian in memory whatever the kernel's byte order, and hold
physical addresses (asm/book3s/64/pgtable.h). Those of BookE hold kernel addresses.
"""

from collections.abc import Callable, Sequence
from functools import cached_property

from msgspec import Struct
from msgspec.structs import replace

from crashbeam.schemas.codes import StackKind
from crashbeam.vmcore.arch.architecture import Architecture, Firmware, Layouts, LinearMap, NoteFormat, StackArray
from crashbeam.vmcore.arch.instructions import decode_64
from crashbeam.vmcore.errors import TranslationError
from crashbeam.vmcore.memory import KernelMemory, PhysicalMemory

PAGE_OFFSET = 0xC000000000000000

REGISTERS = (
    *(f"r{number}" for number in range(32)),
    *("nip", "msr", "orig_r3", "ctr", "lr", "xer", "cr", "softe", "trap", "dar", "dsisr", "result"),
)

VECTORS = {
    0x100: "System Reset",
    0x200: "Machine Check",
    0x220: "Altivec Assist",
    0x260: "Performance Monitor",
    0x280: "Doorbell",
    0x2A0: "Doorbell Critical",
    0x2C0: "Guest Doorbell",
    0x2E0: "Guest Doorbell Critical",
    0x300: "Data Access",
    0x310: "Hypervisor System Call",
    0x320: "Hypervisor Privilege",
    0x340: "LRAT Error",
    0x380: "Data SLB Access",
    0x400: "Instruction Access",
    0x480: "Instruction SLB Access",
    0x500: "External Interrupt",
    0x600: "Alignment",
    0x700: "Program Check",
    0x800: "FP Unavailable",
    0x900: "Decrementer",
    0x980: "Hypervisor Decrementer",
    0x9F0: "Watchdog",
    0xA00: "Doorbell",
    0xC00: "System Call",
    0xD00: "Single Step",
    0xE00: "Hypervisor Data Storage",
    0xE20: "Hypervisor Instruction Storage",
    0xE40: "Emulation Assist",
    0xE60: "Hypervisor Maintenance",
    0xE80: "Hypervisor Doorbell",
    0xEA0: "Hypervisor Virtualization",
    0xF00: "Performance Monitor",
    0xF20: "Altivec Unavailable",
    0xF40: "VSX Unavailable",
    0xF60: "Facility Unavailable",
    0xF80: "Hypervisor Facility Unavailable",
    0x1200: "CBE System Error",
    0x1300: "Instruction Breakpoint",
    0x1500: "Denormalisation",
    0x1600: "CBE Maintenance",
    0x1700: "Altivec Assist",
    0x1800: "CBE Thermal",
    0x3000: "System Call Vectored",
    0x7FF0: "System Call Vectored (unsupported)",
}
"""exceptions-64s.S and, for what only BookE has, exceptions-64e.S."""


def find_linear_map(physical: PhysicalMemory, _: Sequence[tuple[int, bytes]]) -> LinearMap:
    """The linear map of all memory that the dump has."""
    end = min(physical.container.facts.max_pfn << physical.page_shift, (1 << 64) - PAGE_OFFSET)
    return LinearMap(PAGE_OFFSET, PAGE_OFFSET, PAGE_OFFSET + end)


def bound_linear_map(linear: LinearMap, _layouts: Layouts, _memory: KernelMemory) -> LinearMap:
    """The same map: the end of memory is its end."""
    return linear


_LEVELS = ("pte", "pmd", "pud", "pgd")
_MAX_INDEX_BITS = 16
_VALID = 1 << 63
_LEAF = 1 << 62
_TABLE_MASK = 0x0FFFFFFFFFFFFF00
_FRAME_MASK = 0x001FFFFFFFFFF000
"""Bits 53 to 55 and 60 of an entry hold hash slots (asm/book3s/64/pgtable.h, ``_PAGE_PA_MAX`` 53)."""


class PageTables(Struct, frozen=True, dict=True):
    """The levels below ``swapper_pg_dir``; ``sizes`` has the addresses of the variables that tell how wide each is."""

    memory: KernelMemory
    directory: int
    sizes: tuple[int, ...]
    page_shift: int

    @cached_property
    def _shifts(self) -> tuple[tuple[int, int], ...]:
        """(first bit, bits) of the index of each level, lowest first. Raises TranslationError, PageError."""
        shift, found = self.page_shift, []
        for level, variable in zip(_LEVELS, self.sizes, strict=True):
            bits = self.memory.word(variable)
            if bits > _MAX_INDEX_BITS:
                raise TranslationError(f"the kernel's __{level}_index_size makes no sense", value=bits)
            found.append((shift, bits))
            shift += bits
        return tuple(found)

    def translate(self, address: int) -> int:
        """The physical address of a mapped kernel address. Raises TranslationError, PageError.

        Hash kernels before 4.20 set no valid bit in what leads to a table (``__pmd_val_bits`` was 0): only a page's
        entry is asked for it. An address below the kernel's has the index bits of one, so it is not looked up.
        """
        if address < PAGE_OFFSET:
            raise TranslationError(f"{address:016x} is not mapped", address=address)
        table: int | None = None
        for shift, bits in reversed(self._shifts):
            place = 8 * (address >> shift & (1 << bits) - 1)
            if table is None:
                data = self.memory.read(self.directory + place, 8)
            else:
                data = self.memory.physical.read(table + place, 8)
            entry = int.from_bytes(data, "big")
            if not entry or entry & (_VALID | _LEAF) == _LEAF:
                break
            if entry & _LEAF:
                inside = (1 << shift) - 1
                return entry & _FRAME_MASK & ~inside | address & inside
            table = entry & _TABLE_MASK
        raise TranslationError(f"{address:016x} is not mapped", address=address)


_BOOKE_LABEL = "interrupt_base_book3e"
"""exceptions-64e.S has it, exceptions-64s.S has not."""
_BOOKE_LEVELS = ((37, 9), (28, 9), (21, 7))
"""(first bit, bits) of the index of each directory of BookE with 4K pages (asm/nohash/64/pgtable-4k.h)."""
_BOOKE_PTE = (12, 9)
_LOWEST_MAPPED = 1 << 63
"""BookE kernels before 6.1 had vmalloc at 0x8000000000000000."""


class BookePageTables(Struct, frozen=True):
    """The levels below ``swapper_pg_dir`` of e5500 and e6500 kernels: big endian, with kernel addresses of tables."""

    memory: KernelMemory
    directory: int

    def translate(self, address: int) -> int:
        """The physical address of a mapped kernel address. Raises TranslationError, PageError."""
        table = self.directory if address >= _LOWEST_MAPPED else 0
        for shift, bits in _BOOKE_LEVELS:
            if not table:
                break
            entry = self.memory.word(table + 8 * (address >> shift & (1 << bits) - 1))
            if 0 < entry < _LOWEST_MAPPED:
                return _booke_frame(entry) & ~((1 << shift) - 1) | address & (1 << shift) - 1
            table = entry & ~0xFFF
        if table:
            shift, bits = _BOOKE_PTE
            entry = self.memory.word(table + 8 * (address >> shift & (1 << bits) - 1))
            if entry & 1:
                return _booke_frame(entry) | address & (1 << shift) - 1
        raise TranslationError(f"{address:016x} is not mapped", address=address)


def _booke_frame(entry: int) -> int:
    """The physical page of an entry: PTE_RPN_SHIFT 24 (asm/nohash/pte-e500.h)."""
    return entry >> 24 << 12


def page_walk(
    _linear: LinearMap, layouts: Layouts, memory: KernelMemory, page_bytes: int
) -> Callable[[int], int] | None:
    """A walk of the kernel's page tables, or ``None`` where the symbols do not tell their geometry."""
    directory = layouts.address_of("swapper_pg_dir")
    if directory is not None and layouts.address_of(_BOOKE_LABEL) is not None:
        return BookePageTables(memory, directory).translate
    sizes = [layouts.address_of(f"__{level}_index_size") for level in _LEVELS]
    variables = tuple(address for address in sizes if address is not None)
    if directory is None or len(variables) < len(_LEVELS):
        return None
    return PageTables(memory, directory, variables, page_bytes.bit_length() - 1).translate


PPC64 = Architecture(
    name="ppc64",
    word_bytes=8,
    byte_order="big",
    notes={504: NoteFormat(pid_at=32, registers_at=112)},
    kernel_note_bytes=504,
    registers=REGISTERS,
    lr_slot=16,
    stack_alignment=16,
    exception_places=((32, 48), (96, 112)),
    markers=frozenset({0x52454753, 0x53474552, 0x7265677368657265, 0x72656773}),
    switch_offsets=(32, 112),
    vectors=VECTORS,
    stack_arrays=(
        StackArray("hardirq_ctx", StackKind.HARDIRQ),
        StackArray("softirq_ctx", StackKind.SOFTIRQ),
        StackArray("critirq_ctx", StackKind.CRITICAL),
        StackArray("dbgirq_ctx", StackKind.DEBUG),
        StackArray("mcheckirq_ctx", StackKind.MACHINE_CHECK),
    ),
    paca_stacks=(
        ("emergency_sp", StackKind.EMERGENCY),
        ("nmi_emergency_sp", StackKind.NMI),
        ("mc_emergency_sp", StackKind.MACHINE_CHECK),
    ),
    default_thread_bytes=16384,
    decode=decode_64,
    find_linear_map=find_linear_map,
    bound_linear_map=bound_linear_map,
    page_walk=page_walk,
    task_register=None,
    paca_register=13,
    lowest_kernel_address=PAGE_OFFSET,
    firmware=(
        Firmware("rtas", "rtas_t"),
        Firmware("opal", "opal"),
    ),
    lr_savers=("_savegpr0_14", "_savegpr0_31"),
)

PPC64LE = replace(PPC64, name="ppc64le", byte_order="little")
