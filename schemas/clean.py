"""What enters a record is made fit for every store here: text without NUL, integers that fit their column.

PostgreSQL refuses a NUL in a string, ClickHouse wraps an integer silently, JSON has no lone surrogates.
"""

_CONTROL = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"}
_LONGEST_UTF8_BYTES = 4


def clean_text(text: bytes | str, limit: int) -> str:
    """Text of a stranger as a string of at most ``limit`` characters that any store and any JSON reader takes.

    Bytes are decoded as UTF-8; what is none, and a lone surrogate, becomes U+FFFD. Control characters other than tab
    and newline are written as the kernel's log writes them, ``\\x1b``. Where a C string ends is the caller's business.
    """
    if isinstance(text, bytes):
        text = text[: limit * _LONGEST_UTF8_BYTES].decode("utf-8", "replace")
    text = text[:limit]
    if text.isprintable():
        return text
    without_surrogates = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return without_surrogates.translate(_CONTROL)[:limit]


def int64(number: int) -> int | None:
    """The number, or ``None`` where it does not fit a signed 64-bit column."""
    return number if -(1 << 63) <= number < 1 << 63 else None


def int32(number: int) -> int | None:
    """The number, or ``None`` where it does not fit a signed 32-bit column (pids, CPU numbers)."""
    return number if -(1 << 31) <= number < 1 << 31 else None
