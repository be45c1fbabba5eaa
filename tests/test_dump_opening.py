"""What a report still says when something about the kernel cannot be had."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from crashbeam.pipeline.inputs import list_one
from crashbeam.schemas.codes import MatchedBy, NoteState, StopReason, WarningCode
from crashbeam.schemas.crash_report import CrashReport
from crashbeam.schemas.failure import FailureRecord
from crashbeam.vmcore.containers.kdump_writer import write_kdump
from crashbeam.vmcore.dump import close_last, opened
from crashbeam.vmcore.errors import SymbolError, TranslationError
from crashbeam.vmcore.facts import AnalysisOptions
from crashbeam.vmcore.kernel import Kernel
from crashbeam.vmcore.stages import STAGES, analyse, describe
from tests.builders.board import BANNER, BUILD_ID, TEXT, VARIABLES, Board, board_of, facts_of, mailing_list_board


def report_of(path: Path, options: AnalysisOptions) -> CrashReport:
    record = analyse(list_one(str(path)), options)
    assert isinstance(record, CrashReport), record
    return record


def codes(report: CrashReport) -> list[WarningCode]:
    return [warning.code for warning in report.warnings]


def options_with(folder: Path, *symbols: Path) -> AnalysisOptions:
    return AnalysisOptions(tuple(map(str, symbols)), str(folder / "cache"))


def test_without_symbols_headers_notes_and_registers_remain(tmp_path: Path) -> None:
    path = mailing_list_board().write(tmp_path)
    report = report_of(path, options_with(tmp_path))
    assert (
        report.kernel.build_id,
        report.kernel.release,
        report.system.nodename,
    ) == (BUILD_ID, "5.15.92-board", "board")
    assert set(codes(report)) == {
        *(WarningCode.SYMBOLS_MISSING, WarningCode.CPUS_UNKNOWN, WarningCode.NOTE_UNASSIGNED),
        WarningCode.LOG_UNREADABLE,
    }
    assert report.cpus == ()
    (left,) = report.unassigned_notes
    assert (left.registers["nip"], left.registers["r1"]) == ("c0423378", "eb793e60")
    assert (len(left.stack.frames), left.stack.stop_reason) == (1, StopReason.LEFT_KNOWN_STACKS)


def test_symbols_of_another_kernel_are_named_and_never_used(tmp_path: Path, golden: Path) -> None:
    path = mailing_list_board().write(tmp_path)
    other = sorted(golden.glob("*.profile"))[0]
    report = report_of(path, options_with(tmp_path, other))
    (message,) = [warning.message for warning in report.warnings if warning.code is WarningCode.SYMBOLS_MISMATCH]
    assert BUILD_ID in message
    assert other.stem in message
    assert report.kernel.symbols.names == "none"


def test_a_system_map_gives_names_and_says_what_it_cannot_give(tmp_path: Path) -> None:
    path = mailing_list_board().write(tmp_path)
    lines = [f"{address:08x} D {name}" for name, address in VARIABLES.items()]
    lines += [f"{start:08x} T {name}" for name, (start, _) in TEXT.items()]
    lines += ["c0000000 T _stext", "c0600000 T _etext"]
    system_map = tmp_path / "System.map"
    system_map.write_text("\n".join(sorted(lines)) + "\n")
    report = report_of(path, options_with(tmp_path, system_map))
    assert (report.kernel.symbols.names, report.kernel.symbols.matched_by) == ("system_map", MatchedBy.ADDRESSES)
    assert WarningCode.LAYOUTS_MISSING in codes(report)
    assert report.panic.cpu == 2
    shell = next(cpu for cpu in report.cpus if cpu.registers)
    assert (shell.cpu, shell.note.state, shell.stack.frames[0].symbol) == (2, NoteState.SAVED, "sysrq_handle_crash")


def test_the_banner_shows_the_linear_map_where_the_release_cannot_be_read(tmp_path: Path) -> None:
    board = mailing_list_board()
    board.lost_variables = ("init_uts_ns",)
    report = report_of(board.write(tmp_path), options_with(tmp_path, tmp_path / "kernel.profile"))
    assert report.kernel.banner == BANNER
    assert [cpu.cpu for cpu in report.cpus if cpu.registers] == [2]
    assert report.system.nodename == "board"


def test_without_any_place_of_the_kernel_the_notes_are_kept(tmp_path: Path) -> None:
    board = mailing_list_board()
    board.lost_variables = ("init_uts_ns", "linux_banner")
    report = report_of(board.write(tmp_path), options_with(tmp_path, tmp_path / "kernel.profile"))
    assert {WarningCode.PAGES_UNREADABLE, WarningCode.CPUS_UNKNOWN} <= set(codes(report))
    assert report.unassigned_notes[0].stack.frames[0].symbol == "sysrq_handle_crash"


@pytest.mark.parametrize("lost", ["__per_cpu_offset", "runqueues", "hardirq_ctx", "modules"])
def test_a_part_of_the_kernel_that_cannot_be_read_never_ends_the_report(lost: str, tmp_path: Path) -> None:
    board: Board = board_of({1, 2, 6})
    board.lost_variables = (lost,)
    report = report_of(board.write(tmp_path), options_with(tmp_path, tmp_path / "kernel.profile"))
    shown = {cpu.cpu: cpu.registers["r1"] for cpu in report.cpus if cpu.registers}
    saved = {number: cpu.registers["r1"] for number, cpu in enumerate(board.cpus) if cpu.registers}
    assert shown == {number: f"{stack_pointer:08x}" for number, stack_pointer in saved.items()}


def test_a_32_bit_little_endian_kernel_is_not_supported(tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    facts = facts_of(mailing_list_board())
    assert facts.utsname is not None
    little = replace(facts, byte_order="little", notes=(), vmcoreinfo=None)
    with path.open("wb") as target:
        write_kdump(target, little, {})
    record = analyse(list_one(str(path)), options_with(tmp_path))
    assert isinstance(record, FailureRecord)
    assert (record.code, record.stage) == ("unsupported", "headers")
    assert str(path) in record.message
    assert "32-bit little-endian" in record.message


def test_one_cpu_may_be_asked_for_alone(tmp_path: Path) -> None:
    path = mailing_list_board().write(tmp_path)
    options = options_with(tmp_path, tmp_path / "kernel.profile")
    shell, idle = (describe(list_one(str(path)), options, cpu) for cpu in (2, 5))
    assert isinstance(shell, str)
    assert shell.startswith(" PID: 1001   TASK: ea62b000  CPU: 2")
    assert isinstance(idle, str)
    assert "cpu 5: no registers: the CPU was online and its buffer is empty" in idle


def test_a_cpu_that_the_kernel_does_not_have_is_no_silence(tmp_path: Path) -> None:
    path = mailing_list_board().write(tmp_path)
    shown = describe(list_one(str(path)), options_with(tmp_path, tmp_path / "kernel.profile"), 99)
    assert shown == "cpu 99: the kernel has no such CPU, only 0, 1, 2, 3, 4, 5, 6, 7"
    without = describe(list_one(str(path)), options_with(tmp_path), 2)
    assert without == "cpu 2: which CPUs the kernel has cannot be read"


def test_stages_may_run_in_any_thread_or_process_and_give_the_same(tmp_path: Path) -> None:
    path = mailing_list_board().write(tmp_path)
    options = options_with(tmp_path, tmp_path / "kernel.profile")
    whole = analyse(list_one(str(path)), options)
    facts: object = list_one(str(path))
    for stage in STAGES:
        facts = stage(facts, options)
        close_last()
    assert whole == facts


def test_a_kernel_says_which_symbol_or_layout_it_lacks(tmp_path: Path) -> None:
    path = mailing_list_board().write(tmp_path)
    dump = opened(list_one(str(path)), options_with(tmp_path, tmp_path / "kernel.profile"))
    assert dump.kernel is not None
    kernel: Kernel = dump.kernel.kernel
    with pytest.raises(SymbolError, match="paca_ptrs"):
        kernel.address_of("paca_ptrs")
    with pytest.raises(SymbolError, match=r"rq\.nothing"):
        kernel.field("rq", "nothing")
    with pytest.raises(SymbolError, match="no number"):
        kernel.number_at(0xC0700000, "task_struct", "comm")
    memory = kernel.memory
    with pytest.raises(TranslationError):
        memory.word(0xC0700001)
    with pytest.raises(TranslationError):
        memory.word(0xF8000000)
    with pytest.raises(TranslationError):
        memory.read(-8, 4)
    assert len(memory.read(0xC0701FF0, 32)) == 32
    assert memory.u16(VARIABLES["crashing_cpu"] + 2) == 2
    close_last()
