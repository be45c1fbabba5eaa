"""The log of older kernels: structured records (Linux 3.5 to 5.9) and plain text (before), ``kernel/printk/printk.c``.

Structured records stand one after the other in ``log_buf``, from ``log_first_idx`` to ``log_next_idx``; a length of 0
leads back to the start. What ``dmesg`` of 3.5 to 4.9 joined of unfinished lines is given as the records it came in.
"""

from array import array
from collections.abc import Iterator

from crashbeam.schemas.clean import int64
from crashbeam.vmcore.dmesg.memory import BATCH_RECORDS, HINT, MAX_LOG_BYTES, UNREADABLE, LogMemory, lines_of
from crashbeam.vmcore.dmesg.text import MAX_TEXT_BYTES, TextLines, parse_log_text
from crashbeam.vmcore.errors import FormatError, SymbolError
from crashbeam.vmcore.log_line import LogLine

_RECORD_NAMES = ("printk_log", "log")
"""``struct log`` became ``struct printk_log`` in 3.11."""
_ALIGNMENT_BYTES = 4
"""Of records, the least; the kernel pads them to 4 or 8 bytes."""
_MAX_PADDING_BYTES = 7
_NO_TIME = (1 << 64) - 1


class StructuredRecords:
    """``struct printk_log`` records. Raises FormatError, SymbolError, and what memory does."""

    def __init__(self, memory: LogMemory) -> None:
        self._memory = memory
        self._address, self._size_bytes = _buffer(memory)
        self._first = memory.u32_of("log_first_idx")
        self._after = memory.u32_of("log_next_idx")
        if max(self._first, self._after) > self._size_bytes:
            raise FormatError(f"the log's records begin at {self._first} and end at {self._after}, outside its buffer")
        name = next((name for name in _RECORD_NAMES if memory.find_size(name)), None)
        if name is None:
            raise SymbolError("neither symbols nor VMCOREINFO have the size of printk_log", hint=HINT)
        self._header_bytes = memory.size_of(name)
        lengths = memory.offset_of(name, "len")
        members = [(memory.offset_of(name, "ts_nsec"), 8), (lengths, 2)]
        members += [(memory.offset_of(name, "text_len"), 2), (memory.offset_of(name, "dict_len"), 2)]
        # Facility and level follow; 3.5 has both in one u16, whose low byte is where the level is since.
        members.append((memory.offset_of(name, "dict_len") + 3, 1))
        caller = memory.find_offset(name, "caller_id")
        if caller is not None:
            members.append((caller, 4))
        self._row = memory.row(self._header_bytes, members)

    def batches_backwards(self) -> Iterator[list[LogLine]]:
        """The lines, the newest batch first, each batch in order."""
        memory = self._memory
        self._data, self._is_whole = memory.read_filled(self._address, self._size_bytes)
        places = self._find_records()
        first = memory.kernel_memory.number(memory.address_of("log_first_seq"), 8) if memory.has("log_first_seq") else 0
        first = int64(first) or 0
        for end in range(len(places), 0, -BATCH_RECORDS):
            start = max(end - BATCH_RECORDS, 0)
            lines = [line for number in range(start, end) for line in self._lines_at(places[number], first + number)]
            if lines:
                yield lines

    def _lines_at(self, place: int, sequence: int) -> list[LogLine]:
        time_ns, _, text_bytes, _, level, *caller = self._row.unpack_from(self._data, place)
        text = self._data[place + self._header_bytes : place + self._header_bytes + text_bytes]
        if not self._is_whole:
            if UNREADABLE in text:
                self._memory.losses.unreadable += 1
                return []
            if UNREADABLE in self._data[place : place + 8]:
                # Of a header over the edge of a page the time may be missing, and the rest be there.
                time_ns = _NO_TIME
        level, time_ns = self._memory.levels[level], int64(time_ns)
        return [LogLine(sequence, time_ns, caller[0] if caller else None, level, line) for line in lines_of(text)]

    def _find_records(self) -> "array[int]":
        """Where the records begin, in order.

        Where the chain breaks, on a page that cannot be read, it is taken up again at the next place that has a record
        and behind it another one, or the end.
        """
        seen = bytearray(self._size_bytes // _ALIGNMENT_BYTES + 1)
        places, broken = self._follow(self._first, seen)
        while broken is not None:
            self._memory.losses.cut = "the log's records cannot all be followed"
            for candidate in self._places_behind(broken):
                more, broken = self._follow(candidate, seen)
                if len(more) > 1 or (more and broken is None):
                    places += more
                    break
            else:
                break
        return places

    def _places_behind(self, broken: int) -> Iterator[int]:
        """Where a record may begin, from ``broken`` on to the newest, that is no mark of the buffer's end."""
        start = broken + _ALIGNMENT_BYTES
        runs = [range(start, self._after)]
        if broken >= self._after:
            runs = [range(start, self._size_bytes), range(self._after)]
        for run in runs:
            yield from (place for place in run[::_ALIGNMENT_BYTES] if self._size_at(place))

    def _follow(self, place: int, seen: bytearray) -> "tuple[array[int], int | None]":
        """The records from ``place`` on, and where they break off; ``None`` if they lead to the newest."""
        places = array("I")
        while place != self._after:
            size_bytes = self._size_at(place)
            # Before the newest record the buffer does not end.
            if size_bytes is None or seen[place // _ALIGNMENT_BYTES] or (size_bytes == 0 and place < self._after):
                return places, place
            seen[place // _ALIGNMENT_BYTES] = True
            if size_bytes:
                places.append(place)
            place = place + size_bytes if size_bytes else 0
        return places, None

    def _size_at(self, place: int) -> int | None:
        """The length of the record at ``place``, 0 where the buffer begins anew, ``None`` if there is no record."""
        if place + self._header_bytes > self._size_bytes:
            return None
        _, size_bytes, text_bytes, dictionary_bytes, *_ = self._row.unpack_from(self._data, place)
        if size_bytes == 0:
            return 0
        padding_bytes: int = size_bytes - self._header_bytes - text_bytes - dictionary_bytes
        fits = 0 <= padding_bytes <= _MAX_PADDING_BYTES and place + size_bytes <= self._size_bytes
        return size_bytes if fits and size_bytes % _ALIGNMENT_BYTES == 0 else None


class PlainText:
    """The ring of characters up to 3.4, with levels as ``<6>``. Raises FormatError, SymbolError, and what memory does.

    ``log_end`` (32 bits since 2.6.25) counts the characters that were ever written.
    """

    def __init__(self, memory: LogMemory) -> None:
        self._memory = memory
        self._address, self._size_bytes = _buffer(memory)
        self._end = memory.u32_of("log_end")
        logged = memory.u32_of("logged_chars") if memory.has("logged_chars") else 0
        # log_end starts anew after 4 GiB; the count of what readers may see is limited by the buffer alone.
        self._count = min(max(self._end, logged), self._size_bytes)

    def batches_backwards(self) -> Iterator[list[LogLine]]:
        """The lines, the newest batch first, each batch in order."""
        data, is_whole = self._memory.read_filled(self._address, self._size_bytes)
        end = self._end & (self._size_bytes - 1)
        text = data[:end] if self._count < self._size_bytes else data[end:] + data[:end]
        if self._count == self._size_bytes:
            # The oldest line has lost its beginning.
            text = text.partition(b"\n")[2]
        if len(text) > MAX_TEXT_BYTES:
            self._memory.losses.cut = f"only the last {MAX_TEXT_BYTES >> 20} MiB of the log were read"
            text = text[-MAX_TEXT_BYTES:].partition(b"\n")[2]
        if not is_whole:
            lines = text.split(b"\n")
            kept = [line for line in lines if UNREADABLE not in line]
            self._memory.losses.unreadable += len(lines) - len(kept)
            text = b"\n".join(kept)
        return TextLines(parse_log_text(text)).batches_backwards()


def _buffer(memory: LogMemory) -> tuple[int, int]:
    """Address and size in bytes of ``log_buf``."""
    size_bytes = memory.u32_of("log_buf_len")
    if not 0 < size_bytes <= MAX_LOG_BYTES or size_bytes & (size_bytes - 1):
        raise FormatError(f"the log's buffer has {size_bytes} bytes")
    return memory.word_of("log_buf"), size_bytes
