"""A run that is killed, interrupted or runs out of disk: what stands is whole, and the same command goes on."""

import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.running import REPO, command, crashbeam, joined_parts, make_dumps, outcomes
from tests.test_workers_pool import wait_until_gone

KILLS = 3
MANY_KILLS = 50
SEED = 20261125


def start(*arguments: object) -> subprocess.Popen[str]:
    """The command, running."""
    return subprocess.Popen(
        command(*arguments),
        cwd=REPO,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def children_of(process_id: int) -> list[int]:
    """The child processes of a process that lives."""
    return [int(word) for word in Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()]


def every_child_of(process: subprocess.Popen[str], wanted: int, seconds: float = 20) -> list[int]:
    """The process ids of the workers, once there are so many."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and process.poll() is None:
        found: list[int] = []
        # A thread may end between its being listed and its being read.
        with suppress(OSError):
            for thread in Path(f"/proc/{process.pid}/task").iterdir():
                found += map(int, (thread / "children").read_text().split())
        if len(found) >= wanted:
            return found
        time.sleep(0.02)
    raise AssertionError(f"no {wanted} children")


def kill_at_random(folder: Path, output: Path, kills: int) -> None:
    """Kills the run so many times, each at another moment, and lets it end at last."""
    moments = random.Random(SEED)
    for _ in range(kills):
        process = start("run", folder, "-o", output, "--deadline", 1)
        time.sleep(moments.uniform(0.3, 4.0))
        process.kill()
        process.communicate()
    assert crashbeam("run", folder, "-o", output, "--deadline", 1).returncode == 0


def check_kills(tmp_path: Path, kills: int) -> None:
    """After all kills the parts, joined, are byte for byte those of an undisturbed run."""
    names = [f"dump{number:04d}" for number in range(1500)] + [f"dump{number:04d}slow" for number in range(1500, 1530)]
    folder = make_dumps(tmp_path / "in", *names, "dump0100bad", "dump0200die", "dump0300eat")[0].parent
    assert crashbeam("run", folder, "-o", tmp_path / "whole", "--deadline", 1).returncode == 0
    kill_at_random(folder, tmp_path / "killed", kills)
    assert joined_parts(tmp_path / "killed") == joined_parts(tmp_path / "whole")
    assert [name for name in os.listdir(tmp_path / "killed" / "parts") if name.startswith(".")] == []


def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(tmp_path: Path) -> None:
    check_kills(tmp_path, KILLS)


@pytest.mark.slow
def test_a_run_killed_fifty_times_ends_with_the_same_bytes(tmp_path: Path) -> None:
    check_kills(tmp_path, MANY_KILLS)


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_an_interrupt_ends_at_once_with_one_line_and_no_child(
    tmp_path: Path, number: signal.Signals, code: int, word: str
) -> None:
    folder = make_dumps(tmp_path / "in", *(f"dump{number:03d}slow" for number in range(200)))[0].parent
    process = start("run", folder, "-o", tmp_path / "out", "--workers", 2)
    children = every_child_of(process, 2)
    # As a terminal does it: to the whole group.
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=5)
    assert process.returncode == code
    assert said.strip().splitlines() == [f"crashbeam: {word}: the same command goes on with {tmp_path / 'out'}"]
    for child in children:
        wait_until_gone(child)


def test_a_disk_that_fills_up_is_one_clear_line_and_the_rest_goes_on_later(tmp_path: Path) -> None:
    folder = make_dumps(tmp_path / "in", *(f"dump{number:03d}" for number in range(400)))[0].parent
    arguments = ("run", folder, "-o", tmp_path / "out")
    limited = ["sh", "-c", 'ulimit -f 8; exec "$@"', "sh", *command(*arguments)]
    full = subprocess.run(limited, cwd=REPO, capture_output=True, text=True, check=False)
    assert full.returncode == 3
    (line,) = full.stderr.splitlines()
    assert "cannot be written: File too large" in line
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert crashbeam(*arguments).returncode == 0
    assert set(outcomes(tmp_path / "out").values()) == {"report"}
    assert len(outcomes(tmp_path / "out")) == 400


def test_two_runs_never_share_a_folder(tmp_path: Path) -> None:
    folder = make_dumps(tmp_path / "in", *(f"dump{number:03d}slow" for number in range(200)))[0].parent
    process = start("run", folder, "-o", tmp_path / "out", "--workers", 2)
    every_child_of(process, 2)
    second = crashbeam("run", folder, "-o", tmp_path / "out")
    process.kill()
    process.communicate()
    assert second.returncode == 2
    assert "is in use by another crashbeam" in second.stderr
