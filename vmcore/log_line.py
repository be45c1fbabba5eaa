"""A line of the kernel's log."""

from msgspec import Struct

CALLER_IS_CPU = 1 << 31
"""``caller_id`` of ``struct printk_info``: with this bit the rest is a CPU, without it a thread's pid."""


class LogLine(Struct, frozen=True):
    """One line: ``sequence`` is the number of its record (a record may have several lines), ``time_ns`` counts from
    boot, ``caller`` is the raw ``caller_id``, ``level`` the syslog level (0 to 7); ``None`` for what the log does not
    tell. ``text`` has no newline and, but for tabs, no control characters.
    """

    sequence: int
    time_ns: int | None
    caller: int | None
    level: int | None
    text: str
