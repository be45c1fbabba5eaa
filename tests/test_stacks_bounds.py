"""Which stacks a CPU has, and where they begin and end."""

import pytest

from crashbeam.schemas.codes import StackKind, TaskFoundBy
from crashbeam.vmcore.stacks import Stack, find_stacks, owners_of, stack_of, thread_bytes
from crashbeam.vmcore.symbols.layouts import StructLayout
from crashbeam.vmcore.tasks import CurrentTask
from tests.builders.kernel_memory import MadeUpKernel

ARRAYS = {
    "hardirq_ctx": 0xC0704000,
    "softirq_ctx": 0xC0704080,
    "critirq_ctx": 0xC0704100,
    "dbgirq_ctx": 0xC0704180,
    "mcheckirq_ctx": 0xC0704200,
    "emergency_ctx": 0xC0704280,
}


def kernel_with(*names: str, distance: int = 8192) -> MadeUpKernel:
    """Two CPUs whose stacks lie one after another, all hardirq ones ``distance`` below the softirq ones."""
    kernel = MadeUpKernel()
    base = 0xC1000000
    for name in names:
        kernel.variables[name] = ARRAYS[name]
        kernel.words(ARRAYS[name], base, base + 0x100000)
        base += distance
    return kernel


def task_at(stack_base: int | None) -> CurrentTask:
    return CurrentTask(0xC2000000, 1, "sh", stack_base, TaskFoundBy.RUN_QUEUE)


def test_a_cpu_has_its_tasks_stack_first_then_its_interrupt_stacks() -> None:
    kernel = kernel_with("hardirq_ctx", "softirq_ctx").kernel()
    found = find_stacks(kernel, {0: task_at(0xC3000000), 1: None})
    assert found == {
        0: (
            Stack(StackKind.TASK, 0xC3000000, 0xC3002000),
            Stack(StackKind.HARDIRQ, 0xC1000000, 0xC1002000),
            Stack(StackKind.SOFTIRQ, 0xC1002000, 0xC1004000),
        ),
        1: (
            Stack(StackKind.HARDIRQ, 0xC1100000, 0xC1102000),
            Stack(StackKind.SOFTIRQ, 0xC1102000, 0xC1104000),
        ),
    }


def test_the_level_stacks_of_booke_go_by_hardware_number() -> None:
    """CPU 0 is hardware thread 1 and the other way round: ``smp_hw_index`` turns one into the other."""
    made = kernel_with("critirq_ctx", "dbgirq_ctx", "mcheckirq_ctx")
    made.variables["smp_hw_index"] = 0xC0706000
    made.words(0xC0706000, 1, 0)
    found = find_stacks(made.kernel(), {0: None, 1: None})
    kinds = (StackKind.CRITICAL, StackKind.DEBUG, StackKind.MACHINE_CHECK)
    assert [(stack.kind, stack.low) for stack in found[0]] == [
        (kind, 0xC1100000 + place * 8192) for place, kind in enumerate(kinds)
    ]
    assert [(stack.kind, stack.low) for stack in found[1]] == [
        (kind, 0xC1000000 + place * 8192) for place, kind in enumerate(kinds)
    ]


def test_without_the_table_hardware_and_cpu_numbers_are_the_same() -> None:
    found = find_stacks(kernel_with("critirq_ctx").kernel(), {0: None, 1: None})
    assert [stacks[0].low for stacks in found.values()] == [0xC1000000, 0xC1100000]


@pytest.mark.parametrize("hardware_id", [0xFFFFFFFF, 9000])
def test_a_hardware_number_out_of_range_gives_no_stack(hardware_id: int) -> None:
    made = kernel_with("critirq_ctx")
    made.put(ARRAYS["critirq_ctx"] + 8, bytes(0x10000))
    made.variables["smp_hw_index"] = 0xC0706000 + 0x10000
    made.words(0xC0716000, 0, hardware_id)
    found = find_stacks(made.kernel(), {0: None, 1: None})
    assert [stack.low for stack in found[0]] == [0xC1000000]
    assert found[1] == ()


