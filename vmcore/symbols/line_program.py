"""Line programs, ``.debug_line`` of DWARF 2 to 5 (DWARF 5, section 6.2).

A kernel's hold millions of operations. They are run over the bytes as they are, and file names are taken apart by one
regular expression; what a row tells beside address, file and line is passed over.
"""

import re
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Literal

from msgspec import Struct

from crashbeam.vmcore.errors import SymbolError
from crashbeam.vmcore.symbols.leb128 import uleb

FILE_SHIFT = 32

_NUMBER = rb"([\x80-\xff]*[\x00-\x7f])"
_STRING = rb"([^\0]*)\0"
_FOLDER_BEFORE_5 = re.compile(rb"([^\0]+)\0")
_FILE_BEFORE_5 = re.compile(rb"([^\0]+)\0" + _NUMBER * 3)
_PATH, _FOLDER = 1, 2
"""DW_LNCT_path, DW_LNCT_directory_index."""
_FORM_STRING, _FORM_STRP, _FORM_LINE_STRP, _FORM_UDATA = 0x08, 0x0E, 0x1F, 0x0F
_FIXED_FORMS = {0x05: 2, 0x06: 4, 0x07: 8, 0x0B: 1, 0x1E: 16}
"""DW_FORM_data2, data4, data8, data1, data16."""
_EXTENDED, _COPY, _ADVANCE_PC, _ADVANCE_LINE, _SET_FILE, _SET_COLUMN, _NEGATE_STMT = range(7)
_CONST_ADD_PC, _FIXED_ADVANCE_PC = 8, 9
_END_SEQUENCE, _SET_ADDRESS = b"\1", b"\2"
_MAX_FORMATS = 64
_MAX_ENTRIES = 1 << 20


class LineSections(Struct, frozen=True):
    """What line programs are made of."""

    line: bytes
    line_strings: bytes
    strings: bytes
    byte_order: Literal["big", "little"]


class LineProgram(Struct, frozen=True):
    """The line program of a compile unit. ``files`` holds (folder, name), numbered from 0 as rows and calls do.

    The folder of a file may be relative, to that of the unit.
    """

    files: Sequence[tuple[bytes, bytes]]
    start: int
    end: int
    minimum_bytes: int
    line_base: int
    line_range: int
    operands: bytes
    """How many operands each standard operation has, from operation 0."""


def read_program(sections: LineSections, at: int, folder: bytes) -> LineProgram | None:
    """The line program at an offset into ``.debug_line``, of a unit that was compiled in ``folder``.

    ``None`` for a version that is not known. Raises SymbolError, IndexError and struct.error for one that is damaged.
    """
    data, order = sections.line, ">" if sections.byte_order == "big" else "<"
    offset_format = order + "I"
    (size_bytes,) = struct.unpack_from(order + "I", data, at)
    at += 4
    if size_bytes == 0xFFFFFFFF:
        offset_format = order + "Q"
        (size_bytes,) = struct.unpack_from(offset_format, data, at)
        at += 8
    end = at + size_bytes
    (version,) = struct.unpack_from(order + "H", data, at)
    if end > len(data) or not 2 <= version <= 5:
        return None
    at += 2 if version < 5 else 4
    (header_bytes,) = struct.unpack_from(offset_format, data, at)
    at += struct.calcsize(offset_format)
    start = at + header_bytes
    at += 1 if version < 4 else 2
    line_base, line_range, first_special = struct.unpack_from("xbBB", data, at)
    if not line_range or not first_special or not at < start <= end:
        raise SymbolError("DWARF has a line program without sense", offset=at)
    minimum_bytes = data[at - 1 if version < 4 else at - 2]
    operands = b"\0" + data[at + 4 : at + 3 + first_special]
    names = data[at + 3 + first_special : start]
    if version < 5:
        files = _files_before_5(names, folder)
    else:
        files = _files_of_5(sections, names, struct.Struct(offset_format))
    return LineProgram(files, start, end, minimum_bytes, line_base, line_range, operands)


def _files_before_5(names: bytes, folder: bytes) -> list[tuple[bytes, bytes]]:
    """Folders, then files, each up to an empty name; files are numbered from 1, and folder 0 is the unit's."""
    folders, at = [folder], 0
    while found := _FOLDER_BEFORE_5.match(names, at):
        folders.append(found[1])
        at = found.end()
    files = [(folder, b"")]
    for name, number, _, _ in _FILE_BEFORE_5.findall(names, at + 1):
        files.append((_folder(folders, uleb(number, 0)[0]), name))
    return files


def _files_of_5(sections: LineSections, names: bytes, offset: struct.Struct) -> list[tuple[bytes, bytes]]:
    """Folders, then files, each with a description of its columns; both are numbered from 0."""
    paths, at = _entries_of_5(sections, names, 0, offset)
    folders = [path for path, _ in paths]
    return [(_folder(folders, number), name) for name, number in _entries_of_5(sections, names, at, offset)[0]]


