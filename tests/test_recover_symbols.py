"""Variables that are static in a function are found by the name before the compiler's number."""

from pathlib import Path

import pytest

from crashbeam.vmcore.symbols.system_map import read_system_map

TEXT = "c0000000 T _stext\nc0001000 T crash_ipi_callback\nc0002000 T _etext\n"


@pytest.mark.parametrize("number", ["0", "37412"])
def test_a_static_variable_is_found_whatever_number_it_bears(number: str, tmp_path: Path) -> None:
    path = tmp_path / "System.map"
    path.write_text(f"{TEXT}c0005000 b cpus_state_saved.{number}\n")
    assert read_system_map(str(path)).variables["cpus_state_saved"] == 0xC0005000


def test_of_two_static_variables_of_one_name_neither_is_meant(tmp_path: Path) -> None:
    path = tmp_path / "System.map"
    path.write_text(f"{TEXT}c0005000 b cpus_state_saved.0\nc0005004 b cpus_state_saved.1\n")
    assert "cpus_state_saved" not in read_system_map(str(path)).variables


def test_a_name_that_only_begins_alike_is_another_one(tmp_path: Path) -> None:
    path = tmp_path / "System.map"
    path.write_text(f"{TEXT}c0005000 b cpus_state_saved_once.0\n")
    assert "cpus_state_saved" not in read_system_map(str(path)).variables
