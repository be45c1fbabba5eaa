"""What a file of symbols is, and of which kernel build, told from its first megabytes.

A compressed vmlinux need not be unpacked whole for that: its program headers say where its notes are, and
``linux_banner`` lies before them, in the read-only data.
"""

import re
import struct

from msgspec import Struct

from crashbeam.vmcore.symbols import compressed
from crashbeam.vmcore.symbols.compiled import Arch, ByteOrder
from crashbeam.vmcore.symbols.file_kind import FileKind
from crashbeam.vmcore.symbols.profile import MAGIC, KernelProfile

_SNIFFED_BYTES = 4096
_MAX_START_BYTES = 128 << 20
_MAX_NOTES_BYTES = 1 << 20
_MAX_PROGRAM_HEADERS = 64
_PT_NOTE = 4
_ET_EXEC, _ET_DYN = 2, 3
_EM_PPC, _EM_PPC64 = 20, 21
_NT_GNU_BUILD_ID = 3
_ARCHES: dict[tuple[int, int, int], Arch] = {
    (_EM_PPC, 1, 2): "ppc32",
    (_EM_PPC64, 2, 2): "ppc64",
    (_EM_PPC64, 2, 1): "ppc64le",
}
"""By e_machine, EI_CLASS and EI_DATA (1 is little endian)."""
_BANNER = re.compile(rb"Linux version [^ \n\0]+ \([^\n\0]{1,512}\) #[0-9][^\n\0]{0,256}\n\0")
"""With a build number: since 6.1 a vmlinux also has the banner that ``init/version.c`` made before the last link."""
_SYSTEM_MAP = re.compile(rb"([0-9a-f]{8}|[0-9a-f]{16}) [A-Za-z] [^ \n]+\n")


class Identity(Struct, frozen=True):
    """A file's kind and the kernel build that it belongs to, as far as it says."""

    kind: FileKind
    build_id: str | None = None
    banner: str | None = None


def identify(path: str) -> Identity:
    """Tells what a file is. Raises SymbolError if it cannot be read, or is a damaged profile."""
    start = compressed.read_start(path, _SNIFFED_BYTES)
    if start.startswith(MAGIC):
        profile = KernelProfile.open(path)
        return Identity(FileKind.PROFILE, profile.build_id, profile.banner)
    if _SYSTEM_MAP.match(start):
        return Identity(FileKind.SYSTEM_MAP)
    if arch_of(start) is None:
        return Identity(FileKind.OTHER)
    place = _place_of_notes(start)
    end = min(sum(place), _MAX_START_BYTES) if place else _MAX_START_BYTES
    start = compressed.read_start(path, end)
    build_id = build_id_of(start[place[0] : end], byte_order_of(start)) if place else None
    banner = _BANNER.search(start)
    return Identity(FileKind.VMLINUX, build_id, banner[0][:-2].decode("utf-8", "replace") if banner else None)


def arch_of(start: bytes) -> Arch | None:
    """The architecture of an ELF executable for PowerPC, by its header; ``None`` of anything else (modules too)."""
    if len(start) < 64 or not start.startswith(b"\x7fELF"):
        return None
    kind, machine = struct.unpack_from(("<" if start[5] == 1 else ">") + "HH", start, 16)
    return _ARCHES.get((machine, start[4], start[5])) if kind in (_ET_EXEC, _ET_DYN) else None


def byte_order_of(start: bytes) -> ByteOrder:
    """The byte order of an ELF file, by EI_DATA."""
    return "little" if start[5] == 1 else "big"


def build_id_of(notes: bytes, byte_order: ByteOrder) -> str | None:
    """The GNU build id among ELF notes, as hex digits."""
    words = struct.Struct("<III" if byte_order == "little" else ">III")
    at = 0
    while at + 12 <= len(notes):
        name_bytes, descriptor_bytes, kind = words.unpack_from(notes, at)
        descriptor_at = at + 12 + (name_bytes + 3 & ~3)
        if kind == _NT_GNU_BUILD_ID and notes[at + 12 : at + 16] == b"GNU\0":
            return notes[descriptor_at : descriptor_at + descriptor_bytes].hex() or None
        at = descriptor_at + (descriptor_bytes + 3 & ~3)
    return None


def _place_of_notes(start: bytes) -> tuple[int, int] | None:
    """(file offset, size) of the PT_NOTE segment."""
    order = "<" if start[5] == 1 else ">"
    wide = start[4] == 2
    table_at = struct.unpack_from(order + ("Q" if wide else "I"), start, 32 if wide else 28)[0]
    entry_bytes, count = struct.unpack_from(order + "HH", start, 54 if wide else 42)
    header = struct.Struct(order + ("IIQQQQ" if wide else "IIIII"))
    for index in range(min(count, _MAX_PROGRAM_HEADERS)):
        at = table_at + index * entry_bytes
        if at + header.size > len(start):
            break
        fields = header.unpack_from(start, at)
        if fields[0] == _PT_NOTE:
            offset, size_bytes = (fields[2], fields[5]) if wide else (fields[1], fields[4])
            return (offset, size_bytes) if size_bytes <= _MAX_NOTES_BYTES else None
    return None
