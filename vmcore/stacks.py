"""Whose stack is this address: the stacks of every CPU, by known bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from crashbeam.schemas.codes import StackKind
from crashbeam.vmcore.arch.architecture import StackArray
from crashbeam.vmcore.errors import VmcoreError
from crashbeam.vmcore.kernel import Kernel
from crashbeam.vmcore.tasks import CurrentTask

_SMALLEST, _LARGEST = 4096, 1 << 18
"""THREAD_SIZE lies between these in every configuration."""


@dataclass(frozen=True, slots=True)
class Stack:
    """One stack: ``low`` <= address < ``high``."""

    kind: StackKind
    low: int
    high: int


def thread_bytes(kernel: Kernel, cpus: tuple[int, ...]) -> int:
    """THREAD_SIZE: the size of ``union thread_union``, else the distance of a CPU's interrupt stacks, else the default.

    Debug information lacks the union where nothing in C uses it (32 bit); the two arrays are filled by one loop, from
    consecutive allocations.
    """
    size = kernel.profile.size_of("thread_union")
    if size and _is_thread_size(size):
        return size
    for cpu in cpus[:4]:
        hard, soft = (
            _read_base(kernel, StackArray(name, StackKind.UNKNOWN), cpu) for name in ("hardirq_ctx", "softirq_ctx")
        )
        if hard and soft and _is_thread_size(abs(hard - soft)):
            return abs(hard - soft)
    return kernel.arch.default_thread_bytes


def _is_thread_size(size: int) -> bool:
    return _SMALLEST <= size <= _LARGEST and size & (size - 1) == 0


def find_stacks(kernel: Kernel, tasks: Mapping[int, CurrentTask | None]) -> dict[int, tuple[Stack, ...]]:
    """The stacks of each CPU of ``tasks``: its current task's first, then its own."""
    size = thread_bytes(kernel, tuple(tasks))
    arrays = [array for array in kernel.arch.stack_arrays if kernel.profile.address_of(array.variable) is not None]
    found: dict[int, tuple[Stack, ...]] = {}
    for cpu, task in tasks.items():
        stacks = []
        if task is not None and task.stack_base:
            stacks.append(Stack(StackKind.TASK, task.stack_base, task.stack_base + size))
        for array in arrays:
            low = _read_base(kernel, array, cpu)
            if low:
                stacks.append(Stack(array.kind, low, low + size))
        found[cpu] = tuple(stacks)
    return found


def _read_base(kernel: Kernel, array: StackArray, cpu: int) -> int | None:
    """Entry ``cpu`` of an array of stacks; an array that this kernel does not have gives ``None``."""
    address = kernel.profile.address_of(array.variable)
    if address is None:
        return None
    try:
        index = _hardware_id(kernel, cpu) if array.by_hardware_id else cpu
        return kernel.memory.word(address + index * kernel.arch.word_bytes)
    except VmcoreError:
        return None


def _hardware_id(kernel: Kernel, cpu: int) -> int:
    """The number that BookE level stacks are indexed by (``smp_hw_index``, arch/powerpc/kernel/setup_32.c)."""
    table = kernel.profile.address_of("smp_hw_index")
    return cpu if table is None else kernel.memory.u32(table + 4 * cpu)


def stack_of(stacks: tuple[Stack, ...], address: int) -> Stack | None:
    """The stack that ``address`` lies in, or ``None``."""
    for stack in stacks:
        if stack.low <= address < stack.high:
            return stack
    return None


def owners_of(stacks: Mapping[int, tuple[Stack, ...]], address: int) -> tuple[int, ...]:
    """The CPUs one of whose stacks holds ``address``."""
    return tuple(cpu for cpu, own in stacks.items() if stack_of(own, address) is not None)
