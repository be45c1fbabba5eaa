"""Writes kallsyms as ``scripts/kallsyms.c`` of Linux lays them out, and memory that holds them."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from crashbeam.vmcore.errors import TranslationError
from crashbeam.vmcore.symbols.compiled import ByteOrder

Symbol = tuple[int, str]
"""An address, and type letter and name together: ``Tstart_kernel``."""
Order = Literal["offsets behind", "offsets before", "addresses before", "addresses behind"]
"""Of 6.4 and later; of 4.6 to 6.3; of before 4.6, and without CONFIG_KALLSYMS_BASE_RELATIVE; that since 6.4."""

FREQUENT = ("start_", "kernel", "st", "ar", "function", "T.", "Tf", "_0")
"""What takes the codes that no character of a name needs."""


@dataclass(slots=True)
class FakeMemory:
    """Bytes by kernel address; ``reads`` counts the bytes that were read."""

    parts: dict[int, bytes] = field(default_factory=dict)
    reads: int = 0

    def put(self, address: int, data: bytes) -> None:
        """Places bytes; parts must not overlap."""
        self.parts[address] = data

    def read(self, address: int, size_bytes: int) -> bytes:
        """Bytes of parts that follow each other without a gap. Raises TranslationError elsewhere."""
        self.reads += size_bytes
        found = b""
        while len(found) < size_bytes:
            at = address + len(found)
            start = max((start for start in self.parts if start <= at), default=0)
            piece = self.parts.get(start, b"")[at - start : at - start + size_bytes - len(found)]
            if not piece:
                raise TranslationError(f"nothing at {at:#x}")
            found += piece
        return found


@dataclass(slots=True)
class KallsymsBuilder:
    """What to write. ``wide`` makes the number of symbols and the markers words, as before 4.20; ``sequences`` says
    whether there are ``seqs_of_names`` (behind the markers, or at the end in the order of 6.4).
    """

    symbols: Sequence[Symbol]
    word_bytes: int = 8
    byte_order: ByteOrder = "big"
    order: Order = "offsets behind"
    wide: bool = False
    sequences: bool = False
    labels: dict[str, int] = field(default_factory=dict)
    _blob: bytearray = field(default_factory=bytearray)

    def build(self, address: int) -> bytes:
        """The tables, to be placed at ``address``; ``labels`` then has the address of each, as SYMBOL() names them."""
        self.labels, self._blob = {}, bytearray()
        tokens = token_texts(self.symbols)
        records, markers = _records(self.symbols, tokens)
        table, index = _token_table(tokens)
        number_bytes = self.word_bytes if self.wide else 4
        if self.order.endswith("before"):
            self._values(address)
        self._add(address, "kallsyms_num_syms", self._numbers(number_bytes, len(self.symbols)))
        self._add(address, "kallsyms_names", records)
        self._add(address, "kallsyms_markers", self._numbers(number_bytes, *markers))
        if self.sequences and self.order.endswith("before"):
            self._sequences(address)
        self._add(address, "kallsyms_token_table", table)
        self._add(address, "kallsyms_token_index", self._numbers(2, *index))
        if self.order.endswith("behind"):
            self._values(address)
            if self.sequences:
                self._sequences(address)
        return bytes(self._blob)

    def _values(self, address: int) -> None:
        if self.order.startswith("addresses"):
            values = self._numbers(self.word_bytes, *(value for value, _ in self.symbols))
            self._add(address, "kallsyms_addresses", values)
            return
        base = self.symbols[0][0]
        self._add(address, "kallsyms_offsets", self._numbers(4, *(value - base for value, _ in self.symbols)))
        self._add(address, "kallsyms_relative_base", self._numbers(self.word_bytes, base))

    def _sequences(self, address: int) -> None:
        by_name = sorted(range(len(self.symbols)), key=lambda number: self.symbols[number][1][1:])
        self._add(address, "kallsyms_seqs_of_names", b"".join(number.to_bytes(3, "big") for number in by_name))

    def _add(self, address: int, label: str, data: bytes) -> None:
        self._blob += bytes(-len(self._blob) % self.word_bytes)
        self.labels[label] = address + len(self._blob)
        self._blob += data

    def _numbers(self, size_bytes: int, *numbers: int) -> bytes:
        order = ">" if self.byte_order == "big" else "<"
        return struct.pack(f"{order}{len(numbers)}{ {2: 'H', 4: 'I', 8: 'Q'}[size_bytes] }", *numbers)


def token_texts(symbols: Sequence[Symbol]) -> list[bytes]:
    """The 256 tokens: each character that occurs, and the small letters, stand for themselves."""
    used = set(b"abcdefghijklmnopqrstuvwxyz").union(*(entry.encode() for _, entry in symbols))
    frequent = iter(FREQUENT)
    return [bytes((code,)) if code in used else next(frequent, "").encode() for code in range(256)]


def _records(symbols: Sequence[Symbol], tokens: list[bytes]) -> tuple[bytes, list[int]]:
    """The records, and where each 256th begins."""
    code_of = {text: code for code, text in enumerate(tokens) if text}
    longest = max(map(len, code_of))
    records = bytearray()
    markers = []
    for number, (_, entry) in enumerate(symbols):
        if number % 256 == 0:
            markers.append(len(records))
        codes = _codes(entry.encode(), code_of, longest)
        if len(codes) > 0x7F:
            records += bytes((len(codes) & 0x7F | 0x80, len(codes) >> 7)) + codes
        else:
            records += bytes((len(codes),)) + codes
    return bytes(records), markers


def _codes(text: bytes, code_of: dict[bytes, int], longest: int) -> bytes:
    codes = bytearray()
    while text:
        taken = next(size for size in range(longest, 0, -1) if text[:size] in code_of)
        codes.append(code_of[text[:taken]])
        text = text[taken:]
    return bytes(codes)


def _token_table(tokens: list[bytes]) -> tuple[bytes, list[int]]:
    table = bytearray()
    index = []
    for text in tokens:
        index.append(len(table))
        table += text + b"\0"
    return bytes(table), index
