"""Struct layouts from BTF, the compact type information of a ``.BTF`` section or of the kernel's own memory.

Format: ``include/uapi/linux/btf.h`` of Linux 6.12, ``Documentation/bpf/btf.rst``. A type is a record of three 32-bit
words (name, info, size or type) and more words by its kind; types are numbered from 1 in file order. The records are
walked once to know where each starts; only what is wanted is looked at.
"""

import struct
import sys
from array import array
from collections.abc import Iterator
from typing import Literal

from crashbeam.vmcore.errors import SymbolError
from crashbeam.vmcore.symbols.layouts import Field, StructLayout, WantedLayouts

_MAGIC = 0xEB9F
_HEADER_BYTES = 24
MAX_BTF_BYTES = 64 << 20
_MAX_DEPTH = 32
_MAX_MEMBERS_VISITED = 1_000_000
_MAX_SIZE_BYTES = 1 << 31

_INT, _POINTER, _ARRAY, _STRUCT, _UNION, _ENUM = 1, 2, 3, 4, 5, 6
_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _FLOAT, _TYPE_TAG, _ENUM64 = 8, 9, 10, 11, 16, 18, 19
_MODIFIERS = frozenset((_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG))
_SIZED = frozenset((_INT, _STRUCT, _UNION, _ENUM, _FLOAT, _ENUM64))

_FIXED_WORDS = (0, 4, 3, 6, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4, 3, 3, 4, 3, 3)
"""Words of a record by kind, without its list; kind 0 (void) has no record."""
_LIST_WORDS = (0, 0, 0, 0, 3, 3, 2, 0, 0, 0, 0, 0, 0, 2, 0, 3, 0, 0, 0, 3)
"""Words of each entry of a record's list by kind: members, enumerators, parameters, variables."""


def read_layouts(btf: bytes | memoryview, wanted: WantedLayouts, word_bytes: int) -> dict[str, StructLayout]:
    """The layouts of those of ``wanted`` that the blob defines; ``word_bytes`` is the size of a pointer.

    A name is that of a struct or union, else of a typedef. Bitfields have no byte offset and are left out. Raises
    SymbolError if the blob is not BTF, or contradicts itself.
    """
    types = _Types(btf, word_bytes)
    layouts: dict[str, StructLayout] = {}
    for name, type_id in types.find(wanted).items():
        fields = {}
        for member in wanted[name]:
            field = types.field(type_id, member)
            if field is not None:
                fields[member] = field
        layouts[name] = StructLayout(types.size_of(type_id), fields)
    return layouts


