"""kdump headers: every version, layout and byte order says the same of itself; what contradicts itself is refused."""

import struct

import pytest

from crashbeam.schemas.codes import FailureCode
from crashbeam.vmcore.byte_source import BufferSource
from crashbeam.vmcore.containers.kdump import KdumpContainer
from crashbeam.vmcore.errors import FormatError, TruncatedError
from tests.builders.elf_notes import PPC64_PRSTATUS_BYTES, prstatus_note, vmcoreinfo_note
from tests.builders.kdump_file import INCOMPLETE, SUB_HEADER_BYTES, KdumpFile
from tests.builders.pages import read_or_status, text_page

PAGES = {3: text_page(3), 17: text_page(17), 40: text_page(40)}
INFO = b"OSRELEASE=6.12.0-test\nPAGESIZE=4096\n"
LAYOUTS = ("ppc32", "time64", "packed", "ppc64")


def opened(data: bytes) -> KdumpContainer:
    return KdumpContainer(BufferSource(data))


def notes_for(byte_order: str, layout: str = "ppc32") -> bytes:
    size = PPC64_PRSTATUS_BYTES if layout == "ppc64" else 268
    return prstatus_note(7, byte_order, size) + vmcoreinfo_note(INFO, byte_order)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("byte_order", ["big", "little"])
def test_a_version_6_file_is_read_in_every_layout_and_byte_order(layout: str, byte_order: str) -> None:
    notes = notes_for(byte_order, layout)
    file = KdumpFile(
        PAGES, layout=layout, byte_order=byte_order, notes=notes, vmcoreinfo=INFO, timestamp=1_700_000_000, excluded=[5]
    )

    container = opened(file.build())

    facts = container.facts
    assert (facts.container, facts.header_version, facts.byte_order) == ("kdump", 6, byte_order)
    assert facts.word_bytes == (8 if layout == "ppc64" else 4)
    assert (facts.block_size, facts.max_pfn, facts.dump_level) == (4096, 64, 31)
    assert facts.notes == (notes,)
    assert facts.vmcoreinfo == INFO
    assert facts.timestamp_seconds == 1_700_000_000
    assert facts.utsname is not None
    assert (facts.utsname.nodename, facts.utsname.release) == ("host", "6.12.0-test")
    assert facts.complete
    assert {pfn: container.read_page(pfn) for pfn in PAGES} == PAGES
    assert read_or_status(container, 5) == "excluded"
    assert read_or_status(container, 6) == "absent"


def test_quirks_name_the_odd_layouts() -> None:
    quirks = {
        layout: opened(KdumpFile(PAGES, layout=layout, notes=notes_for("big")).build()).facts.quirks
        for layout in LAYOUTS
    }

    assert quirks == {
        "ppc32": (),
        "ppc64": (),
        "time64": ("time64_header",),
        "packed": ("qemu_packed_sub_header",),
    }


@pytest.mark.parametrize("version", range(7))
@pytest.mark.parametrize("layout", ["ppc32", "packed", "ppc64"])
def test_fields_that_a_version_does_not_have_are_not_read(version: int, layout: str) -> None:
    file = KdumpFile(PAGES, version=version, layout=layout, notes=notes_for("big"), vmcoreinfo=INFO)

    container = opened(file.build())

    facts = container.facts
    assert facts.header_version == version
    assert facts.max_pfn == 64
    assert facts.dump_level == (31 if version >= 1 else None)
    assert facts.vmcoreinfo == (INFO if version >= 3 else None)
    assert facts.notes == ((notes_for("big"),) if version >= 4 else ())
    assert container.read_page(17) == PAGES[17]


def test_stale_bytes_of_a_newer_version_are_ignored() -> None:
    file = KdumpFile(PAGES, version=2, layout="ppc64", poke={4096 + 32: b"\xff" * 72})

    facts = opened(file.build()).facts

    assert (facts.notes, facts.vmcoreinfo, facts.max_pfn) == ((), None, 64)


def test_qemu_is_known_by_the_names_it_leaves_out() -> None:
    qemu_64 = KdumpFile(PAGES, layout="ppc64", machine="Unknown", release="", notes=notes_for("big", "ppc64"))
    qemu_32 = KdumpFile(PAGES, layout="packed", machine="", release="", notes=notes_for("big"))

    facts_64, facts_32 = opened(qemu_64.build()).facts, opened(qemu_32.build()).facts

    assert (facts_64.written_by, facts_64.word_bytes) == ("qemu", 8)
    assert (facts_32.written_by, facts_32.word_bytes, facts_32.utsname) == ("qemu", 4, None)


def test_a_wide_header_without_a_machine_can_still_have_a_32_bit_sub_header() -> None:
    file = KdumpFile(PAGES, layout="time64", machine="", notes=notes_for("big"))

    facts = opened(file.build()).facts

    assert (facts.word_bytes, facts.quirks) == (4, ("time64_header",))


