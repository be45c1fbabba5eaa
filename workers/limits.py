"""What one input may cost in a child process."""

from msgspec import Struct


class Limits(Struct, frozen=True):
    """Time and memory of one input.

    ``cpu_seconds`` is processor time; ``wall_seconds`` is the net below it, for an input that waits instead of
    computing; ``memory_bytes`` is address space on top of what a child has at its start.
    """

    cpu_seconds: int = 10
    wall_seconds: int = 30
    memory_bytes: int = 300 << 20


DEFAULT_LIMITS = Limits()
