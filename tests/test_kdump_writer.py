"""Dumps that crashbeam writes: they say what the original says, hold what they were given, and are small."""

import io
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from crashbeam.vmcore.byte_source import BufferSource
from crashbeam.vmcore.containers import ContainerFacts, Utsname
from crashbeam.vmcore.containers.detect import open_container
from crashbeam.vmcore.containers.kdump import KdumpContainer
from crashbeam.vmcore.containers.kdump_writer import write_kdump
from crashbeam.vmcore.limits import Budget
from tests.builders.elf_file import PT_LOAD, PT_NOTE, ElfFile, Segment
from tests.builders.elf_notes import PPC64_PRSTATUS_BYTES, prstatus_note, vmcoreinfo_note
from tests.builders.kdump_file import INCOMPLETE, KdumpFile
from tests.builders.pages import read_or_status, text_page

INFO = b"OSRELEASE=6.12.0-test\n"
NOTES = prstatus_note(1) + prstatus_note(2) + vmcoreinfo_note(INFO)
PAGES = {3: text_page(3), 4: bytes(4096), 17: os.urandom(4096), 40: bytes(4096)}


def facts_of(layout: str = "ppc32", byte_order: str = "big", **changes: Any) -> ContainerFacts:
    size = PPC64_PRSTATUS_BYTES if layout == "ppc64" else 268
    notes = prstatus_note(1, byte_order, size) + vmcoreinfo_note(INFO, byte_order)
    fields: dict[str, Any] = {"notes": notes, "vmcoreinfo": INFO, "timestamp": 99, **changes}
    data = KdumpFile({}, layout=layout, byte_order=byte_order, **fields).build()
    return KdumpContainer(BufferSource(data)).facts


def written(facts: ContainerFacts, pages: dict[int, bytes], **options: Any) -> bytes:
    target = io.BytesIO()
    write_kdump(target, facts, pages, **options)
    return target.getvalue()


def opened(data: bytes) -> KdumpContainer:
    return KdumpContainer(BufferSource(data))


@pytest.mark.parametrize("layout", ["ppc32", "time64", "packed", "ppc64"])
@pytest.mark.parametrize("byte_order", ["big", "little"])
@pytest.mark.parametrize("codec", ["zlib", "zstd"])
def test_a_written_dump_says_what_it_was_told(layout: str, byte_order: str, codec: str) -> None:
    facts = facts_of(layout, byte_order)

    container = opened(written(facts, PAGES, excluded_pfns=[5, 17], lost_pfns=[6, 3], codec=codec))

    assert container.facts == facts
    assert {pfn: container.read_page(pfn) for pfn in PAGES} == PAGES
    assert [read_or_status(container, pfn) for pfn in (5, 6, 7, 64)] == ["excluded", "lost", "absent", "absent"]
    assert container.codecs_met == {codec, "raw"}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"status": INCOMPLETE}, id="incomplete"),
        pytest.param({"layout": "ppc64", "machine": "Unknown", "release": ""}, id="QEMU 64 bit"),
        pytest.param({"layout": "packed", "machine": "", "release": ""}, id="QEMU 32 bit"),
        pytest.param({"notes": b"", "vmcoreinfo": b""}, id="no notes"),
        pytest.param({"dump_level": 1}, id="level 1"),
        pytest.param({"max_pfn": 1 << 20}, id="4 GiB"),
        pytest.param({"layout": "ppc64", "block_size": 65536}, id="64K pages"),
    ],
)
def test_a_written_dump_is_of_the_same_kind(changes: dict[str, Any]) -> None:
    facts = facts_of(**changes)
    page = text_page(9, facts.block_size)

    container = opened(written(facts, {9: page}))

    assert replace(container.facts, utsname=None) == replace(facts, utsname=None)
    assert container.read_page(9) == page


def test_the_fields_stand_where_makedumpfile_puts_them() -> None:
    data = written(facts_of(notes=NOTES), PAGES, excluded_pfns=[5])

    assert data[:12] == b"KDUMP   " + struct.pack(">i", 6)
    status, block_size, sub_blocks, bitmap_blocks, max_mapnr, *zeros, cpus = struct.unpack_from(">IiiI5Ii", data, 412)
    assert (status, block_size, sub_blocks, bitmap_blocks, max_mapnr, zeros, cpus) == (1, 4096, 1, 2, 64, [0] * 4, 2)
    assert struct.unpack_from(">qI", data, 4096 + 40) == (4096 + 96, len(NOTES))
    assert data[4096 + 96 : 4096 + 96 + len(NOTES)] == NOTES
    first, second = data[8192:12288], data[12288:16384]
    assert [pfn for pfn in range(64) if first[pfn >> 3] >> (pfn & 7) & 1] == [3, 4, 5, 17, 40]
    assert [pfn for pfn in range(64) if second[pfn >> 3] >> (pfn & 7) & 1] == [3, 4, 17, 40]
    table = [struct.unpack_from(">qIIQ", data, 16384 + 24 * place) for place in range(4)]
    assert table[0][0] == 16384 + 4 * 24
    assert table[1] == table[3]
    assert (table[1][1], table[1][2]) == (4096, 0)
    assert (table[2][1], table[2][2]) == (4096, 0)


