"""A writer of the kernel's lockless log, by the rules of ``kernel/printk/printk_ringbuffer.c``.

What it leaves in memory at any moment, and which lines a reader must find there.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from crashbeam.vmcore.arch.architecture import Architecture
from crashbeam.vmcore.kernel import Kernel
from crashbeam.vmcore.log_line import LogLine
from crashbeam.vmcore.symbols.layouts import Field, StructLayout
from crashbeam.vmcore.symbols.profile import KernelProfile
from crashbeam.vmcore.vmcoreinfo import Vmcoreinfo
from tests.builders.kernel_memory import PAGE_OFFSET, PAGE_OFFSET_64, MadeUpKernel

RESERVED, COMMITTED, FINALIZED, REUSABLE = range(4)
FAILED, NO_TEXT = 1, 3
INFO_BYTES = 88
PRB_AT, RING_AT, DESCRIPTORS_AT, INFOS_AT, TEXT_AT = 0x1000, 0x1100, 0x2000, 0x10000, 0x40000
"""Where everything lies, from the start of the linear map."""


@dataclass(slots=True)
class Descriptor:
    """``struct prb_desc``, its ``state_var`` taken apart."""

    state: int = RESERVED
    record: int = 0
    begin: int = 0
    next: int = 0


@dataclass(slots=True)
class Info:
    """What of ``struct printk_info`` is read."""

    sequence: int = 0
    time_ns: int = 0
    text_bytes: int = 0
    level: int = 0
    caller: int = 0


@dataclass(slots=True)
class Writing:
    """A record that its writer has reserved."""

    record: int
    begin: int
    next: int


class PrintkRing:
    """A ring of ``1 << count_bits`` records and ``1 << size_bits`` bytes of text, empty.

    ``in_place``: a block that ends where the ring ends stays there (Linux 6.18), else it goes to the start.
    """

    def __init__(self, arch: Architecture, count_bits: int, size_bits: int, *, in_place: bool = False) -> None:
        self.arch = arch
        self.count_bits, self.size_bits, self.in_place = count_bits, size_bits, in_place
        self.count, self.size = 1 << count_bits, 1 << size_bits
        self.word = arch.word_bytes
        self.word_mask = (1 << 8 * self.word) - 1
        self.record_mask = self.word_mask >> 2
        self._word = struct.Struct((">" if arch.byte_order == "big" else "<") + ("I" if self.word == 4 else "Q"))
        # _DEFINE_PRINTKRB: the last descriptor is reusable, the first record takes the first.
        first = -(self.count + 1) & self.record_mask
        self.head = self.tail = first
        self.head_lpos = self.tail_lpos = -self.size & self.word_mask
        self.descriptors = [Descriptor() for _ in range(self.count)]
        self.descriptors[-1] = Descriptor(REUSABLE, first, FAILED, FAILED)
        self.infos = [Info() for _ in range(self.count)]
        self.infos[0].sequence = -self.count & (1 << 64) - 1
        self.text = bytearray(self.size)
        self.dropped_in_writing = 0
        self._written: dict[int, bytes] = {}

    def descriptor_of(self, record: int) -> Descriptor:
        """The descriptor in a record's place."""
        return self.descriptors[record % self.count]

    def log(self, text: bytes, time_ns: int = 0, caller: int = 0, level: int = 6) -> bool:
        """Writes a whole record; whether there was room."""
        writing = self.reserve(len(text))
        if writing is None:
            return False
        self.write(writing, text, time_ns, caller, level)
        self.commit(writing)
        return True

    def advance_head(self) -> int | None:
        """The first step of a reservation: the next id is taken, and nothing yet written. ``None`` without room."""
        record = (self.head + 1) & self.record_mask
        before = (record - self.count) & self.record_mask
        if before == self.tail and not self._push_tail():
            return None
        self.head = record
        return record

    def reserve(self, text_bytes: int) -> Writing | None:
        """``prb_reserve``: the place of a new record; its predecessor becomes final. ``None`` without room."""
        record = self.advance_head()
        if record is None:
            return None
        self.descriptors[record % self.count] = Descriptor(RESERVED, record, FAILED, FAILED)
        info = self.infos[record % self.count]
        place = record % self.count
        sequence = place if info.sequence == 0 and place else (info.sequence + self.count) & (1 << 64) - 1
        self.infos[place] = Info(sequence=sequence)
        previous = self.descriptor_of(record - 1)
        if previous.record == (record - 1) & self.record_mask and previous.state == COMMITTED:
            previous.state = FINALIZED
        block = self._allocate(record, text_bytes) if text_bytes else (NO_TEXT, NO_TEXT)
        if block is None:
            self.commit(Writing(record, FAILED, FAILED))
            self.dropped_in_writing += 1
            return None
        descriptor = self.descriptor_of(record)
        descriptor.begin, descriptor.next = block
        return Writing(record, *block)

    def write(self, writing: Writing, text: bytes, time_ns: int = 0, caller: int = 0, level: int = 6) -> None:
        """Fills a reserved record."""
        info = self.infos[writing.record % self.count]
        info.time_ns, info.caller, info.level, info.text_bytes = time_ns, caller, level, len(text)
        if text:
            at = self._data_at(writing.begin, writing.next) + self.word
            self.text[at : at + len(text)] = text
        self._written[writing.record] = text

    def commit(self, writing: Writing) -> None:
        """``prb_commit``: a record that has a successor is final at once."""
        self.descriptor_of(writing.record).state = COMMITTED if writing.record == self.head else FINALIZED

    def _push_tail(self) -> bool:
        descriptor = self.descriptor_of(self.tail)
        if descriptor.state in (RESERVED, COMMITTED):
            return False
        descriptor.state = REUSABLE
        if not descriptor.next & 1 and not self._push_data_tail(descriptor.next):
            return False
        successor = self.descriptor_of(self.tail + 1)
        is_its_own = successor.record == (self.tail + 1) & self.record_mask
        if not is_its_own or successor.state in (RESERVED, COMMITTED):
            return False
        self.tail = (self.tail + 1) & self.record_mask
        return True

    def _push_data_tail(self, position: int) -> bool:
        """Gives away the text before ``position``; whether all records there could be."""
        while 0 < (position - self.tail_lpos) & self.word_mask <= 2 * self.size:
            (record,) = self._word.unpack_from(self.text, self.tail_lpos % self.size)
            descriptor = self.descriptor_of(record)
            if descriptor.record != record or descriptor.begin != self.tail_lpos:
                return False
            if descriptor.state in (RESERVED, COMMITTED):
                return False
            descriptor.state = REUSABLE
            self.tail_lpos = descriptor.next
        return True

    def _allocate(self, record: int, text_bytes: int) -> tuple[int, int] | None:
        size = -(-(self.word + text_bytes) // self.word) * self.word
        assert size <= self.size // 2
        begin = self.head_lpos
        end = (begin + size) & self.word_mask
        if self._wraps(begin, end):
            end = ((begin // self.size + 1) * self.size + size) & self.word_mask
        if not self._push_data_tail((end - self.size) & self.word_mask):
            return None
        self.head_lpos = end
        self._word.pack_into(self.text, begin % self.size, record)
        if self._wraps(begin, end):
            self._word.pack_into(self.text, 0, record)
        return begin, end

    def _wraps(self, begin: int, end: int) -> bool:
        last = (end - 1 if self.in_place else end) & self.word_mask
        return begin // self.size != last // self.size

    def _data_at(self, begin: int, end: int) -> int:
        return 0 if self._wraps(begin, end) else begin % self.size

    def live_records(self) -> Iterator[tuple[int, Descriptor]]:
        """Ids and descriptors from the oldest to the newest."""
        for distance in range(((self.head - self.tail) & self.record_mask) + 1):
            record = (self.tail + distance) & self.record_mask
            yield record, self.descriptor_of(record)

    def lines(self) -> list[LogLine]:
        """What a reader must find: the lines of every record whose writer had finished."""
        found: list[LogLine] = []
        for record, descriptor in self.live_records():
            is_written = descriptor.record == record and descriptor.state in (COMMITTED, FINALIZED)
            if not is_written or descriptor.begin == FAILED:
                continue
            info = self.infos[record % self.count]
            of_record = self._written[record].decode().split("\n")
            found += [LogLine(info.sequence, info.time_ns, info.caller, info.level, line) for line in of_record]
        return found

    def half_written(self) -> int:
        """How many records a reader must count as half written."""
        return sum(
            descriptor.record != record or descriptor.state == RESERVED for record, descriptor in self.live_records()
        )

    def dropped(self) -> int:
        """How many records are there whose text found no room."""
        return sum(
            descriptor.record == record and descriptor.begin == FAILED and descriptor.state in (COMMITTED, FINALIZED)
            for record, descriptor in self.live_records()
        )

    def place(self, page_bytes: int = 4096) -> MadeUpKernel:
        """The memory of a kernel that has this ring."""
        made_up = MadeUpKernel(page_bytes, arch=self.arch)
        base, order = made_up.base, self.arch.byte_order
        made_up.words(base + PRB_AT, base + RING_AT)
        made_up.put(base + RING_AT, bytes(256))
        for offset, value, size_bytes in self._ring_members(base):
            made_up.number(base + RING_AT + offset, value, size_bytes)
        table = b"".join(
            value.to_bytes(self.word, order)
            for descriptor in self.descriptors
            for value in (
                descriptor.state << 8 * self.word - 2 | descriptor.record,
                descriptor.begin,
                descriptor.next,
            )
        )
        made_up.put(base + DESCRIPTORS_AT, table)
        made_up.put(base + INFOS_AT, b"".join(map(self._info_bytes, self.infos)))
        made_up.put(base + TEXT_AT, bytes(self.text))
        return made_up

    def kernel(self, made_up: MadeUpKernel | None = None) -> Kernel:
        """The kernel over that memory."""
        return Kernel((made_up or self.place()).memory(), profile_of(self.arch), self.arch)

    def _ring_members(self, base: int) -> Iterator[tuple[int, int, int]]:
        word = self.word
        for number, value in enumerate((base + DESCRIPTORS_AT, base + INFOS_AT, self.head, self.tail)):
            yield (number + 1) * word, value, word
        yield 0, self.count_bits, 4
        text_ring = 6 * word
        yield text_ring, self.size_bits, 4
        for number, value in enumerate((base + TEXT_AT, self.head_lpos, self.tail_lpos)):
            yield text_ring + (number + 1) * word, value, word

    def _info_bytes(self, info: Info) -> bytes:
        order = ">" if self.arch.byte_order == "big" else "<"
        # u8 flags:5, level:3: the first member is in the upper bits of a big endian byte.
        flags_and_level = info.level if order == ">" else info.level << 5
        numbers = (info.sequence, info.time_ns, info.text_bytes, 0, flags_and_level, info.caller)
        return struct.pack(f"{order}QQHBBI64x", *numbers)


def vmcoreinfo_text(arch: Architecture) -> bytes:
    """What VMCOREINFO of such a kernel says of its log: no facility, no level."""
    base = PAGE_OFFSET if arch.word_bytes == 4 else PAGE_OFFSET_64
    lines = [f"SYMBOL(prb)={base + PRB_AT:x}"]
    for name, layout in ring_structs(arch.word_bytes).items():
        lines.append(f"SIZE({name})={layout.size}")
        lines += [f"OFFSET({name}.{member})={field.offset}" for member, field in layout.fields.items()]
    return "".join(line + "\n" for line in lines if "facility" not in line).encode()


def vmcoreinfo_of(arch: Architecture) -> Vmcoreinfo:
    """The same, read."""
    return Vmcoreinfo.parse(vmcoreinfo_text(arch))


def ring_structs(word: int) -> dict[str, StructLayout]:
    """The layouts of Linux 6.12 (``kernel/printk/printk_ringbuffer.h``)."""
    words = {name: Field(number * word, word) for number, name in enumerate(("state_var", "begin", "next"))}
    return {
        "printk_ringbuffer": StructLayout(
            11 * word, {"desc_ring": Field(0, 6 * word), "text_data_ring": Field(6 * word, 4 * word)}
        ),
        "prb_desc_ring": StructLayout(
            6 * word,
            {
                "count_bits": Field(0, 4),
                **{name: Field((number + 1) * word, word) for number, name in enumerate(_RING_WORDS)},
            },
        ),
        "prb_data_ring": StructLayout(4 * word, {"size_bits": Field(0, 4), "data": Field(word, word)}),
        "prb_desc": StructLayout(3 * word, {"state_var": words["state_var"], "text_blk_lpos": Field(word, 2 * word)}),
        "printk_info": StructLayout(
            INFO_BYTES,
            {
                "seq": Field(0, 8),
                "ts_nsec": Field(8, 8),
                "text_len": Field(16, 2),
                "facility": Field(18, 1),
                "caller_id": Field(20, 4),
            },
        ),
    }


_RING_WORDS = ("descs", "infos", "head_id", "tail_id")


_PROFILES: dict[str, KernelProfile] = {}


def profile_of(arch: Architecture) -> KernelProfile:
    """The symbols of such a kernel."""
    if arch.name not in _PROFILES:
        made_up = MadeUpKernel(arch=arch)
        made_up.variables = {"prb": made_up.base + PRB_AT}
        made_up.structs = ring_structs(arch.word_bytes)
        _PROFILES[arch.name] = made_up.profile()
    return _PROFILES[arch.name]
