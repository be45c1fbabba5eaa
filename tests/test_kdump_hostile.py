"""Whatever is cut off or changed in a small dump: a VmcoreError, or a container whose pages raise PageError alone."""

import io
import zlib
from collections.abc import Callable, Mapping

import cramjam
import lzallright
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from crashbeam.vmcore.byte_source import BufferSource
from crashbeam.vmcore.containers import Container
from crashbeam.vmcore.containers.detect import _open_source
from crashbeam.vmcore.containers.kdump_writer import write_kdump
from crashbeam.vmcore.errors import PageError, VmcoreError
from crashbeam.vmcore.limits import Budget
from crashbeam.vmcore.notes import parse_notes
from tests.builders.elf_file import PT_LOAD, PT_NOTE, ElfFile, Segment
from tests.builders.elf_notes import prstatus_note, vmcoreinfo_note
from tests.builders.flattened_file import flatten_file
from tests.builders.kdump_file import ZLIB, KdumpFile, as_is
from tests.builders.pages import read_or_status, text_page

INFO = b"OSRELEASE=6.12.0-test\n"
NOTES = prstatus_note(1) + vmcoreinfo_note(INFO)
PAGES = {3: text_page(3), 17: text_page(17), 40: text_page(40)}


def zlib_packed(page: bytes) -> tuple[bytes, int]:
    return zlib.compress(page), ZLIB


def lzo_packed(page: bytes) -> tuple[bytes, int]:
    return lzallright.LZOCompressor().compress(page), 0x2


def snappy_packed(page: bytes) -> tuple[bytes, int]:
    return bytes(cramjam.snappy.compress_raw(page)), 0x4


def zstd_packed(page: bytes) -> tuple[bytes, int]:
    return zstandard.compress(page), 0x20


PACKS = (as_is, zlib_packed, lzo_packed, snappy_packed, zstd_packed)


def small_elf(pages: Mapping[int, bytes]) -> bytes:
    loads = [Segment(PT_LOAD, page, pfn << 12) for pfn, page in pages.items()]
    return ElfFile([Segment(PT_NOTE, NOTES), *loads]).build()


DUMPS = {
    "kdump": KdumpFile(PAGES, notes=NOTES, vmcoreinfo=INFO, pack=zlib_packed, excluded=[5]).build(),
    "lzo": KdumpFile(PAGES, notes=NOTES, layout="ppc64", pack=lzo_packed).build(),
    "snappy": KdumpFile(PAGES, notes=NOTES, layout="time64", byte_order="little", pack=snappy_packed).build(),
    "zstd": KdumpFile(PAGES, notes=NOTES, layout="packed", pack=zstd_packed, split=(3, 40)).build(),
    "elf": small_elf(PAGES),
    "flattened": flatten_file(KdumpFile(PAGES, notes=NOTES, pack=zlib_packed).build(), 700),
}


def opened(data: bytes) -> Container:
    budget = Budget(read_bytes=64 << 20)
    return _open_source(BufferSource(data), budget)


def look_at_everything(data: bytes) -> None:
    """Opens a dump and reads its notes and pages. Raises what is no PageError of a page."""
    try:
        container = opened(data)
    except VmcoreError:
        return
    parse_notes(container.facts.notes, container.facts.byte_order)
    for pfn in (*range(66), container.facts.max_pfn - 1, container.facts.max_pfn):
        try:
            page = container.read_page(pfn)
        except PageError:
            continue
        assert len(page) == container.facts.block_size


@given(st.data())
@pytest.mark.parametrize("kind", DUMPS)
def test_a_dump_cut_anywhere_raises_nothing_unknown(kind: str, data: st.DataObject) -> None:
    whole = DUMPS[kind]
    length = data.draw(st.integers(1, len(whole) - 1))

    look_at_everything(whole[:length])


@pytest.mark.parametrize("kind", DUMPS)
def test_a_dump_cut_at_any_byte_of_its_end_is_not_complete(kind: str) -> None:
    whole = DUMPS[kind]

    for cut_bytes in (1, 2, 15, 16, 17, 25):
        assert not opened(whole[:-cut_bytes]).facts.complete


@given(st.data())
@pytest.mark.parametrize("kind", DUMPS)
def test_changed_bytes_raise_nothing_unknown(kind: str, data: st.DataObject) -> None:
    dump = bytearray(DUMPS[kind])
    headers = st.integers(0, 8) | st.integers(400, 470) | st.integers(4096, 4300) | st.integers(0, len(dump) - 8)
    changes = st.lists(st.tuples(headers, st.binary(min_size=1, max_size=8)), min_size=1, max_size=4)
    for at, new in data.draw(changes):
        dump[at : at + len(new)] = new

    look_at_everything(bytes(dump))


@given(
    st.dictionaries(st.integers(0, 63), st.integers(0, 255), max_size=12),
    st.sampled_from(PACKS),
    st.sampled_from(["ppc32", "time64", "packed", "ppc64"]),
    st.sampled_from(["big", "little"]),
    st.integers(1, 5000),
)
def test_pages_come_back_from_every_container(
    fills: dict[int, int], pack: Callable[[bytes], tuple[bytes, int]], layout: str, byte_order: str, record_bytes: int
) -> None:
    pages = {pfn: bytes([fill]) * 2000 + text_page(fill)[2000:] for pfn, fill in fills.items()}
    kdump = KdumpFile(
        pages, layout=layout, byte_order=byte_order, notes=NOTES if byte_order == "big" else b"", pack=pack
    )
    dumps = {
        "kdump": kdump.build(),
        "flattened": flatten_file(kdump.build(), record_bytes),
        "elf": small_elf(pages),
    }
    written = io.BytesIO()
    write_kdump(written, opened(dumps["kdump"]).facts, pages)
    dumps["written"] = written.getvalue()

    for name, data in dumps.items():
        container = opened(data)
        found = {pfn: read_or_status(container, pfn) for pfn in range(64)}
        assert {pfn: page for pfn, page in found.items() if page != "absent"} == pages, name
