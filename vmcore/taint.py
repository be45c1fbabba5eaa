"""The kernel's taint flags: bits of ``tainted_mask``, letters of an oops' ``Tainted:`` (kernel/panic.c, up to 6.12)."""

from collections.abc import Iterable

TAINT_LETTERS = "PFSRMBUDAWCIOELKXTN"
"""The letter of each bit, from bit 0. Where bit 0 is not set the kernel prints ``G``, which is no flag."""


def taint_letters(mask: int) -> str:
    """The letters of the set bits, in the order of the bits; ``?`` for each bit that no kernel up to 6.12 has."""
    bits = range(min(mask.bit_length(), 64)) if mask > 0 else range(0)
    return "".join(TAINT_LETTERS[bit] if bit < len(TAINT_LETTERS) else "?" for bit in bits if mask >> bit & 1)


def printed_letters(text: str) -> str:
    """The flags in what the kernel prints after ``Tainted: ``, blanks and ``G`` left out, in the order of the bits."""
    return in_order(letter for letter in text if letter in TAINT_LETTERS)


def in_order(letters: Iterable[str]) -> str:
    """Letters in the order of the bits, each once."""
    found = set(letters)
    return "".join(letter for letter in TAINT_LETTERS if letter in found)
