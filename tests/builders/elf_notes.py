"""ELF notes as the kernel writes them (Linux kernel/vmcore_info.c ``append_elf_note``)."""

import struct

PPC32_PRSTATUS_BYTES = 268
PPC64_PRSTATUS_BYTES = 504


def note(name: bytes, kind: int, descriptor: bytes, byte_order: str = "big") -> bytes:
    """One note: header, name and descriptor, each padded to 4 bytes."""
    header = struct.pack(">III" if byte_order == "big" else "<III", len(name), len(descriptor), kind)
    return header + _padded(name) + _padded(descriptor)


def prstatus_note(fill: int, byte_order: str = "big", size_bytes: int = PPC32_PRSTATUS_BYTES) -> bytes:
    """An NT_PRSTATUS note whose descriptor repeats one byte."""
    return note(b"CORE\0", 1, bytes([fill]) * size_bytes, byte_order)


def vmcoreinfo_note(text: bytes, byte_order: str = "big") -> bytes:
    """The VMCOREINFO note."""
    return note(b"VMCOREINFO\0", 0, text, byte_order)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
