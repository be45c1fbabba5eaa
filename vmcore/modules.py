"""Functions by address: kernel text from the profile, module text from the dump's own module list.

The module list and a module's symbols are read only when an address outside kernel text asks for them.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from functools import cached_property

from msgspec import Struct

from crashbeam.schemas.clean import clean_text
from crashbeam.schemas.crash_report import SourceLine
from crashbeam.vmcore.errors import SymbolError, VmcoreError
from crashbeam.vmcore.kernel import Kernel
from crashbeam.vmcore.limits import MAX_MODULES, MAX_NAME_BYTES
from crashbeam.vmcore.symbols.naming import SymbolName, choose_name

_BEHIND_VECTORS = ("finish_tlb_load", "finish_tlb_load_44x")
"""The routine at ``interrupt_end``, which is no name of its own."""
_MAX_MODULE_SYMBOLS = 200_000
_MAX_MODULE_TEXT_BYTES = 64 << 20
_TEXT_KINDS = (0, 4)
"""MOD_TEXT and MOD_INIT_TEXT of ``enum mod_mem_type`` (include/linux/module.h, 6.4)."""
_FUNCTION_TYPES = (0, 2, 10)
"""STT_NOTYPE, STT_FUNC, STT_GNU_IFUNC."""
_TEXT_LETTERS = (ord("t"), ord("T"))
"""What kernels before 5.2 keep in ``st_info`` instead of the type."""


class Function(Struct, frozen=True):
    """A function: ``start`` <= address < ``end``; ``name`` is ``None`` in text whose symbols cannot be read."""

    name: str | None
    start: int
    end: int
    module: str | None


class Module(Struct, frozen=True):
    """A loaded module: its text ranges (start, end)."""

    address: int
    name: str
    text: tuple[tuple[int, int], ...]


class Text:
    """All code of the dumped kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._profile = kernel.profile
        self._symbols: dict[int, _ModuleSymbols] = {}
        self._found: dict[int, Function | None] = {}
        self.problems: set[str] = set()
        """What could not be read of modules that were asked for, as sentences."""

    def function_at(self, address: int) -> Function | None:
        """The function that ``address`` lies in, or ``None`` outside kernel and module text."""
        found = self._found.get(address)
        if found is None and address not in self._found:
            found = self._found[address] = self._find(address)
        return found

    def _find(self, address: int) -> Function | None:
        symbol = self._profile.symbol_at(address)
        if symbol is not None:
            return Function(symbol.name, symbol.start, symbol.end, None)
        module = self.module_at(address)
        return None if module is None else self._function_in(module, address)

    def module_at(self, address: int) -> Module | None:
        """The module whose text holds ``address``, or ``None``."""
        for module in self.modules:
            for start, end in module.text:
                if start <= address < end:
                    return module
        return None

    def is_freed_text(self, address: int) -> bool:
        """Whether ``address`` lies in init text, whose memory was given away after boot."""
        ranges = self._profile.text_ranges
        return any(start <= address < end for start, end in ranges[1:])

    @property
    def lines(self) -> bool:
        """Whether source lines of the kernel are known."""
        return self._profile.lines

    def source_at(self, address: int) -> SourceLine | None:
        """Where an address of kernel text is in the source."""
        return self._profile.source_at(address)

    def bounds_of(self, first: str, last: str) -> tuple[int, int] | None:
        """The addresses of two routines of the kernel, or ``None`` if it lacks them."""
        start, end = self._profile.address_of(first), self._profile.address_of(last)
        return None if start is None or end is None else (start, end)

    def is_vector(self, address: int) -> bool:
        """Whether ``address`` lies among the exception vectors: at the start of kernel text up to ``__end_interrupts``
        (64 bit), or between ``interrupt_base`` and what stands behind them (head_85xx.S, head_44x.S).
        """
        end = self._profile.address_of("__end_interrupts")
        if end is not None:
            return self._profile.text_ranges[0][0] <= address < end
        bounds = [self.bounds_of("interrupt_base", behind) for behind in _BEHIND_VECTORS]
        return any(start <= address < end for start, end in filter(None, bounds))

    @cached_property
    def modules(self) -> tuple[Module, ...]:
        """The loaded modules, in the kernel's order; what cannot be read ends the list, and is a problem.

        A kernel without modules has no list, and symbols without layouts (a warning of its own) give none.
        """
        found: list[Module] = []
        try:
            head = self._kernel.address_of("modules")
            link = self._kernel.field("module", "list").offset
        except SymbolError:
            return ()
        seen: set[int] = set()
        try:
            at = self._kernel.memory.word(head)
            while at != head and at not in seen and len(found) < MAX_MODULES:
                seen.add(at)
                found.append(self._read_module(at - link))
                at = self._kernel.memory.word(at)
            is_whole = at == head
        except VmcoreError:
            is_whole = False
        if not is_whole:
            self.problems.add(f"the list of modules cannot be read beyond its first {len(found)}")
        return tuple(found)

    def _read_module(self, address: int) -> Module:
        memory, field = self._kernel.memory, self._kernel.field("module", "name")
        name = clean_text(memory.text(address + field.offset, field.size), field.size)
        return Module(address, name, tuple(self._read_text_ranges(address)))

    def _read_text_ranges(self, address: int) -> list[tuple[int, int]]:
        """``mem[]`` since Linux 6.4, ``core_layout`` and ``init_layout`` (4.5 to 6.3), ``module_core`` and
        ``module_init`` before.
        """
        kernel, profile = self._kernel, self._profile
        regions = []
        memories, element = profile.field("module", "mem"), profile.size_of("module_memory")
        if memories is not None and element:
            for kind in _TEXT_KINDS:
                at = address + memories.offset + kind * element
                regions.append(
                    (kernel.number_at(at, "module_memory", "base"), kernel.number_at(at, "module_memory", "size"))
                )
        for layout in ("core_layout", "init_layout"):
            place = profile.field("module", layout)
            if place is not None:
                at = address + place.offset
                regions.append(
                    (kernel.number_at(at, "module_layout", "base"), kernel.number_at(at, "module_layout", "text_size"))
                )
        for old in ("core", "init"):
            if profile.field("module", f"module_{old}") is not None:
                base = kernel.number_at(address, "module", f"module_{old}")
                regions.append((base, kernel.number_at(address, "module", f"{old}_text_size")))
        return [(base, base + size) for base, size in regions if base and 0 < size <= _MAX_MODULE_TEXT_BYTES]

    def _function_in(self, module: Module, address: int) -> Function:
        start, end = next(bounds for bounds in module.text if bounds[0] <= address < bounds[1])
        if module.address not in self._symbols:
            try:
                self._symbols[module.address] = self._read_symbols(module)
            except VmcoreError:
                self._symbols[module.address] = _ModuleSymbols((), {}, 0)
                self.problems.add(f"the symbols of module {module.name} cannot be read")
        symbols = self._symbols[module.address]
        place = bisect_right(symbols.addresses, address) - 1
        if place < 0 or symbols.addresses[place] < start:
            return Function(None, start, end, module.name)
        if place + 1 < len(symbols.addresses):
            end = min(end, symbols.addresses[place + 1])
        at = symbols.addresses[place]
        return Function(self._name_of(symbols, at), at, end, module.name)

    def _read_symbols(self, module: Module) -> _ModuleSymbols:
        """The module's own symbol table (``struct mod_kallsyms``, before 4.5 in ``struct module``), its text symbols by
        address.
        """
        kernel, table, holder = self._kernel, module.address, "module"
        if self._profile.field("module", "kallsyms") is not None:
            table, holder = kernel.number_at(module.address, "module", "kallsyms"), "mod_kallsyms"
        symbols = kernel.number_at(table, holder, "symtab")
        count = kernel.number_at(table, holder, "num_symtab")
        strings = kernel.number_at(table, holder, "strtab")
        order = ">" if kernel.memory.byte_order == "big" else "<"
        wide = kernel.arch.word_bytes == 8
        entry = struct.Struct(order + ("IBBHQQ" if wide else "IIIBBH"))
        data = kernel.memory.read(symbols, min(count, _MAX_MODULE_SYMBOLS) * entry.size)
        names: dict[int, list[int]] = {}
        for fields in entry.iter_unpack(data):
            value, info = (fields[4], fields[1]) if wide else (fields[1], fields[3])
            is_function = info & 0xF in _FUNCTION_TYPES or info in _TEXT_LETTERS
            if is_function and any(start <= value < end for start, end in module.text):
                names.setdefault(value, []).append(fields[0])
        return _ModuleSymbols(tuple(sorted(names)), names, strings)

    def _name_of(self, symbols: _ModuleSymbols, address: int) -> str | None:
        memory = self._kernel.memory
        try:
            texts = [memory.text(symbols.strings + place, MAX_NAME_BYTES) for place in symbols.names[address]]
        except VmcoreError:
            return None
        names = [SymbolName(clean_text(text, MAX_NAME_BYTES), weak=False) for text in texts if text]
        return choose_name(names) if names else None


class _ModuleSymbols(Struct, frozen=True):
    """Text symbols of a module: sorted addresses, the string table places of the names at each, and that table's
    address.
    """

    addresses: tuple[int, ...]
    names: dict[int, list[int]]
    strings: int
