"""Functions whose entry calls the function tracer: LR and r0 survive that call (``-pg``, ``-mprofile-kernel``,
patchable entries), so that the return address is where it was.
"""

from collections.abc import Sequence

import pytest

from tests.builders.instructions import BCTRL, BLR, NOP, addis, bl, ld, mflr, mtlr, std, stdu
from tests.builders.machine_64 import AFTER_CALL, BIG, LITTLE, FrameForm, Machine64

ADDI_R2 = 0x38420000 | 0x4000
BODY = (stdu(64), BCTRL, NOP, ld(0, 80), mtlr(0), BLR)
"""Behind its call (index 2) the return address is in memory; it never lowers r1 back here, which the flow does not
need.
"""
STORED_FIRST = (mflr(0), std(0, 16), bl(0x400), *BODY)
"""``mflr r0; std r0,16(r1); bl _mcount``."""
STORED_AFTERWARDS = (mflr(0), bl(0x400), std(0, 16), *BODY)
"""``mflr r0; bl ftrace_caller; std r0,16(r1)``: the compiler's own ``mflr`` is left out where none follows."""
TWICE = (mflr(0), bl(0x400), mflr(0), std(0, 16), *BODY)
"""The tracer's entry before a whole prologue."""
GLOBAL_ENTRY = (addis(2, 12, 0x123), ADDI_R2, *TWICE)
"""ELFv2: r2 is set up before the local entry."""

ENTRIES = {
    "stored first": (LITTLE, STORED_FIRST),
    "stored first, ELFv1": (BIG, STORED_FIRST),
    "stored afterwards": (LITTLE, STORED_AFTERWARDS),
    "before a whole prologue": (LITTLE, TWICE),
    "behind a global entry": (LITTLE, GLOBAL_ENTRY),
    "before a whole prologue, big endian": (BIG, TWICE),
}
every_entry = pytest.mark.parametrize(("form", "words"), ENTRIES.values(), ids=ENTRIES)


def walk(form: FrameForm, words: Sequence[int], instruction: int) -> list[tuple[str | None, str]]:
    """The walk from an instruction of a traced function that ``worker`` called."""
    machine = Machine64(form)
    traced = machine.made.function("traced", words)
    allocated = instruction > words.index(stdu(64))
    stored = std(0, 16) in words[:instruction]
    own = machine.top - 64
    caller = machine.worker.at(AFTER_CALL)
    stale = machine.handler.at(AFTER_CALL)
    machine.frame(own, machine.top)
    machine.frame(machine.top, machine.bottom, caller if stored else stale)
    called = BCTRL in words[:instruction]
    lr = traced.at(instruction) if called else caller
    stack = machine.walk(machine.context(traced.at(instruction), own if allocated else machine.top, lr))
    return [(frame.symbol, frame.trust.value) for frame in stack.frames]


@every_entry
def test_the_caller_is_right_at_every_instruction_of_the_entry(form: FrameForm, words: Sequence[int]) -> None:
    body = words.index(BCTRL)
    for instruction in range(body + 1):
        assert walk(form, words, instruction) == [
            ("traced", "registers"),
            ("worker", "link_register"),
            ("start_kernel_thread", "back_chain"),
        ], instruction


@every_entry
def test_behind_a_call_of_the_body_the_caller_is_in_memory(form: FrameForm, words: Sequence[int]) -> None:
    assert walk(form, words, words.index(BCTRL) + 1) == [
        ("traced", "registers"),
        ("worker", "back_chain"),
        ("start_kernel_thread", "back_chain"),
    ]


@pytest.mark.parametrize("form", [LITTLE, BIG], ids=["little", "big"])
def test_a_call_at_the_start_of_a_function_that_keeps_nothing_in_r0_is_no_tracers(form: FrameForm) -> None:
    """Behind it LR belongs to the callee: the word in memory is all there is."""
    machine = Machine64(form)
    odd = machine.made.function("odd", (mflr(3), std(3, 16), bl(0x400), NOP, BLR))
    machine.frame(machine.top, machine.bottom, machine.worker.at(AFTER_CALL))
    start = machine.context(odd.at(3), machine.top, odd.at(3))
    assert [(frame.symbol, frame.trust.value) for frame in machine.walk(start).frames][:2] == [
        ("odd", "registers"),
        ("worker", "back_chain"),
    ]
