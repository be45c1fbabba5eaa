"""Ctrl-C and SIGTERM: one line, no child left, and a run folder that the same command takes up.

The process ends at once, where it stands: a run is made to survive SIGKILL at any moment, and unwinding through Beam
would print its whole inside.
"""

import os
import signal
import sys
from types import FrameType

from crashbeam.pipeline.exit_codes import INTERRUPTED, TERMINATED

_EXIT_CODES = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}


def end_on_signals(advice: str) -> None:
    """From now on SIGINT and SIGTERM end the process with exit code 130 or 143, saying ``advice``."""

    from crashbeam.workers.pool import kill_children

    def end(number: int, _frame: FrameType | None) -> None:
        kill_children()
        word = "interrupted" if number == signal.SIGINT else "terminated"
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"\ncrashbeam: {word}: {advice}\n".encode())
        os._exit(_EXIT_CODES[signal.Signals(number)])

    for number in _EXIT_CODES:
        signal.signal(number, end)


def end_with_reader() -> None:
    """From now on a reader that closes standard output early (head) ends the process, as it ends any other tool.

    Not for commands that have child processes: those may close their pipes at any time.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
