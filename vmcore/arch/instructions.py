"""PowerPC instructions as far as frames depend on them: what each does to r1, LR and its slot, which GPRs it writes.

Power ISA 3.1 book I (appendix D, opcode maps), book III for what only the kernel uses; BookE instructions as the e500
reference manuals have them.
"""

from __future__ import annotations

import re
from enum import IntEnum
from functools import lru_cache

from msgspec import Struct


class Kind(IntEnum):
    """What an instruction does to r1, LR and the save slot."""

    PLAIN = 0
    BRANCH = 1
    CONDITIONAL = 2
    CALL = 3
    LEAVE = 4
    TABLE = 5
    TRAP = 6
    ALLOCATE = 7
    ALLOCATE_INDEXED = 8
    MOVE_STACK = 9
    LOAD_STACK = 10
    ADD_STACK = 11
    SWITCH = 12
    FROM_LR = 13
    TO_LR = 14
    STORE = 15
    LOAD = 16
    PREFIX = 17


class Instruction(Struct, frozen=True):
    """One decoded instruction: its kind, the GPRs it writes (a mask), and its operands where the kind has any."""

    kind: Kind
    writes: int = 0
    register: int = 0
    base: int = 0
    value: int = 0


_PLAIN = tuple(Instruction(Kind.PLAIN, 1 << register) for register in range(32))
_NOTHING = Instruction(Kind.PLAIN)
_PREFIX = Instruction(Kind.PREFIX)
PADDING = Instruction(Kind.PLAIN, 0, 0)
"""``nop``: told apart by identity, since compilers align with it what no edge reaches."""


def _opcodes(table: str) -> frozenset[int]:
    """The numbers of a table of mnemonics."""
    return frozenset(map(int, re.findall(r"\b\d+\b", table)))


_WRITES_RT = _opcodes("mulli 7, subfic 8, addic 12 13, addi 14, addis 15, lwz 32, lbz 34, lhz 40, lha 42")
_WRITES_RA = _opcodes("rlwimi 20, rlwinm 21, rlwnm 23, ori 24, oris 25, xori 26, xoris 27, andi 28, andis 29, rld 30")
_WRITES_BOTH = _opcodes("lwzu 33, lbzu 35, lhzu 41, lhau 43")
_UPDATES_RA = _opcodes("stwu 37, stbu 39, sthu 45, lfsu 49, lfdu 51, stfsu 53, stfdu 55")
"""Primary opcodes by the general registers that they write."""

