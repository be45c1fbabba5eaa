"""The lockless ring that kernels since 5.10 keep their log in (``kernel/printk/printk_ringbuffer.c``).

A ring of descriptors, a ring of infos beside it, and a ring of text. A descriptor's number is its id; ``state_var`` has
the id and, in its two top bits, how far the record's writer came. ``begin`` and ``next`` are positions in the text that
count on from lap to lap; the block between them begins with a word that holds the id. A block that does not fit before
the end of the ring lies at its start, and ends at ``next`` there. Up to 6.17 that includes one that would fit exactly;
since 6.18 it stays in place, so that ``next`` is the start of a lap.
"""

import struct
from collections.abc import Iterator
from typing import Any, Final

from crashbeam.vmcore.dmesg.memory import BATCH_RECORDS, MAX_LOG_BYTES, MAX_RECORDS, LogMemory, lines_of
from crashbeam.vmcore.errors import FormatError
from crashbeam.vmcore.log_line import LogLine

_COMMITTED, _FINALIZED, _REUSABLE = 1, 2, 3
"""``enum desc_state``; 0 is reserved: its writer is at work."""
_NO_TEXT: Final = 3
"""NO_LPOS: both positions of a record without text. Any other odd position is that of a text that found no room."""
_MAX_SEQUENCE: Final = (1 << 63) - 1
_MAX_TIME_NS: Final = (1 << 63) - 1
"""What fits a column of a store."""
_MAX_RUN_BYTES = 1024 * BATCH_RECORDS
"""Of text that is read at once for a batch: a record has some 70."""
_MAX_COUNT_BITS = 26
_MAX_SIZE_BITS = 31
"""LOG_BUF_LEN_MAX is 2 GiB; there is a descriptor for every 32 bytes."""


