"""The lockless ring: whatever its writers left, every line that a reader gives is one that was written."""

import random

import pytest
from msgspec.structs import replace

from crashbeam.vmcore.arch import ARCHITECTURES
from crashbeam.vmcore.arch.architecture import Architecture
from crashbeam.vmcore.arch.ppc32 import PPC32
from crashbeam.vmcore.arch.ppc64 import PPC64LE
from crashbeam.vmcore.dmesg import open_log, open_log_by_vmcoreinfo
from crashbeam.vmcore.errors import FormatError, PageError, SymbolError
from crashbeam.vmcore.log_line import LogLine
from tests.builders.kernel_memory import MadeUpKernel
from tests.builders.printk_ring import (
    DESCRIPTORS_AT,
    FINALIZED,
    INFO_BYTES,
    INFOS_AT,
    PRB_AT,
    RING_AT,
    TEXT_AT,
    Descriptor,
    Info,
    PrintkRing,
    Writing,
    vmcoreinfo_of,
)

ARCHES = tuple(ARCHITECTURES.values())
WORDS = ("", "BUG", "Call Trace:", "\tindented", "NIP [c0001234]", "two\nlines", "grün", "x" * 13)


def random_ring(chance: random.Random) -> PrintkRing:
    """A ring of any size after any number of writers, some of whom the crash stopped."""
    ring = PrintkRing(chance.choice(ARCHES), chance.randint(1, 6), chance.randint(6, 9), in_place=chance.random() < 0.5)
    longest = ring.size // 2 - 2 * ring.word
    finishing = chance.choice((0.6, 0.9, 0.99))
    unfinished: list[tuple[Writing, bytes]] = []
    for number in range(chance.choice((0, 1, 3, 10, 40, 120))):
        text = f"{number} {chance.choice(WORDS)}".encode() * chance.choice((0, 1, 1, 1, 4))
        text = text[:longest].decode("utf-8", "ignore").encode()
        writing = ring.reserve(len(text))
        if writing is not None:
            unfinished.append((writing, text))
        while unfinished and chance.random() < finishing:
            writing, text = unfinished.pop(chance.randrange(len(unfinished)))
            ring.write(writing, text, chance.getrandbits(50), chance.getrandbits(32), chance.getrandbits(3))
            ring.commit(writing)
    for writing, text in unfinished:
        if chance.random() < 0.5:
            ring.write(writing, text)
    if chance.random() < 0.2:
        ring.advance_head()
    return ring


def check(ring: PrintkRing) -> None:
    """What a reader finds in a ring is what its writers finished."""
    log = open_log(ring.kernel())
    assert log.read() == ring.lines()
    assert (log.losses.half_written, log.losses.dropped) == (ring.half_written(), ring.dropped())
    assert (log.losses.unreadable, log.losses.unread, log.losses.cut) == (0, 0, None)


def test_random_rings_give_the_lines_that_were_finished_and_no_other() -> None:
    chance = random.Random(5)
    for _ in range(500):
        check(random_ring(chance))


@pytest.mark.slow
def test_ten_thousand_random_rings_give_no_wrong_line() -> None:
    chance = random.Random(10_000)
    for _ in range(10_000):
        check(random_ring(chance))


def test_the_random_rings_have_every_case_that_they_are_for() -> None:
    chance = random.Random(5)
    met = dict.fromkeys(("lapped", "wrapped", "in place", "half written", "dropped", "empty text", "overwritten"), 0)
    for _ in range(500):
        ring = random_ring(chance)
        records = [descriptor for _, descriptor in ring.live_records()]
        blocks = [(each.begin, each.next) for each in records if each.state in (1, 2) and not each.begin & 1]
        met["lapped"] += ring.head % ring.count < ring.tail % ring.count
        met["wrapped"] += any(begin % ring.size > end % ring.size > 0 for begin, end in blocks)
        met["in place"] += any(end % ring.size == 0 for _, end in blocks)
        met["half written"] += ring.half_written() > 0
        met["dropped"] += ring.dropped() > 0
        met["empty text"] += any(each.begin == 3 for each in records)
        met["overwritten"] += bool(ring.lines()) and ring.lines()[0].sequence > 0
    assert min(met.values()) >= 10, met


