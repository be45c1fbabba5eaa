"""The exceptions of ``vmcore/``: each says what and where, and what a person can do.

An exception that reaches the top of a stage becomes a FailureRecord with the same code, message, hint and facts; one
that is caught below becomes a warning in the report.
"""

from enum import StrEnum

from crashbeam.schemas.codes import FailureCode


class VmcoreError(Exception):
    """Something in an input that cannot be used.

    ``message`` is one sentence of what and where, ``hint`` what a person can do (the remedy of ``code`` if not given),
    ``facts`` the offsets and sizes behind it.
    """

    default_code = FailureCode.MALFORMED

    def __init__(
        self, message: str, *, code: FailureCode | None = None, hint: str | None = None, **facts: int | str
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.hint = hint or self.code.remedy
        self.facts = facts


class FormatError(VmcoreError):
    """A file that is not what it claims, or claims nothing that is known."""


class TruncatedError(VmcoreError):
    """A file that ends before what it announces."""

    default_code = FailureCode.TRUNCATED


class SourceError(VmcoreError):
    """A file that cannot be opened or read, or changed meanwhile."""

    default_code = FailureCode.IO_ERROR


class LimitError(VmcoreError):
    """A dump that asks for more than its budget (``limits.py``)."""

    default_code = FailureCode.BUDGET_EXCEEDED


class SymbolError(VmcoreError):
    """A vmlinux, System.map or profile that cannot be used."""


class PageStatus(StrEnum):
    """Why a page of physical memory cannot be read."""

    ABSENT = "absent"
    """No such memory in the dump (beyond its end, or in a hole)."""
    EXCLUDED = "excluded"
    """Left out on purpose by the dump level."""
    LOST = "lost"
    """The writer ran out of space before this page, or its part of a split set is missing."""
    TRUNCATED = "truncated"
    """The file was cut off before this page's data."""
    CORRUPT = "corrupt"
    """The page's descriptor or data make no sense."""


class PageError(VmcoreError):
    """A page of physical memory that cannot be read; ``status`` tells why."""

    def __init__(self, message: str, *, status: PageStatus, **facts: int | str) -> None:
        super().__init__(message)
        self.facts = facts
        self.status = status


class TranslationError(VmcoreError):
    """A kernel address that maps to no physical memory."""
