"""``python -m tests.fake_run ...``: the command ``crashbeam``, its dumps analysed by ``tests/fake_analysis.py``."""

import sys

from msgspec.structs import replace

from crashbeam.pipeline import cli, command_run
from crashbeam.pipeline.run_options import RunOptions
from tests import fake_analysis

_run = command_run.run


def run_with_fake(options: RunOptions) -> int:
    """``crashbeam run`` with the fake analysis."""
    return _run(replace(options, analyse=fake_analysis.NAME))


if __name__ == "__main__":
    command_run.run = run_with_fake
    sys.exit(cli.main())
