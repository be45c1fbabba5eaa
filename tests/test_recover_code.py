"""What code says of calls that leave no trace on the stack."""

import pytest

from crashbeam.vmcore.arch.ppc32 import PPC32
from crashbeam.vmcore.modules import Function
from crashbeam.vmcore.recover.code import goes_round
from crashbeam.vmcore.recover.outline import Outline, outline_of
from tests.builders.instructions import BCTR, BLR, NOP, b, beq, bl, mflr, stw, stwu
from tests.builders.lost_cpu import LostCpuKernel, address_of, after

FAR = 0x1000
FREE = 0xC0080000
"""Text where no function of the builder's lies."""
STWCX = 0x7C00192D
"""``stwcx. r0,0,r3``."""
BEQLR = 0x4D820020


def function(kernel: LostCpuKernel, name: str) -> Function:
    found = kernel.unwinder().text.function_at(address_of(name))
    assert found is not None
    return found


def names(functions: tuple[Function, ...]) -> list[str | None]:
    return [one.name for one in functions]


def outline(*words: int) -> Outline:
    return outline_of(PPC32.name, b"".join(word.to_bytes(4, "big") for word in words))


def test_a_leaf_with_a_loop_may_run_behind_a_call() -> None:
    kernel = LostCpuKernel()
    reach = kernel.code().behind(function(kernel, "driver_thread"), after("driver_thread"))
    assert names(reach.callees) == ["spin"]
    assert reach.may_stay
    assert not reach.loops


def test_behind_a_call_that_is_followed_by_one_with_a_trace_nothing_may_stay() -> None:
    kernel = LostCpuKernel()
    reach = kernel.code().behind(function(kernel, "kthread"), after("kthread"))
    assert not reach.may_stay
    assert not reach.returns


def test_a_function_may_return_behind_its_last_call() -> None:
    kernel = LostCpuKernel()
    reach = kernel.code().behind(function(kernel, "work"), after("work"))
    assert (reach.may_stay, reach.returns) == (False, True)


def test_a_function_may_go_round_by_itself_behind_a_call() -> None:
    kernel = LostCpuKernel()
    reach = kernel.code().behind(function(kernel, "busy"), after("busy"))
    assert (reach.loops, reach.returns) == (True, False)


def test_a_shrink_wrapped_function_is_silent_until_it_reads_lr() -> None:
    kernel = LostCpuKernel()
    assert kernel.code().silent_part(function(kernel, "shrink_wrapped")).loops
    assert not kernel.code().silent_part(function(kernel, "busy")).may_stay


def test_tail_calls_share_the_frame_that_is_below_a_call() -> None:
    kernel = LostCpuKernel()
    owners = kernel.code().owners(function(kernel, "tail"))
    assert (names(owners.functions), owners.is_open) == (["tail", "tail_target"], False)


def test_code_that_cannot_be_read_may_do_anything() -> None:
    kernel = LostCpuKernel()
    kernel.made.lose(address_of("spin"))
    assert kernel.code().behind(function(kernel, "driver_thread"), after("driver_thread")).may_stay
    assert kernel.code().frame_sizes(function(kernel, "driver_thread")) == frozenset()


def test_a_branch_through_ctr_leaves_the_owners_of_a_frame_open() -> None:
    assert outline(NOP, BCTR).leaves_by_ctr
    assert not outline(NOP, BLR).leaves_by_ctr


def test_frame_sizes_are_those_of_every_allocation() -> None:
    assert outline(beq(3), stwu(32), BLR, stwu(96), BLR).frame_sizes == {32, 96}


def test_the_places_of_registers_are_those_before_the_first_branch() -> None:
    words = (stwu(32), mflr(0), stw(31, 28), stw(0, 36), bl(FAR), stw(30, 24))
    assert outline(*words).saved_places == {-4, 4}
    multiple = 0xBFA1000C
    """``stmw r29,12(r1)``."""
    assert outline(stwu(32), multiple, BLR).saved_places == {-20, -16, -12}


def test_the_way_back_to_a_lost_reservation_is_no_loop() -> None:
    assert [turn.targets for turn in outline(NOP, STWCX, beq(-1), BLR).turns if turn.targets] == []
    assert [turn.targets for turn in outline(NOP, NOP, beq(-1), BLR).turns if turn.targets] == [(1,)]


def test_a_conditional_return_goes_on_too() -> None:
    kernel = LostCpuKernel()
    placed = kernel.made.function("maybe", (BEQLR, b(0)))
    found = kernel.unwinder().text.function_at(placed.start)
    assert found is not None
    reach = kernel.code().behind(found, placed.start)
    assert (reach.returns, reach.loops) == (True, True)


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ({0: (1, 2), 1: (3,), 2: (3,), 3: ()}, False),
        ({0: (1,), 1: (0,)}, True),
        ({0: (1,), 1: (1, 2), 2: ()}, True),
        ({0: ()}, False),
    ],
)
def test_blocks_go_round_if_one_leads_back(edges: dict[int, tuple[int, ...]], expected: bool) -> None:
    assert goes_round(edges) is expected


def test_a_call_through_a_register_may_be_of_one_that_leaves_no_trace() -> None:
    kernel = LostCpuKernel()
    found = function(kernel, "indirect")
    assert kernel.code().behind(found, found.start).calls_unknown
    assert not kernel.code().behind(found, after("indirect")).calls_unknown


def test_functions_that_go_on_in_each_other_without_a_trace_go_round() -> None:
    kernel = LostCpuKernel()
    first = kernel.made.function("first", (NOP, b(0x3F)), FREE)
    kernel.made.function("second", (NOP, b(-0x41)), FREE + 0x100)
    assert kernel.code().silent_part(function_at(kernel, first.start)).callees


def test_a_long_row_of_silent_calls_is_not_followed_to_its_end() -> None:
    """Where it is given up, anything may run."""
    kernel = LostCpuKernel()
    for place in range(100):
        kernel.made.function(f"silent_{place}", (NOP, b(0x3F)), FREE + 0x100 * place)
    kernel.made.function("last", (BLR,), FREE + 100 * 0x100)
    assert kernel.code().silent_part(function_at(kernel, FREE)).may_stay
    assert not kernel.code().silent_part(function_at(kernel, FREE + 90 * 0x100)).may_stay


def function_at(kernel: LostCpuKernel, address: int) -> Function:
    found = kernel.unwinder().text.function_at(address)
    assert found is not None
    return found
