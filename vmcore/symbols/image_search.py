"""Looks for bytes in a kernel's image, pages of which may be missing."""

from collections.abc import Callable, Iterator
from typing import Final

from crashbeam.vmcore.errors import VmcoreError

ReadMemory = Callable[[int, int], bytes]
"""Reads (kernel address, size in bytes). Raises VmcoreError for what cannot be read."""

MAX_IMAGE_BYTES: Final = 64 << 20
_BLOCK_BYTES: Final = 1 << 16
_PIECE_BYTES: Final = 1 << 12


def find_bytes(scan: ReadMemory, wanted: bytes, start: int, size_bytes: int) -> Iterator[int]:
    """Addresses of ``wanted``, rising; at most ``MAX_IMAGE_BYTES`` from ``start`` are read. What cannot be read is
    passed over.
    """
    first = start - start % _PIECE_BYTES
    data = b""
    for at in range(first, start + min(size_bytes, MAX_IMAGE_BYTES), _BLOCK_BYTES):
        kept = data[max(len(data) + 1 - len(wanted), 0) :]
        data = kept + read_with_gaps(scan, at, _BLOCK_BYTES)
        found = data.find(wanted)
        while found >= 0:
            address = at - len(kept) + found
            if start <= address <= start + size_bytes - len(wanted):
                yield address
            found = data.find(wanted, found + 1)


def read_with_gaps(scan: ReadMemory, address: int, size_bytes: int) -> bytes:
    """Bytes of the image; zeros stand for what cannot be read."""
    try:
        return scan(address, size_bytes)
    except VmcoreError:
        first = address - address % _PIECE_BYTES
        pieces = b"".join(_piece(scan, at) for at in range(first, address + size_bytes, _PIECE_BYTES))
        return pieces[address - first : address - first + size_bytes]


def _piece(scan: ReadMemory, address: int) -> bytes:
    try:
        return scan(address, _PIECE_BYTES)
    except VmcoreError:
        return bytes(_PIECE_BYTES)
