"""Source lines and inlined calls from a vmlinux's DWARF, versions 2 to 5, packed for its profile."""

import posixpath
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import compress

from elftools.elf.elffile import ELFFile

from crashbeam.schemas.clean import clean_text
from crashbeam.vmcore.errors import SymbolError
from crashbeam.vmcore.symbols.entries import Abbreviations, iter_units
from crashbeam.vmcore.symbols.inlined import EntrySections, InlinedCalls, UnitEntries
from crashbeam.vmcore.symbols.line_program import FILE_SHIFT, LineProgram, LineSections, read_program, run_program
from crashbeam.vmcore.symbols.line_table import INSTRUCTION_BYTES, MAX_LINE, PackedLines, pack_lines

MAX_TEXT_BYTES = 64 << 20
"""From the first address of text to its last; the lines of a larger kernel are left out."""

_MAX_SECTION_BYTES = 1 << 30
_MAX_STRINGS = 1 << 22
_MAX_NAME_LENGTH = 1024
_FIRST_FILE = "init/main.c"
"""What every kernel has; the path that its unit has tells where the kernel's source was."""
_LINE_MASK = (1 << FILE_SHIFT) - 1
_NO_LINE = 1
"""Where a sequence of rows ends: file 0, and unlike a place without a row."""


def read_lines(elf: ELFFile, text_ranges: Sequence[tuple[int, int]]) -> PackedLines | None:
    """The line table of a kernel with text at these addresses; ``None`` if the file has no DWARF with lines.

    Files are named from the top of the kernel's source, or of the folder that it was built in. Raises SymbolError for
    DWARF that contradicts itself, struct.error, LookupError or ValueError for what is damaged, and what pyelftools
    raises.
    """
    start, end = min(low for low, _ in text_ranges), max(high for _, high in text_ranges)
    line, info = _section(elf, ".debug_line"), _section(elf, ".debug_info")
    if not line or not info or end - start > MAX_TEXT_BYTES:
        return None
    strings, line_strings = _section(elf, ".debug_str"), _section(elf, ".debug_line_str")
    kernel = _KernelLines(
        start,
        (end - start) // INSTRUCTION_BYTES,
        LineSections(line, line_strings, strings, "little" if elf.little_endian else "big"),
        EntrySections(
            info=info,
            strings=strings,
            line_strings=line_strings,
            string_offsets=_section(elf, ".debug_str_offsets"),
            addresses=_section(elf, ".debug_addr"),
            ranges=_section(elf, ".debug_ranges"),
            range_lists=_section(elf, ".debug_rnglists"),
        ),
    )
    kernel.read_units(Abbreviations(_section(elf, ".debug_abbrev")))
    return kernel.packed()


def _section(elf: ELFFile, name: str) -> bytes:
    section = elf.get_section_by_name(name)
    if section is None or section["sh_type"] == "SHT_NOBITS":
        return b""
    if section.data_size > _MAX_SECTION_BYTES:
        raise SymbolError(f"{name} is larger than any kernel's", size_bytes=section.data_size)
    data: bytes = section.data()
    return data


