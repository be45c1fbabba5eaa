"""ELF vmcores: pages by physical address, whatever class, byte order and maker."""

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crashbeam.schemas.codes import FailureCode
from crashbeam.vmcore.byte_source import BufferSource
from crashbeam.vmcore.containers import elf
from crashbeam.vmcore.containers.detect import open_container
from crashbeam.vmcore.containers.elf import ElfContainer
from crashbeam.vmcore.errors import FormatError, LimitError, TruncatedError
from crashbeam.vmcore.limits import Budget
from tests.builders.elf_file import PPC64, PT_LOAD, PT_NOTE, ElfFile, Segment
from tests.builders.elf_notes import note, prstatus_note, vmcoreinfo_note
from tests.builders.pages import read_or_status, text_page

INFO = b"OSRELEASE=6.12.0-test\n"
MEMORY = b"".join(text_page(pfn) for pfn in range(4))


def core(*segments: Segment, **changes: Any) -> bytes:
    order = str(changes.get("byte_order", "big"))
    notes = Segment(PT_NOTE, prstatus_note(1, order) + vmcoreinfo_note(INFO, order))
    loads = segments or (Segment(PT_LOAD, MEMORY, 0x10000),)
    return replace(ElfFile([notes, *loads]), **changes).build()


def opened(data: bytes) -> ElfContainer:
    return ElfContainer(BufferSource(data), Budget())


def statuses(container: ElfContainer, *pfns: int) -> list[str]:
    found = [read_or_status(container, pfn) for pfn in pfns]
    return ["page" if isinstance(each, bytes) else each for each in found]


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("byte_order", ["big", "little"])
@pytest.mark.parametrize("lying_data", [False, True])
@pytest.mark.parametrize("extended", [False, True])
def test_pages_and_notes_in_every_class_and_byte_order(
    bits: int, byte_order: str, lying_data: bool, extended: bool
) -> None:
    data = core(bits=bits, machine=PPC64, byte_order=byte_order, lying_data=lying_data, extended=extended)

    container = opened(data)

    facts = container.facts
    assert (facts.container, facts.byte_order, facts.word_bytes, facts.block_size) == ("elf", byte_order, 8, 4096)
    assert (facts.max_pfn, facts.complete, facts.written_by) == (0x14, True, "proc-vmcore")
    assert facts.vmcoreinfo == INFO
    assert container.read_page(0x12) == text_page(2)
    assert statuses(container, 0, 0xF, 0x10, 0x13, 0x14, -1) == ["absent", "absent", "page", "page", "absent", "absent"]


def test_the_class_does_not_tell_the_word_size_of_the_kernel() -> None:
    assert opened(core(bits=64)).facts.word_bytes == 4


def test_several_note_segments_are_kept_apart_and_in_order() -> None:
    first, second = prstatus_note(1), prstatus_note(2)
    data = ElfFile([Segment(PT_NOTE, first), Segment(PT_LOAD, MEMORY), Segment(PT_NOTE), Segment(PT_NOTE, second)])

    facts = opened(data.build()).facts

    assert facts.notes == (first, second)
    assert (facts.vmcoreinfo, facts.written_by) == (None, "unknown")


def test_memory_behind_p_filesz_was_excluded_and_a_range_without_data_too() -> None:
    tail = Segment(PT_LOAD, text_page(0), 0, memory_bytes=0x3000)
    nothing = Segment(PT_LOAD, b"", 0x8000, memory_bytes=0x2000, offset=0)

    container = opened(core(tail, nothing))

    assert statuses(container, 0, 1, 2, 3, 7, 8, 9, 10) == [
        *("page", "excluded", "excluded", "absent", "absent", "excluded", "excluded", "absent")
    ]
    assert container.facts.written_by == "makedumpfile"


@pytest.mark.parametrize(("bits", "no_offset"), [(32, (1 << 32) - 1), (64, (1 << 64) - 1)])
def test_a_range_that_qemu_filtered_out_is_no_memory(bits: int, no_offset: int) -> None:
    filtered = Segment(PT_LOAD, b"", 0x8000, memory_bytes=0x2000, offset=no_offset)

    container = opened(core(Segment(PT_LOAD, MEMORY), filtered, bits=bits))

    assert statuses(container, 8) == ["absent"]
    assert container.facts.complete