@pytest.mark.parametrize("lost", ["smp_hw_index", "critirq_ctx"])
def test_a_table_that_cannot_be_read_gives_no_stack(lost: str) -> None:
    made = kernel_with("critirq_ctx")
    made.variables["smp_hw_index"] = 0xC0716000
    made.words(0xC0716000, 0, 1)
    made.lose(made.variables[lost])
    assert find_stacks(made.kernel(), {0: None, 1: None}) == {0: (), 1: ()}


def test_the_overflow_handler_takes_every_second_emergency_stack() -> None:
    """``vmap_stack_overflow`` shifts the CPU's number by 3 to index an array of 4-byte pointers."""
    made = MadeUpKernel()
    made.variables["emergency_ctx"] = ARRAYS["emergency_ctx"]
    made.words(ARRAYS["emergency_ctx"], *(0xC1000000 + 8192 * number for number in range(4)))
    found = find_stacks(made.kernel(), {0: None, 1: None})
    assert found[0] == (Stack(StackKind.EMERGENCY, 0xC1000000, 0xC1002000),)
    assert found[1] == (Stack(StackKind.EMERGENCY, 0xC1004000, 0xC1006000),)


def test_what_lies_behind_an_array_gives_nobody_another_ones_stack() -> None:
    made = kernel_with("hardirq_ctx")
    made.variables["emergency_ctx"] = ARRAYS["hardirq_ctx"] - 8
    made.words(made.variables["emergency_ctx"], 0xC5000000, 0xC5002000)
    found = find_stacks(made.kernel(), {0: None, 1: None})
    assert [stack.kind for stack in found[1]] == [StackKind.HARDIRQ]


def test_a_stack_that_was_never_allocated_is_none() -> None:
    made = kernel_with("hardirq_ctx")
    made.words(ARRAYS["hardirq_ctx"], 0, 0xC1100000)
    assert find_stacks(made.kernel(), {0: task_at(None), 1: None}) == {
        0: (),
        1: (Stack(StackKind.HARDIRQ, 0xC1100000, 0xC1102000),),
    }


def test_no_cpus_no_stacks() -> None:
    assert find_stacks(kernel_with("hardirq_ctx").kernel(), {}) == {}


@pytest.mark.parametrize("size", [4096, 16384, 32768, 1 << 18])
def test_thread_size_is_that_of_the_union_where_debug_information_has_it(size: int) -> None:
    made = kernel_with("hardirq_ctx", "softirq_ctx", distance=8192)
    made.structs["thread_union"] = StructLayout(size, {})
    assert size == thread_bytes(made.kernel(), (0, 1))


@pytest.mark.parametrize("distance", [4096, 16384, 32768])
def test_else_it_is_the_distance_of_the_interrupt_stacks(distance: int) -> None:
    made = kernel_with("hardirq_ctx", "softirq_ctx", distance=distance)
    made.structs["thread_union"] = StructLayout(12345, {})
    assert distance == thread_bytes(made.kernel(), (0, 1))


@pytest.mark.parametrize("distance", [0, 2048, 12288, 1 << 19])
def test_else_it_is_8_kib(distance: int) -> None:
    """A distance that is no power of two, or no size that a configuration can have, proves nothing."""
    assert thread_bytes(kernel_with("hardirq_ctx", "softirq_ctx", distance=distance).kernel(), (0,)) == 8192
    assert thread_bytes(MadeUpKernel().kernel(), (0,)) == 8192


def test_a_stack_holds_its_lowest_address_but_not_its_end() -> None:
    task, hard = Stack(StackKind.TASK, 0x1000, 0x3000), Stack(StackKind.HARDIRQ, 0x3000, 0x5000)
    stacks = (task, hard)
    assert stack_of(stacks, 0xFFF) is None
    assert stack_of(stacks, 0x1000) is task
    assert stack_of(stacks, 0x2FFF) is task
    assert stack_of(stacks, 0x3000) is hard
    assert stack_of(stacks, 0x5000) is None


def test_the_owners_of_an_address_are_all_cpus_that_have_it_on_a_stack() -> None:
    shared = Stack(StackKind.TASK, 0x1000, 0x3000)
    stacks = {0: (shared,), 1: (Stack(StackKind.HARDIRQ, 0x3000, 0x5000), shared), 2: ()}
    assert owners_of(stacks, 0x1800) == (0, 1)
    assert owners_of(stacks, 0x3800) == (1,)
    assert owners_of(stacks, 0x6000) == ()
