"""The CPUs of a dump that have no registers: what is recovered of them, and the diagnosis of every CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from crashbeam.schemas.codes import NoteState
from crashbeam.schemas.crash_report import Diagnosis
from crashbeam.vmcore.diagnosis import CpuFacts, diagnose
from crashbeam.vmcore.dump import OpenKernel
from crashbeam.vmcore.errors import LimitError
from crashbeam.vmcore.facts import MappedCpu, UnwoundContext
from crashbeam.vmcore.limits import Budget
from crashbeam.vmcore.recover import LostCpu, OopsRegisters, Recovered, find_crash_ipi, read_answered, recover
from crashbeam.vmcore.recover.steps import Means
from crashbeam.vmcore.registers import Registers
from crashbeam.vmcore.stacks import Stack
from crashbeam.vmcore.unwind import COMPLETE_STOPS, NO_STACK


class LostCpus:
    """What is found of the CPUs of one dump beyond their notes.

    ``panic_cpu`` is the one that ran the crash path, ``oops`` what the log says of it.
    """

    def __init__(
        self,
        kernel: OpenKernel,
        stacks: Mapping[int, tuple[Stack, ...]],
        panic_cpu: int | None,
        oops: OopsRegisters | None = None,
        allowance: Budget | None = None,
    ) -> None:
        self._kernel = kernel
        self._stacks = stacks
        self._panic_cpu = panic_cpu
        self._oops = oops
        self._means = Means(kernel.kernel, kernel.unwinder, allowance)
        self.given_up_at: int | None = None
        """The first CPU that was not looked at, since the allowance was used up."""

    def find(
        self, cpus: Sequence[MappedCpu], contexts: Sequence[UnwoundContext | None]
    ) -> tuple[tuple[UnwoundContext | None, ...], tuple[tuple[Diagnosis, ...], ...]]:
        """The context of each CPU, recovered ones among them, and its diagnoses."""
        found = [self._look_at(cpu, context) for cpu, context in zip(cpus, contexts, strict=True)]
        return tuple(context for context, _ in found), tuple(diagnoses for _, diagnoses in found)

    @cached_property
    def _answered(self) -> frozenset[int] | None:
        return read_answered(self._kernel.kernel)

    def _has_answered(self, cpu: int) -> bool | None:
        return None if self._answered is None else cpu in self._answered

    def _look_at(
        self, cpu: MappedCpu, context: UnwoundContext | None
    ) -> tuple[UnwoundContext | None, tuple[Diagnosis, ...]]:
        recovered = None
        if self.given_up_at is None:
            try:
                recovered = self._recover(cpu, context)
            except LimitError:
                self.given_up_at = cpu.cpu
        if recovered is not None:
            context = UnwoundContext(recovered.mode, recovered.stack, recovered.registers_from)
        return context, self._diagnose(cpu, context, recovered)

    def _recover(self, cpu: MappedCpu, context: UnwoundContext | None) -> Recovered | None:
        """Offline CPUs ran nothing. Registers that a hypervisor took are those of after the crash: of a CPU that
        answered, they only show where it waits for the crash kernel; of the one that panicked, the crash kernel
        itself, unless they lead through the crashed one's stack.
        """
        note = cpu.note
        if cpu.online is False or (note.registers is not None and note.state is not NoteState.NOT_SAVED):
            return None
        stacks = self._stacks.get(cpu.cpu, ())
        is_panicked = cpu.cpu == self._panic_cpu
        lost = LostCpu(cpu.cpu, cpu.task, stacks, is_panicked, self._has_answered(cpu.cpu), self._oops)
        has_left = is_panicked and context is not None and context.stack.stop_reason not in COMPLETE_STOPS
        if note.registers is None or has_left or find_crash_ipi(self._means, cpu.cpu, stacks) is not None:
            return recover(self._means, lost)
        return None

    def _diagnose(
        self, cpu: MappedCpu, context: UnwoundContext | None, recovered: Recovered | None
    ) -> tuple[Diagnosis, ...]:
        registers: Registers | None = cpu.note.registers
        if recovered is not None:
            registers = recovered.context
        has_note = cpu.note.state is not NoteState.NOT_SAVED and cpu.note.registers is not None
        answered = None if has_note else self._has_answered(cpu.cpu)
        if recovered is not None and recovered.by_crash_ipi:
            answered = True
        facts = CpuFacts(
            cpu=cpu.cpu,
            online=cpu.online,
            state=cpu.note.state,
            task=cpu.task,
            answered=answered,
            panicked=cpu.cpu == self._panic_cpu,
            registers=registers,
            has_note=has_note,
            mode=None if context is None else context.mode,
            stack=NO_STACK if context is None else context.stack,
        )
        return diagnose(self._kernel.kernel, self._kernel.text, facts)
