"""Where a kernel keeps its log, for those who read it: names, layouts, rows of memory, and what reading them lost."""

import struct
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from crashbeam.schemas.clean import clean_text
from crashbeam.vmcore.errors import PageError, SymbolError, TranslationError
from crashbeam.vmcore.memory import KernelMemory
from crashbeam.vmcore.symbols.profile import KernelProfile
from crashbeam.vmcore.vmcoreinfo import Vmcoreinfo

HINT = "give the kernel's vmlinux with --symbols"
MAX_RECORDS = 1 << 18
"""Records that are read of one log: a buffer of 8 MiB has as many, those of the largest machines are no larger."""
MAX_LOG_BYTES = 64 << 20
BATCH_RECORDS = 32
UNREADABLE = b"\xff"
"""What stands for a byte that cannot be read, where the rest is wanted: no UTF-8 has it, and no record its length."""
_PIECE_BYTES = 4096
_MAX_STRUCT_BYTES = 4096
_MAX_LINES_OF_RECORD = 256

_LEVELS = {"big": tuple(byte & 7 for byte in range(256)), "little": tuple(byte >> 5 for byte in range(256))}
"""The first member of a bit field stands in the byte order's first bits."""
_LETTERS = {1: "B", 2: "H", 4: "I", 8: "Q"}
_UNREADABLE = (PageError, TranslationError)


class Losses(Struct):
    """Records that were met and have no line: counted while a log is read.

    ``half_written``: their writer was stopped. ``unreadable``: their page is not in the dump, or what stands there is
    another record's. ``dropped``: the kernel itself had no room for their text. ``unread``: beyond what is read of one
    log. ``cut`` says why reading ended early.
    """

    half_written: int = 0
    unreadable: int = 0
    dropped: int = 0
    unread: int = 0
    cut: str | None = None

    def sentence(self) -> str | None:
        """What is missing, or ``None``."""
        counts = (
            (self.half_written, "half written"),
            (self.unreadable, "unreadable"),
            (self.dropped, "dropped by the kernel"),
            (self.unread, "not read"),
        )
        said = [f"{count} {what}" for count, what in counts if count]
        problems = [f"records of the log are missing: {', '.join(said)}"] if said else []
        return "; ".join([*problems, *([self.cut] if self.cut else [])]) or None


