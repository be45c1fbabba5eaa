"""The loop of a child process: a request, an analysis, an answer, until its pipe ends.

Started by ``pool.py`` as a new interpreter. Nothing in a dump may make it write a file, dump core, eat the machine's
memory or outlive the driver: limits are set once what it needs is loaded, and a timer runs around every input.
"""

import gc
import logging
import math
import mmap
import os
import pickle
import resource
import signal
import sys
import time
from typing import BinaryIO

from crashbeam.schemas.codes import Stage
from crashbeam.vmcore.stage_mark import set_stage_hook
from crashbeam.vmcore.symbols.store import set_profile_hook
from crashbeam.workers.analysis import Analyse, analyse_to_line, load_analyse
from crashbeam.workers.limits import Limits
from crashbeam.workers.protocol import EXIT_OUT_OF_MEMORY, READY, ChildSettings, read_frame, unpack_input, write_frame

STAGES = tuple(Stage)
STAGE_NUMBERS = {stage: number for number, stage in enumerate(STAGES)}
MAX_OPEN_FILES = 64


def main() -> None:
    """Serves requests from standard input until it ends; answers go to what was standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, answers = _take_pipes()
    first = read_frame(requests)
    if first is None:
        return
    settings: ChildSettings = pickle.loads(first)
    try:
        analyse = load_analyse(settings.analyse)
    except (ImportError, AttributeError) as error:
        write_frame(answers, str(error).encode())
        return
    stage_memory = mmap.mmap(settings.stage_descriptor, mmap.PAGESIZE)

    def mark(stage: Stage) -> None:
        stage_memory[0] = STAGE_NUMBERS[stage]

    set_stage_hook(mark)
    profiles: list[bytes] = []
    set_profile_hook(profiles.append)
    gc.collect()
    gc.freeze()
    _limit_process(settings.limits)
    write_frame(answers, READY)
    try:
        _serve(requests, answers, analyse, settings, profiles)
    except MemoryError:
        os._exit(EXIT_OUT_OF_MEMORY)


def _serve(requests: BinaryIO, answers: int, analyse: Analyse, settings: ChildSettings, profiles: list[bytes]) -> None:
    """Answers every request; before the answer go the profiles that were made of the dump's own symbols."""
    cpu_limit_seconds = 0
    while (request := read_frame(requests)) is not None:
        dump_input = unpack_input(request)
        cpu_limit_seconds = _limit_input(settings.limits, cpu_limit_seconds)
        line = analyse_to_line(analyse, dump_input, settings.options)
        # A driver that is slow to read must not cost the next input its child.
        signal.setitimer(signal.ITIMER_REAL, 0)
        while profiles:
            write_frame(answers, profiles.pop())
        write_frame(answers, line)


def _take_pipes() -> tuple[BinaryIO, int]:
    """The two pipes under other numbers, so that a stray print breaks no frame."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    return requests, answers


def _limit_process(limits: Limits) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_OPEN_FILES, MAX_OPEN_FILES))
    address_space_bytes = _own_size_bytes() + limits.memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (address_space_bytes, address_space_bytes))


def _limit_input(limits: Limits, cpu_limit_seconds: int) -> int:
    """Starts the clocks of an input; ``cpu_limit_seconds`` is the CPU limit that stands, and what is given the new one.

    The limit is in whole seconds of the process' life: for most inputs it is that of the input before.
    """
    needed = math.ceil(time.process_time()) + limits.cpu_seconds
    if needed != cpu_limit_seconds:
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (needed, hard))
    signal.setitimer(signal.ITIMER_REAL, limits.wall_seconds)
    return needed


def _own_size_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[0]) * mmap.PAGESIZE


if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG if sys.argv[1:] == ["debug"] else logging.CRITICAL)
    main()
