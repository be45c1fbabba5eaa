"""Struct layouts from a vmlinux's DWARF."""
from collections.abc import Mapping
from elftools.elf.elffile import ELFFile
from crashbeam.vmcore.symbols.layouts import StructLayout, WantedLayouts


def read_layouts(elf: ELFFile, wanted: WantedLayouts, addresses: Mapping[str, int]) -> dict[str, StructLayout]:
    """Layouts."""
    return {}
