"""The few PowerPC instructions that frames are made of, as words (Power ISA 3.1 book I)."""

NOP = 0x60000000
BLR = 0x4E800020
BCTR = 0x4E800420
BCTRL = 0x4E800421
TRAP = 0x0FE00000
"""``twui r0,0``: BUG() and WARN()."""


def _displacement(value: int) -> int:
    return value & 0xFFFF


def stwu(size: int) -> int:
    """``stwu r1,-size(r1)``: makes a frame."""
    return 0x94210000 | _displacement(-size)


def stw(register: int, offset: int) -> int:
    """``stw rN,offset(r1)``."""
    return 0x90010000 | register << 21 | _displacement(offset)


def lwz(register: int, offset: int) -> int:
    """``lwz rN,offset(r1)``."""
    return 0x80010000 | register << 21 | _displacement(offset)


def addi_r1(size: int) -> int:
    """``addi r1,r1,size``: gives a frame back."""
    return 0x38210000 | _displacement(size)


def li(register: int, value: int) -> int:
    """``li rN,value``."""
    return 0x38000000 | register << 21 | _displacement(value)


def mflr(register: int) -> int:
    """``mflr rN``."""
    return 0x7C0802A6 | register << 21


def mtlr(register: int) -> int:
    """``mtlr rN``."""
    return 0x7C0803A6 | register << 21


def mr(target: int, source: int) -> int:
    """``mr target,source``."""
    return 0x7C000378 | source << 21 | target << 16 | source << 11


def stwu_to(register: int, offset: int) -> int:
    """``stwu r1,offset(rN)``: stores r1 at the top of another stack."""
    return 0x94200000 | register << 16 | _displacement(offset)


def jump_table(start: int, *targets: int) -> tuple[int, ...]:
    """The words of a jump table at index ``start`` of a function that leads to these indices."""
    return tuple((target - start) * 4 & 0xFFFFFFFF for target in targets)


def b(words: int) -> int:
    """``b`` over so many words."""
    return 0x48000000 | words * 4 & 0x3FFFFFC


def bl(words: int) -> int:
    """``bl`` over so many words."""
    return b(words) | 1


def beq(words: int) -> int:
    """``beq`` over so many words."""
    return 0x41820000 | words * 4 & 0xFFFC


def stdu(size: int) -> int:
    """``stdu r1,-size(r1)``: makes a frame of 64-bit code."""
    return 0xF8210001 | _displacement(-size) & ~3


def std(register: int, offset: int) -> int:
    """``std rN,offset(r1)``."""
    return 0xF8010000 | register << 21 | _displacement(offset)


def ld(register: int, offset: int) -> int:
    """``ld rN,offset(r1)``."""
    return 0xE8010000 | register << 21 | _displacement(offset)


def stdu_to(register: int, offset: int) -> int:
    """``stdu r1,offset(rN)``: stores r1 at the top of another stack."""
    return 0xF8200001 | register << 16 | _displacement(offset)


def addis(target: int, source: int, value: int) -> int:
    """``addis target,source,value``."""
    return 0x3C000000 | target << 21 | source << 16 | _displacement(value)
