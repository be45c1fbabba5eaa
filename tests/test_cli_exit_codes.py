"""Every wrong use is one line on standard error that says what to do, and each exit code has one meaning."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import REPO, crashbeam, make_dumps


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """A file that begins like a dump."""
    return make_dumps(tmp_path / "in", "vmcore")[0]


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    """The only line on standard error."""
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("crashbeam: ")
    return line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "DUMP"], "Missing option '-o'"),
        (["run", "-o", "OUT"], "Missing argument 'INPUT...'"),
        (["run", "DUMP", "-o", "OUT", "--wrokers", "2"], "No such option"),
        (["run", "DUMP", "-o", "OUT", "--workers", "0"], "0 is not in the range"),
        (["run", "DUMP", "-o", "OUT", "--runner", "NoSuchRunner"], "Beam knows no such runner"),
        (["run", "DUMP", "-o", "OUT", "--sink", "mysql://x"], "write jsonl:PATH, parquet:DIR or duckdb:PATH"),
        (["run", "DUMP", "-o", "OUT", "--sink", "jsonl:/proc/none/x"], "cannot be written"),
        (["run", "DUMP", "-o", "OUT", "--symbols", "/no/such/vmlinux"], "no such file or folder"),
        (["run", "DUMP", "-o", "OUT", "--config", "/no/such.toml"], "cannot be read"),
        (["run", "s3://bucket/x", "-o", "OUT"], "only local files"),
        (["run", "DUMP.*none", "-o", "OUT"], "no file matches"),
        (["run", "DUMP", "-o", "/proc/none"], "cannot be made"),
        (["run", "DUMP", "-o", "DUMP"], "cannot be made"),
        (["run", "DUMP", "-o", "FULL"], "is not empty and no run folder"),
        (["run", "EMPTY", "-o", "OUT"], "no dump among 0 files"),
        (["load", "EMPTY", "--sink", "jsonl:x"], "is no run folder"),
        (["show", "DUMP", "--json", "--cpu", "1"], "drop --cpu or --json"),
        (["show", "DUMP", "--cpu", "one"], "not a valid integer"),
        (["schema", "nothing"], "there are crash_report, failure"),
        (["trim", "DUMP", "-o", "DUMP"], "exists: give -o a new name"),
        (["nonsense"], "No such command 'nonsense'"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(tmp_path: Path, dump: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "empty").mkdir()
    places = {"DUMP": dump, "OUT": tmp_path / "out", "EMPTY": tmp_path / "empty", "FULL": dump.parent}
    for name, place in places.items():
        arguments = [argument.replace(name, str(place)) for argument in arguments]
    result = crashbeam(*arguments)
    assert result.returncode == 2
    assert said in one_line(result)


def test_failures_are_records_unless_they_are_asked_to_count(tmp_path: Path) -> None:
    folder = make_dumps(tmp_path / "in", "a", "bad")[0].parent
    result = crashbeam("run", folder, "-o", tmp_path / "out")
    assert result.returncode == 0
    assert "2 inputs: 1 report, 1 failure (malformed 1)" in result.stderr
    assert crashbeam("run", folder, "-o", tmp_path / "out", "--fail-on-failures").returncode == 4


def test_the_summary_says_what_was_skipped_and_where_the_records_are(tmp_path: Path) -> None:
    folder = make_dumps(tmp_path / "in", "a")[0].parent
    (folder / "notes.txt").write_text("no dump")
    said = crashbeam("run", folder, "-o", tmp_path / "out").stderr
    assert "1 file skipped that are no dumps" in said
    assert str(tmp_path / "out" / "parts") in said
    assert "\r" not in said


def test_environment_and_config_set_options_and_the_flag_wins(tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(f'output = "{tmp_path / "of-config"}"\nfail-on-failures = true\ndeadline = 7\n')
    bad = make_dumps(tmp_path / "in", "bad")[0]
    assert crashbeam("run", bad, "--config", config).returncode == 4
    assert (tmp_path / "of-config" / "manifest.json").exists()
    environment = os.environ | {"CRASHBEAM_OUTPUT": str(tmp_path / "of-environment"), "CRASHBEAM_CONFIG": str(config)}
    assert crashbeam("run", bad, env=environment).returncode == 4
    assert (tmp_path / "of-environment" / "manifest.json").exists()
    assert crashbeam("run", bad, "-o", tmp_path / "of-flag", env=environment).returncode == 4
    assert (tmp_path / "of-flag" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [("wrokers = 2", "unknown option wrokers"), ("workers 2", "is no TOML"), ("workers = 'x'", "not a valid")],
)
def test_a_config_with_a_mistake_is_refused(tmp_path: Path, dump: Path, text: str, said: str) -> None:
    config = tmp_path / "run.toml"
    config.write_text(text)
    result = crashbeam("run", dump, "-o", tmp_path / "out", "--config", config)
    assert result.returncode == 2
    assert said in one_line(result)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("missing", "io_error"),
        ("empty", "empty"),
        ("text", "unknown_format"),
        ("folder", "not_regular"),
        ("fifo", "not_regular"),
    ],
)
def test_a_dump_that_cannot_be_shown_is_named_with_its_cause(tmp_path: Path, kind: str, code: str) -> None:
    path = tmp_path / kind
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind != "missing":
        path.write_text("no dump" if kind == "text" else "")
    result = crashbeam("show", path, fake=False)
    assert result.returncode == 4
    assert str(path) in one_line(result)
    assert f"({code})" in result.stderr
    result = crashbeam("trim", path, "-o", tmp_path / "small", fake=False)
    assert result.returncode == 4
    assert not (tmp_path / "small").exists()


def test_the_same_files_in_a_run_end_in_records(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no dump")
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "fifo")
    paths = [tmp_path / name for name in ("text", "empty", "fifo", "missing")]
    result = crashbeam("run", *paths, "-o", tmp_path / "out", fake=False)
    assert result.returncode == 0
    assert "(empty 1, io_error 1, not_regular 1, unknown_format 1)" in result.stderr


@pytest.mark.parametrize(
    "command",
    ["show", "schema", "trim", "load", "run", *(f"symbols {verb}" for verb in ("", "add", "list", "verify", "gc"))],
)
def test_help_answers_without_beam_and_without_readers_of_elf(command: str) -> None:
    program = (
        "import sys; from crashbeam.pipeline.cli import main\n"
        f"code = main([*{command.split()!r}, '--help'])\n"
        "slow = ('apache_beam', 'pyarrow', 'duckdb', 'numpy', 'elftools')\n"
        "print(code, [name for name in slow if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "0 []"


def test_show_does_not_load_the_symbols_commands() -> None:
    program = "import sys, crashbeam.pipeline.command_show; print('crashbeam.pipeline.command_symbols' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_show_never_imports_beam(dump: Path) -> None:
    program = (
        "import sys; from crashbeam.pipeline.cli import main\n"
        f"code = main(['show', {str(dump)!r}])\n"
        "print(code, [name for name in ('apache_beam', 'pyarrow', 'duckdb', 'numpy', 'tqdm') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "4 []"


def test_a_reader_that_stops_early_is_no_error() -> None:
    show = f"{sys.executable} -m crashbeam.pipeline schema crash_report | head -1"
    result = subprocess.run(["sh", "-c", show], cwd=REPO, capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr) == ("{\n", "")


def test_the_run_profile_that_ships_is_understood(tmp_path: Path) -> None:
    bad = make_dumps(tmp_path / "in", "bad")[0]
    config = REPO / "configs" / "run" / "nightly.toml"
    result = crashbeam("run", bad, "-o", tmp_path / "out", "--config", config)
    assert result.returncode == 0
    assert json.loads((tmp_path / "out" / "run.json").read_text())["options"]["workers"] == 1
