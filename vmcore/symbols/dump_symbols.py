"""A dump's own symbols to one compiled kernel: names from kallsyms, layouts from the BTF in the kernel's memory.

Addresses are those at which the kernel ran, as those of VMCOREINFO are.
"""

import struct
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Final

from msgspec import Struct

from crashbeam.schemas.codes import SymbolLayouts, SymbolNames
from crashbeam.vmcore.errors import SymbolError, VmcoreError
from crashbeam.vmcore.symbols import btf
from crashbeam.vmcore.symbols.compiled import ARCHES, Arch, CompiledKernel, text_ranges_of
from crashbeam.vmcore.symbols.identity import build_id_of
from crashbeam.vmcore.symbols.image_search import ReadMemory, find_bytes
from crashbeam.vmcore.symbols.kallsyms import Kallsyms, WordFormat, read_kallsyms, tables_of_vmcoreinfo
from crashbeam.vmcore.symbols.kallsyms_search import search_kallsyms
from crashbeam.vmcore.symbols.layouts import LAYOUTS, StructLayout
from crashbeam.vmcore.symbols.naming import SymbolName, choose_name, is_local_label, without_dot
from crashbeam.vmcore.symbols.variables import POINTED_TO, STATIC_LOCALS, VARIABLES

_TEXT_TYPES: Final = frozenset("tTwW")
_WEAK_TYPES: Final = frozenset("wWvV")
_WANTED: Final = frozenset(VARIABLES)
_WANTED_ENTRIES: Final = frozenset(letter + name for letter in "aAbBdDgGiInrRsStTuvVwW?" for name in VARIABLES)
_BANNER: Final = b"Linux version "
_MAX_BANNER_BYTES: Final = 1024
_MAX_NOTES_BYTES: Final = 1 << 16
_MAX_BTF_TRIED: Final = 256
_BTF_HEADER: Final = {
    "big": struct.pack(">HBBII", 0xEB9F, 1, 0, 24, 0),
    "little": struct.pack("<HBBII", 0xEB9F, 1, 0, 24, 0),
}
"""Magic, version, flags, bytes of the header, and that the types follow it (``include/uapi/linux/btf.h``)."""


class DumpSymbols(Struct, frozen=True):
    """The kernel in a dump. ``problem`` says why there are no layouts though the kernel has BTF: another dump of the
    same build may give them.
    """

    kernel: CompiledKernel
    problem: str | None = None


def read_dump_symbols(
    read: ReadMemory,
    *,
    arch: Arch,
    vmcoreinfo_symbols: Mapping[str, int],
    build_id: str | None = None,
    scan: ReadMemory | None = None,
) -> DumpSymbols:
    """Compiles the kernel in a dump.

    ``read`` reads kernel memory; ``scan`` does the same where much is looked through to find little (by default it is
    ``read``). ``vmcoreinfo_symbols`` and ``build_id`` are what VMCOREINFO says. Raises SymbolError if there are no
    kallsyms, or if they cannot be read.
    """
    form = WordFormat(*ARCHES[arch])
    scan = scan or read
    kallsyms = _find_kallsyms(read, scan, form, vmcoreinfo_symbols)
    variables = _variables(kallsyms, vmcoreinfo_symbols)
    ranges = text_ranges_of(variables)
    structs, problem = _layouts(read, scan, form, variables)
    kernel = CompiledKernel(
        build_id=build_id or _build_id(read, form, variables),
        banner=_banner(read, variables),
        arch=arch,
        names=SymbolNames.KALLSYMS,
        layouts=SymbolLayouts.BTF if structs else SymbolLayouts.NONE,
        text_ranges=ranges,
        text=_text(kallsyms, ranges),
        variables=variables,
        structs=structs,
    )
    return DumpSymbols(kernel, problem)


def _find_kallsyms(read: ReadMemory, scan: ReadMemory, form: WordFormat, symbols: Mapping[str, int]) -> Kallsyms:
    try:
        tables = tables_of_vmcoreinfo(read, form, symbols)
        if tables is not None:
            return read_kallsyms(read, form, tables)
        if "_stext" not in symbols:
            raise SymbolError("VMCOREINFO does not say where the kernel's text begins: kallsyms cannot be looked for")
        return search_kallsyms(read, scan, form, symbols["_stext"])
    except SymbolError:
        raise
    except VmcoreError as error:
        raise SymbolError(f"the dump's kallsyms cannot be read: {error}") from error


