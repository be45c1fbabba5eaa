"""kallsyms, the symbol table that a kernel carries in its own memory (Linux ``scripts/kallsyms.c``, 4.x to 6.12).

All tables are in the kernel's byte order, each label aligned to a word:

    num_syms       u32 (before 4.20 a word)
    names          a record for each symbol, in order of addresses
    markers        u32 (before 4.20 a word): where every 256th record begins
    seqs_of_names  3 bytes for each symbol: here in 6.2 (and later 6.1) to 6.3, from 6.4 on behind relative_base
    token_table    256 texts, each ended by a NUL
    token_index    u16: where each text begins
    offsets        u32 for each symbol, to be added to relative_base
    relative_base  a word

Up to 6.3 offsets and relative_base stand before num_syms. Before 4.6, or without CONFIG_KALLSYMS_BASE_RELATIVE, there
are ``kallsyms_addresses`` instead, a word for each symbol. A record is a length (a byte; with bit 7 set, since 6.1, its
low 7 bits and the next byte << 7) and so many numbers of tokens, whose texts make the type letter and the name.
"""

import sys
from array import array
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Final, Literal

from msgspec import Struct

from crashbeam.vmcore.errors import SymbolError
from crashbeam.vmcore.symbols.compiled import ByteOrder
from crashbeam.vmcore.symbols.image_search import ReadMemory

MAX_SYMBOLS: Final = 1 << 20
MAX_NAMES_BYTES: Final = 32 << 20
TOKENS: Final = 256
INDEX_BYTES: Final = 2 * TOKENS
MAX_TABLE_BYTES: Final = 1 << 16
"""The index has 16 bits."""
RECORDS_PER_MARKER: Final = 256
_MAX_ENTRY_BYTES: Final = 512
"""KSYM_NAME_LEN since 6.1, with the type letter and without the NUL."""
_MAX_EXPANDED_BYTES: Final = 64 << 20
_CODES_AT_ONCE: Final = 1 << 14
_SEPARATOR, _NOTHING = TOKENS, TOKENS + 1


class KallsymsTables(Struct, frozen=True):
    """Where the tables are: addresses, but ``count`` is the number of symbols.

    ``values`` are u32 offsets if there is a ``relative_base``, else the symbols' addresses themselves.
    """

    count: int
    names: int
    token_table: int
    token_index: int
    values: int
    relative_base: int | None


class Kallsyms(Struct, frozen=True):
    """All symbols by rising address. An entry is the type letter of nm(1) and the name, as ``Tstart_kernel``."""

    addresses: Sequence[int]
    entries: Sequence[str]