class LogMemory:
    """A kernel's memory with its names and layouts: those of the profile, else those that VMCOREINFO has.

    ``levels`` has the syslog level for each value of the byte ``u8 flags:5, level:3`` of a record.
    Methods raise SymbolError for what neither has, and what memory raises.
    """

    def __init__(self, memory: KernelMemory, profile: KernelProfile | None, info: Vmcoreinfo | None) -> None:
        self.kernel_memory = memory
        self.levels = _LEVELS[memory.byte_order]
        self.losses = Losses()
        self._profile = profile
        self._info = info

    def has(self, variable: str) -> bool:
        """Whether the address of a variable is known."""
        return self._find(variable) is not None

    def address_of(self, variable: str) -> int:
        """The address of a variable."""
        address = self._find(variable)
        if address is None:
            raise SymbolError(f"neither symbols nor VMCOREINFO have {variable}", hint=HINT)
        return address

    def _find(self, variable: str) -> int | None:
        address = None if self._profile is None else self._profile.address_of(variable)
        if address is None and self._info is not None:
            address = self._info.symbols.get(variable)
        return address

    def find_offset(self, struct_name: str, member: str) -> int | None:
        """The offset of a member in bytes, or ``None``."""
        field = None if self._profile is None else self._profile.field(struct_name, member)
        if field is not None:
            return field.offset
        return None if self._info is None else self._info.offsets.get(f"{struct_name}.{member}")

    def offset_of(self, struct_name: str, member: str) -> int:
        """The offset of a member in bytes."""
        offset = self.find_offset(struct_name, member)
        if offset is None:
            raise SymbolError(f"neither symbols nor VMCOREINFO have {struct_name}.{member}", hint=HINT)
        return offset

    def find_size(self, struct_name: str) -> int | None:
        """The size of a struct in bytes, or ``None``."""
        size = None if self._profile is None else self._profile.size_of(struct_name)
        return self._info.sizes.get(struct_name) if size is None and self._info is not None else size

    def size_of(self, struct_name: str) -> int:
        """The size of a struct in bytes."""
        size = self.find_size(struct_name)
        if size is None:
            raise SymbolError(f"neither symbols nor VMCOREINFO have the size of {struct_name}", hint=HINT)
        return size

    def word_of(self, variable: str) -> int:
        """The value of a variable of word size."""
        return self.kernel_memory.word(self.address_of(variable))

    def u32_of(self, variable: str) -> int:
        """The value of a variable of 32 bits."""
        return self.kernel_memory.u32(self.address_of(variable))

    def row(self, size_bytes: int, members: Sequence[tuple[int, int]]) -> struct.Struct:
        """A reader of structs of ``size_bytes`` that gives members, each (offset, size), in the order of offsets.

        Raises SymbolError where members overlap or lie outside.
        """
        order = ">" if self.kernel_memory.byte_order == "big" else "<"
        form, end = order, 0
        for offset, member_bytes in members:
            if offset < end:
                raise SymbolError(f"a struct of the log has members at {end} and {offset} that overlap")
            form += f"{offset - end}x{_LETTERS[member_bytes]}"
            end = offset + member_bytes
        if not end <= size_bytes <= _MAX_STRUCT_BYTES:
            raise SymbolError(f"a struct of the log has {size_bytes} bytes, and a member that ends at {end}")
        return struct.Struct(f"{form}{size_bytes - end}x")

    def rows(self, row: struct.Struct, address: int, count: int) -> list[tuple[Any, ...] | None]:
        """``count`` structs from ``address``; ``None`` for each that cannot be read."""
        try:
            return list(row.iter_unpack(self.kernel_memory.read(address, count * row.size)))
        except _UNREADABLE:
            readable: dict[int, bool] = {}
            places = range(address, address + count * row.size, row.size)
            return [self._row_at(row, place, readable) for place in places]

    def _row_at(self, row: struct.Struct, address: int, readable: dict[int, bool]) -> tuple[Any, ...] | None:
        """The struct at ``address``; ``readable`` keeps which pieces of memory can be read."""
        for piece in (address // _PIECE_BYTES, (address + row.size - 1) // _PIECE_BYTES):
            if piece not in readable:
                readable[piece] = self.read(piece * _PIECE_BYTES, 1) is not None
            if not readable[piece]:
                return None
        data = self.read(address, row.size)
        return None if data is None else row.unpack(data)

    def read(self, address: int, size_bytes: int) -> bytes | None:
        """Bytes of memory, or ``None`` where they cannot be read."""
        try:
            return self.kernel_memory.read(address, size_bytes)
        except _UNREADABLE:
            return None

    def read_filled(self, address: int, size_bytes: int) -> tuple[bytes, bool]:
        """Bytes of memory, with ``UNREADABLE`` for those that cannot be read, and whether there are none of these."""
        data = self.read(address, size_bytes)
        if data is not None:
            return data, True
        pieces = []
        end = address + size_bytes
        while address < end:
            piece_bytes = min(_PIECE_BYTES - address % _PIECE_BYTES, end - address)
            pieces.append(self.read(address, piece_bytes) or UNREADABLE * piece_bytes)
            address += piece_bytes
        return b"".join(pieces), False


def lines_of(text: bytes) -> list[str]:
    """The lines of a record's text, without control characters."""
    decoded = text.decode("utf-8", "replace")
    if decoded.isprintable():
        return [decoded]
    return [clean_text(line, len(line) * 4) for line in decoded.split("\n")[:_MAX_LINES_OF_RECORD]]
