"""Why a CPU did not answer the crash IPI, or what it was doing: codes with their facts, and words for the engineer.

What says that interrupts were off is the CPU's own timer: ``hrtimer_bases[cpu].expires_next`` is the time at which it
wanted the next interrupt. If the tick of the others (``tick_next_period``) is far beyond it, the interrupt never came.
``hrtimer_interrupt`` puts KTIME_MAX there while it runs (kernel/time/hrtimer.c). All times count from boot.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from msgspec import Struct

from crashbeam.schemas.codes import CpuMode, DiagnosisCode, NoteState, StopReason
from crashbeam.schemas.crash_report import Diagnosis, Stack
from crashbeam.vmcore.errors import VmcoreError
from crashbeam.vmcore.kernel import Kernel
from crashbeam.vmcore.modules import Function, Text
from crashbeam.vmcore.recover import read_in_nmi
from crashbeam.vmcore.recover.steps import read_preempt_count
from crashbeam.vmcore.registers import Registers
from crashbeam.vmcore.tasks import CurrentTask

_LATE_NS = 1_000_000_000
"""A timer that is later than this has missed its interrupt."""
_KTIME_MAX = (1 << 63) - 1
_MOST_CLOCK_BASES = 16
_SPINNING = ("_raw_spin_lock", "_raw_read_lock", "_raw_write_lock")
_YIELDING = ("splpar_spin_yield", "splpar_rw_yield")
"""What a lock function of a guest calls while the lock is taken (arch/powerpc/lib/locks.c)."""
_SELF_STOP = frozenset(("panic", "vpanic", "panic_smp_self_stop", "nmi_panic_self_stop"))
_ARGUMENT = 3
_RESERVING, _RESERVING_MASK = 0x7C000028, 0xFC1F07FE
"""``lwarx RT,0,RB`` (Power ISA book II, 4.6.2)."""
_MOST_LOCK_BYTES = 1024
_LOCK_TOKEN = 0x8000
"""The upper half of a taken lock on 64 bit; the lower one is the index of its owner's PACA (asm/simple_spinlock.h)."""
_IRQS_DISABLED = 1
_HARDIRQ, _SOFTIRQ, _NMI = 0xF0000, 0x100, 0xF00000


class CpuFacts(Struct, frozen=True):
    """One CPU as the stages know it.

    ``answered``: it ran ``crash_save_cpu()`` in the crash IPI, ``None`` where memory does not tell. ``panicked``: it
    ran the crash path. ``registers`` are those of its note or of its recovered stack's first frame: ``has_note``.
    """

    cpu: int
    online: bool | None
    state: NoteState
    task: CurrentTask | None
    answered: bool | None
    panicked: bool
    registers: Registers | None
    has_note: bool
    mode: CpuMode | None
    stack: Stack


class _Timer(Struct, frozen=True):
    """When a CPU wanted its next timer interrupt, and when the system's next tick was due, in ns since boot.

    ``is_handling``: ``hrtimer_interrupt`` runs, and ``since_ns`` is that of the timer whose ``function`` (an address)
    it is running, or ``None``.
    """

    since_ns: int | None
    tick_ns: int
    is_handling: bool
    function: int | None = None


def diagnose(kernel: Kernel, text: Text, cpu: CpuFacts) -> tuple[Diagnosis, ...]:
    """What is known of why a CPU saved no note; of one that did, only what explains something."""
    if cpu.online is False:
        return tuple(_offline(cpu))
    found = [
        *_skipped(cpu),
        *_panicked_too(cpu),
        *_interrupts_off(kernel, text, cpu),
        *_spinning(kernel, text, cpu),
        *_in_firmware(cpu),
        *_in_nmi(kernel, cpu),
    ]
    if not found and cpu.state is NoteState.NOT_SAVED and not cpu.has_note:
        said = "" if cpu.answered is None else ", it did not answer the crash IPI"
        message = f"cpu {cpu.cpu}: why it saved no note is not known{said}"
        found.append(Diagnosis(DiagnosisCode.UNKNOWN, message, _context(kernel, cpu)))
    return tuple(found)


def _offline(cpu: CpuFacts) -> Iterator[Diagnosis]:
    if cpu.state in (NoteState.OFFLINE, NoteState.SAVED):
        saved = ", and saved a note all the same" if cpu.state is NoteState.SAVED else ""
        yield Diagnosis(DiagnosisCode.OFFLINE, f"cpu {cpu.cpu} was offline{saved}", {})


def _skipped(cpu: CpuFacts) -> Iterator[Diagnosis]:
    if cpu.state is not NoteState.NOT_SAVED or not (cpu.answered or cpu.panicked):
        return
    did = "ran the crash path itself" if cpu.panicked else "answered the crash IPI"
    idle = ", which ran its idle task" if cpu.task is not None and cpu.task.pid == 0 else ""
    message = f"cpu {cpu.cpu} {did}, and its buffer is empty: this kernel saved no note of it{idle}"
    yield Diagnosis(
        DiagnosisCode.SKIPPED_BY_KERNEL, message, {"answered": "crash path" if cpu.panicked else "crash IPI"}
    )


