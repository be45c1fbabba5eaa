"""What flows between the transforms of the default form: runs of consecutive inputs, and their records."""

from dataclasses import dataclass

from crashbeam.vmcore.facts import DumpInput


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive inputs; ``first`` is the number of the first one among all inputs."""

    first: int
    inputs: tuple[DumpInput, ...]


@dataclass(frozen=True, slots=True)
class Records:
    """The JSON lines of consecutive inputs, the first being input number ``first``.

    None at all is a sign of life: something below takes long, and what is held above may be written.
    """

    first: int
    lines: tuple[bytes, ...]