@pytest.mark.parametrize("arch", ARCHES, ids=lambda arch: arch.name)
def test_an_empty_ring_has_no_lines_and_no_problem(arch: Architecture) -> None:
    log = open_log(PrintkRing(arch, 3, 8).kernel())
    assert log.read() == []
    assert log.problem is None


def test_a_descriptor_is_read_as_the_bytes_of_a_real_one() -> None:
    # The words of reference test vector T12: id 5, finalized, text from 0x28 to 0x48.
    for arch, begin in ((PPC32, 0x2C), (PPC64LE, 0x30)):
        ring = PrintkRing(arch, 4, 8)
        ring.head = ring.tail = 5
        made_up = ring.place()
        form = "800000050000002800000048" if arch is PPC32 else "050000000000008028000000000000004800000000000000"
        made_up.put(made_up.base + DESCRIPTORS_AT + 5 * len(form) // 2, bytes.fromhex(form))
        made_up.words(made_up.base + TEXT_AT + 0x28, 5)
        made_up.put(made_up.base + TEXT_AT + begin, b"Oops: kernel")
        info = made_up.base + INFOS_AT + 5 * INFO_BYTES
        for offset, value, size_bytes in ((0, 5, 8), (8, 6_180_262_000, 8), (16, 12, 2), (20, 0x80000001, 4)):
            made_up.number(info + offset, value, size_bytes)
        assert open_log(ring.kernel(made_up)).read() == [LogLine(5, 6_180_262_000, 0x80000001, 0, "Oops: kernel")]


def full_ring(arch: Architecture = PPC32, count_bits: int = 8, records: int = 400) -> PrintkRing:
    """A ring that has gone round."""
    ring = PrintkRing(arch, count_bits, 15)
    for number in range(records):
        ring.log(f"line {number}".encode(), time_ns=number * 1000, caller=number, level=number % 8)
    return ring


def test_batches_come_newest_first_and_are_in_order_within() -> None:
    ring = full_ring()
    batches = list(open_log(ring.kernel()).batches_backwards())
    assert len(batches) > 2
    assert batches[0][-1].text == "line 399"
    assert [line for batch in reversed(batches) for line in batch] == ring.lines()


def test_who_stops_early_has_read_few_pages() -> None:
    ring = full_ring(count_bits=12, records=3000)
    kernels = [ring.kernel(), ring.kernel()]
    newest = next(open_log(kernels[0]).batches_backwards())
    assert newest[-1].text == "line 2999"
    open_log(kernels[1]).read()
    few, all_pages = (len(kernel.memory.physical.needed) for kernel in kernels)
    assert few <= 8 < all_pages


def test_what_was_read_once_is_not_read_nor_counted_again() -> None:
    ring = full_ring()
    ring.reserve(10)
    log = open_log(ring.kernel())
    next(log.batches_backwards())
    assert log.read() == log.read() == ring.lines()
    assert log.losses.half_written == 1


def test_the_last_records_are_given_whole() -> None:
    ring = PrintkRing(PPC64LE, 8, 12)
    for number in range(100):
        ring.log(f"first {number}\nsecond {number}".encode())
    log = open_log(ring.kernel())
    assert log.read(70) == ring.lines()[-140:]
    assert log.read(0) == []
    assert log.read(1000) == ring.lines()


def test_how_many_records_were_overwritten_is_known_at_the_beginning() -> None:
    ring = full_ring()
    log = open_log(ring.kernel())
    log.read()
    assert log.overwritten_records == ring.lines()[0].sequence > 100
    assert log.problem is None


@pytest.mark.parametrize("arch", ARCHES, ids=lambda arch: arch.name)
def test_vmcoreinfo_is_enough(arch: Architecture) -> None:
    ring = full_ring(arch)
    memory = ring.place().memory()
    assert open_log_by_vmcoreinfo(memory, vmcoreinfo_of(arch)).read() == ring.lines()


def test_vmcoreinfo_gives_what_symbols_without_layouts_lack() -> None:
    ring = full_ring()
    made_up = ring.place()
    made_up.variables = {"prb": made_up.base + PRB_AT}
    with pytest.raises(SymbolError, match="desc_ring"):
        open_log(made_up.kernel())
    assert open_log(made_up.kernel(), vmcoreinfo_of(PPC32)).read() == ring.lines()


def test_a_kernel_that_tells_no_log_is_a_symbol_error() -> None:
    with pytest.raises(SymbolError, match="where the kernel keeps its log"):
        open_log(MadeUpKernel().kernel())


def test_lines_on_a_page_that_is_missing_are_counted_and_the_rest_is_given() -> None:
    ring = full_ring()
    made_up = ring.place()
    lost = made_up.base + TEXT_AT + 0x1000
    made_up.lose(lost)
    log = open_log(ring.kernel(made_up))
    found = log.read()
    missing = [line for line in ring.lines() if line not in found]
    assert 0 < len(missing) < len(ring.lines()) // 2
    assert set(found) < set(ring.lines())
    assert log.losses.unreadable == len(missing)
    assert log.problem == f"records of the log are missing: {len(missing)} unreadable"


@pytest.mark.parametrize("table", [DESCRIPTORS_AT, INFOS_AT], ids=["descriptors", "infos"])
def test_a_missing_page_of_a_table_costs_its_own_records_alone(table: int) -> None:
    ring = full_ring(PPC64LE, count_bits=9, records=500)
    made_up = ring.place()
    made_up.lose(made_up.base + table + 0x1000)
    log = open_log(ring.kernel(made_up))
    found = log.read()
    assert set(found) < set(ring.lines())
    assert log.losses.unreadable == len(ring.lines()) - len(found)
    row_bytes = 24 if table == DESCRIPTORS_AT else INFO_BYTES
    assert 4096 // row_bytes <= log.losses.unreadable <= 4096 // row_bytes + 2


def test_a_block_with_another_records_id_is_no_text_of_this_one() -> None:
    ring = full_ring()
    victim = ring.lines()[-5]
    record = (ring.head - 4) & ring.record_mask
    at = ring.descriptor_of(record).begin % ring.size
    ring.text[at : at + ring.word] = ((record - 1) & ring.record_mask).to_bytes(ring.word, "big")
    log = open_log(ring.kernel())
    assert log.read() == [line for line in ring.lines() if line != victim]
    assert log.losses.unreadable == 1


def test_an_info_of_another_record_is_none_of_this_one() -> None:
    ring = full_ring()
    expected = [line for line in ring.lines() if line.text != "line 395"]
    ring.infos[(ring.head - 4) % ring.count].sequence += 1
    assert open_log(ring.kernel()).read() == expected


def test_a_text_is_never_longer_than_its_block() -> None:
    ring = PrintkRing(PPC32, 4, 8)
    ring.log(b"short")
    ring.log(b"secret of the next")
    ring.infos[0].text_bytes = 200
    (first, _) = open_log(ring.kernel()).read()
    assert first.text == "short" + "\\x00" * 3


def test_control_characters_are_escaped_and_what_is_no_utf8_replaced() -> None:
    ring = PrintkRing(PPC32, 4, 8)
    ring.log(b"\x1b[31mred\x07\ttab \xff\xc3\xbc\r")
    assert [line.text for line in open_log(ring.kernel()).read()] == ["\\x1b[31mred\\x07\ttab \ufffdü\\x0d"]


def test_a_time_that_fits_no_column_is_unknown() -> None:
    ring = PrintkRing(PPC32, 4, 8)
    ring.log(b"x", time_ns=1 << 63)
    assert [line.time_ns for line in open_log(ring.kernel()).read()] == [None]


@pytest.mark.parametrize(
    ("count_bits", "size_bits"), [(0, 12), (27, 12), (32, 12), (0xFFFFFFFF, 12), (5, 2), (5, 32), (5, 0xFFFFFFFF)]
)
def test_sizes_that_no_kernel_has_are_refused(count_bits: int, size_bits: int) -> None:
    ring = PrintkRing(PPC32, 5, 12)
    made_up = ring.place()
    made_up.number(made_up.base + RING_AT, count_bits, 4)
    made_up.number(made_up.base + RING_AT + 24, size_bits, 4)
    with pytest.raises(FormatError, match="the log's ring has"):
        open_log(ring.kernel(made_up))


def test_a_ring_of_the_largest_size_that_is_not_there_ends_with_what_was_counted() -> None:
    ring = PrintkRing(PPC32, 5, 12)
    ring.tail = (ring.head + 1) & ring.record_mask
    made_up = ring.place()
    made_up.number(made_up.base + RING_AT, 26, 4)
    log = open_log(ring.kernel(made_up))
    assert log.read() == []
    assert log.losses.unread == (1 << 26) - (1 << 18)
    assert "which record is its oldest" in (log.problem or "")


def test_records_whose_texts_overlap_do_not_multiply_the_ring() -> None:
    ring = PrintkRing(PPC64LE, 9, 12)
    for number in range(ring.count):
        record = (ring.head - number) & ring.record_mask
        place = record % ring.count
        begin = place * 8
        ring.text[begin : begin + 8] = record.to_bytes(8, "little")
        ring.descriptors[place] = Descriptor(FINALIZED, record, begin, max(begin + 8, min(begin + 2048, ring.size - 8)))
        ring.infos[place] = Info(sequence=place, text_bytes=0xFFFF)
        ring.tail = record
    log = open_log(ring.kernel())
    assert len({line.sequence for line in log.read()}) <= 64
    assert log.losses.unread == 448
    assert log.losses.cut == "the log's records claim more text than their ring holds"


@pytest.mark.parametrize("seed", range(40))
def test_a_ring_of_noise_ends_and_gives_text_alone(seed: int) -> None:
    chance = random.Random(seed)
    ring = random_ring(chance)
    made_up = ring.place()
    for table, size_bytes in ((DESCRIPTORS_AT, 24 * ring.count), (INFOS_AT, 88 * ring.count), (RING_AT + 8, 32)):
        for _ in range(chance.randint(0, 30)):
            made_up.number(made_up.base + table + chance.randrange(size_bytes), chance.getrandbits(8), 1)
    try:
        lines = open_log(ring.kernel(made_up)).read()
    except (FormatError, PageError):
        return
    assert all(line.text.replace("\t", "").isprintable() for line in lines)


@pytest.mark.parametrize(
    ("begin", "end"),
    [(6, 26), (8, 26), (8, 8), (8, 9), (9, 24), (24, 8), (8, 2 * 256 + 24), (8, 3 * 256), (8, 10), (8, 256 + 2)],
)
def test_positions_that_no_writer_leaves_are_no_text(begin: int, end: int) -> None:
    ring = PrintkRing(PPC32, 4, 8)
    ring.log(b"text")
    for place in (0, begin % ring.size):
        ring.text[place : place + 4] = ring.head.to_bytes(4, "big")
    descriptor = ring.descriptor_of(ring.head)
    descriptor.begin, descriptor.next = begin, end
    log = open_log(ring.kernel())
    assert log.read() == []
    assert (log.losses.unreadable, log.losses.dropped) == (1, 0)


@pytest.mark.parametrize("begin", [0xFFFFFF08, 8])
@pytest.mark.parametrize("end", [0, 256, 24], ids=["count overflows", "at the end", "in place"])
def test_a_block_before_the_end_is_read_where_it_stands(begin: int, end: int) -> None:
    ring = PrintkRing(PPC32, 4, 8)
    ring.log(b"text")
    lap = begin - begin % ring.size
    end = (lap + (end or ring.size)) & 0xFFFFFFFF
    ring.text[8:16] = ring.head.to_bytes(4, "big") + b"here"
    descriptor = ring.descriptor_of(ring.head)
    descriptor.begin, descriptor.next = begin, end
    assert [line.text for line in open_log(ring.kernel()).read()] == ["here"]


def test_layouts_that_overlap_are_a_symbol_error() -> None:
    ring = PrintkRing(PPC32, 4, 8)
    info = vmcoreinfo_of(PPC32)
    hostile = replace(info, offsets=info.offsets | {"printk_info.text_len": 9})
    with pytest.raises(SymbolError, match="overlap"):
        open_log_by_vmcoreinfo(ring.place().memory(), hostile)
