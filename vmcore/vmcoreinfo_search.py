"""VMCOREINFO in the memory of a dump whose file does not hold it, as hypervisors write them.

The kernel keeps the note in a page of its own (``vmcoreinfo_note``, ``alloc_pages_exact``), which so begins with a note
header. Nothing says which page that is: all are looked at, lowest first, up to a limit.
"""

import struct
from collections.abc import Iterator
from typing import Final

from crashbeam.vmcore.containers import ByteOrder, Container
from crashbeam.vmcore.errors import PageError
from crashbeam.vmcore.notes import VMCOREINFO_NAME, parse_notes, vmcoreinfo_text
from crashbeam.vmcore.vmcoreinfo import MAX_TEXT_BYTES

_SMALLEST_PAGE_BYTES: Final = 4096
_MAX_SEARCHED_BYTES: Final = 256 << 20
"""Of memory that is decoded, and..."""
_MAX_TRIED_PAGES: Final = 1 << 18
"""...of page numbers, most of which a sparse dump does not have."""
_SIGNATURES: Final[tuple[tuple[bytes, ByteOrder], ...]] = (
    (len(VMCOREINFO_NAME).to_bytes(4, "big"), "big"),
    (len(VMCOREINFO_NAME).to_bytes(4, "little"), "little"),
)
_NAME_AT: Final = 12


def search_vmcoreinfo(container: Container) -> Iterator[tuple[int, ByteOrder, bytes]]:
    """(physical address, byte order, text) of each page that begins like the note; its byte order is the kernel's.

    Any process may fill a page like that: whether it is the kernel's, the caller has to see. Raises LimitError.
    """
    block_size = container.facts.block_size
    left = _MAX_SEARCHED_BYTES // block_size
    for pfn in range(min(container.facts.max_pfn, _MAX_TRIED_PAGES)):
        try:
            page = container.read_page(pfn)
        except PageError:
            continue
        left -= 1
        if VMCOREINFO_NAME in page:
            for offset in range(0, block_size, _SMALLEST_PAGE_BYTES):
                yield from _note_at(container, pfn * block_size + offset, page[offset:])
        if left == 0:
            return


def _note_at(container: Container, physical: int, data: bytes) -> Iterator[tuple[int, ByteOrder, bytes]]:
    if not data.startswith(VMCOREINFO_NAME, _NAME_AT):
        return
    for signature, byte_order in _SIGNATURES:
        if data.startswith(signature):
            text = vmcoreinfo_text(parse_notes([_whole(container, physical, byte_order, data)], byte_order))
            if text:
                yield physical, byte_order, text


def _whole(container: Container, physical: int, byte_order: ByteOrder, data: bytes) -> bytes:
    """The note's bytes, from the pages behind where it is longer than the rest of its own."""
    (descriptor_bytes,) = struct.unpack_from(">I" if byte_order == "big" else "<I", data, 4)
    wanted = _NAME_AT + len(VMCOREINFO_NAME) + 1 + min(descriptor_bytes, MAX_TEXT_BYTES) + 3
    pfn = physical // container.facts.block_size
    while len(data) < wanted:
        pfn += 1
        try:
            data += container.read_page(pfn)
        except PageError:
            break
    return data[: wanted & ~3]
