"""Kernels before 5.9, whose VMCOREINFO has no BUILD-ID: the exact banner, confirmed in memory, ties symbols to them."""

from pathlib import Path

from msgspec.structs import replace

from crashbeam.schemas.codes import MatchedBy, WarningCode
from crashbeam.vmcore.symbols.profile import compile_profile
from tests.builders.board import BANNER, KERNEL, board_of
from tests.test_dump_opening import options_with, report_of


def old_dump(folder: Path) -> Path:
    board = board_of({2})
    board.has_build_id = False
    return board.write(folder)


def test_symbols_match_by_the_banner_in_memory(tmp_path: Path) -> None:
    report = report_of(old_dump(tmp_path), options_with(tmp_path, tmp_path / "kernel.profile"))
    assert (report.kernel.build_id, report.kernel.banner) == (None, BANNER)
    assert report.kernel.symbols.matched_by is MatchedBy.BANNER
    assert report.cpus[2].stack.frames[0].symbol == "sysrq_handle_crash"


def test_the_cache_has_them_for_the_next_dump(tmp_path: Path) -> None:
    path = old_dump(tmp_path)
    cache = tmp_path / "profiles"
    cache.mkdir()
    (tmp_path / "kernel.profile").rename(cache / f"{KERNEL.build_id}.profile")
    report = report_of(path, replace(options_with(tmp_path), profiles=str(cache)))
    assert report.kernel.symbols.matched_by is MatchedBy.BANNER


def test_another_build_of_the_same_release_is_not_taken(tmp_path: Path) -> None:
    path = old_dump(tmp_path)
    other = replace(KERNEL, banner=BANNER.replace("#1", "#2"))
    (tmp_path / "kernel.profile").write_bytes(compile_profile(other))
    report = report_of(path, options_with(tmp_path, tmp_path / "kernel.profile"))
    assert report.kernel.symbols.matched_by is None
    assert WarningCode.SYMBOLS_MISMATCH in [warning.code for warning in report.warnings]
