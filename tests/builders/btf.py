"""Writes small BTF blobs: types in the order in which they are added, numbered from 1."""

import struct
from collections.abc import Sequence
from typing import Literal

INT, POINTER, ARRAY, STRUCT, UNION, ENUM, FORWARD = 1, 2, 3, 4, 5, 6, 7
TYPEDEF, VOLATILE, CONST, FUNCTION, PROTOTYPE, VARIABLE, DATA_SECTION = 8, 9, 10, 12, 13, 14, 15
FLOAT, DECLARATION_TAG, TYPE_TAG, ENUM64 = 16, 17, 18, 19

Member = tuple[str, int, int]
"""Name, type id, and offset in bits."""


class Btf:
    """A blob under construction. Every method that adds a type gives its id."""

    def __init__(self, byte_order: Literal["big", "little"] = "big") -> None:
        self._order = ">" if byte_order == "big" else "<"
        self._types = bytearray()
        self._strings = bytearray(b"\0")
        self._count = 0

    def name(self, text: str) -> int:
        """The offset of a name in the string section; 0 is no name."""
        if not text:
            return 0
        offset = len(self._strings)
        self._strings += text.encode() + b"\0"
        return offset

    def add(self, kind: int, name: str, size_or_type: int, *words: int, listed: int = 0, kflag: bool = False) -> int:
        """Any record: ``listed`` is the length of its list, ``words`` all that follows the first three."""
        info = kind << 24 | listed | (1 << 31 if kflag else 0)
        self._types += struct.pack(f"{self._order}{3 + len(words)}I", self.name(name), info, size_or_type, *words)
        self._count += 1
        return self._count

    def integer(self, name: str, size: int) -> int:
        """An integer of ``size`` bytes."""
        return self.add(INT, name, size, size * 8)

    def pointer(self, to: int = 0) -> int:
        """A pointer."""
        return self.add(POINTER, "", to)

    def array(self, of: int, length: int) -> int:
        """An array; its index type is not looked at."""
        return self.add(ARRAY, "", 0, of, of, length)

    def struct(
        self, name: str, size: int, members: Sequence[Member], *, kind: int = STRUCT, kflag: bool = False
    ) -> int:
        """A struct, or with ``kind`` a union. With ``kflag`` offsets carry a bitfield's size in their top byte."""
        words = [word for name, type_id, bits in members for word in (self.name(name), type_id, bits)]
        return self.add(kind, name, size, *words, listed=len(members), kflag=kflag)

    def build(self) -> bytes:
        """The blob: header, types, strings."""
        header = struct.pack(
            self._order + "HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self._types), len(self._types), len(self._strings)
        )
        return header + bytes(self._types) + bytes(self._strings)