_EXTENDED_WRITES_RA = _opcodes(
    """
    slw 24, cntlzw 26, sld 27, and 28, mfvsrd 51, cntlzd 58, cntlzdm 59, andc 60, mfvsrwz 115, popcntb 122, nor 124,
    prtyw 154, brw 155, pdepd 156, prtyd 186, brd 187, pextd 188, brh 219, cfuged 220, bpermd 252, cdtbcd 282, eqv 284,
    mfvsrld 307, cbcdtd 314, xor 316, popcntw 378, orc 412, or 444, nand 476, popcntd 506, cmpb 508, srw 536, cnttzw
    538, srd 539, cnttzd 570, cnttzdm 571, sraw 792, srad 794, srawi 824, sradi 826 827, extswsli 890 891, extsh 922,
    extsb 954, extsw 986
    """
)
_EXTENDED_UPDATES = _opcodes("stdux 181, stwux 183, stbux 247, sthux 439, lfsux 567, lfdux 631, stfsux 695, stfdux 759")
_EXTENDED_LOADS_UPDATE = _opcodes("ldux 53, lwzux 55, lbzux 119, lhzux 311, lwaux 373, lhaux 375")
_EXTENDED_WRITES_NOTHING = _opcodes(
    """
    cmp 0, tw 4, cmpl 32, td 68, cmprb 192, cmpeqb 224, mcrxr 512, mtcrf 144, mtmsr 146, mtmsrd 178, mtspr 467,
    mtdcr 451, mtdcrx 387, mtsr 210, mtsrin 242, wrtee 131, wrteei 163, wait 30 62, msgsndp 142, msgclrp 174, msgsnd
    206, msgclr 238, icbt 22, dcbst 54, dcbf 86, dcbtst 246, dcbt 278, dcbi 470, dcba 758, icbi 982, dcbz 1014, sync
    598, mbar 854, tlbivax 786, tlbilx 18, tlbiel 274, tlbie 306, tlbia 370, tlbsync 566, tlbre 946, tlbwe 978,
    tlbsx 914, slbmte 402, slbie 434, slbia 498, stdx 149, stwcx 150, stwx 151, stdcx 214, stbx 215, sthx 407,
    stdbrx 660, stswx 661, stwbrx 662, stbcx 694, stswi 725, sthcx 726, sthbrx 918, lfsx 535, lfdx 599, lfiwax 855,
    lfiwzx 887, stfsx 663, stfdx 727, stfiwx 983, lvebx 7, lvehx 39, lvewx 71, lvx 103, lvxl 359, stvebx 135, stvehx
    167, stvewx 199, stvx 231, stvxl 487, lvsl 6, lvsr 38, lfdpx 791, stfdpx 919, stqcx 182, stwat 710, stdat 742,
    stwcix 917, sthcix 949, stbcix 981, stdcix 1013, lxsiwzx 12, lxsiwax 76, lxvrbx 13, lxvrhx 45, lxvrwx 77, lxvrdx
    109, lxvx 268 300, lxvl 269, lxvll 301, lxvdsx 332, lxvpx 333, lxvwsx 364, lxsspx 524, lxsdx 588, lxvw4x 780,
    lxsibzx 781, lxvh8x 812, lxsihzx 813, lxvd2x 844, lxvb16x 876, stxsiwx 140, stxvrbx 141, stxvrhx 173, stxvrwx 205,
    stxvrdx 237, stxvx 396, stxvl 397, stxvll 429, stxvpx 461, stxsspx 652, stxsdx 716, stxvw4x 908, stxsibx 909,
    stxvh8x 940, stxsihx 941, stxvd2x 972, stxvb16x 1004, mtvsrd 179, mtvsrwa 211, mtvsrwz 243, mtvsrws 403, mtvsrdd
    435, mcrxrx 576, tbegin 654, tend 686, tcheck 718, tsr 750, tabort 910, tabortwc 782, tabortdc 814, tabortwci 846,
    tabortdci 878, treclaim 942, trechkpt 1006, clrbhrb 430, slbsync 338, slbieg 466, slbiag 850, copy 774, cpabort 838,
    paste 902, msgsync 886, hashstp 658, hashchkp 690, hashst 722, hashchk 754, dss 822, dst 342, dstst 374,
    dcbtstls 134, dcbtls 166, icblc 230, dcblc 390, icbtls 486, mtpmr 462
    """
)
"""Extended opcodes of primary opcode 31; what stands in no table writes RT."""

_TO_REGISTER = _opcodes("bclr 16, bctr 528, bctar 560")
_FROM_INTERRUPT = _opcodes("rfid 18, rfmci 38, rfdi 39, rfi 50, rfci 51, rfscv 82, hrfid 274")
_ADDPCIS = 2
"""The extended opcode of ``addpcis``, of five bits: the immediate fills the others."""
_ALWAYS = 0x02800000
"""BO of a branch that is taken whatever CR and CTR are."""
_LR_OPERAND, _OPERAND_MASK = 0x80000, 0x1FF800
"""SPR 8 in the field of ``mtspr`` and ``mfspr``, whose halves are swapped."""

_MULTIPLY_ADD = _opcodes("maddhd 48, maddhdu 49, maddld 51")
_VECTOR_WRITES_RT = _opcodes(
    "vgnb 1228, vextublx 1549, vextuhlx 1613, vextuwlx 1677, vextubrx 1805, vextuhrx 1869, vextuwrx 1933"
)
_VECTOR_FIELD_WRITES_RT = {
    1538: _opcodes("vclzlsbb 0, vctzlsbb 1"),
    1602: _opcodes("vextractm 8 9 10 11 12, vcntmb 24 25 26 27 28 29 30 31"),
}
"""Extended opcodes of primary opcode 4 that write a general register, some only with these values in VRA's field."""
_LQ, _LQARX = 56, 276
"""The loads of a pair of registers: a primary opcode, and an extended one of 31."""
_VSX_EXTRACT = 347
"""The extended opcode of ``xsxexpdp`` and ``xsxsigdp``, in primary opcode 60."""
_PREFIXED_WRITES_RT = (
    _opcodes("plwa 41, pld 57"),
    frozenset[int](),
    _opcodes("paddi 14, plwz 32, plbz 34, plhz 40, plha 42"),
    frozenset[int](),
)
"""By the type of the prefix, the primary opcodes of the second word that write RT."""


