"""ULEB128 numbers, as DWARF and crashbeam's line table have them (DWARF 5, section 7.6)."""

from crashbeam.vmcore.errors import SymbolError

_MAX_NUMBER_BITS = 70


def uleb(data: bytes, at: int) -> tuple[int, int]:
    """The ULEB128 number at a place, and where it ends."""
    byte = data[at]
    if byte < 0x80:
        return byte, at + 1
    number, shift = byte & 0x7F, 7
    while True:
        at += 1
        byte = data[at]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at + 1
        shift += 7
        if shift > _MAX_NUMBER_BITS:
            raise SymbolError("a ULEB128 number has no end", offset=at)
