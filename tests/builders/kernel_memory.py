"""A made-up kernel: pages given as bytes, functions given as words, and the kernel objects that read them."""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from crashbeam.schemas.codes import SymbolLayouts, SymbolNames
from crashbeam.vmcore.arch.architecture import Architecture, LinearMap
from crashbeam.vmcore.arch.ppc32 import PPC32
from crashbeam.vmcore.containers import ContainerFacts
from crashbeam.vmcore.errors import PageError, PageStatus, TranslationError
from crashbeam.vmcore.firmware import FirmwareAreas
from crashbeam.vmcore.kernel import Kernel
from crashbeam.vmcore.limits import Budget
from crashbeam.vmcore.memory import KernelMemory, PhysicalMemory
from crashbeam.vmcore.modules import Text
from crashbeam.vmcore.symbols.compiled import CompiledKernel
from crashbeam.vmcore.symbols.layouts import StructLayout
from crashbeam.vmcore.symbols.profile import KernelProfile, compile_profile
from crashbeam.vmcore.unwind import Unwinder

PAGE_OFFSET = 0xC0000000
PAGE_OFFSET_64 = 0xC000000000000000
TEXT = (0xC0000000, 0xC0100000)
INIT_TEXT = (0xC0200000, 0xC0210000)
"""Those of 32 bit; 64-bit text lies as far above its own PAGE_OFFSET."""


@dataclass(slots=True)
class FakeContainer:
    """Pages by number; every other page is what ``missing`` says, or ``status_of`` for single ones."""

    facts: ContainerFacts
    pages: dict[int, bytearray] = field(default_factory=dict)
    status_of: dict[int, PageStatus] = field(default_factory=dict)
    missing: PageStatus = PageStatus.ABSENT
    reads: list[int] = field(default_factory=list)
    codecs_met: frozenset[str] = frozenset({"raw"})

    def read_page(self, pfn: int) -> bytes:
        """The page as it was given, or a PageError."""
        self.reads.append(pfn)
        status = self.status_of.get(pfn)
        if status is None and pfn in self.pages:
            return bytes(self.pages[pfn])
        raise PageError(f"no page {pfn:#x}", status=status or self.missing)

    def close(self) -> None:
        """Nothing is open."""


def container_facts(
    page_bytes: int = 4096, dump_level: int | None = 0, container: str = "kdump", arch: Architecture = PPC32
) -> ContainerFacts:
    """Facts of a dump of a kernel."""
    return ContainerFacts(
        container=container,
        wrapping=(),
        header_version=6,
        written_by="makedumpfile",
        byte_order=arch.byte_order,
        word_bytes=arch.word_bytes,
        block_size=page_bytes,
        max_pfn=1 << 20,
        dump_level=dump_level,
        complete=True,
        incomplete_reason=None,
        quirks=(),
        utsname=None,
        timestamp_seconds=None,
        notes=(),
        vmcoreinfo=None,
    )


@dataclass(frozen=True, slots=True)
class Placed:
    """A function in the made-up kernel's text."""

    name: str
    start: int

    def at(self, instruction: int) -> int:
        """The address of one of its instructions."""
        return self.start + 4 * instruction