def test_a_page_is_put_together_from_segments_and_excluded_bytes() -> None:
    first = Segment(PT_LOAD, b"a" * 1000, 0x1000)
    second = Segment(PT_LOAD, b"b" * 1000, 0x1000 + 1000, memory_bytes=0x1000 - 1000)

    assert opened(core(first, second)).read_page(1) == b"a" * 1000 + b"b" * 1000 + bytes(2096)


def test_a_page_that_is_partly_no_memory_is_absent() -> None:
    container = opened(core(Segment(PT_LOAD, b"a" * 6000, 0), Segment(PT_LOAD, b"b" * 100, 0x2800)))

    assert statuses(container, 0, 1, 2) == ["page", "absent", "absent"]


def test_of_overlapping_segments_the_lowest_file_offset_counts() -> None:
    low = Segment(PT_LOAD, b"l" * 0x1000, 0x1000)
    wide = Segment(PT_LOAD, b"w" * 0x3000, 0)

    first, last = opened(core(low, wide)), opened(core(wide, low))

    assert [first.read_page(pfn)[:1] for pfn in range(3)] == [b"w", b"l", b"w"]
    assert [last.read_page(pfn)[:1] for pfn in range(3)] == [b"w", b"w", b"w"]


def test_stored_bytes_count_before_excluded_ones() -> None:
    hollow = Segment(PT_LOAD, b"h" * 0x1000, 0, memory_bytes=0x3000)
    stored = Segment(PT_LOAD, b"s" * 0x1000, 0x2000)

    container = opened(core(hollow, stored))

    assert statuses(container, 0, 1, 2) == ["page", "excluded", "page"]
    assert container.read_page(2) == b"s" * 0x1000


def test_overlapping_segments_may_leave_a_hole() -> None:
    one = Segment(PT_LOAD, b"1" * 0x2000, 0)
    two = Segment(PT_LOAD, b"2" * 0x2000, 0x1000)
    far = Segment(PT_LOAD, b"3" * 0x1000, 0x8000)

    assert statuses(opened(core(one, two, far)), 0, 1, 2, 3, 8) == ["page", "page", "page", "absent", "page"]


def test_a_cut_file_keeps_the_pages_before_the_cut() -> None:
    container = opened(core()[:-5000])

    assert (container.facts.complete, container.facts.incomplete_reason) == (
        False,
        "the file ends inside its memory segments",
    )
    assert statuses(container, 0x10, 0x11, 0x12, 0x13) == ["page", "page", "truncated", "truncated"]


@pytest.mark.parametrize(
    ("machine", "flags", "tail", "complete", "written_by"),
    [
        pytest.param(20, 1, False, False, "proc-vmcore", id="32 bit: out of space"),
        pytest.param(PPC64, 1, True, False, "makedumpfile", id="makedumpfile: out of space"),
        pytest.param(PPC64, 1, False, True, "fadump", id="fadump: ABI 1"),
        pytest.param(PPC64, 2, False, True, "fadump", id="fadump: ABI 2"),
    ],
)
def test_flags_mean_incomplete_but_for_fadump(
    machine: int, flags: int, tail: bool, complete: bool, written_by: str
) -> None:
    load = Segment(PT_LOAD, MEMORY, 0, memory_bytes=len(MEMORY) + (0x1000 if tail else 0))

    facts = opened(core(load, bits=64, machine=machine, flags=flags)).facts

    assert (facts.complete, facts.written_by) == (complete, written_by)


def test_qemu_is_known_by_its_floating_point_notes() -> None:
    notes = prstatus_note(1, size_bytes=328) + note(b"CORE\0", 2, bytes(260))
    data = bytearray(ElfFile([Segment(PT_NOTE, notes), Segment(PT_LOAD, MEMORY)]).build())
    data[40:42] = struct.pack(">H", 8)

    assert opened(bytes(data)).facts.written_by == "qemu"


