"""A vmlinux to one compiled kernel: names from its symbols, layouts from DWARF or BTF, lines from DWARF."""

import struct
import zlib
from collections.abc import Iterator, Mapping
from operator import itemgetter
from typing import IO

from elftools.common.exceptions import DWARFError, ELFError
from elftools.construct import ConstructError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import Section

from crashbeam.schemas.codes import SymbolLayouts, SymbolNames
from crashbeam.vmcore.errors import SymbolError
from crashbeam.vmcore.symbols import btf, dwarf, lines
from crashbeam.vmcore.symbols.compiled import ARCHES, CompiledKernel, name_text, text_ranges_of
from crashbeam.vmcore.symbols.compressed import open_unpacked
from crashbeam.vmcore.symbols.identity import arch_of, build_id_of
from crashbeam.vmcore.symbols.layouts import LAYOUTS, StructLayout
from crashbeam.vmcore.symbols.naming import is_local_label, without_dot
from crashbeam.vmcore.symbols.variables import STATIC_LOCALS, VARIABLES

_MAX_SYMTAB_BYTES = 256 << 20
_MAX_BANNER_BYTES = 1024
_SHF_EXECINSTR = 4
_STT_FUNC, _STT_SECTION, _STT_FILE = 2, 3, 4
_STB_LOCAL, _STB_WEAK = 0, 2
_WANTED = frozenset(name.encode() for name in VARIABLES)
_STATIC_LOCALS = tuple(name.encode() for name in STATIC_LOCALS)
_DAMAGED = (
    ELFError,
    DWARFError,
    ConstructError,
    struct.error,
    zlib.error,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    NotImplementedError,
    RecursionError,
)
"""What pyelftools raises, by where a file is damaged."""
_WIDE = itemgetter(0, 1, 3, 4)
_NARROW = itemgetter(0, 3, 5, 1)
"""st_name, st_info, st_shndx, st_value of an Elf64_Sym and of an Elf32_Sym."""


def read_vmlinux(path: str) -> CompiledKernel:
    """Compiles a vmlinux for PowerPC, plain or compressed. Raises SymbolError if it cannot be used."""
    with open_unpacked(path) as stream:
        try:
            return _compile(stream, path)
        except _DAMAGED as error:
            raise SymbolError(f"{path} is a damaged ELF file: {error!r}") from error


def _compile(stream: IO[bytes], path: str) -> CompiledKernel:
    arch = arch_of(stream.read(64))
    if arch is None:
        raise SymbolError(f"{path} is no vmlinux for PowerPC")
    elf = ELFFile(stream)
    text, variables = _symbols(elf, path)
    ranges = text_ranges_of(variables)
    line_table = lines.read_lines(elf, ranges)
    layouts, structs = _layouts(
        elf, ARCHES[arch][0], variables | {without_dot(name): address for address, name, _ in text}
    )
    return CompiledKernel(
        build_id=_build_id(elf),
        banner=_banner(elf, variables),
        arch=arch,
        names=SymbolNames.VMLINUX,
        layouts=layouts,
        text_ranges=ranges,
        text=name_text(text, ranges),
        variables=variables,
        structs=structs,
        lines=line_table,
    )


def _symbols(elf: ELFFile, path: str) -> tuple[list[tuple[int, str, bool]], dict[str, int]]:
    """(address, name, is weak) of what lies in executable sections, and the addresses of the wanted variables.

    A wanted name that several files have as a static variable is left out: nothing tells which of them is meant.
    """
    executable = {index for index, section in enumerate(elf.iter_sections()) if section["sh_flags"] & _SHF_EXECINSTR}
    text: list[tuple[int, str, bool]] = []
    of_globals: dict[str, int] = {}
    of_locals: dict[str, set[int]] = {}
    for encoded, address, binding, kind, section in _iter_symbols(elf, path):
        if section in executable:
            name = encoded.decode("utf-8", "replace")
            if kind == _STT_FUNC or not is_local_label(name):
                text.append((address, name, binding == _STB_WEAK))
        wanted = encoded.partition(b".")[0] if encoded.startswith(_STATIC_LOCALS) else encoded
        if wanted in _WANTED:
            if binding == _STB_LOCAL:
                of_locals.setdefault(wanted.decode(), set()).add(address)
            else:
                of_globals[wanted.decode()] = address
    variables = {name: addresses.pop() for name, addresses in of_locals.items() if len(addresses) == 1}
    return text, variables | of_globals


def _iter_symbols(elf: ELFFile, path: str) -> Iterator[tuple[bytes, int, int, int, int]]:
    """(name, address, binding, type, section number) of each defined symbol that has a name."""
    table = elf.get_section_by_name(".symtab")
    if table is None or table["sh_type"] != "SHT_SYMTAB":
        raise SymbolError(f"{path} has no symbol table: it was stripped")
    names = _contents(elf.get_section(table["sh_link"]), path, _MAX_SYMTAB_BYTES)
    order = "<" if elf.little_endian else ">"
    wide = elf.elfclass == 64
    record = struct.Struct(order + ("IBBHQQ" if wide else "IIIBBH"))
    data = _contents(table, path, _MAX_SYMTAB_BYTES)
    for fields in record.iter_unpack(data[: len(data) - len(data) % record.size]):
        name_at, info, section, address = _WIDE(fields) if wide else _NARROW(fields)
        kind = info & 15
        if section == 0 or name_at == 0 or kind in (_STT_SECTION, _STT_FILE):
            continue
        yield names[name_at : names.index(0, name_at)], address, info >> 4, kind, section


def _layouts(
    elf: ELFFile, word_bytes: int, addresses: Mapping[str, int]
) -> tuple[SymbolLayouts, dict[str, StructLayout]]:
    """The layouts, from DWARF where there is any; what the compile units that were looked at lack comes from BTF."""
    structs = dwarf.read_layouts(elf, LAYOUTS, addresses)
    source = SymbolLayouts.DWARF if structs else SymbolLayouts.NONE
    section = elf.get_section_by_name(".BTF")
    if section is not None and section["sh_type"] != "SHT_NOBITS":
        of_btf = btf.read_layouts(_contents(section, ".BTF", btf.MAX_BTF_BYTES), LAYOUTS, word_bytes)
        if of_btf and not structs:
            source = SymbolLayouts.BTF
        structs = of_btf | structs
    return source, structs


def _build_id(elf: ELFFile) -> str | None:
    for section in elf.iter_sections():
        if section["sh_type"] == "SHT_NOTE":
            found = build_id_of(section.data(), "little" if elf.little_endian else "big")
            if found:
                return found
    return None


def _banner(elf: ELFFile, variables: Mapping[str, int]) -> str | None:
    """The text of ``linux_banner``; ``None`` if the file has no contents there (a file of debug information alone)."""
    address = variables.get("linux_banner", 0)
    for section in elf.iter_sections():
        if (
            section["sh_type"] == "SHT_PROGBITS"
            and section["sh_addr"] <= address < section["sh_addr"] + section["sh_size"]
        ):
            elf.stream.seek(section["sh_offset"] + address - section["sh_addr"])
            text = elf.stream.read(_MAX_BANNER_BYTES).split(b"\0", 1)[0]
            return text.decode("utf-8", "replace").rstrip("\n") if text.startswith(b"Linux version ") else None
    return None


def _contents(section: Section, path: str, limit_bytes: int) -> bytes:
    if section["sh_size"] > limit_bytes:
        raise SymbolError(
            f"{path} has a {section.name} that is larger than any kernel's", size_bytes=section["sh_size"]
        )
    data: bytes = section.data()
    return data
