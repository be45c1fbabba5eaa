"""The architectures, and which one a dump is of."""

import struct
from functools import lru_cache

from crashbeam.schemas.codes import FailureCode
from crashbeam.vmcore.arch.architecture import Architecture
from crashbeam.vmcore.arch.code import Flow, ReturnAddress
from crashbeam.vmcore.arch.ppc32 import PPC32
from crashbeam.vmcore.errors import FormatError

_BY_WORD_AND_ORDER = {(4, "big"): PPC32}


def choose_architecture(word_bytes: int, byte_order: str) -> Architecture:
    """The architecture of a kernel with this word size and byte order. Raises FormatError (``unsupported``)."""
    found = _BY_WORD_AND_ORDER.get((word_bytes, byte_order))
    if found is None:
        raise FormatError(
            f"the dump is of a {8 * word_bytes}-bit {byte_order}-endian kernel, which is not supported",
            code=FailureCode.UNSUPPORTED,
            hint="supported are 32-bit PowerPC kernels",
        )
    return found


@lru_cache(maxsize=2048)
def find_return_address(word_bytes: int, byte_order: str, code: bytes, index: int) -> ReturnAddress:
    """Where the function with this code keeps its return address before instruction ``index``.

    Kept across dumps, since the code itself is the key: it is read, and so recorded as needed, all the same.
    """
    arch = choose_architecture(word_bytes, byte_order)
    words = struct.unpack_from(f"{'>' if byte_order == 'big' else '<'}{len(code) // 4}I", code)
    return Flow(words, arch.lr_slot, arch.decode).at(index)
