"""The kernel profile: everything needed of one kernel build, compiled into one memory-mapped file.

    magic 8, version u32, header bytes u32, file bytes u64, BLAKE2b-128 of the header 16
    header: JSON
    sections, each at a multiple of 8; the header has their names, offsets (from its own end) and sizes
        text_addresses  sorted addresses of text symbols, of the kernel's word size
        text_names      u32 offsets into names: that of each symbol, and the end
        text_by_name    u32 symbol numbers, sorted by name
        names           the names, joined
        line_*          the line table, if there is one (``line_table.py``)

All integers are little endian. Loading reads the header alone; of the sections, a look-up touches the pages it needs. A
reader passes over sections that it does not know.
"""

import mmap
import os
import struct
import sys
import time
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from functools import cached_property
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from crashbeam.schemas.codes import SymbolLayouts, SymbolNames
from crashbeam.schemas.crash_report import SourceLine
from crashbeam.vmcore.errors import SymbolError
from crashbeam.vmcore.symbols.compiled import ARCHES, Arch, ByteOrder, CompiledKernel, release_of
from crashbeam.vmcore.symbols.layouts import LAYOUTS, Field, StructLayout
from crashbeam.vmcore.symbols.line_table import INSTRUCTION_BYTES, LineTable, PackedLines
from crashbeam.vmcore.symbols.variables import VARIABLES

VERSION = 1
MAGIC = b"crshbeam"
SUFFIX = ".profile"

_PRELUDE = struct.Struct("<8sIIQ16s")
_MAX_HEADER_BYTES = 1 << 20
_KEPT_SYMBOLS = 4096
_KEPT_SOURCES = 4096
_LINE_SECTIONS = frozenset(("line_blocks", "line_starts", "line_rows", "line_calls", "line_strings", "line_text"))
_RANDOM_LETTERS = 8
"""At the end of a name that tempfile.mkstemp() makes."""
_LOCK_TRIES = 250
_LOCK_PAUSE_SECONDS = 0.02
_HINT = "remove the profile: it will be made again from the vmlinux"
_NAMES_RANK = (SymbolNames.NONE, SymbolNames.SYSTEM_MAP, SymbolNames.KALLSYMS, SymbolNames.VMLINUX)
_LAYOUTS_RANK = (SymbolLayouts.NONE, SymbolLayouts.BTF, SymbolLayouts.DWARF)


class TextSymbol(Struct, frozen=True):
    """A function or label in the kernel's text: [start, end), up to the next symbol or the end of that text."""

    name: str
    start: int
    end: int


class _Header(Struct, frozen=True):
    """The JSON header. ``sections`` holds (offset, size); ``digest`` is the BLAKE2b-128 of all that follows.

    ``tables`` is that of the names that were wanted when the profile was made.
    """

    build_id: str | None
    banner: str | None
    arch: Arch
    names: str
    layouts: str
    text_ranges: tuple[tuple[int, int], ...]
    variables: dict[str, int]
    structs: dict[str, StructLayout]
    sections: dict[str, tuple[int, int]]
    digest: str
    tables: str


def _digest(data: bytes | bytearray | memoryview) -> bytes:
    return blake2b(data, digest_size=16).digest()


_TABLES = _digest(repr((VARIABLES, sorted(LAYOUTS.items()))).encode()).hex()
_decode_header = msgspec.json.Decoder(_Header).decode


