"""What flows between the transforms of the default form: runs of consecutive inputs, and their records."""

from msgspec import Struct

from crashbeam.vmcore.facts import DumpInput


class Run(Struct, frozen=True):
    """Consecutive inputs; ``first`` is the number of the first one among all inputs."""

    first: int
    inputs: tuple[DumpInput, ...]


class Records(Struct, frozen=True):
    """The JSON lines of consecutive inputs, the first being input number ``first``.

    None at all is a sign of life: something below takes long, and what is held above may be written.
    """

    first: int
    lines: tuple[bytes, ...]
