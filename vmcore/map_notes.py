"""Stage 2: whose each note is. Reads the buffers, tasks and stacks that ``note_map`` decides from."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import TypeVar

from crashbeam.schemas.clean import int32
from crashbeam.schemas.codes import Evidence, NoteMethod, NoteState, PanicFoundBy, WarningCode
from crashbeam.schemas.crash_report import Panic, ReportWarning
from crashbeam.vmcore.crash_log import read_crash_log, rules_of
from crashbeam.vmcore.dump import Dump, OpenKernel, opened
from crashbeam.vmcore.errors import LimitError, PageError, PageStatus, VmcoreError
from crashbeam.vmcore.facts import AnalysisOptions, CrashLog, Mapped, MappedCpu, Opened
from crashbeam.vmcore.kernel import Kernel
from crashbeam.vmcore.limits import MAX_CPUS
from crashbeam.vmcore.note_map import Buffer, FileNote, NoteMap, Witness, assign_notes, buffer_bytes
from crashbeam.vmcore.paca import cpu_of_paca
from crashbeam.vmcore.recover import find_crash_ipi
from crashbeam.vmcore.recover.steps import Means
from crashbeam.vmcore.registers import Registers
from crashbeam.vmcore.stacks import Stack, find_stacks, owners_of
from crashbeam.vmcore.tasks import CurrentTask, read_current_task, read_task_cpu

Value = TypeVar("Value", bound=Hashable)
_NO_PANIC = Panic(None, None, None, None, None, (), None, None)


def map_notes(before: Opened, options: AnalysisOptions) -> Mapped:
    """Decides for every possible CPU which note is its own. No failed read ends it."""
    dump = opened(before.input, options)
    masks = before.system.cpus
    if dump.kernel is None or masks.possible is None:
        return _nothing_mapped(before, dump, options)
    kernel = dump.kernel.kernel
    possible = masks.possible[:MAX_CPUS]
    online = None if masks.online is None else frozenset(masks.online)
    tasks = {cpu: read_current_task(kernel, cpu, online=online is None or cpu in online) for cpu in possible}
    stacks = find_stacks(kernel, tasks)
    log, log_warnings = read_crash_log(dump, options.dmesg_lines, rules_of(options.rules))
    after_crash = dump.facts.written_by == "qemu"
    buffers = read_buffers(kernel, possible)
    found = assign_notes(
        dump.arch,
        dump.arch.byte_order,
        dump.notes,
        buffers,
        online=online,
        present=None if masks.present is None else frozenset(masks.present),
        witness=witness_of(dump.kernel, tasks, stacks, buffers, after_crash=after_crash),
        after_crash=after_crash,
    )
    cpus = tuple(
        MappedCpu(cpu, None if online is None else cpu in online, found.cpus[cpu], tasks[cpu]) for cpu in possible
    )
    by_index = {note.index: note for note in dump.notes}
    return Mapped(
        opened=before,
        notes_in_file=len(dump.notes),
        cpus=cpus,
        stacks=stacks,
        unassigned=tuple(by_index[index] for index in found.unassigned),
        method=found.method,
        order_would_mislead=found.order_would_mislead,
        panic=find_panic(kernel, tasks, log),
        log=log,
        warnings=(*found.warnings, *log_warnings, *_count_mismatch(found, online, log)),
        pages=before.pages.joined(dump.pages_met),
    )


def _nothing_mapped(before: Opened, dump: Dump, options: AnalysisOptions) -> Mapped:
    """A dump whose CPUs are not known: every note is kept, none is given to anybody."""
    log, log_warnings = read_crash_log(dump, options.dmesg_lines, rules_of(options.rules))
    warnings = tuple(
        ReportWarning(WarningCode.NOTE_UNASSIGNED, None, f"note {note.index}: no CPU could be shown to own it")
        for note in dump.notes
    )
    panic = _panic_in_log(log) if dump.kernel is None else find_panic(dump.kernel.kernel, {}, log)
    return Mapped(
        opened=before,
        notes_in_file=len(dump.notes),
        cpus=(),
        stacks={},
        unassigned=dump.notes,
        method=NoteMethod.NONE,
        order_would_mislead=False,
        panic=panic,
        log=log,
        warnings=(*warnings, *log_warnings),
        pages=before.pages.joined(dump.pages_met),
    )


def read_buffers(kernel: Kernel, cpus: tuple[int, ...]) -> dict[int, Buffer]:
    """Each CPU's ``crash_notes`` buffer: ``note_buf_t __percpu *crash_notes`` plus that CPU's per-CPU offset."""
    try:
        pointer = kernel.word_of("crash_notes")
    except VmcoreError as error:
        return dict.fromkeys(cpus, Buffer(None, f"the pointer cannot be read ({_why(error)})"))
    if pointer == 0:
        return dict.fromkeys(cpus, Buffer(None, "the pointer is NULL"))
    return {cpu: _read_buffer(kernel, pointer, cpu) for cpu in cpus}


def _read_buffer(kernel: Kernel, pointer: int, cpu: int) -> Buffer:
    size = buffer_bytes(kernel.arch)
    try:
        address = kernel.per_cpu(pointer, cpu)
    except VmcoreError as error:
        return Buffer(None, f"its per-CPU offset cannot be read ({_why(error)})")
    try:
        return Buffer(kernel.memory.read_code(address, size))
    except PageError as error:
        if error.status is not PageStatus.EXCLUDED:
            return Buffer(None, _why(error))
    except VmcoreError as error:
        return Buffer(None, _why(error))
    try:
        return Buffer(kernel.memory.read(address, size), assumed_zero=True)
    except VmcoreError as error:
        return Buffer(None, _why(error))


def _why(error: VmcoreError) -> str:
    """Why a read failed, in words that do not depend on the container."""
    if not isinstance(error, PageError):
        return error.message
    if error.status is PageStatus.EXCLUDED:
        return "its page was left out of the dump"
    return "its page is not in the dump" if error.status is PageStatus.ABSENT else "its page is damaged"


def witness_of(
    open_kernel: OpenKernel,
    tasks: Mapping[int, CurrentTask | None],
    stacks: Mapping[int, tuple[Stack, ...]],
    buffers: Mapping[int, Buffer],
    *,
    after_crash: bool,
) -> Witness:
    """What a note's own registers and pid say of its CPU, as a function of the note. A hypervisor knows no pid, and
    takes no registers in the crash IPI.
    """
    kernel = open_kernel.kernel
    by_crash_ipi = _crash_ipi_witness(open_kernel, stacks, buffers)
    by_address = _only_owners({cpu: task.address for cpu, task in tasks.items() if task})
    by_pid = _only_owners({cpu: task.pid for cpu, task in tasks.items() if task and task.pid})

    def ask(note: FileNote) -> dict[Evidence, int]:
        said: dict[Evidence, int] = {}
        if not after_crash and (cpu := by_crash_ipi(note)) is not None:
            said[Evidence.CRASH_IPI] = cpu
        if not note.registers.is_user:
            said.update(_own_identity(kernel, by_address, note))
            owners = owners_of(stacks, note.registers.stack_pointer)
            if len(owners) == 1:
                said[Evidence.STACK] = owners[0]
        if note.pid in by_pid and not after_crash:
            said[Evidence.PR_PID] = by_pid[note.pid]
        return said

    return ask


def _crash_ipi_witness(
    open_kernel: OpenKernel, stacks: Mapping[int, tuple[Stack, ...]], buffers: Mapping[int, Buffer]
) -> Callable[[FileNote], int | None]:
    """The CPU, of those whose buffer cannot be read, whose crash IPI interrupted just what a note holds.

    The note is a copy of that exception frame (``crash_ipi_callback``), of user mode too, where registers name no CPU.
    Stacks are searched only for a note that equals no buffer.
    """
    known = [buffer.content for buffer in buffers.values() if buffer.content is not None]
    unknown = [cpu for cpu, buffer in buffers.items() if buffer.content is None or buffer.assumed_zero]

    @cache
    def interrupted() -> dict[Registers, int]:
        means = Means(open_kernel.kernel, open_kernel.unwinder)
        contexts: dict[int, Registers | None] = {}
        try:
            for cpu in unknown:
                contexts[cpu] = find_crash_ipi(means, cpu, stacks.get(cpu, ()))
        except LimitError:
            return {}
        return _only_owners(contexts)

    def ask(note: FileNote) -> int | None:
        if not unknown or any(content.startswith(note.content) for content in known):
            return None
        return interrupted().get(note.registers)

    return ask


def _own_identity(kernel: Kernel, by_task: Mapping[int, int], note: FileNote) -> Iterator[tuple[Evidence, int]]:
    """The CPU by the registers that the kernel knows it by: a PACA, or the current task."""
    words, arch = note.registers.words, kernel.arch
    if arch.paca_register is not None:
        cpu = cpu_of_paca(kernel, words[arch.paca_register])
        if cpu is not None:
            yield Evidence.PACA, cpu
    if arch.task_register is not None:
        current = words[arch.task_register]
        if current in by_task:
            yield Evidence.CURRENT_TASK, by_task[current]
        elif (cpu := _task_cpu(kernel, current)) is not None:
            yield Evidence.THREAD_INFO_CPU, cpu


def _task_cpu(kernel: Kernel, task: int) -> int | None:
    if task % kernel.arch.word_bytes or not task:
        return None
    cpu = read_task_cpu(kernel, task)
    return cpu if cpu is not None and cpu in kernel.possible else None


def _only_owners(values: Mapping[int, Value | None]) -> dict[Value, int]:
    """CPU by value, for the values that exactly one CPU has."""
    owners: dict[Value, list[int]] = {}
    for cpu, value in values.items():
        if value is not None:
            owners.setdefault(value, []).append(cpu)
    return {value: cpus[0] for value, cpus in owners.items() if len(cpus) == 1}


def _count_mismatch(found: NoteMap, online: frozenset[int] | None, log: CrashLog | None) -> tuple[ReportWarning, ...]:
    """The kernel's own count of CPUs that answered the crash IPI (``crash_kexec_prepare``) against the buffers.

    A CPU may answer after the kernel stopped waiting, so fewer notes may be missing than it says, but never more.
    """
    if log is None or not (log.facts.ipi_complete or log.facts.not_responding):
        return ()
    states = [found.cpus[cpu].state for cpu in found.cpus if online is None or cpu in online]
    missing = states.count(NoteState.NOT_SAVED) + states.count(NoteState.INVALID)
    silent = log.facts.not_responding or 0
    if missing <= silent:
        return ()
    said = f"{silent} CPUs did not respond" if silent else "every CPU responded"
    message = f"the kernel's log says that {said}, but {missing} saved no whole note"
    return (ReportWarning(WarningCode.NOTE_COUNT_MISMATCH, None, message),)


def _panic_in_log(log: CrashLog | None) -> Panic:
    """The panicking CPU and task as the log's first report names them."""
    cause = None if log is None else log.cause
    if cause is None or cause.cpu is None or not cause.is_fatal:
        return _NO_PANIC
    pid = None if cause.pid is None else int32(cause.pid)
    return replace(_NO_PANIC, cpu=cause.cpu, pid=pid, comm=cause.comm, found_by=PanicFoundBy.DMESG)


def find_panic(kernel: Kernel, tasks: Mapping[int, CurrentTask | None], log: CrashLog | None = None) -> Panic:
    """The CPU that ran the crash path, by ``crashing_cpu`` (arch/powerpc) or ``panic_cpu`` (kernel/panic.c), else by
    the log.
    """
    for variable, found_by in (("crashing_cpu", PanicFoundBy.CRASHING_CPU), ("panic_cpu", PanicFoundBy.PANIC_CPU)):
        try:
            cpu = kernel.memory.i32(kernel.address_of(variable))
        except VmcoreError:
            continue
        if 0 <= cpu < MAX_CPUS and (cpu in tasks or not tasks):
            task = tasks.get(cpu)
            return Panic(
                cpu=cpu,
                pid=int32(task.pid) if task and task.pid is not None else None,
                comm=task.comm if task else None,
                task=kernel.arch.hexadecimal(task.address) if task else None,
                title=None,
                alternative_titles=(),
                message=None,
                found_by=found_by,
            )
    return _panic_in_log(log)
