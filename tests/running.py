"""Runs of crashbeam for tests: in this process where that tells enough, else as the command."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from msgspec.structs import replace

from crashbeam.pipeline.run_options import RunOptions
from crashbeam.transforms.part_file import read_part
from crashbeam.vmcore.facts import DumpInput
from crashbeam.workers.limits import Limits
from tests import fake_analysis

REPO = Path(__file__).resolve().parent.parent
QUICK_LIMITS = Limits(cpu_seconds=1, wall_seconds=2)


def make_dumps(folder: Path, *names: str) -> list[Path]:
    """Files that look like dumps, and that ``fake_analysis`` takes at their names."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in names]
    for path in paths:
        path.write_bytes(b"KDUMP   " + path.name.encode())
    return paths


def some_input(name: str) -> DumpInput:
    """An input that is no file."""
    return DumpInput(name.encode().hex(), f"file:///{name}", (f"/{name}",), None, None, None)


def run_options(inputs: Sequence[Path], output: Path, **changes: Any) -> RunOptions:
    """What ``crashbeam run INPUTS -o OUTPUT`` is asked for, with the fake analysis and two children."""
    options = RunOptions(
        inputs=tuple(map(str, inputs)),
        output=str(output),
        symbols=(),
        profiles=None,
        sinks=(),
        workers=2,
        runner="FnApiRunner",
        isolation="children",
        limits=QUICK_LIMITS,
        fail_on_failures=False,
        retry_failures=False,
        debug=False,
        analyse=fake_analysis.NAME,
    )
    return replace(options, **changes)


def crashbeam(*arguments: object, fake: bool = True, **settings: Any) -> subprocess.CompletedProcess[str]:
    """The command, with the fake analysis unless told otherwise; nothing is checked."""
    return subprocess.run(
        command(*arguments, fake=fake), cwd=REPO, capture_output=True, text=True, check=False, **settings
    )


def command(*arguments: object, fake: bool = True) -> list[str]:
    """The words that start the command."""
    module = "tests.fake_run" if fake else "crashbeam.pipeline"
    return [sys.executable, "-m", module, *map(str, arguments)]


def joined_parts(output: Path) -> bytes:
    """All records of a run, in input order."""
    return b"".join(read_part(str(path)) for path in sorted((output / "parts").iterdir()) if path.name[0] != ".")


def records_of(output: Path) -> list[dict[str, Any]]:
    """All records of a run, parsed."""
    return [orjson.loads(line) for line in joined_parts(output).splitlines()]


def outcomes(output: Path) -> dict[str, str]:
    """What became of each input, by its file name: ``report`` or the code of its failure."""
    return {os.path.basename(record["source"]["uri"]): record.get("code", "report") for record in records_of(output)}