def signed(value: int, bits: int) -> int:
    """A field of so many bits as a signed number."""
    return value - (1 << bits) if value >> (bits - 1) else value


def _decode_extended(word: int, target: int, source: int) -> Instruction:
    extended = (word >> 1) & 0x3FF
    if extended == 339 and word & _OPERAND_MASK == _LR_OPERAND:
        return Instruction(Kind.FROM_LR, 1 << target, target)
    if extended == 467:
        return Instruction(Kind.TO_LR, 0, target) if word & _OPERAND_MASK == _LR_OPERAND else _NOTHING
    if extended in (183, 181):
        if target == 1 and source == 1:
            return Instruction(Kind.ALLOCATE_INDEXED)
        return Instruction(Kind.SWITCH, 1 << source) if target == 1 else _PLAIN[source]
    if extended == 444 and source == 1:
        # ``mr r1,r1`` is a hint of thread priority (HMT_low).
        return _NOTHING if target == 1 else Instruction(Kind.MOVE_STACK, 2, target)
    if extended in (266, 40) and target == 1:
        return Instruction(Kind.MOVE_STACK, 2, source)
    if extended == 4 and word & 0x03E00000 == 0x03E00000:
        return Instruction(Kind.TRAP)
    if extended in _EXTENDED_WRITES_RA or extended in _EXTENDED_UPDATES:
        return _PLAIN[source]
    if extended in _EXTENDED_WRITES_NOTHING:
        return _NOTHING
    if extended in _EXTENDED_LOADS_UPDATE:
        return Instruction(Kind.PLAIN, 1 << target | 1 << source)
    return _PLAIN[target]


def _decode_branch(word: int, primary: int) -> Instruction:
    if primary == 18:
        if word & 1:
            return Instruction(Kind.CALL, value=signed(word & 0x3FFFFFC, 26))
        return Instruction(Kind.BRANCH, value=signed(word & 0x3FFFFFC, 26), base=word & 2)
    if primary == 16:
        if word & 1:
            return Instruction(Kind.CALL)
        always = word & _ALWAYS == _ALWAYS
        return Instruction(Kind.BRANCH if always else Kind.CONDITIONAL, value=signed(word & 0xFFFC, 16), base=word & 2)
    extended = (word >> 1) & 0x3FF
    if extended & 31 == _ADDPCIS:
        return _PLAIN[(word >> 21) & 31]
    if extended in _FROM_INTERRUPT:
        return Instruction(Kind.LEAVE)
    if extended not in _TO_REGISTER:
        return _NOTHING
    if word & 1:
        return Instruction(Kind.CALL)
    if word & _ALWAYS != _ALWAYS:
        return _NOTHING
    return Instruction(Kind.TABLE if extended == 528 else Kind.LEAVE)


def _decode_common(word: int) -> Instruction | None:
    primary = word >> 26
    target, source = (word >> 21) & 31, (word >> 16) & 31
    if primary in (16, 18, 19):
        return _decode_branch(word, primary)
    if primary == 31:
        return _decode_extended(word, target, source)
    if word in (0x60000000, 0x60420000):
        return PADDING
    if primary == 3:
        return Instruction(Kind.TRAP) if target == 31 else _NOTHING
    if primary == 14 and target == 1:
        return Instruction(Kind.ADD_STACK, 2, source, value=signed(word & 0xFFFF, 16))
    if primary in _WRITES_RT:
        return _PLAIN[target]
    if primary in _WRITES_RA or primary in _UPDATES_RA:
        return _PLAIN[source]
    if primary in _WRITES_BOTH:
        return Instruction(Kind.PLAIN, 1 << target | 1 << source)
    if primary == 46:
        return Instruction(Kind.PLAIN, (1 << 32) - (1 << target))
    return None