class _KernelLines:
    """What has been read so far: the row and the innermost inlined call at each place of the text."""

    def __init__(self, start: int, places: int, lines: LineSections, entries: EntrySections) -> None:
        self._start = start
        self._lines = lines
        self._entries = entries
        self._rows = array("Q", bytes(8 * (places + 1)))
        self._calls = InlinedCalls(start, array("I", bytes(4 * (places + 1))), bytearray(places + 1))
        self._names = _Names()

    def read_units(self, abbreviations: Abbreviations) -> None:
        """Reads all compile units."""
        programs_run: set[int] = set()
        for unit in iter_units(self._entries.info, self._lines.byte_order):
            entries = UnitEntries(self._entries, unit, abbreviations.table(unit.abbreviations, unit.shape))
            at, folder = entries.line_program, entries.folder
            if at is None:
                continue
            program = read_program(self._lines, at, folder)
            if program is None:
                continue
            self._names.add_unit(entries.name, folder)
            file_of = self._names.files_of(program, folder)
            if at not in programs_run:
                programs_run.add(at)
                for rows, end in run_program(program, self._lines, unit.shape.word_bytes, file_of):
                    self._add_rows(rows, end)
            entries.find_inlined(self._calls, self._names.function, file_of)

    def _add_rows(self, rows: dict[int, int], end: int) -> None:
        """Adds a sequence; those of functions that the linker dropped lie outside the text.

        A row at its end holds for nothing.
        """
        rows.pop(end, None)
        start, places, marks = self._start, self._rows, self._calls.marks
        last = len(places) - 1
        if not rows or not 0 <= min(rows) - start < end - start <= last * INSTRUCTION_BYTES or max(rows) > end:
            return
        for address, row in rows.items():
            place = (address - start) // INSTRUCTION_BYTES
            places[place] = row
            marks[place] = 1
        place = (end - start) // INSTRUCTION_BYTES
        places[place] = places[place] or _NO_LINE
        marks[place] = 1

    def packed(self) -> PackedLines:
        """The line table of all that was read."""
        return pack_lines(self._iter_rows(), self._calls.calls, self._names.strings())

    def _iter_rows(self) -> Iterator[tuple[int, int, int, int]]:
        """(place, file, line, call) wherever one of them changes; file 0 where there is no line."""
        innermost, rows = self._calls.innermost, self._rows
        row, row_before, call_before = _NO_LINE, _NO_LINE, 0
        for place in compress(range(len(rows)), self._calls.marks):
            row = rows[place] or row
            call = innermost[place]
            if row == row_before and call == call_before:
                continue
            row_before, call_before = row, call
            file, line = row >> FILE_SHIFT, row & _LINE_MASK
            if file and 0 < line <= MAX_LINE:
                yield place, file, line, call
            else:
                yield place, 0, 0, 0


class _Names:
    """Files and functions, numbered together from 1."""

    def __init__(self) -> None:
        self._strings: list[str] = []
        self._functions: dict[bytes, int] = {}
        self._files: dict[tuple[bytes, bytes, bytes], int] = {}
        self._paths: dict[str, int] = {}
        self._folders: set[str] = set()

    def add_unit(self, name: bytes, folder: bytes) -> None:
        """Notes where a unit was compiled: what lies below is named from there."""
        self._folders.add(_path(folder))
        path = _path(folder, name)
        if path.endswith("/" + _FIRST_FILE):
            self._folders.add(path.removesuffix("/" + _FIRST_FILE))

    def function(self, name: bytes) -> int:
        """The number of a function; 0 for one without a name."""
        number = self._functions.get(name)
        if number is None:
            number = self._functions[name] = self._number(clean_text(name, _MAX_NAME_LENGTH)) if name else 0
        return number

    def files_of(self, program: LineProgram, folder: bytes) -> Callable[[int], int]:
        """What tells the number of a file of a line program, shifted to stand above a line; 0 for one that it lacks."""
        files, known = program.files, dict[int, int]()

        def file_of(file: int) -> int:
            number = known.get(file)
            if number is None:
                number = 0
                if file < len(files) and files[file][1]:
                    number = self._file((folder, *files[file])) << FILE_SHIFT
                known[file] = number
            return number

        return file_of

    def _file(self, parts: tuple[bytes, bytes, bytes]) -> int:
        number = self._files.get(parts)
        if number is None:
            path = _path(*parts)
            number = self._paths.get(path)
            if number is None:
                number = self._paths[path] = self._number(path)
            self._files[parts] = number
        return number

    def _number(self, text: str) -> int:
        if len(self._strings) >= _MAX_STRINGS:
            raise SymbolError("DWARF has more names than a kernel's", names=_MAX_STRINGS)
        self._strings.append(text)
        return len(self._strings)

    def strings(self) -> list[str]:
        """All of them, by number; files without the folder of the source, or that of the build."""
        strings = list(self._strings)
        prefixes = sorted((folder + "/" for folder in self._folders if folder not in ("", "/")), key=len, reverse=True)
        for path, number in self._paths.items():
            prefix = next(filter(path.startswith, prefixes), "")
            strings[number - 1] = path.removeprefix(prefix)
        return strings


def _path(*parts: bytes) -> str:
    return clean_text(posixpath.normpath(posixpath.join(*parts)), _MAX_NAME_LENGTH)