class KernelProfile:
    """An open profile: names, addresses and layouts of one kernel build.

    Addresses are those of the vmlinux as it was linked, or with ``moved`` those at which it ran. ``banner`` is the text
    of ``linux_banner`` without its newline, ``lines`` tells whether there is a line table, ``digest`` (hex) is that of
    the whole profile.
    """

    def __init__(self, data: "bytes | mmap.mmap", name: str = "<memory>") -> None:
        """Opens the profile in ``data``. Raises SymbolError if it is no whole profile of this version."""
        self.name = name
        self._data = memoryview(data)
        self._header, self._body_at = _read_header(self._data, name)
        header = self._header
        self.digest = _digest(self._data[_PRELUDE.size : self._body_at]).hex()
        self.build_id = header.build_id
        self.banner = header.banner
        self.release = release_of(header.banner)
        self.arch: Arch = header.arch
        self.word_bytes: int = ARCHES[header.arch][0]
        self.byte_order: ByteOrder = ARCHES[header.arch][1]
        self.text_ranges = header.text_ranges
        self.lines = header.sections.keys() >= _LINE_SECTIONS
        try:
            self.names = SymbolNames(header.names)
            self.layouts = SymbolLayouts(header.layouts)
        except ValueError as error:
            raise SymbolError(f"{name}: {error}", hint=_HINT) from error
        self._addresses = self._integers("text_addresses", "I" if self.word_bytes == 4 else "Q")
        self._name_offsets = self._integers("text_names", "I")
        self._by_name = self._integers("text_by_name", "I")
        self._names = self._section("names")
        if not len(self._addresses) == len(self._by_name) == len(self._name_offsets) - 1:
            raise SymbolError(f"{name} has sections of different lengths", hint=_HINT)
        self._moved_bytes = 0
        self._kept: dict[int, TextSymbol] = {}
        self._asked: dict[str, int | None] = {}
        self._sources: dict[int, SourceLine | None] = {}

    def moved(self, offset_bytes: int) -> "KernelProfile":
        """The same build where it ran ``offset_bytes`` away from where it was linked (KERNELOFFSET of VMCOREINFO)."""
        if offset_bytes == self._moved_bytes:
            return self
        profile = copy(self)
        distance = offset_bytes - self._moved_bytes
        profile._moved_bytes = offset_bytes
        profile._kept, profile._asked = {}, {}
        profile.text_ranges = tuple((start + distance, end + distance) for start, end in self.text_ranges)
        return profile

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "KernelProfile":
        """The profile in a file, memory-mapped. Raises SymbolError, also for a file that cannot be read."""
        name = os.fspath(path)
        try:
            with open(path, "rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise SymbolError(f"{name} cannot be read: {error}", hint=_HINT) from error
        return cls(data, name)

    def symbol_at(self, address: int) -> TextSymbol | None:
        """The text symbol that covers an address; ``None`` outside the kernel's text, and before its first symbol."""
        for start, end in self.text_ranges:
            if start <= address < end:
                break
        else:
            return None
        index = bisect_right(self._addresses, address - self._moved_bytes) - 1
        symbol = self._kept.get(index)
        if symbol is None:
            if index < 0 or self._addresses[index] < start - self._moved_bytes:
                return None
            symbol = self._symbol(index, end)
        return symbol

    def source_at(self, address: int) -> SourceLine | None:
        """The source of the instruction at an address; ``None`` where there is none. Raises SymbolError."""
        if not self.lines:
            return None
        place = (address - self._moved_bytes - self._text_start) // INSTRUCTION_BYTES
        if place not in self._sources:
            if len(self._sources) >= _KEPT_SOURCES:
                self._sources.clear()
            self._sources[place] = self._line_table.source_at(place)
        return self._sources[place]

    def address_of(self, name: str) -> int | None:
        """The address of a variable, or of a text symbol (no ELFv1 dot; the lowest if several bear the name)."""
        if name not in self._asked:
            address = self._header.variables.get(name)
            if address is None:
                address = self._text_address(name.encode())
            self._asked[name] = None if address is None else address + self._moved_bytes
        return self._asked[name]

    def size_of(self, struct_name: str) -> int | None:
        """Bytes of a struct, union or typedef; ``None`` if the profile has no such layout."""
        layout = self._header.structs.get(struct_name)
        return layout.size if layout else None

    def field(self, struct_name: str, member: str) -> Field | None:
        """Where a member is (dots lead into members that are structs); ``None`` if this kernel has no such member."""
        layout = self._header.structs.get(struct_name)
        return layout.fields.get(member) if layout else None

    @property
    def variables(self) -> Mapping[str, int]:
        """The addresses of the data symbols that the profile has, as they were linked."""
        return self._header.variables

    @property
    def size_bytes(self) -> int:
        """The size of the whole profile."""
        return len(self._data)

    @property
    def symbol_count(self) -> int:
        """How many symbols the profile has: those of text, one for each address, and those of data."""
        return len(self._addresses) + len(self._header.variables)

    @property
    def is_current(self) -> bool:
        """Whether all that is wanted now was wanted when the profile was made."""
        return self._header.tables == _TABLES

    @property
    def richness(self) -> tuple[int, ...]:
        """Orders the profiles of one build: by whether all that is wanted now was wanted when the profile was made,
        whether there are layouts, by where names and layouts come from, whether there are lines, and how much of each
        there is.
        """
        fields = sum(len(layout.fields) for layout in self._header.structs.values())
        return (
            int(self.is_current),
            int(self.layouts is not SymbolLayouts.NONE),
            _NAMES_RANK.index(self.names),
            _LAYOUTS_RANK.index(self.layouts),
            int(self.lines),
            len(self._header.variables),
            fields,
            len(self._addresses),
        )

    def without_lines(self) -> bytes:
        """The profile without its line table, which is most of it."""
        kept = sorted(self._header.sections.keys() - _LINE_SECTIONS, key=self._header.sections.__getitem__)
        return _whole(self._header, {name: self._section(name) for name in kept})

    def verify(self) -> None:
        """Reads the whole profile and compares its digest. Raises SymbolError if any byte has changed."""
        if _digest(self._data[self._body_at :]).hex() != self._header.digest:
            raise SymbolError(f"{self.name} has changed since it was made", hint=_HINT)

    @cached_property
    def _text_start(self) -> int:
        return min((start for start, _ in self._header.text_ranges), default=0)

    @cached_property
    def _line_table(self) -> LineTable:
        packed = PackedLines(
            blocks=self._integers("line_blocks", "I"),
            starts=self._integers("line_starts", "I"),
            rows=self._section("line_rows"),
            calls=self._integers("line_calls", "I"),
            strings=self._integers("line_strings", "I"),
            text=self._section("line_text"),
        )
        return LineTable(packed, self.name)

    def _symbol(self, index: int, range_end: int) -> TextSymbol:
        following = self._addresses[index + 1] if index + 1 < len(self._addresses) else range_end - self._moved_bytes
        name = self._name(index).decode("utf-8", "replace")
        symbol = TextSymbol(
            name, self._addresses[index] + self._moved_bytes, min(following + self._moved_bytes, range_end)
        )
        if len(self._kept) >= _KEPT_SYMBOLS:
            self._kept.clear()
        self._kept[index] = symbol
        return symbol

    def _name(self, index: int) -> bytes:
        if index >= len(self._addresses):
            raise SymbolError(f"{self.name} refers to a symbol that it lacks", hint=_HINT)
        return bytes(self._names[self._name_offsets[index] : self._name_offsets[index + 1]])

    def _text_address(self, name: bytes) -> int | None:
        low, high = 0, len(self._by_name)
        while low < high:
            middle = (low + high) // 2
            if self._name(self._by_name[middle]) < name:
                low = middle + 1
            else:
                high = middle
        if low == len(self._by_name) or self._name(self._by_name[low]) != name:
            return None
        return self._addresses[self._by_name[low]]

    def _section(self, section: str) -> memoryview:
        try:
            offset, size_bytes = self._header.sections[section]
        except KeyError:
            raise SymbolError(f"{self.name} lacks its {section}", hint=_HINT) from None
        start = self._body_at + offset
        if offset < 0 or size_bytes < 0 or start + size_bytes > len(self._data) or offset % 8:
            raise SymbolError(f"{self.name} has its {section} outside the file", hint=_HINT, offset=offset)
        return self._data[start : start + size_bytes]

    def _integers(self, section: str, code: Literal["I", "Q"]) -> Sequence[int]:
        view = self._section(section)
        if len(view) % struct.calcsize(code):
            raise SymbolError(f"{self.name} has a broken {section}", hint=_HINT, size_bytes=len(view))
        if sys.byteorder == "little":
            return view.cast(code)
        swapped = array(code)
        swapped.frombytes(view)
        swapped.byteswap()
        return swapped


def compile_profile(kernel: CompiledKernel) -> bytes:
    """The bytes of a kernel's profile: the same for the same kernel, whoever makes them."""
    names = [name.encode("utf-8", "replace") for _, name in kernel.text]
    offsets = list(accumulate(map(len, names), initial=0))
    contents = {
        "text_addresses": _packed("I" if ARCHES[kernel.arch][0] == 4 else "Q", [address for address, _ in kernel.text]),
        "text_names": _packed("I", offsets),
        "text_by_name": _packed("I", sorted(range(len(names)), key=names.__getitem__)),
        "names": b"".join(names),
    }
    lines = kernel.lines
    if lines is not None:
        contents |= {
            "line_blocks": _packed("I", lines.blocks),
            "line_starts": _packed("I", lines.starts),
            "line_rows": bytes(lines.rows),
            "line_calls": _packed("I", lines.calls),
            "line_strings": _packed("I", lines.strings),
            "line_text": bytes(lines.text),
        }
    header = _Header(
        build_id=kernel.build_id,
        banner=kernel.banner,
        arch=kernel.arch,
        names=kernel.names.value,
        layouts=kernel.layouts.value,
        text_ranges=kernel.text_ranges,
        variables=dict(kernel.variables),
        structs=dict(kernel.structs),
        sections={},
        digest="",
        tables=_TABLES,
    )
    return _whole(header, contents)


def _whole(header: _Header, contents: Mapping[str, bytes | memoryview]) -> bytes:
    """A profile of these sections; those that the header has, and their digest, are replaced."""
    body = bytearray()
    sections = {}
    for section, content in contents.items():
        sections[section] = (len(body), len(content))
        body += content
        body += bytes(-len(body) % 8)
    text = msgspec.json.encode(replace(header, sections=sections, digest=_digest(body).hex()), order="sorted")
    text += b" " * (-(_PRELUDE.size + len(text)) % 8)
    file_bytes = _PRELUDE.size + len(text) + len(body)
    return _PRELUDE.pack(MAGIC, VERSION, len(text), file_bytes, _digest(text)) + text + body


def write_profile(path: Path, data: bytes) -> None:
    """Puts a profile (or another file of the cache) in place as a whole or not at all. Raises OSError."""
    import tempfile

    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def name_in_place(name: str) -> str | None:
    """The name that ``write_profile`` would give a temporary file of that name; ``None`` if it is none of its."""
    whole, _, letters = name.removeprefix(".").rpartition(".")
    return whole if name.startswith(".") and whole and len(letters) == _RANDOM_LETTERS else None


@contextmanager
def exclusive(folder: Path | None) -> Iterator[None]:
    """Other writers of a cache folder wait while the block runs; readers never wait, and a killed holder lets go.

    The lock is on the folder itself, so that no file is left. A folder that cannot be locked, or that another process
    keeps for seconds (it was stopped), is written all the same: every file is put in place whole, so what can be lost
    is the richer of two profiles or an entry of the index, and both are made again.
    """
    import fcntl

    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY) if folder is not None else None
    except OSError:
        descriptor = None
    if descriptor is None:
        yield
        return
    try:
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_LOCK_PAUSE_SECONDS)
            except OSError:
                break
        yield
    finally:
        os.close(descriptor)


def _read_header(data: memoryview, name: str) -> tuple[_Header, int]:
    """The header, and where the sections begin."""
    if len(data) < _PRELUDE.size or data[: len(MAGIC)] != MAGIC:
        raise SymbolError(f"{name} is no kernel profile")
    _, version, header_bytes, file_bytes, digest = _PRELUDE.unpack_from(data)
    if version != VERSION:
        raise SymbolError(f"{name} is a profile of version {version}, not {VERSION}", hint=_HINT, version=version)
    if file_bytes != len(data) or header_bytes > min(_MAX_HEADER_BYTES, len(data) - _PRELUDE.size) or header_bytes % 8:
        raise SymbolError(f"{name} is a profile that was cut off", hint=_HINT, size_bytes=len(data))
    end = _PRELUDE.size + header_bytes
    text = data[_PRELUDE.size : end]
    if _digest(text) != digest:
        raise SymbolError(f"{name} is a profile with a damaged header", hint=_HINT)
    try:
        return _decode_header(text), end
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SymbolError(f"{name} is a profile with a header that makes no sense: {error}", hint=_HINT) from error


def _packed(code: str, values: Sequence[int]) -> bytes:
    numbers = array(code, values)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()
