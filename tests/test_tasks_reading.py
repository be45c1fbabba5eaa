"""The task that ran on a CPU, and the CPU that a task says it runs on."""

import pytest

from crashbeam.schemas.codes import TaskFoundBy
from crashbeam.vmcore.symbols.layouts import Field, StructLayout
from crashbeam.vmcore.tasks import CurrentTask, read_current_task, read_task, read_task_cpu
from tests.builders.kernel_memory import MadeUpKernel

QUEUES, TASK, STACK = 0xC0B00000, 0xC2000000, 0xC3000000
FIELDS = {"stack": Field(16, 4), "pid": Field(32, 4), "comm": Field(48, 16, 16)}
CPU_IN_TASK = {**FIELDS, "thread_info.cpu": Field(8, 4)}


def board() -> MadeUpKernel:
    """CPU 1's run queue has a task with pid 1001."""
    made = MadeUpKernel()
    made.variables.update(runqueues=QUEUES, __per_cpu_offset=0xC0702000)
    made.structs.update(
        rq=StructLayout(64, {"curr": Field(20, 4)}),
        task_struct=StructLayout(128, CPU_IN_TASK),
    )
    made.words(0xC0702000, 0, 0x10000)
    made.words(QUEUES + 0x10000 + 20, TASK)
    made.words(TASK + 8, 1)
    made.words(TASK + 16, STACK)
    made.words(TASK + 32, 1001)
    made.put(TASK + 48, b"kworker/1:2\0\0\0\0\0")
    return made


def test_the_current_task_of_a_run_queue() -> None:
    found = read_current_task(board().kernel(), 1, online=True)
    assert found == CurrentTask(TASK, 1001, "kworker/1:2", STACK, TaskFoundBy.RUN_QUEUE)


def test_the_current_task_of_an_offline_cpu_is_its_idle_task() -> None:
    found = read_current_task(board().kernel(), 1, online=False)
    assert found is not None
    assert found.found_by is TaskFoundBy.IDLE_TASK


def test_a_run_queue_that_names_no_task_or_cannot_be_read_gives_none() -> None:
    made = board()
    made.words(QUEUES + 20, 0)
    assert read_current_task(made.kernel(), 0, online=True) is None
    made.lose(QUEUES + 0x10000)
    assert read_current_task(made.kernel(), 1, online=True) is None
    del made.variables["runqueues"]
    assert read_current_task(made.kernel(), 1, online=True) is None


def test_a_comm_without_end_is_cut_at_16_characters_and_its_control_characters_are_escaped() -> None:
    made = board()
    made.put(TASK + 48, b"\x1b[31m" + b"x" * 40)
    assert read_task(made.kernel(), TASK, TaskFoundBy.REGISTER).comm == "\\x1b[31mxxxxxxxx"


def test_a_negative_pid_stays_negative() -> None:
    made = board()
    made.words(TASK + 32, 0xFFFFFFFF)
    assert read_task(made.kernel(), TASK, TaskFoundBy.REGISTER).pid == -1


def test_of_a_task_that_cannot_be_read_only_the_address_is_known() -> None:
    found = read_task(board().kernel(), 0xD0000000, TaskFoundBy.REGISTER)
    assert found == CurrentTask(0xD0000000, None, None, None, TaskFoundBy.REGISTER)


def test_the_cpu_stands_in_the_task_since_linux_5_1() -> None:
    assert read_task_cpu(board().kernel(), TASK) == 1


def test_the_cpu_stood_at_the_low_end_of_the_stack_before() -> None:
    made = board()
    made.structs["task_struct"] = StructLayout(128, FIELDS)
    made.structs["thread_info"] = StructLayout(32, {"cpu": Field(4, 4), "task": Field(0, 4)})
    made.words(STACK, TASK, 3)
    assert read_task_cpu(made.kernel(), TASK) == 3


@pytest.mark.parametrize("address", [0, 0xD0000000, 0x10000000])
def test_a_task_that_cannot_be_read_says_no_cpu(address: int) -> None:
    assert read_task_cpu(board().kernel(), address) is None
    made = board()
    made.structs["task_struct"] = StructLayout(128, FIELDS)
    assert read_task_cpu(made.kernel(), address) is None