class MadeUpKernel:
    """Collects memory, functions, variables and layouts; gives the objects of ``vmcore`` over them. Words have the size
    and the byte order of ``arch``.
    """

    def __init__(
        self,
        page_bytes: int = 4096,
        dump_level: int | None = 0,
        physical_start: int = 0,
        arch: Architecture = PPC32,
    ) -> None:
        self.arch = arch
        self.container = FakeContainer(container_facts(page_bytes, dump_level, arch=arch))
        self.page_bytes = page_bytes
        self.base = PAGE_OFFSET if arch.word_bytes == 4 else PAGE_OFFSET_64
        self.linear = LinearMap(self.base - physical_start, self.base, self.base + 0x30000000)
        self.variables: dict[str, int] = {}
        self.structs: dict[str, StructLayout] = {}
        self.symbols: dict[str, int] = {}
        self._ends: set[int] = set()
        self.text_ranges: tuple[tuple[int, int], ...] = tuple(
            (start - PAGE_OFFSET + self.base, end - PAGE_OFFSET + self.base) for start, end in (TEXT, INIT_TEXT)
        )
        self._next_function = self.text_ranges[0][0] + 0x1000

    def function(self, name: str, words: Sequence[int], at: int | None = None) -> Placed:
        """Puts a function into the text, at the next free place unless ``at`` names one; a symbol ends it."""
        start = self._next_function if at is None else at
        if at is None:
            self._next_function += -(-4 * len(words) // 0x100) * 0x100
        self.symbols[name] = start
        self._ends.add(start + 4 * len(words))
        self.code(start, *words)
        return Placed(name, start)

    def code(self, address: int, *words: int) -> None:
        """Puts instructions at an address of the linear map."""
        self.put(address, struct.pack(f"{self._order}{len(words)}I", *words))

    def words(self, address: int, *words: int) -> None:
        """Puts words of the kernel's size at an address of the linear map."""
        letter = "I" if self.arch.word_bytes == 4 else "Q"
        self.put(address, struct.pack(f"{self._order}{len(words)}{letter}", *words))

    def number(self, address: int, value: int, size_bytes: int) -> None:
        """Puts a number of the kernel's byte order at an address of the linear map."""
        self.put(address, value.to_bytes(size_bytes, self.arch.byte_order))

    @property
    def _order(self) -> str:
        return ">" if self.arch.byte_order == "big" else "<"

    def put(self, address: int, data: bytes) -> None:
        """Puts bytes at an address of the linear map."""
        self.put_physical(address - self.linear.offset, data)

    def put_physical(self, physical: int, data: bytes) -> None:
        """Puts bytes at a physical address."""
        done = 0
        while done < len(data):
            pfn, offset = divmod(physical + done, self.page_bytes)
            page = self.container.pages.setdefault(pfn, bytearray(self.page_bytes))
            piece = data[done : done + self.page_bytes - offset]
            page[offset : offset + len(piece)] = piece
            done += len(piece)

    def lose(self, address: int, status: PageStatus = PageStatus.LOST) -> None:
        """The page at an address of the linear map cannot be read."""
        self.container.status_of[(address - self.linear.offset) // self.page_bytes] = status

    def profile(self) -> KernelProfile:
        """The kernel's symbols, compiled."""
        text = [(start, name) for name, start in self.symbols.items()]
        text += [(end, "padding") for end in self._ends - set(self.symbols.values())]
        compiled = CompiledKernel(
            build_id=None,
            banner=None,
            arch=self.arch.name,
            names=SymbolNames.VMLINUX,
            layouts=SymbolLayouts.BTF,
            text_ranges=self.text_ranges,
            text=sorted(text),
            variables=self.variables,
            structs=self.structs,
        )
        return KernelProfile(compile_profile(compiled))

    def memory(self, walk: Callable[[int], int] | None = None) -> KernelMemory:
        """Memory by the linear map; ``walk`` translates what lies outside it."""
        linear = self.linear

        def translate(address: int) -> int:
            if linear.start <= address < linear.end:
                return address - linear.offset
            if walk is not None:
                return walk(address)
            raise TranslationError(f"{address:#x} is not mapped")

        physical = PhysicalMemory(self.container, Budget())
        return KernelMemory(physical, translate, word_bytes=self.arch.word_bytes, byte_order=self.arch.byte_order)

    def kernel(self, walk: Callable[[int], int] | None = None) -> Kernel:
        """The kernel over this memory."""
        return Kernel(self.memory(walk), self.profile(), self.arch)

    def unwinder(self, walk: Callable[[int], int] | None = None) -> Unwinder:
        """An unwinder of this kernel."""
        kernel = self.kernel(walk)
        return Unwinder(kernel.memory, self.arch, Text(kernel), FirmwareAreas(kernel))


@dataclass(frozen=True, slots=True)
class SymbolsOf:
    """Variables and sizes alone: what an architecture asks of symbols."""

    variables: Mapping[str, int] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)

    def address_of(self, name: str) -> int | None:
        """The address of a variable."""
        return self.variables.get(name)

    def size_of(self, struct_name: str) -> int | None:
        """The size of a type."""
        return self.sizes.get(struct_name)