def test_zero_pages_are_stored_once() -> None:
    one, many = written(facts_of(), {1: bytes(4096)}), written(facts_of(), {pfn: bytes(4096) for pfn in range(30)})

    assert len(many) - len(one) == 29 * 24


def test_a_few_pages_of_a_large_memory_make_a_small_file(tmp_path: Path) -> None:
    small = facts_of(max_pfn=1 << 15)
    assert len(written(small, {pfn * 700: text_page(pfn) for pfn in range(40)}, excluded_pfns=range(1 << 15))) < 100_000

    path = tmp_path / "large"
    with path.open("wb") as target:
        write_kdump(target, replace(small, max_pfn=1 << 30), {(1 << 30) - 1: text_page(1)}, excluded_pfns=[1 << 29])
    assert path.stat().st_blocks * 512 < 200_000
    container = open_container([str(path)], Budget())
    assert container.facts.complete
    assert container.facts.max_pfn == 1 << 30
    assert container.read_page((1 << 30) - 1) == text_page(1)
    assert read_or_status(container, 1 << 29) == "excluded"
    container.close()


def test_a_dump_without_any_page_is_whole() -> None:
    container = opened(written(facts_of(), {}))

    assert container.facts.complete
    assert read_or_status(container, 3) == "absent"


def test_a_dump_made_of_an_elf_dump_has_the_names_that_elf_has() -> None:
    notes = Segment(PT_NOTE, NOTES)
    source = ElfFile([notes, Segment(PT_LOAD, text_page(0), 0, memory_bytes=0x4000)]).build()
    facts = _elf_facts(source)

    container = opened(written(facts, {0: text_page(0)}, excluded_pfns=[1, 2, 3]))

    assert container.facts.utsname == Utsname("Linux", "", "6.12.0-test", "", "ppc", "")
    assert (container.facts.notes, container.facts.vmcoreinfo) == ((NOTES,), INFO)
    assert (container.facts.written_by, container.facts.dump_level) == ("makedumpfile", 1)
    assert read_or_status(container, 2) == "excluded"


@pytest.mark.parametrize(("byte_order", "machine"), [("big", "ppc64"), ("little", "ppc64le")])
def test_a_64_bit_elf_dump_becomes_a_dump_of_its_machine(byte_order: str, machine: str) -> None:
    notes = Segment(PT_NOTE, prstatus_note(1, byte_order, PPC64_PRSTATUS_BYTES))
    source = ElfFile([notes, Segment(PT_LOAD, text_page(0))], bits=64, machine=21, byte_order=byte_order).build()

    container = opened(written(_elf_facts(source), {0: text_page(0)}))

    assert container.facts.utsname is not None
    assert (container.facts.utsname.machine, container.facts.word_bytes) == (machine, 8)
    assert container.facts.byte_order == byte_order


def _elf_facts(data: bytes) -> ContainerFacts:
    from crashbeam.vmcore.containers.elf import ElfContainer

    return ElfContainer(BufferSource(data), Budget()).facts


@pytest.mark.parametrize("pages", [{64: bytes(4096)}, {-1: bytes(4096)}, {3: bytes(4095)}])
def test_pages_that_do_not_fit_are_refused(pages: dict[int, bytes]) -> None:
    with pytest.raises(ValueError, match="page"):
        written(facts_of(), pages)


@pytest.mark.corpus
@pytest.mark.parametrize("name", ["ppc32/h_lostnote_sysrq/qemu.zlib.flat", "ppc64/le-sysrq/vmcore.zlib"])
def test_a_real_dump_written_again_says_the_same(corpus: Path, name: str) -> None:
    original = open_container([str(corpus / name)], Budget())
    pfns = range(0, original.facts.max_pfn, 101)
    found = {pfn: read_or_status(original, pfn) for pfn in pfns}
    pages = {pfn: page for pfn, page in found.items() if isinstance(page, bytes)}

    copy = opened(written(original.facts, pages, excluded_pfns=[pfn for pfn in pfns if found[pfn] == "excluded"]))

    assert replace(copy.facts, wrapping=original.facts.wrapping) == original.facts
    assert {pfn: read_or_status(copy, pfn) for pfn in pfns} == found
    assert len(pages) > 10