def _entries_of_5(
    sections: LineSections, names: bytes, at: int, offset: struct.Struct
) -> tuple[list[tuple[bytes, int]], int]:
    """(path, number of the folder) of each entry, and where the entries end."""
    count, at = names[at], at + 1
    formats = []
    for _ in range(min(count, _MAX_FORMATS)):
        content, at = uleb(names, at)
        form, at = uleb(names, at)
        formats.append((content, form))
    count, at = uleb(names, at)
    pattern, path_form, folder_bytes = _entry_pattern(tuple(formats), offset.size)
    has_folder = "folder" in pattern.groupindex
    entries = []
    for found in islice(pattern.finditer(names, at), min(count, _MAX_ENTRIES)):
        path, folder = found["path"], found["folder"] if has_folder else b"\0"
        if path_form in (_FORM_STRP, _FORM_LINE_STRP):
            strings = sections.line_strings if path_form == _FORM_LINE_STRP else sections.strings
            path = text_at(strings, offset.unpack(path)[0])
        number = int.from_bytes(folder, sections.byte_order) if folder_bytes else uleb(folder, 0)[0]
        entries.append((path, number))
        at = found.end()
    return entries, at


@lru_cache(maxsize=64)
def _entry_pattern(formats: tuple[tuple[int, int], ...], offset_bytes: int) -> tuple[re.Pattern[bytes], int, int]:
    """What matches an entry with groups ``path`` and ``folder``, the form of its path, and the bytes of its folder
    number if that is no ULEB128.
    """
    pattern, path_form, folder_bytes = b"", 0, 0
    for content, form in formats:
        if form == _FORM_STRING:
            part = rb"[^\0]*"
        elif form == _FORM_UDATA:
            part = rb"[\x80-\xff]*[\x00-\x7f]"
        elif form in (_FORM_STRP, _FORM_LINE_STRP):
            part = rb"[\x00-\xff]{%d}" % offset_bytes
        elif form in _FIXED_FORMS:
            part = rb"[\x00-\xff]{%d}" % _FIXED_FORMS[form]
        else:
            raise SymbolError(f"DWARF has a file name of form {form:#x}, which is not known")
        if content == _PATH and not path_form:
            part, path_form = b"(?P<path>" + part + b")", form
        elif content == _FOLDER and b"<folder>" not in pattern:
            part, folder_bytes = b"(?P<folder>" + part + b")", _FIXED_FORMS.get(form, 0)
        pattern += part + (rb"\0" if form == _FORM_STRING else b"")
    if not path_form:
        raise SymbolError("DWARF has files without names")
    return re.compile(pattern), path_form, folder_bytes


def _folder(folders: Sequence[bytes], number: int) -> bytes:
    return folders[number] if number < len(folders) else b""


def run_program(
    program: LineProgram, sections: LineSections, word_bytes: int, file_of: Callable[[int], int]
) -> Iterator[tuple[dict[int, int], int]]:
    """Runs a line program: for each sequence its rows, {address: file + line}, and the address where it ends.

    ``file_of`` tells the number of a file, shifted by FILE_SHIFT to stand above a line. The last row at an address
    counts. Raises SymbolError for a program that is damaged.
    """
    try:
        yield from _sequences(program, sections, word_bytes, file_of)
    except RuntimeError as error:
        raise SymbolError("DWARF has a line program that was cut off", offset=program.start) from error


def _sequences(
    program: LineProgram, sections: LineSections, word_bytes: int, file_of: Callable[[int], int]
) -> Iterator[tuple[dict[int, int], int]]:
    """The same; a program that was cut off ends in a RuntimeError, as a StopIteration inside a generator does."""
    unit_bytes, operands = program.minimum_bytes, program.operands
    first_special = len(operands)
    specials = [max(opcode - first_special, 0) for opcode in range(256)]
    advances = [special // program.line_range * unit_bytes for special in specials]
    line_advances = [special % program.line_range + program.line_base for special in specials]
    rest = iter(sections.line[program.start : program.end])
    take = rest.__next__
    address, line, file, rows = 0, 1, file_of(1), dict[int, int]()
    for opcode in rest:
        if opcode >= first_special:
            address += advances[opcode]
            line += line_advances[opcode]
            rows[address] = file + line
        elif opcode == _SET_COLUMN:
            while take() > 0x7F:
                pass
        elif opcode == _COPY:
            rows[address] = file + line
        elif opcode == _NEGATE_STMT:
            continue
        elif opcode == _ADVANCE_LINE:
            byte = take()
            number, bits = byte & 0x7F, 7
            while byte > 0x7F:
                byte = take()
                number |= (byte & 0x7F) << bits
                bits += 7
            line += number - (1 << bits) if byte & 0x40 else number
        elif opcode == _SET_FILE:
            file = file_of(_take_uleb(take))
        elif opcode == _EXTENDED:
            body = bytes(islice(rest, _take_uleb(take)))
            if body[:1] == _END_SEQUENCE:
                yield rows, address
                address, line, file, rows = 0, 1, file_of(1), {}
            elif body[:1] == _SET_ADDRESS:
                address = int.from_bytes(body[1 : 1 + word_bytes], sections.byte_order)
        elif opcode == _ADVANCE_PC:
            address += _take_uleb(take) * unit_bytes
        elif opcode == _CONST_ADD_PC:
            address += advances[255]
        elif opcode == _FIXED_ADVANCE_PC:
            address += int.from_bytes((take(), take()), sections.byte_order)
        else:
            for _ in range(operands[opcode]):
                _take_uleb(take)


def text_at(strings: bytes, offset: int) -> bytes:
    """The string at an offset into ``.debug_str`` or ``.debug_line_str``. Raises ValueError beyond the last one."""
    return strings[offset : strings.index(0, offset)]


def _take_uleb(take: Callable[[], int]) -> int:
    byte = take()
    number, bits = byte & 0x7F, 7
    while byte > 0x7F:
        byte = take()
        number |= (byte & 0x7F) << bits
        bits += 7
    return number
