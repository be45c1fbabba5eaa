"""Strings of a fixed form, as types: the JSON Schema states the form; making a record costs nothing more."""

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True, slots=True)
class Form:
    """What a string looks like: ``pattern`` is a regular expression that it matches whole."""

    pattern: str


Word = Annotated[str, Form("^([0-9a-f]{8}|[0-9a-f]{16})$")]
"""An address or a register: lower-case hex digits of the word size, without ``0x``."""
HexDigits = Annotated[str, Form("^[0-9a-f]+$")]
"""A number in lower-case hex, without leading zeros and without ``0x``."""
Digest = Annotated[str, Form("^[0-9a-f]{32}$")]
"""A BLAKE2b-128 in lower-case hex."""
