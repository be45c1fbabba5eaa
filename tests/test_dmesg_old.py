"""The logs of kernels before 5.10: structured records, and before 3.5 plain text."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from crashbeam.vmcore.arch import ARCHITECTURES
from crashbeam.vmcore.arch.architecture import Architecture
from crashbeam.vmcore.arch.ppc32 import PPC32
from crashbeam.vmcore.arch.ppc64 import PPC64
from crashbeam.vmcore.dmesg import LogReader, open_log, open_log_by_vmcoreinfo
from crashbeam.vmcore.errors import FormatError, SymbolError
from crashbeam.vmcore.log_line import LogLine
from crashbeam.vmcore.symbols.layouts import Field, StructLayout
from crashbeam.vmcore.vmcoreinfo import Vmcoreinfo
from tests.builders.kernel_memory import MadeUpKernel

ARCHES = tuple(ARCHITECTURES.values())
BUFFER_AT = 0x10000
FIELDS = {
    "ts_nsec": Field(0, 8),
    "len": Field(8, 2),
    "text_len": Field(10, 2),
    "dict_len": Field(12, 2),
    "facility": Field(14, 1),
}
WITHOUT_CALLER = StructLayout(16, FIELDS)
WITH_CALLER = StructLayout(24, FIELDS | {"caller_id": Field(16, 4)})
"""CONFIG_PRINTK_CALLER (5.1): the size is a multiple of the 8 bytes that ``ts_nsec`` is aligned to."""
VARIABLES = ("log_buf", "log_buf_len", "log_first_idx", "log_next_idx", "log_first_seq", "log_end", "logged_chars")


@dataclass(frozen=True, slots=True)
class Wrote:
    """A record as its writer gave it."""

    text: bytes
    time_ns: int = 0
    level: int = 6
    caller: int = 0
    dictionary: bytes = b""


class Records:
    """``log_store`` of ``kernel/printk/printk.c`` of 3.11 to 5.9."""

    def __init__(self, arch: Architecture, size_bytes: int, layout: StructLayout, alignment_bytes: int = 8) -> None:
        self.arch, self.layout, self.alignment_bytes = arch, layout, alignment_bytes
        self.buffer = bytearray(size_bytes)
        self.first = self.after = self.first_sequence = 0
        self.kept: list[tuple[int, Wrote]] = []
        """Where each record begins, and the record."""

    def store(self, record: Wrote) -> None:
        """Appends a record; the oldest ones make room for it."""
        header_bytes, size = self.layout.size, self._size_of(record)
        while self.kept:
            if self.first < self.after:
                free = max(len(self.buffer) - self.after, self.first)
            else:
                free = self.first - self.after
            if free >= size + header_bytes:
                break
            place, oldest = self.kept.pop(0)
            self.first_sequence += 1
            # It may be the mark of the buffer's end that comes to be the first.
            self.first = place + self._size_of(oldest)
        if self.after + size + header_bytes > len(self.buffer):
            self.buffer[self.after : self.after + header_bytes] = bytes(header_bytes)
            if not self.kept:
                self.first = 0
            self.after = 0
        self._put(record, size)
        self.kept.append((self.after, record))
        self.after += size

    def _size_of(self, record: Wrote) -> int:
        size = self.layout.size + len(record.text) + len(record.dictionary)
        return size + -size % self.alignment_bytes

    def _put(self, record: Wrote, size: int) -> None:
        order = ">" if self.arch.byte_order == "big" else "<"
        flags_and_level = record.level if order == ">" else record.level << 5
        lengths = (size, len(record.text), len(record.dictionary))
        header = struct.pack(f"{order}QHHHBB", record.time_ns, *lengths, 0, flags_and_level)
        if "caller_id" in self.layout.fields:
            header += struct.pack(f"{order}I4x", record.caller)
        whole = header + record.text + record.dictionary
        self.buffer[self.after : self.after + size] = whole + bytes(size - len(whole))

    def made_up(self, struct_name: str = "printk_log") -> MadeUpKernel:
        """A kernel with this buffer."""
        made_up = kernel_with(self.arch, bytes(self.buffer))
        for name, value in (("log_first_idx", self.first), ("log_next_idx", self.after)):
            made_up.number(made_up.variables[name], value, 4)
        made_up.number(made_up.variables["log_first_seq"], self.first_sequence, 8)
        made_up.structs = {struct_name: self.layout}
        for name in ("log_end", "logged_chars"):
            del made_up.variables[name]
        return made_up

    def lines(self) -> list[LogLine]:
        """What a reader must find."""
        has_caller = "caller_id" in self.layout.fields
        return [
            LogLine(
                self.first_sequence + number,
                record.time_ns,
                record.caller if has_caller else None,
                record.level,
                line,
            )
            for number, (_, record) in enumerate(self.kept)
            for line in record.text.decode().split("\n")
        ]


def kernel_with(arch: Architecture, buffer: bytes) -> MadeUpKernel:
    """A kernel whose ``log_buf`` is this."""
    made_up = MadeUpKernel(arch=arch)
    made_up.variables = {name: made_up.base + 0x1000 + 8 * number for number, name in enumerate(VARIABLES)}
    made_up.words(made_up.variables["log_buf"], made_up.base + BUFFER_AT)
    made_up.number(made_up.variables["log_buf_len"], len(buffer), 4)
    made_up.put(made_up.base + BUFFER_AT, buffer)
    return made_up


def some_records(
    arch: Architecture = PPC64, layout: StructLayout = WITHOUT_CALLER, count: int = 300, size_bytes: int = 8192
) -> Records:
    """A buffer that has gone round more than once."""
    records = Records(arch, size_bytes, layout)
    for number in range(count):
        text = f"record {number}" + "\nand more" * (number % 7 == 0) + "." * (number % 61)
        dictionary = b"SUBSYSTEM=pci\0DEVICE=+pci:0000" if number % 5 == 0 else b""
        records.store(Wrote(text.encode(), number * 10**6, number % 8, number, dictionary))
    return records


@pytest.mark.parametrize("arch", ARCHES, ids=lambda arch: arch.name)
@pytest.mark.parametrize("layout", [WITHOUT_CALLER, WITH_CALLER], ids=["4.18", "5.4 with callers"])
def test_structured_records_are_read_round_the_end(arch: Architecture, layout: StructLayout) -> None:
    records = some_records(arch, layout)
    assert records.after < records.first
    log = open_log(records.made_up().kernel())
    assert log.read() == records.lines()
    assert log.problem is None
    assert log.overwritten_records == records.first_sequence > 0


@pytest.mark.parametrize("size_bytes", [1 << shift for shift in range(9, 13)])
@pytest.mark.parametrize("alignment_bytes", [4, 8])
def test_structured_records_are_read_after_every_single_one(size_bytes: int, alignment_bytes: int) -> None:
    records = Records(PPC32, size_bytes, WITHOUT_CALLER, alignment_bytes)
    assert open_log(records.made_up().kernel()).read() == []
    for number in range(80):
        records.store(Wrote(f"{number}".encode() * (number % 23), number))
        assert open_log(records.made_up().kernel()).read() == records.lines()


def test_structured_records_come_in_batches_newest_first() -> None:
    records = some_records(size_bytes=1 << 14)
    batches = list(open_log(records.made_up().kernel()).batches_backwards())
    assert len(batches) > 2
    assert batches[0][-1] == records.lines()[-1]
    assert [line for batch in reversed(batches) for line in batch] == records.lines()
    assert {line.sequence for line in open_log(records.made_up().kernel()).read(70)} == set(range(230, 300))


def test_the_struct_of_linux_3_5_is_named_log() -> None:
    # u16 level in place of u8 facility, u8 flags:5, level:3: big endian, as all PowerPC kernels of its time.
    records = some_records()
    made_up = records.made_up("log")
    made_up.structs["log"] = StructLayout(16, {name: FIELDS[name] for name in FIELDS if name != "facility"})
    assert open_log(made_up.kernel()).read() == records.lines()


def test_structured_records_are_read_by_vmcoreinfo_alone() -> None:
    records = some_records()
    made_up = records.made_up()
    names = [name for name in made_up.variables if name != "log_first_seq"]
    lines = [f"SYMBOL({name})={made_up.variables[name]:x}" for name in names] + ["SIZE(printk_log)=16"]
    lines += [f"OFFSET(printk_log.{name})={FIELDS[name].offset}" for name in FIELDS if name != "facility"]
    info = Vmcoreinfo.parse("".join(line + "\n" for line in lines).encode())
    found = open_log_by_vmcoreinfo(made_up.memory(), info).read()
    first = records.first_sequence
    assert found == [
        LogLine(line.sequence - first, line.time_ns, line.caller, line.level, line.text) for line in records.lines()
    ]


def texts(log: LogReader) -> list[str]:
    """The texts of all lines."""
    return [line.text for line in log.read()]


@pytest.mark.parametrize("page", range(4))
@pytest.mark.parametrize("arch", ARCHES, ids=lambda arch: arch.name)
def test_a_missing_page_costs_the_records_on_it_and_no_others(arch: Architecture, page: int) -> None:
    records = some_records(arch, size_bytes=1 << 14)
    made_up = records.made_up()
    made_up.lose(made_up.base + BUFFER_AT + page * 4096)
    log = open_log(made_up.kernel())
    found = texts(log)
    expected = [
        line
        for place, record in records.kept
        for line in record.text.decode().split("\n")
        if (place + 8) // 4096 != page and (place + 16 + len(record.text) - 1) // 4096 != page
    ]
    assert found == expected
    assert log.problem
    times = {record.text: record.time_ns for _, record in records.kept}
    assert all(line.time_ns in (None, times.get(line.text.encode(), line.time_ns)) for line in log.read())


def test_a_length_that_is_none_costs_what_stands_up_to_the_next_record() -> None:
    records = some_records()
    place, record = records.kept[20]
    records.buffer[place + 8 : place + 10] = b"\xff\xfe"
    log = open_log(records.made_up().kernel())
    lost = record.text.decode().split("\n")
    assert texts(log) == [line.text for line in records.lines() if line.text not in lost]
    assert log.problem == "the log's records cannot all be followed"


def test_a_chain_that_goes_round_in_itself_ends() -> None:
    made_up = some_records().made_up()
    # All zeros: every place leads back to the start.
    made_up.put(made_up.base + BUFFER_AT, bytes(8192))
    log = open_log(made_up.kernel())
    assert log.read() == []
    assert log.problem == "the log's records cannot all be followed"


def test_records_of_the_least_size_from_a_hostile_buffer_end() -> None:
    made_up = some_records(size_bytes=1 << 16).made_up()
    made_up.put(made_up.base + BUFFER_AT, struct.pack(">QHHHBB", 0, 16, 0, 0, 0, 0) * (1 << 12))
    made_up.number(made_up.variables["log_next_idx"], 8, 4)
    log = open_log(made_up.kernel())
    assert len(log.read()) <= 1 << 12
    assert log.problem


@pytest.mark.parametrize(("variable", "value"), [("log_buf_len", 0), ("log_buf_len", 1 << 31), ("log_buf_len", 12345)])
def test_buffers_of_sizes_that_no_kernel_has_are_refused(variable: str, value: int) -> None:
    made_up = some_records().made_up()
    made_up.number(made_up.variables[variable], value, 4)
    with pytest.raises(FormatError, match="the log's buffer has"):
        open_log(made_up.kernel())


@pytest.mark.parametrize("variable", ["log_first_idx", "log_next_idx"])
def test_records_outside_their_buffer_are_refused(variable: str) -> None:
    made_up = some_records().made_up()
    made_up.number(made_up.variables[variable], 8193, 4)
    with pytest.raises(FormatError, match="outside its buffer"):
        open_log(made_up.kernel())


def test_structured_records_without_their_layout_are_a_symbol_error() -> None:
    made_up = some_records().made_up()
    made_up.structs = {}
    with pytest.raises(SymbolError, match="size of printk_log"):
        open_log(made_up.kernel())


def plain_kernel(text: bytes, size_bytes: int, arch: Architecture = PPC32, shown: int | None = None) -> MadeUpKernel:
    """A kernel up to 3.4 that has written ``text``, of which readers may see the last ``shown`` characters."""
    ring = bytearray(size_bytes)
    for place, character in enumerate(text):
        ring[place % size_bytes] = character
    made_up = kernel_with(arch, bytes(ring))
    for name in ("log_first_idx", "log_next_idx", "log_first_seq"):
        del made_up.variables[name]
    made_up.number(made_up.variables["log_end"], len(text) & 0xFFFFFFFF, 4)
    made_up.number(made_up.variables["logged_chars"], min(len(text), size_bytes) if shown is None else shown, 4)
    return made_up


def plain_lines(numbers: Sequence[int]) -> bytes:
    """Lines as kernels with ``printk.time`` write them."""
    return b"".join(b"<%d>[%5d.000250] line %d\n" % (number % 8, number, number) for number in numbers)


@pytest.mark.parametrize("arch", ARCHES, ids=lambda arch: arch.name)
def test_plain_text_that_has_not_gone_round(arch: Architecture) -> None:
    log = open_log(plain_kernel(plain_lines(range(20)), 4096, arch).kernel())
    assert log.read() == [LogLine(n, n * 10**9 + 250_000, None, n % 8, f"line {n}") for n in range(20)]
    assert log.problem is None


def test_plain_text_that_has_gone_round_begins_with_the_first_whole_line() -> None:
    text = plain_lines(range(500))
    log = open_log(plain_kernel(text, 4096).kernel())
    assert texts(log) == [line.split("] ")[1] for line in text[-4096:].decode().splitlines()[1:]]
    assert texts(log)[-1] == "line 499"


def test_plain_text_that_readers_have_cleared_is_still_there() -> None:
    assert len(texts(open_log(plain_kernel(plain_lines(range(20)), 4096, shown=0).kernel()))) == 20


def test_plain_text_whose_count_began_anew_is_a_full_buffer() -> None:
    made_up = plain_kernel(plain_lines(range(500)), 4096)
    made_up.number(made_up.variables["log_end"], 4096, 4)
    assert len(texts(open_log(made_up.kernel()))) > 100
    made_up.number(made_up.variables["log_end"], 0, 4)
    assert len(texts(open_log(made_up.kernel()))) > 100


def test_a_missing_page_of_plain_text_costs_the_lines_on_it() -> None:
    text = plain_lines(range(500))
    made_up = plain_kernel(text, 1 << 15)
    made_up.lose(made_up.base + BUFFER_AT + 4096)
    log = open_log(made_up.kernel())
    found = texts(log)
    assert "line 0" in found
    assert "line 499" in found
    assert 0 < len(found) < 500
    assert set(found) <= {f"line {number}" for number in range(500)}
    assert log.losses.unreadable > 0


def test_of_a_plain_text_longer_than_any_kernels_the_end_is_read() -> None:
    size_bytes = 8 << 20
    line = b"<6>[    1.000000] " + b"x" * 109 + b"\n"
    made_up = plain_kernel(b"", 4096)
    made_up.number(made_up.variables["log_buf_len"], size_bytes, 4)
    made_up.number(made_up.variables["log_end"], size_bytes - 1, 4)
    made_up.put(made_up.base + BUFFER_AT, line * (size_bytes // len(line)))
    log = open_log(made_up.kernel())
    assert set(texts(log)) == {"x" * 109}
    assert len(texts(log)) <= (4 << 20) // 127
    assert log.problem == "only the last 4 MiB of the log were read"
