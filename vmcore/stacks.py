"""Whose stack is this address: the stacks of every CPU, by known bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from crashbeam.schemas.codes import StackKind
from crashbeam.vmcore.arch.architecture import StackArray
from crashbeam.vmcore.errors import VmcoreError
from crashbeam.vmcore.kernel import Kernel
from crashbeam.vmcore.limits import MAX_CPUS
from crashbeam.vmcore.paca import read_stack_ends
from crashbeam.vmcore.tasks import CurrentTask

_PAIR = ("hardirq_ctx", "softirq_ctx")
_SMALLEST, _LARGEST = 4096, 1 << 18
"""THREAD_SIZE lies between these in every configuration."""


class Stack(Struct, frozen=True):
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
    hard, soft = (_read_bases(kernel, StackArray(name, StackKind.UNKNOWN), cpus[:4]) for name in _PAIR)
    for cpu in hard.keys() & soft.keys():
        if _is_thread_size(abs(hard[cpu] - soft[cpu])):
            return abs(hard[cpu] - soft[cpu])
    return kernel.arch.default_thread_bytes


def _is_thread_size(size: int) -> bool:
    return _SMALLEST <= size <= _LARGEST and size & (size - 1) == 0


def find_stacks(kernel: Kernel, tasks: Mapping[int, CurrentTask | None]) -> dict[int, tuple[Stack, ...]]:
    """The stacks of each CPU of ``tasks``: its current task's first, then its own."""
    size = thread_bytes(kernel, tuple(tasks))
    found: dict[int, list[Stack]] = {cpu: [] for cpu in tasks}
    for cpu, task in tasks.items():
        if task is not None and task.stack_base:
            found[cpu].append(Stack(StackKind.TASK, task.stack_base, task.stack_base + size))
    for array in kernel.arch.stack_arrays:
        # What is read past the end of one array may be an entry of the next: a stack has one owner.
        taken = {stack.low for stacks in found.values() for stack in stacks}
        for cpu, low in _read_bases(kernel, array, tuple(tasks)).items():
            if low not in taken:
                found[cpu].append(Stack(array.kind, low, low + size))
    if kernel.arch.paca_stacks:
        for cpu, stacks in found.items():
            stacks += [Stack(kind, end - size, end) for kind, end in read_stack_ends(kernel, cpu)]
    return {cpu: tuple(stacks) for cpu, stacks in found.items()}


def infer_task_stack(kernel: Kernel, stacks: tuple[Stack, ...], stack_pointer: int) -> Stack | None:
    """The task stack of a CPU whose task is not known: kernel stacks lie at multiples of their size.

    It is where ``stack_pointer`` is, or, from an interrupt stack, where the link of that stack's first frame leads to.
    ``None`` where the size of stacks is not known.
    """
    if any(stack.kind is StackKind.TASK for stack in stacks) or not stacks:
        return None
    own = stack_of(stacks, stack_pointer)
    for _ in stacks:
        if own is None:
            break
        stack_pointer = _read_link(kernel, own)
        own = stack_of(stacks, stack_pointer)
    size = stacks[0].high - stacks[0].low
    low = stack_pointer - stack_pointer % size
    return Stack(StackKind.TASK, low, low + size) if low > kernel.arch.lowest_kernel_address and own is None else None


def _read_link(kernel: Kernel, stack: Stack) -> int:
    """Where the first frame of an interrupt stack leads to; 0 if it cannot be read, or leads back into that stack."""
    for offset in kernel.arch.switch_offsets:
        link = _read_base(kernel, stack.high - offset)
        if link and not stack.low <= link < stack.high:
            return link
    return 0


def _read_bases(kernel: Kernel, array: StackArray, cpus: tuple[int, ...]) -> dict[int, int]:
    """The lowest addresses in an array of stacks, by CPU; what the kernel lacks or memory does not give is left out."""
    address = kernel.profile.address_of(array.variable)
    if address is None or not cpus:
        return {}
    indexes = (
        _hardware_ids(kernel, cpus) if array.by_hardware_id else {cpu: cpu * array.entries_per_cpu for cpu in cpus}
    )
    indexes = {cpu: index for cpu, index in indexes.items() if index < MAX_CPUS}
    if not indexes:
        return {}
    try:
        bases = kernel.memory.words(address, max(indexes.values()) + 1)
    except VmcoreError:
        found = {cpu: _read_base(kernel, address + index * kernel.arch.word_bytes) for cpu, index in indexes.items()}
        return {cpu: base for cpu, base in found.items() if base}
    return {cpu: bases[index] for cpu, index in indexes.items() if bases[index]}


def _read_base(kernel: Kernel, address: int) -> int:
    """One entry, 0 if it cannot be read: an absurd index of another CPU may lead a read of all of them astray."""
    try:
        return kernel.memory.word(address)
    except VmcoreError:
        return 0


def _hardware_ids(kernel: Kernel, cpus: tuple[int, ...]) -> dict[int, int]:
    """The numbers that BookE level stacks are indexed by (``smp_hw_index``, arch/powerpc/kernel/setup_32.c)."""
    table = kernel.profile.address_of("smp_hw_index")
    if table is None:
        return {cpu: cpu for cpu in cpus}
    try:
        data = kernel.memory.read(table, 4 * (max(cpus) + 1))
    except VmcoreError:
        return {}
    order: Literal["big", "little"] = "big" if kernel.memory.byte_order == "big" else "little"
    return {cpu: int.from_bytes(data[4 * cpu : 4 * cpu + 4], order) for cpu in cpus}


def stack_of(stacks: tuple[Stack, ...], address: int) -> Stack | None:
    """The stack that ``address`` lies in, or ``None``."""
    for stack in stacks:
        if stack.low <= address < stack.high:
            return stack
    return None


def owners_of(stacks: Mapping[int, tuple[Stack, ...]], address: int) -> tuple[int, ...]:
    """The CPUs one of whose stacks holds ``address``."""
    return tuple(cpu for cpu, own in stacks.items() if stack_of(own, address) is not None)
