"""What one dump may cost: every read and every loop over its data is charged here.

Time is no part of it: a report must not depend on the clock. The workers hold the clock.
"""

from msgspec import Struct

from crashbeam.vmcore.errors import LimitError

MAX_BLOCK_BYTES = 1 << 18
"""The largest page of a PowerPC kernel (256 KiB, PPC_256K_PAGES)."""
MAX_NOTE_BYTES = 16 << 20
MAX_CPUS = 8192
MAX_MODULES = 4096
MAX_FRAMES = 512
"""Frames of one stack; the deepest of the corpus has 226."""
MAX_NAME_BYTES = 4096


class Budget(Struct):
    """A dump's allowance, counted down as it is used."""

    read_bytes: int = 256 << 20
    decoded_bytes: int = 512 << 20
    steps: int = 20_000_000

    def charge_read(self, size_bytes: int) -> None:
        """Takes ``size_bytes`` read from the file; raises LimitError when the allowance is used up."""
        self.read_bytes -= size_bytes
        if self.read_bytes < 0:
            raise LimitError("the dump needs more bytes read than its budget allows", size_bytes=size_bytes)

    def charge_decoded(self, size_bytes: int) -> None:
        """Takes ``size_bytes`` of decoded pages; raises LimitError when the allowance is used up."""
        self.decoded_bytes -= size_bytes
        if self.decoded_bytes < 0:
            raise LimitError("the dump needs more page data decoded than its budget allows", size_bytes=size_bytes)

    def charge_steps(self, steps: int) -> None:
        """Takes ``steps`` of a loop over the dump's data; raises LimitError when the allowance is used up."""
        self.steps -= steps
        if self.steps < 0:
            raise LimitError("the dump needs more steps than its budget allows", steps=steps)