def _panicked_too(cpu: CpuFacts) -> Iterator[Diagnosis]:
    if cpu.panicked or cpu.answered:
        return
    inner = [frame for frame in cpu.stack.frames if frame.symbol in _SELF_STOP and not frame.may_have_returned]
    if inner:
        message = f"cpu {cpu.cpu} panicked too, after another CPU: it stopped itself in {inner[0].symbol}"
        yield Diagnosis(DiagnosisCode.PANICKED_TOO, message, {"function": str(inner[0].symbol)})


def _interrupts_off(kernel: Kernel, text: Text, cpu: CpuFacts) -> Iterator[Diagnosis]:
    is_silent = not cpu.has_note and not cpu.answered
    if cpu.panicked or not (is_silent or _is_disabled_by_code(kernel, cpu) or _is_in_timer_interrupt(cpu)):
        return
    timer = _read_timer(kernel, cpu.cpu)
    if timer is None:
        return
    late_ns = None if timer.since_ns is None else timer.tick_ns - timer.since_ns
    if (late_ns is None or late_ns <= _LATE_NS) and not (timer.is_handling and is_silent):
        return
    facts = _context(kernel, cpu)
    words = [f"cpu {cpu.cpu} ran with interrupts off"]
    if timer.since_ns is not None:
        facts["since_ns"] = str(timer.since_ns)
        words.append(f"since {timer.since_ns / 1e9:.2f} s after boot")
    if late_ns is not None and late_ns > _LATE_NS:
        facts["missed_ns"] = str(late_ns)
        words.append(f"(the timer that was due then is {late_ns / 1e9:.2f} s late)")
    if timer.is_handling:
        facts["handler"] = "hrtimer_interrupt"
        words.append("in hrtimer_interrupt")
        function = None if timer.function is None else _function_behind(kernel, text, timer.function)
        if function is not None and function.name:
            name = f"{function.name} [{function.module}]" if function.module else function.name
            facts["timer_function"] = name
            words.append(f"with the timer of {name}")
    yield Diagnosis(DiagnosisCode.INTERRUPTS_OFF, " ".join(words), facts)


def _function_behind(kernel: Kernel, text: Text, pointer: int) -> Function | None:
    """The function that a function pointer leads to: with ELFv1 (64 bit, big endian) by a descriptor."""
    function = text.function_at(pointer)
    if function is not None or kernel.arch.name != "ppc64":
        return function
    try:
        return text.function_at(kernel.memory.word(pointer))
    except VmcoreError:
        return None


def _is_in_timer_interrupt(cpu: CpuFacts) -> bool:
    """Whether a CPU was in the handler of its timers, in whatever task's time: an NMI interrupts that too."""
    return any(frame.symbol == "hrtimer_interrupt" and not frame.may_have_returned for frame in cpu.stack.frames)


def _is_disabled_by_code(kernel: Kernel, cpu: CpuFacts) -> bool:
    """Whether code of a thread ran with interrupts disabled: by MSR[EE], or on 64 bit by the kernel's own mask,
    ``IRQS_DISABLED`` of softe (asm/hw_irq.h), while MSR[EE] stays set until an interrupt comes. Idle threads sleep like
    that, a vector's first instruction is no code yet, and firmware has a diagnosis of its own.
    """
    registers, arch = cpu.registers, kernel.arch
    if registers is None or cpu.task is None or cpu.task.pid == 0:
        return False
    if cpu.mode is not CpuMode.KERNEL or cpu.stack.stop_reason is StopReason.VECTOR_ENTRY:
        return False
    if not registers.takes_interrupts:
        return True
    return arch.paca_register is not None and bool(registers.words[arch.registers.index("softe")] & _IRQS_DISABLED)


def _read_timer(kernel: Kernel, cpu: int) -> _Timer | None:
    """``None`` where memory does not tell; a page that was left out is not taken for zeros."""
    try:
        tick_ns = _exact(kernel, kernel.address_of("tick_next_period"), 8)
        base = kernel.per_cpu(kernel.address_of("hrtimer_bases"), cpu)
        field = kernel.field("hrtimer_cpu_base", "expires_next")
        expires_ns = _exact(kernel, base + field.offset, field.size)
    except VmcoreError:
        return None
    if not 0 < tick_ns < _KTIME_MAX or not 0 < expires_ns <= _KTIME_MAX:
        return None
    if expires_ns < _KTIME_MAX:
        return _Timer(expires_ns, tick_ns, is_handling=False)
    running = _read_running(kernel, base)
    return _Timer(running[0], tick_ns, True, running[1]) if running else _Timer(None, tick_ns, is_handling=True)