def test_a_padded_sub_header_without_vmcoreinfo_is_not_taken_for_a_packed_one() -> None:
    facts = opened(KdumpFile(PAGES, layout="ppc32", notes=prstatus_note(1)).build()).facts

    assert (facts.quirks, facts.notes) == ((), (prstatus_note(1),))


@pytest.mark.parametrize("version", [4, 6])
def test_a_dump_without_notes_opens(version: int) -> None:
    facts = opened(KdumpFile(PAGES, version=version).build()).facts

    assert (facts.notes, facts.vmcoreinfo) == ((), None)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("machine", [None, ""])
def test_without_notes_the_page_count_tells_the_layout(layout: str, machine: str | None) -> None:
    facts = opened(KdumpFile(PAGES, layout=layout, machine=machine).build()).facts

    assert facts.max_pfn == 64
    assert facts.quirks == {"time64": ("time64_header",), "packed": ("qemu_packed_sub_header",)}.get(layout, ())


def test_vmcoreinfo_is_found_by_name_where_the_header_does_not_point_to_it() -> None:
    notes = notes_for("big")

    assert opened(KdumpFile(PAGES, notes=notes).build()).facts.vmcoreinfo == INFO


def test_notes_longer_than_the_first_read_are_whole() -> None:
    notes = b"".join(prstatus_note(cpu) for cpu in range(64)) + vmcoreinfo_note(INFO)

    facts = opened(KdumpFile(PAGES, notes=notes, vmcoreinfo=INFO).build()).facts

    assert facts.notes == (notes,)


def test_a_writer_without_a_known_name_is_unknown() -> None:
    file = KdumpFile(PAGES, poke={12: b"Other\0"})

    assert opened(file.build()).facts.written_by == "unknown"


def test_the_incomplete_flag_is_the_reason_given() -> None:
    facts = opened(KdumpFile(PAGES, status=INCOMPLETE).build()).facts

    assert (facts.complete, facts.incomplete_reason) == (False, "the writer ran out of space")


@pytest.mark.parametrize(
    ("at", "new"),
    [
        pytest.param(8, struct.pack(">i", 7), id="version 7"),
        pytest.param(8, struct.pack(">i", -1), id="version -1"),
        pytest.param(416, struct.pack(">I", 0), id="block size 0"),
        pytest.param(416, struct.pack(">I", 1), id="block size 1"),
        pytest.param(416, struct.pack(">I", 5000), id="block size no power of two"),
        pytest.param(416, struct.pack(">I", 1 << 31), id="block size 2 GiB"),
        pytest.param(420, struct.pack(">i", 0), id="no sub header"),
        pytest.param(420, struct.pack(">i", (1 << 31) - 1), id="huge sub header"),
        pytest.param(424, struct.pack(">I", 0), id="no bitmap"),
        pytest.param(428, struct.pack(">I", 0xFFFFFFFF), id="more pages than bits"),
        pytest.param(4096 + 88, struct.pack(">Q", 1 << 63), id="2^63 pages"),
        pytest.param(4096 + 88, struct.pack(">Q", 1 << 30), id="more pages than bits in 64 bits"),
        pytest.param(4096 + 40, struct.pack(">q", -5), id="notes before the file"),
        pytest.param(4096 + 40, struct.pack(">q", 1 << 62), id="notes beyond any file"),
        pytest.param(4096 + 48, struct.pack(">I", 0xFFFFFFFF), id="4 GiB of notes"),
    ],
)
def test_numbers_that_contradict_each_other_are_malformed(at: int, new: bytes) -> None:
    file = KdumpFile(PAGES, notes=prstatus_note(1), poke={at: new})

    with pytest.raises(FormatError) as caught:
        opened(file.build())

    assert caught.value.code is FailureCode.MALFORMED


@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "i686"])
def test_another_machine_is_named_and_not_supported(machine: str) -> None:
    with pytest.raises(FormatError, match=machine) as caught:
        opened(KdumpFile(PAGES, layout="ppc64", byte_order="little", machine=machine).build())

    assert caught.value.code is FailureCode.UNSUPPORTED


@pytest.mark.parametrize("length", [8, 463, 4096, 4096 + 95, 4096 + 96 + 100])
def test_a_file_cut_in_headers_or_notes_is_truncated(length: int) -> None:
    data = KdumpFile(PAGES, notes=prstatus_note(1)).build()

    with pytest.raises(TruncatedError) as caught:
        opened(data[:length])

    assert caught.value.code is FailureCode.TRUNCATED


def test_the_notes_follow_the_sub_header_in_every_layout() -> None:
    for layout, size_bytes in SUB_HEADER_BYTES.items():
        data = KdumpFile(PAGES, layout=layout, notes=notes_for("big", layout)).build()
        assert data[4096 + size_bytes : 4096 + size_bytes + 4] == struct.pack(">I", 5)
