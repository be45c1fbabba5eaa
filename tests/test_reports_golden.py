"""Reports of real crashes, trimmed, against what is known of them."""

import json
import lzma
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson
import pytest

from crashbeam.pipeline.inputs import list_one
from crashbeam.schemas.codes import WarningCode
from crashbeam.schemas.crash_report import CrashReport
from crashbeam.schemas.encode import to_json_line
from crashbeam.schemas.json_schema import json_schema
from crashbeam.vmcore import map_notes
from crashbeam.vmcore.facts import AnalysisOptions
from crashbeam.vmcore.kernel import Kernel
from crashbeam.vmcore.note_map import Buffer
from crashbeam.vmcore.stages import analyse, describe
from tests.truth import WITH_REGISTERS, differences

GOLDEN = Path(__file__).parent / "golden"
TRUTHS: dict[str, Any] = json.loads(lzma.decompress((GOLDEN / "truth.json.xz").read_bytes()))
VALIDATOR = jsonschema_rs.Draft202012Validator(json_schema("crash_report"), validate_formats=True)
NOT_SAVED = "cpu {}: NT_PRSTATUS note was not saved by the crashing system"


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> AnalysisOptions:
    return AnalysisOptions((str(GOLDEN),), str(tmp_path_factory.mktemp("profiles")))


def report_of(name: str, options: AnalysisOptions) -> CrashReport:
    record = analyse(list_one(str(GOLDEN / f"{name}.kdump")), options)
    assert isinstance(record, CrashReport), record
    assert VALIDATOR.is_valid(orjson.loads(to_json_line(record)))
    return record


@pytest.mark.parametrize("name", sorted(TRUTHS))
def test_every_fact_of_a_real_crash_is_right(name: str, options: AnalysisOptions) -> None:
    assert list(differences(report_of(name, options), TRUTHS[name])) == []


@pytest.mark.parametrize("name", sorted(TRUTHS))
def test_just_the_cpus_that_did_not_save_are_warned_of(name: str, options: AnalysisOptions) -> None:
    lost = [cpu["cpu"] for cpu in TRUTHS[name]["cpus"] if cpu["state"] == "not_saved"]
    warnings = [warning for warning in report_of(name, options).warnings if warning.code is WarningCode.NOTE_NOT_SAVED]
    assert [(cpu, NOT_SAVED.format(cpu)) for cpu in lost] == [(warning.cpu, warning.message) for warning in warnings]


def test_a_dump_cut_off_keeps_its_notes_and_names_where_they_stood(options: AnalysisOptions) -> None:
    report = report_of("damaged_truncated", options)
    assert report.source.complete is False
    codes = [warning.code for warning in report.warnings]
    assert {WarningCode.DUMP_INCOMPLETE, WarningCode.CPUS_UNKNOWN} <= set(codes)
    assert report.cpus == ()
    assert list(range(8)) == [note.index for note in report.unassigned_notes]
    for note in report.unassigned_notes:
        assert note.stack.frames[0].address == note.registers["nip"]
        assert (note.mode == "user") == (note.stack.frames[0].symbol is None)


def test_eight_notes_of_eight_possible_cpus_are_in_order_if_nothing_else_can_be_read(options: AnalysisOptions) -> None:
    """The writer ran out of space before run queues, per-CPU offsets and the online mask."""
    report = report_of("damaged_incomplete", options)
    assert report.source.complete is False
    assert report.system.cpus.online is None
    assert report.notes.method == "order"
    assert [(cpu, "unreadable", cpu) for cpu in range(8)] == [
        (cpu.cpu, cpu.note.state, cpu.note.index) for cpu in report.cpus
    ]
    codes = [warning.code for warning in report.warnings]
    assert {WarningCode.DUMP_INCOMPLETE, WarningCode.CRASH_NOTES_UNREADABLE, WarningCode.NOTE_ORDER_USED} <= set(codes)


@pytest.mark.parametrize(
    ("name", "nip", "lr"),
    [
        ("damaged_incomplete", "handle_softirqs", "do_softirq_own_stack"),
        ("damaged_truncated", "arch_cpu_idle", "arch_cpu_idle"),
    ],
)
def test_the_text_of_a_damaged_dump_names_nip_and_lr(name: str, nip: str, lr: str, options: AnalysisOptions) -> None:
    shown = describe(list_one(str(GOLDEN / f"{name}.kdump")), options)
    assert isinstance(shown, str)
    assert f"] {nip}\n" in shown
    assert f"] {lr}\n" in shown
    assert f" {nip} at c00" in shown


def test_a_cpu_caught_in_user_mode_has_one_frame_and_no_symbol(options: AnalysisOptions) -> None:
    known = [cpu["cpu"] for cpu in TRUTHS["m_userbusy"]["cpus"] if "user" in cpu["frames"][0]]
    users = [cpu for cpu in report_of("m_userbusy", options).cpus if cpu.mode == "user"]
    assert known == [cpu.cpu for cpu in users]
    assert known
    assert all(len(cpu.stack.frames) == 1 and cpu.stack.frames[0].symbol is None for cpu in users)


def test_three_stacks_are_crossed(options: AnalysisOptions) -> None:
    report = report_of("p3_extirq_softirq", options)
    crashed = report.cpus[6]
    stacks = list(dict.fromkeys(frame.on for frame in crashed.stack.frames))
    assert stacks == ["hardirq", "softirq", "task", "unknown"]
    assert crashed.stack.stop_reason == "user_mode"


@pytest.mark.parametrize("name", sorted(TRUTHS))
def test_the_weaker_witnesses_alone_place_every_note_rightly_or_not_at_all(
    name: str, options: AnalysisOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every crash_notes buffer made unreadable: registers, stacks and pids decide."""

    def unreadable(_: Kernel, cpus: tuple[int, ...]) -> dict[int, Buffer]:
        return dict.fromkeys(cpus, Buffer(None, "made unreadable"))

    monkeypatch.setattr(map_notes, "read_buffers", unreadable)
    report = report_of(name, options)
    saved = [cpu["cpu"] for cpu in TRUTHS[name]["cpus"] if cpu["state"] in WITH_REGISTERS]
    owners = dict(enumerate(saved))
    for cpu in report.cpus:
        assert cpu.note.index is None or owners[cpu.note.index] == cpu.cpu
    placed = {cpu.note.index for cpu in report.cpus} | {note.index for note in report.unassigned_notes}
    assert set(owners) <= placed
    assert WarningCode.NOTE_EVIDENCE_CONFLICT not in [warning.code for warning in report.warnings]
