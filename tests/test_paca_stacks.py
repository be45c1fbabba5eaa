"""The stacks whose ends stand in a PACA, beside those that the kernel keeps in tables."""

import pytest

from crashbeam.schemas.codes import StackKind, TaskFoundBy
from crashbeam.vmcore.arch.architecture import Architecture
from crashbeam.vmcore.arch.ppc64 import PPC64, PPC64LE
from crashbeam.vmcore.kernel import Kernel
from crashbeam.vmcore.stacks import Stack, find_stacks
from crashbeam.vmcore.symbols.layouts import StructLayout
from crashbeam.vmcore.tasks import CurrentTask
from tests.builders.kernel_memory import PAGE_OFFSET_64
from tests.builders.paca import KEXEC_PACA, TABLE, PacaKernel

both_orders = pytest.mark.parametrize("arch", [PPC64, PPC64LE], ids=lambda arch: arch.name)
BASE = PAGE_OFFSET_64 + 0x2000000
ENDS = {"emergency_sp": BASE + 0x18000, "nmi_emergency_sp": BASE + 0x28000, "mc_emergency_sp": BASE + 0x38000}


def stacks_of(kernel: Kernel, cpu: int, task: CurrentTask | None = None) -> tuple[Stack, ...]:
    return find_stacks(kernel, {cpu: task})[cpu]


def kernel_with(pacas: PacaKernel, thread_bytes: int = 0x8000) -> Kernel:
    pacas.made.structs["thread_union"] = StructLayout(thread_bytes, {})
    return pacas.made.kernel()


@both_orders
@pytest.mark.parametrize("thread_bytes", [0x4000, 0x8000])
def test_a_paca_names_the_high_ends_of_three_stacks(arch: Architecture, thread_bytes: int) -> None:
    pacas = PacaKernel(arch)
    pacas.write(pacas.addresses[1], 1, **ENDS)
    assert stacks_of(kernel_with(pacas, thread_bytes), 1) == (
        Stack(StackKind.EMERGENCY, BASE + 0x18000 - thread_bytes, BASE + 0x18000),
        Stack(StackKind.NMI, BASE + 0x28000 - thread_bytes, BASE + 0x28000),
        Stack(StackKind.MACHINE_CHECK, BASE + 0x38000 - thread_bytes, BASE + 0x38000),
    )


@both_orders
def test_the_crashing_cpus_stacks_stand_in_the_copy_of_its_paca(arch: Architecture) -> None:
    pacas = PacaKernel(arch, crashed=1)
    pacas.write(KEXEC_PACA, 1, **ENDS)
    assert [stack.high for stack in stacks_of(kernel_with(pacas), 1)] == list(ENDS.values())


@both_orders
def test_before_4_17_only_the_crashing_cpus_stacks_are_known(arch: Architecture) -> None:
    """The memory around ``kexec_paca`` is not taken for other CPUs' PACAs."""
    pacas = PacaKernel(arch, old=True, crashed=1)
    pacas.write(KEXEC_PACA, 1, **ENDS)
    for cpu in (0, 2, 3):
        pacas.write(KEXEC_PACA + (cpu - 1) * 0x400, cpu, **ENDS)
    found = find_stacks(kernel_with(pacas), dict.fromkeys(range(4)))
    assert {cpu: len(stacks) for cpu, stacks in found.items()} == {0: 0, 1: 3, 2: 0, 3: 0}


@both_orders
def test_a_stack_that_was_not_allocated_is_left_out(arch: Architecture) -> None:
    pacas = PacaKernel(arch)
    pacas.write(pacas.addresses[0], 0, emergency_sp=ENDS["emergency_sp"])
    assert [stack.kind for stack in stacks_of(kernel_with(pacas), 0)] == [StackKind.EMERGENCY]


@both_orders
def test_a_paca_that_cannot_be_read_costs_no_other_stack(arch: Architecture) -> None:
    pacas = PacaKernel(arch)
    pacas.made.lose(TABLE)
    for place, name in enumerate(("hardirq_ctx", "softirq_ctx")):
        pacas.made.variables[name] = BASE + 0x100 * place
        pacas.made.words(BASE + 0x100 * place, *(BASE + 0x100000 * (place + 1) + 0x8000 * cpu for cpu in range(4)))
    task = CurrentTask(BASE, 1, "task", BASE + 0x80000, TaskFoundBy.RUN_QUEUE)
    assert stacks_of(kernel_with(pacas), 2, task) == (
        Stack(StackKind.TASK, BASE + 0x80000, BASE + 0x88000),
        Stack(StackKind.HARDIRQ, BASE + 0x110000, BASE + 0x118000),
        Stack(StackKind.SOFTIRQ, BASE + 0x210000, BASE + 0x218000),
    )
