"""Loaded modules in a made-up kernel's memory: ``struct module``, its list and its own symbols (linux/module.h)."""

import itertools
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from crashbeam.vmcore.symbols.layouts import Field, StructLayout
from tests.builders.kernel_memory import MadeUpKernel

HEAD = 0xC0702120
_LIST_AT, _NAME_AT, _MEMORY_AT, _KALLSYMS_AT = 4, 12, 208, 292
_NAME_BYTES = 60
STT_OBJECT, STT_FUNC = 1, 2

MEMORIES = {
    "module": StructLayout(
        512,
        {
            "list": Field(_LIST_AT, 8),
            "name": Field(_NAME_AT, _NAME_BYTES, _NAME_BYTES),
            "mem": Field(_MEMORY_AT, 56, 7),
            "kallsyms": Field(_KALLSYMS_AT, 4),
        },
    ),
    "module_memory": StructLayout(8, {"base": Field(0, 4), "size": Field(4, 4)}),
    "mod_kallsyms": StructLayout(16, {"symtab": Field(0, 4), "num_symtab": Field(4, 4), "strtab": Field(8, 4)}),
}
"""Since Linux 6.4: seven regions, text the first and init text the fifth."""
LAYOUTS = {
    "module": StructLayout(
        512,
        {
            "list": Field(_LIST_AT, 8),
            "name": Field(_NAME_AT, _NAME_BYTES, _NAME_BYTES),
            "core_layout": Field(_MEMORY_AT, 24),
            "init_layout": Field(_MEMORY_AT + 24, 24),
            "kallsyms": Field(_KALLSYMS_AT, 4),
        },
    ),
    "module_layout": StructLayout(24, {"base": Field(0, 4), "size": Field(4, 4), "text_size": Field(8, 4)}),
    "mod_kallsyms": MEMORIES["mod_kallsyms"],
}
"""Linux 4.5 to 6.3: text is the first part of each of two regions."""
OLDEST = {
    "module": StructLayout(
        512,
        {
            "list": Field(_LIST_AT, 8),
            "name": Field(_NAME_AT, _NAME_BYTES, _NAME_BYTES),
            "module_init": Field(_MEMORY_AT, 4),
            "module_core": Field(_MEMORY_AT + 4, 4),
            "init_size": Field(_MEMORY_AT + 8, 4),
            "core_size": Field(_MEMORY_AT + 12, 4),
            "init_text_size": Field(_MEMORY_AT + 16, 4),
            "core_text_size": Field(_MEMORY_AT + 20, 4),
            "symtab": Field(_KALLSYMS_AT, 4),
            "num_symtab": Field(_KALLSYMS_AT + 4, 4),
            "strtab": Field(_KALLSYMS_AT + 8, 4),
        },
    ),
}
"""Before Linux 4.5: addresses and sizes stand in the module itself, and so do its symbols."""


@dataclass(frozen=True, slots=True)
class ModuleSymbol:
    """A symbol of a module: ``info`` is ``st_info``, up to Linux 5.1 the letter that nm would print."""

    name: str
    address: int
    info: int = STT_FUNC


@dataclass(frozen=True, slots=True)
class LoadedModule:
    """A module at ``address``: its text and init text as (base, size), its symbols."""

    address: int
    name: str
    text: tuple[int, int]
    init_text: tuple[int, int] = (0, 0)
    symbols: Sequence[ModuleSymbol] = ()

    @property
    def link(self) -> int:
        """The list node in it."""
        return self.address + _LIST_AT

    @property
    def symbol_table(self) -> int:
        """Where its ELF symbols lie."""
        return self.address + 0x1000

    @property
    def string_table(self) -> int:
        """Where their names lie."""
        return self.address + 0x2000


def load(kernel: MadeUpKernel, *modules: LoadedModule) -> None:
    """Puts modules into memory and links them; which form follows from the layouts that the kernel has already."""
    if "module" not in kernel.structs:
        kernel.structs.update(MEMORIES)
    kernel.variables["modules"] = HEAD
    nodes = [HEAD, *(module.link for module in modules), HEAD]
    for node, following in itertools.pairwise(nodes):
        kernel.words(node, following)
    for module in modules:
        _put(kernel, module)


def _put(kernel: MadeUpKernel, module: LoadedModule) -> None:
    kernel.put(module.address + _NAME_AT, module.name.encode().ljust(_NAME_BYTES, b"\0"))
    (base, size), (init_base, init_size) = module.text, module.init_text
    if "module_memory" in kernel.structs:
        data = (0xC9F00000, 0x1000)
        kernel.words(module.address + _MEMORY_AT, base, size, *data, *data, *data, init_base, init_size, *data, *data)
    elif "module_layout" not in kernel.structs:
        kernel.words(module.address + _MEMORY_AT, init_base, base, init_size, size + 0x800, init_size, size)
    else:
        kernel.words(module.address + _MEMORY_AT, base, size + 0x800, size, 0, 0, 0)
        kernel.words(module.address + _MEMORY_AT + 24, init_base, init_size, init_size, 0, 0, 0)
    table = module.address + _KALLSYMS_AT
    if "mod_kallsyms" in kernel.structs:
        kernel.words(table, module.address + 0xF00)
        table = module.address + 0xF00
    kernel.words(table, module.symbol_table, len(module.symbols) + 1, module.string_table)
    entries, strings = bytes(16), b"\0"
    for symbol in module.symbols:
        entries += struct.pack(">IIIBBH", len(strings), symbol.address, 16, symbol.info, 0, 1)
        strings += symbol.name.encode() + b"\0"
    kernel.put(module.symbol_table, entries)
    kernel.put(module.string_table, strings)