class LocklessRing:
    """The ring behind ``prb``. Raises FormatError for one that is none, SymbolError, TranslationError, PageError."""

    def __init__(self, memory: LogMemory) -> None:
        self._memory = memory
        words, word = memory.kernel_memory, memory.kernel_memory.word_bytes
        ring = words.word(memory.address_of("prb"))
        descriptors = ring + memory.offset_of("printk_ringbuffer", "desc_ring")
        text = ring + memory.offset_of("printk_ringbuffer", "text_data_ring")
        count_bits = words.u32(descriptors + memory.offset_of("prb_desc_ring", "count_bits"))
        self._size_bits = words.u32(text + memory.offset_of("prb_data_ring", "size_bits"))
        if not (1 <= count_bits <= _MAX_COUNT_BITS and word.bit_length() <= self._size_bits <= _MAX_SIZE_BITS):
            raise FormatError(f"the log's ring has 2^{count_bits} records and 2^{self._size_bits} bytes of text")
        self._ring_records = 1 << count_bits
        self._ring_bytes = 1 << self._size_bits
        self._word_mask = (1 << 8 * word) - 1
        self._state_shift = 8 * word - 2
        self._id_mask = (1 << self._state_shift) - 1
        self._word_bytes = word
        self._block_id = struct.Struct((">" if words.byte_order == "big" else "<") + ("I" if word == 4 else "Q"))
        self._descriptors, self._infos, self._head, self._tail = (
            words.word(descriptors + memory.offset_of("prb_desc_ring", member))
            for member in ("descs", "infos", "head_id", "tail_id")
        )
        self._text = words.word(text + memory.offset_of("prb_data_ring", "data"))
        self._descriptor, self._info = self._rows_of_this_kernel()

    def _rows_of_this_kernel(self) -> tuple[struct.Struct, struct.Struct]:
        memory, word = self._memory, self._word_bytes
        positions = memory.offset_of("prb_desc", "text_blk_lpos")
        descriptor = memory.row(
            memory.size_of("prb_desc"),
            ((memory.offset_of("prb_desc", "state_var"), word), (positions, word), (positions + word, word)),
        )
        length = memory.offset_of("printk_info", "text_len")
        facility = memory.find_offset("printk_info", "facility")
        info = memory.row(
            memory.size_of("printk_info"),
            (
                (memory.offset_of("printk_info", "seq"), 8),
                (memory.offset_of("printk_info", "ts_nsec"), 8),
                (length, 2),
                # VMCOREINFO does not name it: it follows the length, and the byte of the level follows it.
                ((length + 2 if facility is None else facility) + 1, 1),
                (memory.offset_of("printk_info", "caller_id"), 4),
            ),
        )
        return descriptor, info

    def batches_backwards(self) -> Iterator[list[LogLine]]:
        """The lines, the newest batch first, each batch in order."""
        losses = self._memory.losses
        count = ((self._head - self._tail) & self._id_mask) + 1
        if count > self._ring_records:
            losses.cut = "the log does not tell which record is its oldest"
            count = self._ring_records
        left = min(count, MAX_RECORDS)
        losses.unread = count - left
        text_bytes_left = min(self._ring_bytes, MAX_LOG_BYTES)
        after = self._head + 1
        # The newest report and what stands before it are more than one batch: it is looked for once, in two.
        size = 2 * BATCH_RECORDS
        while left > 0:
            size = min(left, size)
            after -= size
            left -= size
            lines, text_bytes = self._read_batch(after & self._id_mask, size)
            size = BATCH_RECORDS
            if lines:
                yield lines
            text_bytes_left -= text_bytes
            if text_bytes_left < 0:
                losses.unread += left
                losses.cut = "the log's records claim more text than their ring holds"
                return

    def _read_batch(self, first: int, count: int) -> tuple[list[LogLine], int]:
        """The lines of ``count`` records from id ``first``, and the bytes of text that they have."""
        losses, levels = self._memory.losses, self._memory.levels
        mask, shift = self._id_mask, self._state_shift
        lines: list[LogLine] = []
        text_bytes = 0
        descriptors = self._rows(self._descriptors, self._descriptor, first, count)
        infos = self._rows(self._infos, self._info, first, count)
        run = self._read_run(descriptors)
        for record, descriptor, info in zip(range(first, first + count), descriptors, infos, strict=True):
            if descriptor is None:
                losses.unreadable += 1
                continue
            state_var, begin, end = descriptor
            state = state_var >> shift
            if (state_var ^ record) & mask:
                # The newest descriptor has another id until its writer says that it is reserved.
                if (record ^ self._head) & mask:
                    losses.unreadable += 1
                else:
                    losses.half_written += 1
            elif state in (_COMMITTED, _FINALIZED):
                if begin & end & 1 and not begin == end == _NO_TEXT:
                    losses.dropped += 1
                    continue
                text = self._text_of(record & mask, begin, end, info, run)
                if text is None or info is None:
                    losses.unreadable += 1
                    continue
                text_bytes += len(text)
                sequence, time_ns, _, level, caller = info
                known_time_ns = time_ns if time_ns <= _MAX_TIME_NS else None
                line, *others = lines_of(text)
                lines.append(LogLine(sequence, known_time_ns, caller, levels[level], line))
                if others:
                    lines += [LogLine(sequence, known_time_ns, caller, levels[level], other) for other in others]
            elif state != _REUSABLE:
                losses.half_written += 1
        return lines, text_bytes

    def _rows(self, table: int, row: struct.Struct, first: int, count: int) -> list[tuple[Any, ...] | None]:
        """The structs of ``count`` records from id ``first``, over the end of the ring."""
        slot = first & (self._ring_records - 1)
        rows: list[tuple[Any, ...] | None] = []
        while count > 0:
            run = min(count, self._ring_records - slot)
            rows += self._memory.rows(row, table + slot * row.size, run)
            count -= run
            slot = 0
        return rows

    def _read_run(self, descriptors: list[tuple[Any, ...] | None]) -> tuple[int, bytes]:
        """The place in the text ring where a batch's text begins, and the text where all of it lies there in one piece;
        none where it does not, or cannot be read.
        """
        rows = [row for row in descriptors if row is not None and not row[1] & 1]
        if not rows:
            return 0, b""
        begin, end = rows[0][1], rows[-1][2]
        place, size_bytes = begin & (self._ring_bytes - 1), (end - begin) & self._word_mask
        if size_bytes > _MAX_RUN_BYTES or place + size_bytes > self._ring_bytes:
            return 0, b""
        return place, self._memory.read(self._text + place, size_bytes) or b""

    def _text_of(
        self, record: int, begin: int, end: int, info: tuple[Any, ...] | None, run: tuple[int, bytes]
    ) -> bytes | None:
        """The text of a record, or ``None`` where it or its info is none of this record's. ``run`` is what was read of
        its batch.
        """
        # A record's number tells its place in the ring, as its id does.
        if info is None or (info[0] ^ record) & (self._ring_records - 1) or info[0] > _MAX_SEQUENCE:
            return None
        if begin & end & 1:
            return b""
        word, ring_bytes = self._word_bytes, self._ring_bytes
        place, size_bytes = begin & (ring_bytes - 1), (end - begin) & self._word_mask
        if place + size_bytes > ring_bytes:
            if place + size_bytes >= 2 * ring_bytes:
                return None
            place, size_bytes = 0, place + size_bytes - ring_bytes
        if size_bytes < word or (begin | end) & (word - 1):
            return None
        if word + info[2] < size_bytes:
            size_bytes = word + info[2]
        data: bytes | None
        run_at, data = run
        if run_at <= place and place - run_at + size_bytes <= len(data):
            start = place - run_at
        else:
            data, start = self._memory.read(self._text + place, size_bytes), 0
        if data is None or self._block_id.unpack_from(data, start)[0] != record:
            return None
        return data[start + word : start + size_bytes]
