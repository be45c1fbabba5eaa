"""The privacy mark that every field of a record carries.

A field is annotated ``Public[int]``, ``Internal[str]`` or ``Personal[str]``; the mark is read back from the annotation
when the JSON Schema is derived. At run time the alias is the plain type, so that a record costs nothing more to make.
"""

from enum import StrEnum
from typing import Annotated, TypeVar


class Privacy(StrEnum):
    """Who may see a field."""

    PUBLIC = "public"
    """Anybody: counts, states, codes, function names."""
    INTERNAL = "internal"
    """The people of the company: addresses, registers, kernel builds."""
    PERSONAL = "personal"
    """May tell a person, a host or a customer: nodename, comm, paths, log text."""


T = TypeVar("T")
Public = Annotated[T, Privacy.PUBLIC]
Internal = Annotated[T, Privacy.INTERNAL]
Personal = Annotated[T, Privacy.PERSONAL]
