"""Page codecs: a page comes back whole, anything else is refused, and no size that data claims is allocated."""

import tracemalloc
import zlib

import cramjam
import lzallright
import pytest
import zstandard

from crashbeam.vmcore.containers.codecs import CODECS
from crashbeam.vmcore.errors import FormatError
from tests.builders.pages import text_page

BY_NAME = dict(CODECS.values())


def packed(name: str, data: bytes) -> bytes:
    if name == "zlib":
        return zlib.compress(data)
    if name == "lzo":
        return lzallright.LZOCompressor().compress(data)
    if name == "snappy":
        return bytes(cramjam.snappy.compress_raw(data))
    return zstandard.compress(data)


def test_flags_are_those_of_makedumpfile() -> None:
    assert {flag: name for flag, (name, _) in CODECS.items()} == {
        0: "raw",
        0x1: "zlib",
        0x2: "lzo",
        0x4: "snappy",
        0x20: "zstd",
    }


@pytest.mark.parametrize("name", ["zlib", "lzo", "snappy", "zstd"])
@pytest.mark.parametrize("block_size", [4096, 65536])
def test_a_page_comes_back(name: str, block_size: int) -> None:
    page = text_page(5, block_size)

    assert BY_NAME[name](packed(name, page), block_size) == page


def test_a_raw_page_is_itself() -> None:
    assert BY_NAME["raw"](text_page(5), 4096) == text_page(5)


@pytest.mark.parametrize("name", ["zlib", "lzo", "snappy", "zstd"])
@pytest.mark.parametrize("size_bytes", [0, 1, 4095, 4097, 8192])
def test_a_page_of_another_length_is_refused(name: str, size_bytes: int) -> None:
    with pytest.raises(FormatError):
        BY_NAME[name](packed(name, text_page(5, 8192)[:size_bytes]), 4096)


@pytest.mark.parametrize("name", ["zlib", "lzo", "snappy", "zstd"])
@pytest.mark.parametrize("data", [b"", b"\0", b"\x80" * 10, b"\xff" * 100, bytes(50)])
def test_what_is_no_stream_is_refused(name: str, data: bytes) -> None:
    with pytest.raises(FormatError):
        BY_NAME[name](data, 4096)


@pytest.mark.parametrize("name", ["zlib", "lzo", "snappy", "zstd"])
def test_a_cut_stream_is_refused(name: str) -> None:
    whole = packed(name, text_page(5))

    with pytest.raises(FormatError):
        BY_NAME[name](whole[: len(whole) // 2], 4096)


def test_a_zlib_page_whose_checksum_is_wrong_is_refused() -> None:
    data = bytearray(zlib.compress(text_page(5)))
    data[-1] ^= 1

    with pytest.raises(FormatError):
        BY_NAME["zlib"](bytes(data), 4096)


def test_a_snappy_block_with_garbage_behind_a_right_length_is_refused() -> None:
    good = packed("snappy", text_page(5))

    with pytest.raises(FormatError):
        BY_NAME["snappy"](good[:2] + b"\xff" * 20, 4096)


def test_a_zstd_frame_without_a_content_size_is_read() -> None:
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(text_page(5))

    assert BY_NAME["zstd"](frame, 4096) == text_page(5)


@pytest.mark.parametrize("name", ["zlib", "snappy", "zstd"])
def test_a_bomb_is_refused_without_being_unpacked(name: str) -> None:
    bomb = packed(name, bytes(64 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            BY_NAME[name](bomb, 4096)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak_bytes < 1 << 20


def test_a_page_of_lzo_input_cannot_become_more_than_a_megabyte() -> None:
    bomb = packed("lzo", bytes(8 << 20))[:4096]

    with pytest.raises(FormatError):
        BY_NAME["lzo"](bomb, 4096)
