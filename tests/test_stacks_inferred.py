"""The task stack of a CPU whose task is not known: symbols without layouts name no run queue."""

import pytest

from crashbeam.schemas.codes import StackKind
from crashbeam.vmcore.kernel import Kernel
from crashbeam.vmcore.stacks import Stack, find_stacks, infer_task_stack
from tests.builders.kernel_memory import MadeUpKernel

HARD, SOFT = 0xC7E00000, 0xC7E02000
TASK = Stack(StackKind.TASK, 0xC7F3E000, 0xC7F40000)


def kernel_with_links(hard_link: int = 0, soft_link: int = 0) -> Kernel:
    """CPU 0 with an interrupt stack of each kind, whose first frames lead to these addresses."""
    made = MadeUpKernel()
    made.variables |= {"hardirq_ctx": 0xC0704000, "softirq_ctx": 0xC0704080}
    made.words(0xC0704000, HARD)
    made.words(0xC0704080, SOFT)
    for low, link in ((HARD, hard_link), (SOFT, soft_link)):
        made.put(low, bytes(0x2000))
        made.words(low + 0x2000 - 16, link)
    return made.kernel()


def inferred(kernel: Kernel, stack_pointer: int) -> Stack | None:
    return infer_task_stack(kernel, find_stacks(kernel, {0: None})[0], stack_pointer)


@pytest.mark.parametrize("stack_pointer", [0xC7F3E010, 0xC7F3FC20, 0xC7F3FFF0])
def test_it_begins_at_a_multiple_of_its_size(stack_pointer: int) -> None:
    assert inferred(kernel_with_links(), stack_pointer) == TASK


def test_from_an_interrupt_stack_its_link_leads_there() -> None:
    assert inferred(kernel_with_links(hard_link=0xC7F3FB00), HARD + 0x1F00) == TASK
    assert inferred(kernel_with_links(hard_link=SOFT + 0x1E00, soft_link=0xC7F3FA00), HARD + 0x1F00) == TASK


@pytest.mark.parametrize(("hard_link", "soft_link"), [(0, 0), (HARD + 0x100, 0), (SOFT + 0x100, HARD + 0x100)])
def test_links_that_lead_nowhere_give_none(hard_link: int, soft_link: int) -> None:
    assert inferred(kernel_with_links(hard_link, soft_link), HARD + 0x1F00) is None


def test_a_task_that_is_known_goes_before_it() -> None:
    stacks = (TASK, Stack(StackKind.HARDIRQ, HARD, HARD + 0x2000))
    assert infer_task_stack(kernel_with_links(), stacks, 0xC7F51000) is None


def test_without_any_stack_of_known_size_there_is_none() -> None:
    assert infer_task_stack(MadeUpKernel().kernel(), (), 0xC7F3FC20) is None