def _text(kallsyms: Kallsyms, ranges: Iterable[tuple[int, int]]) -> list[tuple[int, str]]:
    """One name for each address of the text symbols inside the ranges, sorted: what ``name_text`` gives of them."""
    entry_at: dict[int, str] = {}
    several: dict[int, list[str]] = {}
    for start, end in ranges:
        inside = slice(bisect_left(kallsyms.addresses, start), bisect_left(kallsyms.addresses, end))
        for address, entry in zip(kallsyms.addresses[inside], kallsyms.entries[inside], strict=True):
            if entry[0] not in _TEXT_TYPES or is_local_label(entry[1:]):
                continue
            if address in entry_at:
                several.setdefault(address, [entry_at[address]]).append(entry)
            entry_at[address] = entry
    names = {address: without_dot(entry[1:]) for address, entry in entry_at.items()}
    for address, entries in several.items():
        names[address] = choose_name(SymbolName(entry[1:], entry[0] in _WEAK_TYPES) for entry in entries)
    return sorted(names.items())


def _variables(kallsyms: Kallsyms, vmcoreinfo_symbols: Mapping[str, int]) -> dict[str, int]:
    """The addresses of the wanted variables; those that only VMCOREINFO knows (CONFIG_KALLSYMS_ALL is off) too.

    A wanted name that several files have as a static variable is left out: nothing tells which of them is meant.
    """
    of_locals: dict[str, set[int]] = {}
    of_globals: dict[str, int] = {}
    for index, entry in enumerate(kallsyms.entries):
        if entry in _WANTED_ENTRIES:
            name = entry[1:]
        elif entry.startswith(STATIC_LOCALS, 1):
            name = entry[1:].partition(".")[0]
        else:
            continue
        if entry[0].isupper():
            of_globals[name] = kallsyms.addresses[index]
        else:
            of_locals.setdefault(name, set()).add(kallsyms.addresses[index])
    known = {
        name: address for name, address in vmcoreinfo_symbols.items() if name in _WANTED and name not in POINTED_TO
    }
    known |= {name: addresses.pop() for name, addresses in of_locals.items() if len(addresses) == 1}
    return known | of_globals


def _layouts(
    read: ReadMemory, scan: ReadMemory, form: WordFormat, variables: Mapping[str, int]
) -> tuple[dict[str, StructLayout], str | None]:
    """The layouts, none if the kernel has no BTF; and what is wrong with the BTF that it has."""
    try:
        blob = _read_btf(read, scan, form, variables)
        return ({}, None) if blob is None else (btf.read_layouts(blob, LAYOUTS, form.word_bytes), None)
    except VmcoreError as error:
        return {}, f"the BTF in the kernel's memory cannot be read: {error}"


def _read_btf(read: ReadMemory, scan: ReadMemory, form: WordFormat, variables: Mapping[str, int]) -> bytes | None:
    """The BTF; ``None`` if the kernel has none. Raises VmcoreError if it cannot be read."""
    if "linux_banner" in variables:
        start, stop = variables.get("__start_BTF", 0), variables.get("__stop_BTF", 0)
        if start >= stop:
            return None
        if stop - start > btf.MAX_BTF_BYTES:
            raise SymbolError("the BTF is larger than any kernel's", size_bytes=stop - start)
        return read(start, stop - start)
    return _search_btf(read, scan, form, variables)


def _search_btf(read: ReadMemory, scan: ReadMemory, form: WordFormat, variables: Mapping[str, int]) -> bytes | None:
    """The BTF of a kernel whose kallsyms do not name it: the first between its text and its init text."""
    start, stop = variables["_etext"], variables.get("_sinittext", 0)
    header = _BTF_HEADER[form.byte_order]
    for address in islice(find_bytes(scan, header, start, stop - start), _MAX_BTF_TRIED):
        _, types_bytes, strings_at, strings_bytes = form.numbers(read(address + 8, 16), 4)
        size_bytes = len(header) + 12 + strings_bytes + strings_at
        if strings_at == types_bytes and address + size_bytes <= stop:
            return read(address, size_bytes)
    return None


def _build_id(read: ReadMemory, form: WordFormat, variables: Mapping[str, int]) -> str | None:
    """The build id of the kernel's notes; ``None`` if its symbols do not tell where they are, or they are not there."""
    start, stop = variables.get("__start_notes", 0), variables.get("__stop_notes", 0)
    if not 0 < stop - start <= _MAX_NOTES_BYTES:
        return None
    try:
        return build_id_of(read(start, stop - start), form.byte_order)
    except VmcoreError:
        return None


def _banner(read: ReadMemory, variables: Mapping[str, int]) -> str | None:
    """The text of ``linux_banner``; ``None`` if it is not known where it is, or it is not there."""
    if "linux_banner" not in variables:
        return None
    try:
        text = read(variables["linux_banner"], _MAX_BANNER_BYTES).split(b"\0", 1)[0]
    except VmcoreError:
        return None
    return text.decode("utf-8", "replace").rstrip("\n") if text.startswith(_BANNER) else None
