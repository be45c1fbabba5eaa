"""Recovery on real dumps: every CPU with its note hidden, and the CPUs that really were silent."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from crashbeam.pipeline.inputs import list_one
from crashbeam.schemas.codes import DiagnosisCode, StackKind, Trust
from crashbeam.schemas.crash_report import Cpu, CrashReport, Frame
from crashbeam.vmcore.dump import close_last, opened
from crashbeam.vmcore.facts import AnalysisOptions, Mapped
from crashbeam.vmcore.recover import LostCpu, Recovered, find_crash_ipi, read_answered, recover
from crashbeam.vmcore.recover.steps import Means
from crashbeam.vmcore.stacks import find_stacks
from crashbeam.vmcore.stages import analyse, map_notes, parse_headers
from crashbeam.vmcore.unwind import COMPLETE_STOPS
from tests.make_golden import dump_of
from tests.truth import BELOW_THE_FIRST_FUNCTION

WITHOUT_ITS_STACK = ("k2_overflow", 0)
"""It ran on in its neighbour's memory, so its own stack has nothing of where it was: its log alone would tell."""


@dataclass(frozen=True, slots=True)
class Hidden:
    """A CPU whose note was hidden: what its note's stack is known to be, and what was recovered."""

    scenario: str
    cpu: int
    chain: list[str]
    answered: bool | None
    panicked: bool
    found: Recovered | None


def kernel_part(chain: list[str]) -> list[str]:
    """The functions and exceptions of a known chain, without the assembly below the first function; an address in
    firmware is one without a name.
    """
    parts = [part.removeprefix("(firmware ").removesuffix(")") for part in chain if not part.startswith("(user")]
    while parts and parts[-1] in BELOW_THE_FIRST_FUNCTION:
        parts.pop()
    return parts


def chain_of(frames: list[Frame]) -> list[str]:
    """The same of frames. What the first of them was interrupted by is no part of its chain."""
    parts = []
    for frame in frames:
        if frame.exception is not None and frame.level:
            parts.append(f"--- interrupt: {int(frame.exception.vector, 16):#x} ---")
        name = frame.symbol or f"{int(frame.address, 16):#x}"
        is_user = frame.symbol is None and frame.on is StackKind.UNKNOWN and frame.exception is not None
        if not is_user:
            parts.append(f"{name} [{frame.module}]" if frame.module else name)
    return kernel_part(parts)


def hide_notes(corpus: Path, options: AnalysisOptions, *, hide_ipi: bool) -> Iterator[Hidden]:
    """Every CPU with a known chain, recovered as if nothing had been saved. With ``hide_ipi`` its crash IPI is not
    looked for either, nor is it told which one panicked.
    """
    for truth_file in sorted(corpus.glob("ppc*/*/truth.json")):
        truth = json.loads(truth_file.read_text())
        dump_input = list_one(str(dump_of(truth_file.parent)))
        mapped = map_notes(parse_headers(dump_input, options), options)
        assert isinstance(mapped, Mapped)
        open_kernel = opened(dump_input, options).kernel
        assert open_kernel is not None
        kernel, means = open_kernel.kernel, Means(open_kernel.kernel, open_kernel.unwinder)
        stacks = find_stacks(kernel, {cpu.cpu: cpu.task for cpu in mapped.cpus})
        answered = read_answered(kernel)
        known = {cpu["cpu"]: cpu for cpu in truth["cpus"]}
        for cpu in mapped.cpus:
            chain = known[cpu.cpu].get("chain")
            if not chain or known[cpu.cpu]["state"] not in ("saved", "not_saved"):
                continue
            said = False if hide_ipi else None if answered is None else cpu.cpu in answered
            panicked = cpu.cpu == mapped.panic.cpu and not hide_ipi
            lost = LostCpu(cpu.cpu, cpu.task, stacks[cpu.cpu], panicked, said)
            found = recover(means, lost)
            yield Hidden(truth_file.parent.name, cpu.cpu, kernel_part(chain), said, panicked, found)
    close_last()


def is_certain(frame: Frame) -> bool:
    return frame.trust not in (Trust.CALLEE, Trust.SCAN) and not frame.may_have_returned


def is_equal(known: list[str], got: list[str]) -> bool:
    """Equal chains, where an address may have several names (``a|b``)."""
    return len(known) == len(got) and all(name in names.split("|") for names, name in zip(known, got, strict=True))