@pytest.mark.parametrize("length", [20, 51, 60, 52 + 32, 52 + 64 + 100])
def test_a_file_cut_in_headers_or_notes_is_truncated(length: int) -> None:
    with pytest.raises(TruncatedError):
        opened(core()[:length])


def test_a_64_bit_header_that_is_cut_is_truncated() -> None:
    with pytest.raises(TruncatedError):
        opened(core(bits=64)[:60])


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"kind": 2}, FailureCode.UNKNOWN_FORMAT),
        ({"machine": 62}, FailureCode.UNSUPPORTED),
        ({"version": 2}, FailureCode.MALFORMED),
        ({"count": 0}, FailureCode.MALFORMED),
        ({"entry_bytes": 33}, FailureCode.MALFORMED),
    ],
)
def test_headers_that_make_no_sense_are_refused(changes: dict[str, int], code: FailureCode) -> None:
    with pytest.raises(FormatError) as caught:
        opened(core(**changes))

    assert caught.value.code is code


def test_an_unknown_class_is_no_core_file() -> None:
    data = bytearray(core())
    data[4] = 9

    with pytest.raises(FormatError):
        opened(bytes(data))


@pytest.mark.parametrize(
    "segment",
    [
        pytest.param(Segment(PT_LOAD, b"", (1 << 64) - 4096, memory_bytes=1 << 20, offset=0), id="end wraps"),
        pytest.param(Segment(PT_LOAD, b"", 0, file_bytes=1 << 40, offset=(1 << 63) - 1), id="beyond any file"),
        pytest.param(Segment(PT_NOTE, b"", file_bytes=1 << 40), id="a terabyte of notes"),
    ],
)
def test_segments_beyond_reason_are_malformed(segment: Segment) -> None:
    with pytest.raises(FormatError):
        opened(core(segment, bits=64))


@pytest.mark.parametrize("changes", [{"headers_at": (1 << 64) - 8}, {"headers_at": 1 << 40}])
def test_program_headers_beyond_the_file_are_truncated(changes: dict[str, int], tmp_path: Path) -> None:
    path = tmp_path / "core"
    path.write_bytes(core(bits=64, **changes))

    with pytest.raises(TruncatedError):
        open_container([str(path)], Budget())


def test_a_count_beyond_the_file_is_truncated_and_a_huge_one_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    extended = core(extended=True)
    count_at = extended.index(struct.pack(">I", 2), 52 + 64)
    huge = extended[:count_at] + struct.pack(">I", 1 << 30) + extended[count_at + 4 :]

    with pytest.raises(TruncatedError):
        opened(extended[: 52 + 64 + 20])
    with pytest.raises(LimitError):
        opened(huge)
    monkeypatch.setattr(elf, "MAX_SEGMENTS", 1)
    with pytest.raises(LimitError):
        opened(core())


def test_a_dump_without_memory_opens() -> None:
    container = opened(ElfFile([Segment(PT_NOTE, prstatus_note(1))]).build())

    assert container.facts.max_pfn == 0
    assert statuses(container, 0) == ["absent"]
    container.close()


@pytest.mark.corpus
@pytest.mark.parametrize("folder", ["ppc32/c_null_module", "ppc64/be-null"])
def test_a_real_elf_dump_agrees_with_the_kdump_of_its_crash(corpus: Path, folder: str) -> None:
    elf_dump = open_container([str(corpus / folder / "vmcore.elf")], Budget())
    kdump = open_container([str(corpus / folder / "vmcore.zlib")], Budget())

    assert elf_dump.facts.notes == kdump.facts.notes
    assert elf_dump.facts.vmcoreinfo == kdump.facts.vmcoreinfo
    compared = 0
    for pfn in range(0, kdump.facts.max_pfn, 7):
        there, here = read_or_status(kdump, pfn), read_or_status(elf_dump, pfn)
        assert (there == "absent") == (here == "absent")
        if isinstance(there, bytes):
            assert here in (there, "excluded")
            assert here != "excluded" or not any(there)
            compared += 1
    assert compared > 100
