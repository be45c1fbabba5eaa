"""The crash IPI's exception frame as a witness: real dumps whose crash_notes buffers cannot be read."""

import json
from pathlib import Path

import pytest

from crashbeam.pipeline.inputs import list_one
from crashbeam.schemas.codes import CpuMode, Evidence, NoteMethod, NoteState
from crashbeam.schemas.crash_report import Cpu, CrashReport
from crashbeam.vmcore import map_notes
from crashbeam.vmcore.facts import AnalysisOptions
from crashbeam.vmcore.kernel import Kernel
from crashbeam.vmcore.note_map import Buffer
from crashbeam.vmcore.stages import analyse
from tests.make_golden import dump_of

GOLDEN = Path(__file__).parent / "golden"
READ = map_notes.read_buffers


def lose_buffers(monkeypatch: pytest.MonkeyPatch, lost: frozenset[int] | None = None) -> None:
    """Makes the buffers of these CPUs unreadable; of all CPUs, without a number."""

    def read(kernel: Kernel, cpus: tuple[int, ...]) -> dict[int, Buffer]:
        buffers = READ(kernel, cpus)
        return {
            cpu: Buffer(None, "made unreadable") if lost is None or cpu in lost else buffer
            for cpu, buffer in buffers.items()
        }

    monkeypatch.setattr(map_notes, "read_buffers", read)


def report_of(path: Path, symbols: Path, profiles: Path) -> CrashReport:
    record = analyse(list_one(str(path)), AnalysisOptions((str(symbols),), str(profiles)))
    assert isinstance(record, CrashReport), record
    return record


def first_evidence(cpu: Cpu) -> Evidence | None:
    return cpu.note.evidence[0] if cpu.note.evidence else None


@pytest.mark.corpus
def test_without_any_buffer_every_note_of_an_interrupted_cpu_is_placed_by_its_crash_ipi(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_buffers(monkeypatch)
    by_ipi, in_user_mode, known_in_user_mode = 0, 0, 0
    for truth_file in sorted(corpus.glob("ppc*/*/truth.json")):
        known = {cpu["cpu"]: cpu for cpu in json.loads(truth_file.read_text())["cpus"]}
        saved = [cpu for cpu, facts in known.items() if facts["state"] == "saved"]
        if not saved:
            continue
        report = report_of(dump_of(truth_file.parent), corpus / "kernels", tmp_path)
        assert {cpu.note.index: cpu.cpu for cpu in report.cpus if cpu.note.index is not None} == dict(enumerate(saved))
        assert report.unassigned_notes == ()
        for cpu in report.cpus:
            if cpu.note.index is None or cpu.cpu == report.panic.cpu:
                continue
            assert first_evidence(cpu) is Evidence.CRASH_IPI, (truth_file, cpu.cpu)
            by_ipi += 1
            in_user_mode += cpu.mode is CpuMode.USER
            known_in_user_mode += known[cpu.cpu].get("stack") == "user"
    assert by_ipi > 150
    assert in_user_mode == known_in_user_mode > 0


@pytest.mark.corpus
def test_one_lost_buffer_of_a_cpu_in_user_mode(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dump = dump_of(corpus / "ppc32" / "m_userbusy")
    whole = report_of(dump, corpus / "kernels", tmp_path)
    user = next(cpu for cpu in whole.cpus if cpu.mode is CpuMode.USER)
    lose_buffers(monkeypatch, frozenset({user.cpu}))
    report = report_of(dump, corpus / "kernels", tmp_path)
    found = report.cpus[user.cpu]
    assert (found.note.state, found.note.index) == (NoteState.UNREADABLE, user.note.index)
    assert found.note.evidence == (Evidence.CRASH_IPI, Evidence.PR_PID)
    assert found.registers == user.registers
    assert report.notes.method is NoteMethod.WITNESSES
    assert [cpu.note for cpu in report.cpus if cpu.cpu != user.cpu] == [
        cpu.note for cpu in whole.cpus if cpu.cpu != user.cpu
    ]


def test_readable_buffers_leave_nothing_to_search_the_stacks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a stack was searched")

    monkeypatch.setattr(map_notes, "find_crash_ipi", refuse)
    report = report_of(GOLDEN / "a_hardirq.kdump", GOLDEN, tmp_path)
    assert {first_evidence(cpu) for cpu in report.cpus} == {Evidence.CRASH_NOTES}


def test_the_frame_of_one_cpu_never_gives_it_the_note_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every second buffer lost, the notes of the others are theirs already."""
    lose_buffers(monkeypatch, frozenset(range(0, 8, 2)))
    whole = {cpu: cpu for cpu in range(8)}
    report = report_of(GOLDEN / "a_hardirq.kdump", GOLDEN, tmp_path)
    assert {cpu.cpu: cpu.note.index for cpu in report.cpus} == whole