class WordFormat(Struct, frozen=True):
    """Size of a kernel's word, and its byte order."""

    word_bytes: int
    byte_order: ByteOrder

    def number(self, data: bytes) -> int:
        """The unsigned number that ``data`` holds."""
        return int.from_bytes(data, self.byte_order)

    def numbers(self, data: bytes, size_bytes: int) -> "array[int]":
        """The unsigned numbers of 2, 4 or 8 bytes that ``data`` holds."""
        numbers = array(_ARRAY_CODES[size_bytes])
        numbers.frombytes(data)
        if self.byte_order != sys.byteorder:
            numbers.byteswap()
        return numbers

    def aligned(self, address: int) -> int:
        """The first label at or behind an address."""
        return -(-address // self.word_bytes) * self.word_bytes


_ARRAY_CODES: Final[Mapping[int, Literal["H", "I", "Q"]]] = {2: "H", 4: "I", 8: "Q"}


def tables_of_vmcoreinfo(read: ReadMemory, form: WordFormat, symbols: Mapping[str, int]) -> KallsymsTables | None:
    """The tables that the SYMBOL() lines of VMCOREINFO name (6.0 and later); ``None`` if they do not name them.

    Raises VmcoreError if the number of symbols cannot be read.
    """
    try:
        count_at, names = symbols["kallsyms_num_syms"], symbols["kallsyms_names"]
        token_table, token_index = symbols["kallsyms_token_table"], symbols["kallsyms_token_index"]
        relative_base = symbols.get("kallsyms_relative_base")
        values = symbols["kallsyms_addresses" if relative_base is None else "kallsyms_offsets"]
    except KeyError:
        return None
    return KallsymsTables(form.number(read(count_at, 4)), names, token_table, token_index, values, relative_base)


def read_kallsyms(read: ReadMemory, form: WordFormat, tables: KallsymsTables) -> Kallsyms:
    """Every symbol. Raises SymbolError if the tables contradict themselves, VmcoreError if they cannot be read."""
    if not 0 < tables.count <= MAX_SYMBOLS:
        raise SymbolError("kallsyms has an impossible number of symbols", symbols=tables.count)
    return Kallsyms(_read_addresses(read, form, tables), _read_entries(read, form, tables))


def split_tokens(form: WordFormat, table: bytes, index: bytes) -> list[bytes]:
    """The texts of a token table, which may be padded. Raises SymbolError unless the index agrees with it."""
    tokens = table.split(b"\0", TOKENS)
    if len(tokens) <= TOKENS or len(index) != INDEX_BYTES:
        raise SymbolError("the token table of kallsyms is cut off", size_bytes=len(table))
    del tokens[TOKENS:]
    starts = [0]
    for token in tokens:
        starts.append(starts[-1] + len(token) + 1)
    if starts[-2] >= MAX_TABLE_BYTES or form.numbers(index, 2).tolist() != starts[:-1]:
        raise SymbolError("the token table of kallsyms and its index contradict each other")
    if max(map(len, tokens)) > _MAX_ENTRY_BYTES:
        raise SymbolError("a token of kallsyms is longer than any name")
    return tokens


def mark_records(codes: list[int], count: int) -> list[int]:
    """Puts markers for the joining in place of each record's length, and gives where each 256th record begins, and
    the end. Raises SymbolError if the records go beyond ``codes``.
    """
    starts = []
    at = 0
    try:
        for first in range(0, count, RECORDS_PER_MARKER):
            starts.append(at)
            for _ in range(min(count - first, RECORDS_PER_MARKER)):
                length = codes[at]
                codes[at] = _SEPARATOR
                if length > 0x7F:
                    at += 1
                    length += (codes[at] << 7) - 0x80
                    codes[at] = _NOTHING
                at += length + 1
    except IndexError:
        at = len(codes) + 1
    if at > len(codes):
        raise SymbolError("the names of kallsyms go beyond their table", symbols=count)
    return [*starts, at]


def _read_entries(read: ReadMemory, form: WordFormat, tables: KallsymsTables) -> list[str]:
    table_bytes = tables.token_index - tables.token_table
    names_bytes = tables.token_table - tables.names
    if not 0 < table_bytes <= MAX_TABLE_BYTES + _MAX_ENTRY_BYTES or not 0 < names_bytes <= MAX_NAMES_BYTES:
        raise SymbolError("the tables of kallsyms lie in an impossible order", names=tables.names)
    tokens = split_tokens(form, read(tables.token_table, table_bytes), read(tables.token_index, INDEX_BYTES))
    names = read(tables.names, names_bytes)
    codes = list(names)
    *starts, end = mark_records(codes, tables.count)
    _check_markers(form, names[form.aligned(tables.names + end) - tables.names :], starts)
    entries = _expand(codes, end, tokens).decode("utf-8", "replace").split("\0")
    del entries[0]
    lengths = list(map(len, entries))
    if len(lengths) != tables.count or min(lengths) < 2 or max(lengths) > _MAX_ENTRY_BYTES:
        raise SymbolError("kallsyms has a name of an impossible length", symbols=tables.count)
    return entries


def _check_markers(form: WordFormat, behind_names: bytes, starts: list[int]) -> None:
    for size_bytes in {4, form.word_bytes}:
        markers = behind_names[: size_bytes * len(starts)]
        if len(markers) == size_bytes * len(starts) and form.numbers(markers, size_bytes).tolist() == starts:
            return
    raise SymbolError("the names of kallsyms and their markers contradict each other", markers=len(starts))


def _expand(codes: list[int], end: int, tokens: list[bytes]) -> bytes:
    """The texts of the first ``end`` codes, joined; each entry follows a NUL."""
    texts = [*tokens, b"\0", b""]
    pieces = []
    left_bytes = _MAX_EXPANDED_BYTES
    for at in range(0, end, _CODES_AT_ONCE):
        some = codes[at : min(at + _CODES_AT_ONCE, end)]
        piece = b"".join(itemgetter(_NOTHING, _NOTHING, *some)(texts))
        left_bytes -= len(piece)
        if left_bytes < 0:
            raise SymbolError("the names of kallsyms are longer than any kernel's")
        pieces.append(piece)
    return b"".join(pieces)


def _read_addresses(read: ReadMemory, form: WordFormat, tables: KallsymsTables) -> Sequence[int]:
    if tables.relative_base is None:
        addresses = form.numbers(read(tables.values, form.word_bytes * tables.count), form.word_bytes).tolist()
    else:
        base = form.number(read(tables.relative_base, form.word_bytes))
        addresses = [base + offset for offset in form.numbers(read(tables.values, 4 * tables.count), 4)]
    if addresses[-1] >> 8 * form.word_bytes or addresses != sorted(addresses):
        raise SymbolError("the addresses of kallsyms are not in order")
    return addresses