class _Types:
    """The types of one blob: where each record starts, and questions about them."""

    def __init__(self, btf: bytes | memoryview, word_bytes: int) -> None:
        self._word_bytes = word_bytes
        self._words, self._strings = _split(bytes(btf))
        self._starts = _record_starts(self._words)
        self._visited = 0

    def find(self, wanted: WantedLayouts) -> dict[str, int]:
        """Type ids of the structs, unions and typedefs that bear wanted names; the first of each name."""
        names = _offsets_of(self._strings, wanted)
        structs: dict[str, int] = {}
        typedefs: dict[str, int] = {}
        words = self._words
        for type_id, start in enumerate(self._starts[1:], 1):
            if words[start] in names:
                kind = words[start + 1] >> 24 & 31
                if kind in (_STRUCT, _UNION):
                    structs.setdefault(names[words[start]], type_id)
                elif kind == _TYPEDEF:
                    typedefs.setdefault(names[words[start]], type_id)
        return typedefs | structs

    def size_of(self, type_id: int) -> int:
        """Bytes of a value of the type; 0 of what has none (void, functions)."""
        return self._size_and_count(type_id)[0]

    def field(self, type_id: int, path: str) -> Field | None:
        """The member at a dotted path, or ``None`` if there is no such member."""
        offset = 0
        for name in path.split("."):
            member = self._member(self._resolve(type_id), name.encode(), 0)
            if member is None:
                return None
            member_offset, type_id = member
            offset += member_offset
        size, count = self._size_and_count(type_id)
        return Field(offset, size, count)

    def _member(self, type_id: int, name: bytes, depth: int) -> tuple[int, int] | None:
        """(byte offset, type id) of a member; members of anonymous structs and unions count as the struct's own."""
        if depth > _MAX_DEPTH:
            raise SymbolError("BTF nests anonymous members too deeply", type_id=type_id)
        for name_offset, member_type, bit_offset in self._members(type_id):
            if name_offset:
                if self._strings.startswith(name + b"\0", name_offset) and bit_offset % 8 == 0:
                    return bit_offset // 8, member_type
            elif bit_offset % 8 == 0:
                inner = self._member(self._resolve(member_type), name, depth + 1)
                if inner is not None:
                    return bit_offset // 8 + inner[0], inner[1]
        return None

    def _members(self, type_id: int) -> Iterator[tuple[int, int, int]]:
        """(name offset, type id, bit offset) of each member that is no bitfield; nothing of what is no struct."""
        words = self._words
        start = self._start(type_id)
        info = words[start + 1]
        if info >> 24 & 31 not in (_STRUCT, _UNION):
            return
        has_bitfields = info >> 31
        self._visited += info & 0xFFFF
        if self._visited > _MAX_MEMBERS_VISITED:
            raise SymbolError("BTF has more members than a kernel's", members=self._visited)
        for at in range(start + 3, start + 3 + 3 * (info & 0xFFFF), 3):
            bits = words[at + 2]
            if has_bitfields:
                if bits >> 24:
                    continue
                bits &= 0xFFFFFF
            yield words[at], words[at + 1], bits

    def _resolve(self, type_id: int) -> int:
        """The type behind typedefs and qualifiers; 0 is void."""
        for _ in range(_MAX_DEPTH):
            if type_id == 0:
                return 0
            start = self._start(type_id)
            if self._words[start + 1] >> 24 & 31 not in _MODIFIERS:
                return type_id
            type_id = self._words[start + 2]
        raise SymbolError("BTF has a typedef that leads nowhere", type_id=type_id)

    def _size_and_count(self, type_id: int) -> tuple[int, int | None]:
        count: int | None = None
        elements = 1
        for _ in range(_MAX_DEPTH):
            type_id = self._resolve(type_id)
            if type_id == 0:
                return 0, count
            start = self._start(type_id)
            kind = self._words[start + 1] >> 24 & 31
            if kind != _ARRAY:
                return self._checked(elements * self._plain_size(start, kind)), count
            length = self._words[start + 5]
            count = length if count is None else count
            elements = self._checked(elements * length)
            type_id = self._words[start + 3]
        raise SymbolError("BTF nests arrays too deeply", type_id=type_id)

    def _plain_size(self, start: int, kind: int) -> int:
        if kind == _POINTER:
            return self._word_bytes
        return self._words[start + 2] if kind in _SIZED else 0

    def _checked(self, size: int) -> int:
        if size > _MAX_SIZE_BYTES:
            raise SymbolError("BTF has a type that is too large", size_bytes=size)
        return size

    def _start(self, type_id: int) -> int:
        if type_id >= len(self._starts):
            raise SymbolError("BTF refers to a type that it lacks", type_id=type_id, types=len(self._starts))
        return self._starts[type_id]


def _split(btf: bytes) -> tuple["array[int]", bytes]:
    """The words of the type section, in host byte order, and the string section."""
    if len(btf) < _HEADER_BYTES:
        raise SymbolError("BTF is shorter than its header", size_bytes=len(btf))
    if len(btf) > MAX_BTF_BYTES:
        raise SymbolError("BTF is larger than any kernel's", size_bytes=len(btf))
    order: Literal["<", ">"] = "<" if int.from_bytes(btf[:2], "little") == _MAGIC else ">"
    magic, version, _, header_bytes, types_at, types_bytes, strings_at, strings_bytes = struct.unpack_from(
        order + "HBBIIIII", btf
    )
    if magic != _MAGIC or version != 1:
        raise SymbolError("this is no BTF of version 1", magic=magic, version=version)
    types_at += header_bytes
    strings_at += header_bytes
    if (
        max(types_at + types_bytes, strings_at + strings_bytes) > len(btf)
        or types_bytes % 4
        or header_bytes < _HEADER_BYTES
    ):
        raise SymbolError("the sections of the BTF lie outside it", size_bytes=len(btf))
    words = array("I", btf[types_at : types_at + types_bytes])
    if (order == "<") != (sys.byteorder == "little"):
        words.byteswap()
    return words, btf[strings_at : strings_at + strings_bytes]


def _record_starts(words: "array[int]") -> list[int]:
    """Index of the first word of each type's record, by type id; that of id 0, void, is a placeholder."""
    starts = [0]
    at = 0
    end = len(words)
    fixed, listed = _FIXED_WORDS, _LIST_WORDS
    kinds = len(fixed)
    append = starts.append
    while at + 2 < end:
        info = words[at + 1]
        kind = info >> 24 & 31
        if not 0 < kind < kinds:
            raise SymbolError("BTF has a type of an unknown kind", kind=kind, type_id=len(starts))
        append(at)
        at += fixed[kind] + listed[kind] * (info & 0xFFFF)
    if at != end:
        raise SymbolError("BTF ends inside a type", type_id=len(starts) - 1)
    return starts


def _offsets_of(strings: bytes, wanted: WantedLayouts) -> dict[int, str]:
    """Every offset in the string section at which a wanted name stands, also as the tail of a longer string."""
    offsets: dict[int, str] = {}
    for name in wanted:
        text = name.encode() + b"\0"
        at = strings.find(text)
        while at >= 0:
            offsets[at] = name
            at = strings.find(text, at + 1)
    return offsets