def has_all(known: list[str], got: list[str]) -> bool:
    """Whether all of the known chain is there, in order."""
    left = iter(got)
    return all(any(name in names.split("|") for name in left) for names in known)


def is_false(hidden: Hidden) -> bool:
    """Whether a frame that is given as certain is none of the outer ones that are known.

    A stack whose innermost certain frames are those of the crash IPI's handler has the known chain below them.
    """
    if hidden.found is None:
        return False
    sure = chain_of([frame for frame in hidden.found.stack.frames if is_certain(frame)])
    known = hidden.chain
    if hidden.found.stack.stop_reason not in COMPLETE_STOPS:
        return not has_all(sure, known)
    if len(sure) > len(known) and not hidden.panicked and not hidden.found.by_crash_ipi:
        return not is_equal(known, sure[len(sure) - len(known) :])
    return not is_equal(known[len(known) - len(sure) :], sure)


def is_complete(hidden: Hidden) -> bool:
    """Whether the whole chain was recovered, but for a first function that leaves no trace."""
    got = [] if hidden.found is None else chain_of(list(hidden.found.stack.frames))
    return has_all(hidden.chain, got) or has_all(hidden.chain[1:], got)


@pytest.fixture(scope="module")
def options(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> AnalysisOptions:
    return AnalysisOptions((str(corpus / "kernels"),), str(tmp_path_factory.mktemp("profiles")))


@pytest.mark.corpus
def test_every_cpu_with_its_note_hidden_is_recovered_without_a_false_function(
    corpus: Path, options: AnalysisOptions
) -> None:
    hidden = list(hide_notes(corpus, options, hide_ipi=False))
    incomplete = [(one.scenario, one.cpu) for one in hidden if not is_complete(one)]
    by_ipi = [one for one in hidden if one.found is not None and one.found.by_crash_ipi]
    print(f"{len(hidden)} cpus hidden, {len(by_ipi)} found by the crash IPI, incomplete: {incomplete}")
    assert len(hidden) > 200
    assert [(one.scenario, one.cpu) for one in hidden if is_false(one)] == []
    assert incomplete == [WITHOUT_ITS_STACK]
    assert [(one.scenario, one.cpu) for one in by_ipi if not one.answered or one.panicked] == []
    assert [(one.scenario, one.cpu) for one in hidden if one.answered and one not in by_ipi] == []


@pytest.mark.corpus
def test_the_walk_down_alone_gives_no_false_function(corpus: Path, options: AnalysisOptions) -> None:
    """Every CPU taken for silent: that most of them were interrupted with interrupts on makes it harder, not easier."""
    hidden = list(hide_notes(corpus, options, hide_ipi=True))
    incomplete = [one for one in hidden if not is_complete(one)]
    print(f"{len(hidden)} cpus walked down, {len(incomplete)} incomplete")
    assert [(one.scenario, one.cpu) for one in hidden if is_false(one)] == []
    assert len(incomplete) <= len(hidden) // 6


@pytest.mark.corpus
def test_a_crash_ipi_that_was_never_taken_is_not_found(corpus: Path, options: AnalysisOptions) -> None:
    """The silent CPUs, looked at all the same: what their stacks hold of earlier IPIs is not taken for it."""
    for scenario, cpu in (("g_irqoff", 4), ("g2_irqofftimer", 1), ("l_spinlock", 3), ("f_offline", 2)):
        dump_input = list_one(str(corpus / "ppc32" / scenario / "vmcore.zlib"))
        mapped = map_notes(parse_headers(dump_input, options), options)
        assert isinstance(mapped, Mapped)
        open_kernel = opened(dump_input, options).kernel
        assert open_kernel is not None
        stacks = find_stacks(open_kernel.kernel, {one.cpu: one.task for one in mapped.cpus})
        assert find_crash_ipi(Means(open_kernel.kernel, open_kernel.unwinder), cpu, stacks[cpu]) is None
    close_last()


def silent_cpu(corpus: Path, options: AnalysisOptions, scenario: str) -> tuple[Cpu, dict[str, Any]]:
    """The one CPU of a ppc32 crash that saved no note, and what is known of it."""
    folder = corpus / "ppc32" / scenario
    report = analyse(list_one(str(folder / "vmcore.zlib")), options)
    assert isinstance(report, CrashReport)
    truth = json.loads((folder / "truth.json").read_text())
    (known,) = [cpu for cpu in truth["cpus"] if cpu["state"] == "not_saved"]
    cpu = report.cpus[known["cpu"]]
    assert cpu.registers is None
    assert cpu.stack.recovered
    assert cpu.task is not None
    assert (cpu.task.pid, cpu.task.comm) == (known["pid"], known["comm"])
    return cpu, known


@pytest.mark.corpus
def test_a_thread_that_spins_with_interrupts_off_is_found_in_its_function(
    corpus: Path, options: AnalysisOptions
) -> None:
    cpu, known = silent_cpu(corpus, options, "g_irqoff")
    certain = chain_of([frame for frame in cpu.stack.frames if is_certain(frame)])
    assert certain == ["crashlab_irqoff_kthread", "kthread", "start_kernel_thread"]
    assert (cpu.stack.frames[0].symbol, cpu.stack.frames[0].trust) == (known["chain"][0], Trust.CALLEE)
    (found,) = cpu.diagnosis
    assert found.code is DiagnosisCode.INTERRUPTS_OFF
    assert int(found.facts["since_ns"]) < 2_000_000_000 < int(found.facts["missed_ns"])
    assert found.facts["context"] == "task"


@pytest.mark.corpus
def test_a_timer_that_spins_is_found_with_its_function_and_since_when(corpus: Path, options: AnalysisOptions) -> None:
    cpu, known = silent_cpu(corpus, options, "g2_irqofftimer")
    names = chain_of(list(cpu.stack.frames))
    assert has_all(kernel_part(known["chain"]), names)
    (found,) = cpu.diagnosis
    assert found.code is DiagnosisCode.INTERRUPTS_OFF
    assert found.facts["timer_function"] == "crashlab_hrtimer_fn [crashlab]"
    assert 1_000_000_000 < int(found.facts["since_ns"]) < 2_000_000_000


@pytest.mark.corpus
def test_a_cpu_that_panicked_too_stopped_itself_over_the_lock_it_spun_on(
    corpus: Path, options: AnalysisOptions
) -> None:
    cpu, known = silent_cpu(corpus, options, "l_spinlock")
    assert chain_of(list(cpu.stack.frames)) == kernel_part(known["chain"])
    found = {diagnosis.code: diagnosis.facts for diagnosis in cpu.diagnosis}
    assert set(found) == {DiagnosisCode.PANICKED_TOO, DiagnosisCode.INTERRUPTS_OFF, DiagnosisCode.SPINNING_ON_LOCK}
    assert found[DiagnosisCode.SPINNING_ON_LOCK]["function"] == "_raw_spin_lock"


@pytest.mark.corpus
@pytest.mark.parametrize("scenario", ["le-irqoff", "be-irqoff"])
def test_a_64_bit_cpu_with_interrupts_off_is_saved_and_diagnosed(
    scenario: str, corpus: Path, options: AnalysisOptions
) -> None:
    report = analyse(list_one(str(corpus / "ppc64" / scenario / "vmcore.zlib")), options)
    assert isinstance(report, CrashReport)
    found = {cpu.cpu: cpu.diagnosis for cpu in report.cpus if cpu.diagnosis}
    assert [[diagnosis.code for diagnosis in of_cpu] for of_cpu in found.values()] == [[DiagnosisCode.INTERRUPTS_OFF]]
    (cpu,) = found
    assert report.cpus[cpu].task is not None
    assert any("irqoff" in (frame.symbol or "") for frame in report.cpus[cpu].stack.frames)


@pytest.mark.corpus
@pytest.mark.parametrize("name", ["g_irqoff", "i_lostnote_busy"])
def test_a_dumps_own_symbols_recover_what_those_of_a_vmlinux_do(
    name: str, corpus: Path, options: AnalysisOptions, tmp_path: Path
) -> None:
    dump_input = list_one(str(corpus / "ppc32" / name / "vmcore.zlib"))
    with_vmlinux, without = analyse(dump_input, options), analyse(dump_input, AnalysisOptions((), str(tmp_path)))
    assert isinstance(with_vmlinux, CrashReport)
    assert isinstance(without, CrashReport)
    assert without.kernel.symbols.names == "kallsyms"
    for cpu, other in zip(with_vmlinux.cpus, without.cpus, strict=True):
        if cpu.stack.recovered:
            plain = [replace(frame, source=None) for frame in cpu.stack.frames]
            assert plain == list(other.stack.frames)
            assert cpu.diagnosis == other.diagnosis
    assert any(cpu.stack.recovered for cpu in without.cpus)