def _read_running(kernel: Kernel, base: int) -> tuple[int, int] | None:
    """When the timer was due that a CPU's ``hrtimer_interrupt`` is running, and its function."""
    try:
        bases, size = kernel.field("hrtimer_cpu_base", "clock_base"), kernel.size_of("hrtimer_clock_base")
        for place in range(min(bases.size // size, _MOST_CLOCK_BASES) if size else 0):
            timer = kernel.number_at(base + bases.offset + place * size, "hrtimer_clock_base", "running")
            if timer:
                due_ns = kernel.number_at(timer, "hrtimer", "node.expires")
                return due_ns, kernel.number_at(timer, "hrtimer", "function")
    except VmcoreError:
        pass
    return None


def _exact(kernel: Kernel, address: int, size_bytes: int) -> int:
    """A number that is really in the dump."""
    return int.from_bytes(kernel.memory.read_code(address, size_bytes), kernel.arch.byte_order)


def _spinning(kernel: Kernel, text: Text, cpu: CpuFacts) -> Iterator[Diagnosis]:
    """A lock function that was interrupted in, and its lock: taken, else the CPU was only passing."""
    for function, lock in _locks_of(kernel, text, cpu):
        try:
            value = kernel.memory.number(lock, 4)
        except VmcoreError:
            continue
        if not value:
            continue
        facts = {"function": function, "lock": kernel.arch.hexadecimal(lock), "value": f"{value:08x}"}
        owner = value & 0xFFFF if kernel.arch.paca_register is not None and value >> 16 == _LOCK_TOKEN else None
        words = f"cpu {cpu.cpu} spun in {function} on the lock at {facts['lock']}"
        if owner is not None:
            facts["owner_cpu"] = str(owner)
            words += f", which cpu {owner} holds"
        yield Diagnosis(DiagnosisCode.SPINNING_ON_LOCK, words, facts)
        return
    for function in _giving_way(cpu):
        words = f"cpu {cpu.cpu} spun in {function}, and gave its time to the lock's holder: which lock is not known"
        yield Diagnosis(DiagnosisCode.SPINNING_ON_LOCK, words, {"function": function})
        return


def _giving_way(cpu: CpuFacts) -> Iterator[str]:
    """The lock functions that had called the hypervisor since the lock was taken, innermost first."""
    for callee, frame in pairwise(cpu.stack.frames):
        is_certain = not callee.may_have_returned and not frame.may_have_returned
        if is_certain and callee.symbol in _YIELDING and frame.symbol and frame.symbol.startswith(_SPINNING):
            yield frame.symbol


def _locks_of(kernel: Kernel, text: Text, cpu: CpuFacts) -> Iterator[tuple[str, int]]:
    """The lock functions whose registers are known, with the lock, innermost first."""
    for frame in cpu.stack.frames:
        if frame.symbol is None or not frame.symbol.startswith(_SPINNING) or frame.may_have_returned:
            continue
        number = _register_of_lock(kernel, text, int(frame.address, 16))
        if number is None:
            continue
        if frame.exception is not None and f"r{number}" in frame.exception.registers:
            yield frame.symbol, int(frame.exception.registers[f"r{number}"], 16)
        elif frame.level == 0 and cpu.registers is not None:
            yield frame.symbol, cpu.registers.words[number]


def _register_of_lock(kernel: Kernel, text: Text, nip: int) -> int | None:
    """The register that holds the lock from the function's first ``lwarx RT,0,RB`` on: RB; ``None`` before it. The
    argument's own, r3, in code that cannot be read or has none.
    """
    function = text.function_at(nip)
    if function is None:
        return _ARGUMENT
    try:
        code = kernel.memory.code_words(function.start, min(function.end - function.start, _MOST_LOCK_BYTES) // 4)
    except VmcoreError:
        return _ARGUMENT
    for place, word in enumerate(code):
        if word & _RESERVING_MASK == _RESERVING:
            return word >> 11 & 31 if nip >= function.start + 4 * place else None
    return _ARGUMENT


def _in_firmware(cpu: CpuFacts) -> Iterator[Diagnosis]:
    if cpu.mode is CpuMode.FIRMWARE:
        address = cpu.stack.frames[0].address if cpu.stack.frames else "an unknown address"
        yield Diagnosis(DiagnosisCode.IN_FIRMWARE, f"cpu {cpu.cpu} was in firmware, at {address}", {"address": address})


def _in_nmi(kernel: Kernel, cpu: CpuFacts) -> Iterator[Diagnosis]:
    # The crash IPI is an NMI itself: only of a CPU that is known not to have answered it, another one is meant.
    if cpu.has_note or cpu.answered is not False or cpu.panicked:
        return
    depth = read_in_nmi(kernel, cpu.cpu)
    if depth:
        message = f"cpu {cpu.cpu} was in an NMI and did not come out of it"
        yield Diagnosis(DiagnosisCode.IN_NMI, message, {"depth": str(depth)})


def _context(kernel: Kernel, cpu: CpuFacts) -> dict[str, str]:
    """What a CPU was executing, as far as ``preempt_count`` of its task tells."""
    count = None if cpu.has_note else read_preempt_count(kernel, cpu.task)
    if count is None:
        return {}
    kinds = (("nmi", _NMI), ("hardirq", _HARDIRQ), ("softirq", _SOFTIRQ))
    context = next((name for name, mask in kinds if count & mask), "task")
    return {"context": context, "preempt_count": f"{count:08x}"}
