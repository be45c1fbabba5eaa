"""How page data is packed: one entry per bit of ``page_desc.flags`` (makedumpfile diskdump_mod.h, crash diskdump.h).

Every decoder is given at most one page's worth of input and gives exactly ``block_size`` bytes or raises FormatError;
none allocates by a size that the data claims. The rarer libraries are loaded when the first such page is met.
"""

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

import deflate

from crashbeam.vmcore.errors import FormatError

FLAG_ZLIB: Final = 0x1
FLAG_LZO: Final = 0x2
FLAG_SNAPPY: Final = 0x4
FLAG_ZSTD: Final = 0x20

if TYPE_CHECKING:
    import zstandard

Decode = Callable[[bytes, int], bytes]


def _raw(data: bytes, block_size: int) -> bytes:
    return _whole(data, block_size)


def _zlib(data: bytes, block_size: int) -> bytes:
    # The room is a page's: a longer stream is an error, as is one that is cut or whose checksum differs.
    try:
        page = bytes(deflate.zlib_decompress(data, block_size))
    except deflate.DeflateError as error:
        raise FormatError("page data is no zlib stream of one page") from error
    return _whole(page, block_size)


def _lzo(data: bytes, block_size: int) -> bytes:
    # An LZO1X byte stands for at most 255 bytes of output, so a page of input bounds what is allocated.
    from lzallright import LZOCompressor, LZOError

    try:
        page = LZOCompressor.decompress(data, block_size)
    except LZOError as error:
        raise FormatError(f"page data is no LZO block: {error}") from error
    return _whole(page, block_size)


def _snappy(data: bytes, block_size: int) -> bytes:
    from cramjam import DecompressionError, snappy

    if _snappy_length(data) != block_size:
        raise FormatError("page data is a snappy block of another length", block_size=block_size)
    try:
        page = bytes(snappy.decompress_raw(data))
    except DecompressionError as error:
        raise FormatError(f"page data is no snappy block: {error}") from error
    return _whole(page, block_size)


def _snappy_length(data: bytes) -> int:
    """The length that a raw snappy block announces:

    a little-endian base-128 number of at most 5 bytes; -1 if it is none.
    """
    length = 0
    for place, byte in enumerate(data[:5]):
        length |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return length
    return -1


class _PerThread(threading.local):
    """A zstd decompressor costs ten pages to make and must not be shared by threads."""

    decompressor: "zstandard.ZstdDecompressor | None" = None


_per_thread = _PerThread()


def _zstd(data: bytes, block_size: int) -> bytes:
    import zstandard

    try:
        # Without the check the library would allocate what the frame header claims, whatever max_output_size says.
        if zstandard.frame_content_size(data) not in (-1, block_size):
            raise FormatError("page data is a zstd frame of another length", block_size=block_size)
        decompressor = _per_thread.decompressor or zstandard.ZstdDecompressor()
        _per_thread.decompressor = decompressor
        page = decompressor.decompress(data, max_output_size=block_size)
    except zstandard.ZstdError as error:
        raise FormatError(f"page data is no zstd frame: {error}") from error
    return _whole(page, block_size)


def _whole(page: bytes, block_size: int) -> bytes:
    if len(page) != block_size:
        raise FormatError("page data is not one page long", size_bytes=len(page), block_size=block_size)
    return page


CODECS: Final[Mapping[int, tuple[str, Decode]]] = {
    0: ("raw", _raw),
    FLAG_ZLIB: ("zlib", _zlib),
    FLAG_LZO: ("lzo", _lzo),
    FLAG_SNAPPY: ("snappy", _snappy),
    FLAG_ZSTD: ("zstd", _zstd),
}
"""``flags`` of a page descriptor to the codec's name and its decoder."""