@lru_cache(maxsize=1 << 16)
def decode_32(word: int) -> Instruction:
    """A word of 32-bit code: frames are made by ``stwu``, LR goes through ``stw`` and ``lwz``."""
    primary = word >> 26
    target, source, displacement = (word >> 21) & 31, (word >> 16) & 31, signed(word & 0xFFFF, 16)
    if primary == 37 and target == 1:
        if source == 1:
            return Instruction(Kind.ALLOCATE, value=-displacement)
        return Instruction(Kind.SWITCH, 1 << source)
    if primary == 36 and source == 1:
        return Instruction(Kind.STORE, 0, target, value=displacement)
    if primary == 32 and source == 1:
        if target == 1:
            return Instruction(Kind.LOAD_STACK, 2, value=displacement)
        return Instruction(Kind.LOAD, 1 << target, target, value=displacement)
    return _decode_common(word) or _NOTHING


@lru_cache(maxsize=1 << 16)
def decode_64(word: int) -> Instruction:
    """A word of 64-bit code: frames are made by ``stdu``, LR goes through ``std`` and ``ld``.

    The first word of a prefixed instruction is of kind PREFIX: what both do tells ``prefixed_writes``. Their uses on r1
    (frames of more than 32 KiB) are not followed.
    """
    primary = word >> 26
    target, source = (word >> 21) & 31, (word >> 16) & 31
    if primary == 62:
        return _decode_store_64(word, target, source)
    if primary == 58:
        return _decode_load_64(word, target, source)
    if primary == 4:
        return _PLAIN[target] if _is_vector_to_register(word, source) else _NOTHING
    if primary == 1:
        return _PREFIX
    if primary == 2:
        return Instruction(Kind.TRAP) if target == 31 else _NOTHING
    if primary == _LQ or (primary == 31 and (word >> 1) & 0x3FF == _LQARX):
        return Instruction(Kind.PLAIN, _pair(target))
    if primary == 60 and (word >> 2) & 0x1FF == _VSX_EXTRACT and source < 2:
        return _PLAIN[target]
    return _decode_common(word) or _NOTHING


def _decode_store_64(word: int, target: int, source: int) -> Instruction:
    displacement = signed(word & 0xFFFC, 16)
    if word & 3 == 0:
        return Instruction(Kind.STORE, 0, target, value=displacement) if source == 1 else _NOTHING
    if word & 3 != 1:
        return _NOTHING
    if target != 1:
        return _PLAIN[source]
    return Instruction(Kind.ALLOCATE, value=-displacement) if source == 1 else Instruction(Kind.SWITCH, 1 << source)


def _decode_load_64(word: int, target: int, source: int) -> Instruction:
    displacement = signed(word & 0xFFFC, 16)
    if word & 3 == 1:
        return Instruction(Kind.PLAIN, 1 << target | 1 << source)
    if word & 3 or source != 1:
        return _PLAIN[target]
    if target == 1:
        return Instruction(Kind.LOAD_STACK, 2, value=displacement)
    return Instruction(Kind.LOAD, 1 << target, target, value=displacement)


def _is_vector_to_register(word: int, field: int) -> bool:
    extended = word & 0x7FF
    return (
        word & 0x3F in _MULTIPLY_ADD
        or extended in _VECTOR_WRITES_RT
        or field in _VECTOR_FIELD_WRITES_RT.get(extended, ())
    )


def _pair(register: int) -> int:
    """The mask of an even register and the one behind it."""
    return 3 << (register & 30)


def prefixed_writes(prefix: int, suffix: int) -> int:
    """The GPRs (a mask) that a prefixed instruction writes."""
    form, primary, target = (prefix >> 24) & 3, suffix >> 26, (suffix >> 21) & 31
    if form == 0 and primary == _LQ:
        return _pair(target)
    return 1 << target if primary in _PREFIXED_WRITES_RT[form] else 0
