"""A record as its line of JSON.

Nothing is cleaned here: that is done once, where text and numbers enter a record (``schemas/clean.py``).
"""

from collections.abc import Callable
from functools import cache

from crashbeam.schemas.clean import clean_text
from crashbeam.schemas.records import RECORDS, Record

__all__ = ["RECORDS", "clean_text", "to_json_line"]

_NUL = b"\\u0000"
_BACKSLASH = ord("\\")


@cache
def _encode() -> Callable[[Record], bytes]:
    # Loaded with the first record: text for people, which has no record to encode, does not wait for it.
    import msgspec

    return msgspec.json.Encoder().encode


def to_json_line(record: Record) -> bytes:
    """The record as one object on one line: UTF-8, keys in definition order, ``null`` for what is absent, newline last.

    Raises ValueError for a string that holds a NUL or a lone surrogate: such text entered without ``clean_text``.
    """
    # A key's quotes stand bare; within a string JSON escapes them: these bytes are keys and nothing else.
    line = _encode()(record).replace(b'"class_":', b'"class":').replace(b'"from_":', b'"from":')
    if _NUL in line and _holds_nul(line):
        raise ValueError(f"a string of {record.schema} {record.input_id} holds a NUL")
    return line + b"\n"


def _holds_nul(line: bytes) -> bool:
    """Whether JSON's six characters for a NUL stand for one anywhere, and are not text behind an escaped backslash."""
    at = line.find(_NUL)
    while at >= 0:
        before = at
        while before > 0 and line[before - 1] == _BACKSLASH:
            before -= 1
        if (at - before) % 2 == 0:
            return True
        at = line.find(_NUL, at + 1)
    return False
