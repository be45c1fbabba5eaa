"""The architectures, and which one a dump is of."""

import struct
from functools import lru_cache

from crashbeam.schemas.codes import FailureCode
from crashbeam.vmcore.arch.architecture import Architecture
from crashbeam.vmcore.arch.code import Flow, ReturnAddress
from crashbeam.vmcore.arch.ppc32 import PPC32
from crashbeam.vmcore.arch.ppc64 import PPC64, PPC64LE
from crashbeam.vmcore.errors import FormatError
from crashbeam.vmcore.symbols.compiled import Arch

ARCHITECTURES = {arch.name: arch for arch in (PPC32, PPC64, PPC64LE)}


def choose_architecture(word_bytes: int, byte_order: str) -> Architecture:
    """The architecture of a kernel with this word size and byte order. Raises FormatError (``unsupported``)."""
    for arch in ARCHITECTURES.values():
        if (arch.word_bytes, arch.byte_order) == (word_bytes, byte_order):
            return arch
    raise FormatError(
        f"the dump is of a {8 * word_bytes}-bit {byte_order}-endian kernel, which is not supported",
        code=FailureCode.UNSUPPORTED,
        hint="supported are PowerPC kernels: 32-bit big endian, 64-bit of both byte orders",
    )


@lru_cache(maxsize=2048)
def find_return_address(arch_name: Arch, code: bytes, index: int, lr_savers: range = range(0)) -> ReturnAddress:
    """Where the function with this code keeps its return address before instruction ``index``.

    ``lr_savers`` are the places of the routines that store LR for their caller, in words from the function's start.

    Kept across dumps, since the code itself is the key: it is read, and so recorded as needed, all the same.
    """
    arch = ARCHITECTURES[arch_name]
    words = struct.unpack_from(f"{'>' if arch.byte_order == 'big' else '<'}{len(code) // 4}I", code)
    return Flow(words, arch.lr_slot, arch.decode, lr_savers).at(index)
