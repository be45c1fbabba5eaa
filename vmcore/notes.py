"""ELF notes, raw: what they are called, their type and their bytes. Architectures decode the descriptors.

A note is three 32-bit words (n_namesz, n_descsz, n_type), the name and the descriptor, each of these padded to 4 bytes,
in 32-bit and in 64-bit files alike (Linux kernel/vmcore_info.c ``append_elf_note``, fs/proc/vmcore.c).
"""

import struct
from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import Struct

from crashbeam.vmcore.containers import ByteOrder

MAX_NOTES: Final = 65_536
PRSTATUS_NAME: Final = b"CORE\0"
NT_PRSTATUS: Final = 1
VMCOREINFO_NAME: Final = b"VMCOREINFO\0"
_HEADER_BYTES: Final = 12


class Note(Struct, frozen=True):
    """One note:

    ``name`` has all n_namesz bytes, its NUL too; ``whole`` is header, padded name and descriptor as they stand.
    """

    name: bytes
    type: int
    descriptor: bytes
    whole: bytes


class NoteList(Struct, frozen=True):
    """The notes of a dump in file order; ``problem`` says why there may be more than could be read."""

    notes: tuple[Note, ...]
    problem: str | None


class _GarbledError(Exception):
    """A note that cannot be one; the text says why."""


def parse_notes(segments: Iterable[bytes], byte_order: ByteOrder) -> NoteList:
    """The notes of all note segments, each walked from its own start.

    An empty note (all zero) ends its segment. A segment that is cut or garbled gives what stands before the damage.
    """
    notes: list[Note] = []
    problem: str | None = None
    for number, segment in enumerate(segments):
        try:
            for note in _walk(segment, byte_order):
                if len(notes) == MAX_NOTES:
                    return NoteList(tuple(notes), f"more than {MAX_NOTES} notes")
                notes.append(note)
        except _GarbledError as why:
            problem = problem or f"{why} (note segment {number})"
    return NoteList(tuple(notes), problem)


def prstatus(notes: NoteList) -> tuple[Note, ...]:
    """The NT_PRSTATUS notes; the place in the tuple is the note's index. Named exactly ``CORE``, as drgn asks."""
    return tuple(note for note in notes.notes if note.type == NT_PRSTATUS and note.name == PRSTATUS_NAME)


def vmcoreinfo_text(notes: NoteList) -> bytes | None:
    """The text of the first VMCOREINFO note, or ``None``."""
    for note in notes.notes:
        if note.name == VMCOREINFO_NAME:
            return note.descriptor
    return None


def _walk(segment: bytes, byte_order: ByteOrder) -> Iterator[Note]:
    header = struct.Struct(">III" if byte_order == "big" else "<III")
    position = 0
    end = len(segment)
    while position < end:
        if position + _HEADER_BYTES > end:
            if any(segment[position:]):
                raise _GarbledError(f"a note header is cut at byte {position}")
            return
        name_bytes, descriptor_bytes, note_type = header.unpack_from(segment, position)
        if name_bytes == 0:
            if any(segment[position:]):
                raise _GarbledError(f"a note without a name at byte {position}")
            return
        name_at = position + _HEADER_BYTES
        descriptor_at = name_at + _padded(name_bytes)
        descriptor_end = descriptor_at + descriptor_bytes
        if descriptor_end > end:
            raise _GarbledError(f"the note at byte {position} reaches beyond the end of its segment")
        yield Note(
            name=segment[name_at : name_at + name_bytes],
            type=note_type,
            descriptor=segment[descriptor_at:descriptor_end],
            whole=segment[position:descriptor_end],
        )
        position = descriptor_at + _padded(descriptor_bytes)


def _padded(size_bytes: int) -> int:
    return (size_bytes + 3) & ~3
