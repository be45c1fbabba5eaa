"""The task that ran on each CPU."""

from __future__ import annotations

from msgspec import Struct

from crashbeam.schemas.clean import clean_text
from crashbeam.schemas.codes import TaskFoundBy
from crashbeam.vmcore.errors import VmcoreError
from crashbeam.vmcore.kernel import Kernel
from crashbeam.vmcore.paca import cpu_of_paca, read_current
from crashbeam.vmcore.registers import Registers

_COMM_BYTES = 16
"""TASK_COMM_LEN (include/linux/sched.h)."""


class CurrentTask(Struct, frozen=True):
    """The task of one CPU; ``None`` for what could not be read."""

    address: int
    pid: int | None
    comm: str | None
    stack_base: int | None
    found_by: TaskFoundBy


def read_current_task(kernel: Kernel, cpu: int, *, online: bool) -> CurrentTask | None:
    """``rq->curr`` of the CPU's run queue; for an offline CPU that is its idle task. Where the run queue cannot be
    read, the PACA tells. ``None`` if neither does.
    """
    found_by = TaskFoundBy.RUN_QUEUE if online else TaskFoundBy.IDLE_TASK
    try:
        queue = kernel.per_cpu(kernel.address_of("runqueues"), cpu)
        address = kernel.memory.word(queue + kernel.field("rq", "curr").offset)
    except VmcoreError:
        address, found_by = _read_current_of_paca(kernel, cpu), TaskFoundBy.PACA
    return read_task(kernel, address, found_by) if address else None


def _read_current_of_paca(kernel: Kernel, cpu: int) -> int:
    if kernel.arch.paca_register is None:
        return 0
    try:
        return read_current(kernel, cpu)
    except VmcoreError:
        return 0


def current_of_registers(kernel: Kernel, registers: Registers) -> int | None:
    """The task that a kernel context's own registers name: in a register, or in the PACA of one."""
    arch = kernel.arch
    if arch.task_register is not None:
        return registers.words[arch.task_register]
    if arch.paca_register is None:
        return None
    cpu = cpu_of_paca(kernel, registers.words[arch.paca_register])
    return None if cpu is None else _read_current_of_paca(kernel, cpu) or None


def read_task(kernel: Kernel, address: int, found_by: TaskFoundBy) -> CurrentTask:
    """The task at ``address``."""
    return CurrentTask(
        address=address,
        pid=_read_pid(kernel, address),
        comm=_read_comm(kernel, address),
        stack_base=_read_stack_base(kernel, address),
        found_by=found_by,
    )


def read_task_cpu(kernel: Kernel, address: int) -> int | None:
    """The CPU that the task at ``address`` says it runs on (``thread_info.cpu``), or ``None`` if unreadable."""
    try:
        if kernel.profile.field("task_struct", "thread_info.cpu"):
            return kernel.number_at(address, "task_struct", "thread_info.cpu")
        stack = kernel.number_at(address, "task_struct", "stack")
        return kernel.number_at(stack, "thread_info", "cpu")
    except VmcoreError:
        return None


def _read_pid(kernel: Kernel, address: int) -> int | None:
    try:
        return kernel.memory.i32(address + kernel.field("task_struct", "pid").offset)
    except VmcoreError:
        return None


def _read_comm(kernel: Kernel, address: int) -> str | None:
    try:
        text = kernel.memory.text(address + kernel.field("task_struct", "comm").offset, _COMM_BYTES)
    except VmcoreError:
        return None
    return clean_text(text, _COMM_BYTES)


def _read_stack_base(kernel: Kernel, address: int) -> int | None:
    try:
        return kernel.number_at(address, "task_struct", "stack")
    except VmcoreError:
        return None
