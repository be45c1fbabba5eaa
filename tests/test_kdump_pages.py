"""Pages of a kdump file: which are stored, why others are not, and how a damaged file says so."""

import pytest

from crashbeam.vmcore.byte_source import BufferSource
from crashbeam.vmcore.containers.kdump import KdumpContainer
from crashbeam.vmcore.containers.page_bitmap import CHUNK_BYTES
from crashbeam.vmcore.errors import PageError
from tests.builders.kdump_file import INCOMPLETE, ZLIB, KdumpFile
from tests.builders.pages import read_or_status, text_page

PAGES = {pfn: text_page(pfn) for pfn in (0, 1, 3, 15, 200)}


def opened(data: bytes) -> KdumpContainer:
    return KdumpContainer(BufferSource(data))


class CountingSource(BufferSource):
    """Counts what is read."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.reads: list[tuple[int, int]] = []

    def read(self, offset: int, size_bytes: int) -> bytes:
        self.reads.append((offset, size_bytes))
        return super().read(offset, size_bytes)


class SparseSource:
    """A large file of zeros with bytes here and there, as a sparse file is."""

    name = "sparse"

    def __init__(self, size_bytes: int, written: dict[int, bytes]) -> None:
        self.size_bytes = size_bytes
        self._written = written

    def read(self, offset: int, size_bytes: int) -> bytes:
        end = min(offset + size_bytes, self.size_bytes)
        data = bytearray(max(0, end - offset))
        for at, piece in self._written.items():
            for place, byte in enumerate(piece, at - offset):
                if 0 <= place < len(data):
                    data[place] = byte
        return bytes(data)

    def close(self) -> None:
        """Nothing is held open."""


def test_a_page_is_stored_excluded_or_absent() -> None:
    container = opened(KdumpFile(PAGES, max_pfn=256, excluded=[2, 4]).build())

    assert {pfn: container.read_page(pfn) for pfn in PAGES} == PAGES
    assert [read_or_status(container, pfn) for pfn in (2, 4, 5, 255, 256, -1, 1 << 50)] == [
        *("excluded", "excluded"),
        *("absent", "absent", "absent", "absent", "absent"),
    ]
    assert container.codecs_met == {"raw"}


def test_the_old_form_with_one_bitmap_knows_no_excluded_pages() -> None:
    container = opened(KdumpFile(PAGES, max_pfn=256, version=1, one_bitmap=True).build())

    assert container.read_page(200) == PAGES[200]
    assert read_or_status(container, 2) == "absent"


@pytest.mark.parametrize(
    ("descriptor", "status"),
    [
        pytest.param((0, 4096, 0), "lost", id="offset 0: the writer ran out of space"),
        pytest.param((-8, 4096, 0), "corrupt", id="negative offset"),
        pytest.param((100, 4096, 0), "corrupt", id="data inside the headers"),
        pytest.param((20_000, 0, 0), "corrupt", id="size 0"),
        pytest.param((20_000, 4097, 0), "corrupt", id="larger than a page"),
        pytest.param((20_000, 100, 0), "corrupt", id="raw, but no whole page"),
        pytest.param((20_000, 4096, 0x40), "corrupt", id="unknown flag"),
        pytest.param((20_000, 4096, 0x3), "corrupt", id="two flags"),
        pytest.param((20_000, 4000, ZLIB), "corrupt", id="no zlib stream"),
        pytest.param((1 << 40, 4096, 0), "truncated", id="beyond the end of the file"),
        pytest.param(((1 << 63) - 1, 4096, 0), "truncated", id="offset at the end of 63 bits"),
    ],
)
def test_a_descriptor_that_cannot_be_followed_costs_its_page_only(
    descriptor: tuple[int, int, int], status: str
) -> None:
    container = opened(KdumpFile(PAGES, max_pfn=256, descriptors={3: descriptor}).build())

    assert read_or_status(container, 3) == status
    assert container.read_page(1) == PAGES[1]
    assert container.read_page(200) == PAGES[200]


def test_a_page_error_says_where() -> None:
    container = opened(KdumpFile(PAGES, max_pfn=256, descriptors={3: (100, 4096, 0)}).build())

    with pytest.raises(PageError) as caught:
        container.read_page(3)

    assert (caught.value.facts["pfn"], caught.value.facts["offset"]) == (3, 100)


@pytest.mark.parametrize(
    ("cut", "reason", "statuses"),
    [
        pytest.param("data", "the file ends inside its page data", ["page", "page", "truncated"], id="last page"),
        pytest.param(
            "descriptors",
            "the file ends inside its page descriptors",
            ["truncated"] * 3,
            id="descriptors, all data gone",
        ),
        pytest.param("bitmap", "the file ends inside its bitmaps", ["truncated"] * 3, id="second bitmap"),
    ],
)
def test_a_file_that_is_cut_says_where_and_keeps_what_is_there(cut: str, reason: str, statuses: list[str]) -> None:
    file = KdumpFile(PAGES, max_pfn=256)
    data = file.build()
    length = {"data": len(data) - 1, "descriptors": file.descriptors_at + 50, "bitmap": file.bitmap_at + 4096}[cut]

    container = opened(data[:length])

    assert (container.facts.complete, container.facts.incomplete_reason) == (False, reason)
    found = [read_or_status(container, pfn) for pfn in (0, 15, 200)]
    assert ["page" if isinstance(each, bytes) else each for each in found] == statuses


def test_pages_behind_the_end_of_an_incomplete_file_were_never_written() -> None:
    data = KdumpFile(PAGES, max_pfn=256, status=INCOMPLETE).build()

    container = opened(data[:-1])

    assert read_or_status(container, 200) == "lost"


def test_a_file_that_shrinks_while_it_is_read_is_truncated() -> None:
    class Shrinking(CountingSource):
        def read(self, offset: int, size_bytes: int) -> bytes:
            data = super().read(offset, size_bytes)
            return data if offset < self.size_bytes - 4096 else data[:10]

    container = KdumpContainer(Shrinking(KdumpFile(PAGES, max_pfn=256).build()))

    assert read_or_status(container, 200) == "truncated"


def test_a_file_that_shrank_to_its_bitmaps_before_it_was_opened_is_not_complete() -> None:
    file = KdumpFile(PAGES, max_pfn=256)

    class Shrunk(BufferSource):
        def read(self, offset: int, size_bytes: int) -> bytes:
            return super().read(offset, size_bytes) if offset < file.bitmap_at else b""

    assert KdumpContainer(Shrunk(file.build())).facts.incomplete_reason == "the file ends inside its bitmaps"


def test_a_page_costs_few_and_small_reads() -> None:
    source = CountingSource(KdumpFile({pfn: text_page(pfn) for pfn in range(1000)}, max_pfn=1 << 15).build())
    container = KdumpContainer(source)
    source.reads.clear()

    for pfn in range(100, 160):
        container.read_page(pfn)

    beside_pages = [size_bytes for _, size_bytes in source.reads if size_bytes != 4096]
    assert len(beside_pages) <= 4
    assert sum(beside_pages) < 4096


def test_counts_hold_across_every_boundary_of_the_bitmap() -> None:
    chunk_pfns = 8 * CHUNK_BYTES
    edges = [0, 7, 8, 2047, 2048, 2049, chunk_pfns - 1, chunk_pfns, chunk_pfns + 2048, 3 * chunk_pfns + 5]
    pages = {pfn: text_page(pfn, 1024) for pfn in edges}

    container = opened(KdumpFile(pages, max_pfn=4 * chunk_pfns, block_size=1024).build())

    assert {pfn: container.read_page(pfn) for pfn in reversed(edges)} == pages


def test_a_dump_of_a_terabyte_opens_and_reads_with_little_memory() -> None:
    max_pfn, pfn = 1 << 28, (1 << 28) - 9
    file = KdumpFile({}, max_pfn=64, layout="ppc64")
    headers = bytearray(file.build()[: file.bitmap_at])
    bitmap_blocks = 2 * max_pfn // (8 * 4096)
    headers[436:440] = file.number(bitmap_blocks, 4)
    headers[440:444] = file.number(max_pfn, 4)
    headers[4096 + 96 : 4096 + 104] = file.number(max_pfn, 8)
    second = file.bitmap_at + bitmap_blocks // 2 * 4096
    table = file.bitmap_at + bitmap_blocks * 4096
    descriptor = file.number(table + 24, 8) + file.number(4096, 4) + bytes(12)
    bits = bytes([1 << pfn % 8])
    written = {0: bytes(headers), second + pfn // 8: bits, table: descriptor, table + 24: text_page(pfn)}
    source = SparseSource(table + 24 + 4096, {**written, file.bitmap_at + 12: b"\1"})

    container = KdumpContainer(source)

    assert container.facts.complete
    assert container.facts.max_pfn == max_pfn
    assert read_or_status(container, 96) == "excluded"
    assert container.read_page(pfn) == text_page(pfn)


def test_a_large_dump_cut_inside_its_descriptors_is_not_complete() -> None:
    max_pfn = 1 << 22
    file = KdumpFile({pfn: bytes(1024) for pfn in range(8)}, max_pfn=max_pfn, block_size=1024, layout="ppc64")
    data = file.build()

    whole, cut = opened(data), opened(data[: file.descriptors_at + 3 * 24])

    assert whole.facts.complete
    assert cut.facts.incomplete_reason == "the file ends inside its page descriptors"


def test_batches_and_chunks_are_given_back_when_many_pages_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crashbeam.vmcore.containers.kdump._BATCHES_KEPT", 2)
    monkeypatch.setattr("crashbeam.vmcore.containers.page_bitmap._CHUNKS_KEPT", 1)
    chunk_pfns = 8 * CHUNK_BYTES
    pages = {pfn: text_page(pfn, 1024) for pfn in [*range(300), *range(chunk_pfns, chunk_pfns + 100)]}
    container = opened(KdumpFile(pages, max_pfn=2 * chunk_pfns, block_size=1024).build())

    for _ in range(2):
        assert all(container.read_page(pfn) == page for pfn, page in pages.items())
