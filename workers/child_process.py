"""One child process as the driver sees it: its pipes, what it has under way, when it began that, and how it died."""

import json
import mmap
import os
import pickle
import selectors
import signal
import subprocess
import sys
import time
from collections import deque

from crashbeam.schemas.codes import FailureCode, Stage
from crashbeam.vmcore.facts import DumpInput
from crashbeam.vmcore.symbols.profile import MAGIC as PROFILE_MAGIC
from crashbeam.workers.child import STAGES
from crashbeam.workers.protocol import (
    EXIT_OUT_OF_MEMORY,
    READY,
    ChildSettings,
    FrameBuffer,
    ProtocolError,
    pack_input,
    to_frame,
)

START_SECONDS = 20
"""A child that is not ready by then never will be; its start has nothing to do with any dump's deadline."""
PIPE_BYTES = 1 << 16
"""What a pipe holds: more is never there to be read at once, and room for it would be given back each time."""
GRACE_SECONDS = 2
"""How much later than the child's own timer the driver ends it."""
_BOOT = "import json, runpy, sys; sys.path[:] = json.loads(sys.argv.pop()); runpy.run_module({!r}, run_name='__main__')"
_DEATHS = {
    signal.SIGXCPU: FailureCode.DEADLINE,
    signal.SIGALRM: FailureCode.DEADLINE,
}


class ChildStartError(Exception):
    """A child that cannot start: the same would happen to every other."""


class ChildProcess:
    """A child that is ready for requests. Raises ChildStartError.

    ``under_way`` holds the numbers of its requests, the one that it is on first; ``profiles`` what it made of the
    symbols of dumps, for the cache.
    """

    def __init__(self, settings: ChildSettings, debug: bool) -> None:
        self.under_way: deque[int] = deque()
        self.profiles: list[bytes] = []
        self._began = 0.0
        self._frames = FrameBuffer()
        self._unsent = bytearray()
        self._timed_out = False
        self._wall_seconds = settings.limits.wall_seconds
        stage_descriptor = os.memfd_create("crashbeam-stage", os.MFD_CLOEXEC)
        os.ftruncate(stage_descriptor, mmap.PAGESIZE)
        self._stage_memory = mmap.mmap(stage_descriptor, mmap.PAGESIZE)
        self._process = _start(stage_descriptor, debug)
        os.close(stage_descriptor)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.requests = self._process.stdin.fileno()
        self.answers = self._process.stdout.fileno()
        os.set_blocking(self.requests, False)
        os.set_blocking(self.answers, False)
        try:
            self._shake_hands(pickle.dumps(_with_stage(settings, stage_descriptor)))
        except ChildStartError:
            self.kill()
            raise

    @property
    def process_id(self) -> int:
        """The child's process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    @property
    def wants_to_write(self) -> bool:
        """Whether requests wait for room in the pipe."""
        return bool(self._unsent)

    @property
    def deadline(self) -> float | None:
        """The monotonic time at which the input that it is on is overdue; ``None`` if it is on none."""
        return self._began + self._wall_seconds + GRACE_SECONDS if self.under_way else None

    def send(self, number: int, dump_input: DumpInput) -> None:
        """Queues a request. A child that died meanwhile shows at the next ``receive``."""
        if not self.under_way:
            self._began = time.monotonic()
        self.under_way.append(number)
        self._unsent += to_frame(pack_input(dump_input))
        self.flush()

    def flush(self) -> None:
        """Writes as much of the queued requests as the pipe takes."""
        try:
            while self._unsent:
                del self._unsent[: os.write(self.requests, self._unsent)]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._unsent.clear()

    def receive(self) -> tuple[list[tuple[int, bytes]], bool]:
        """What came in: answers as (request number, line), and whether the child is dead."""
        try:
            data = os.read(self.answers, PIPE_BYTES)
            frames = self._frames.feed(data)
        except BlockingIOError:
            return [], False
        except ProtocolError:
            return [], True
        lines = [frame for frame in frames if not frame.startswith(PROFILE_MAGIC)]
        self.profiles += [frame for frame in frames if frame.startswith(PROFILE_MAGIC)]
        if len(lines) > len(self.under_way):
            return [], True
        answers = [(self.under_way.popleft(), line) for line in lines]
        if answers:
            self._began = time.monotonic()
        return answers, not data

    def kill_overdue(self) -> bool:
        """Kills the child if the input that it is on is overdue; whether it did."""
        deadline = self.deadline
        if deadline is None or time.monotonic() < deadline:
            return False
        self._timed_out = True
        self.kill()
        return True

    def kill(self) -> None:
        """Ends the child and closes its pipes; a second call does nothing."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def find_death(self) -> tuple[FailureCode, Stage, int]:
        """Why the child is dead, the last stage it marked, and its exit status (negative: the signal).

        A child that lives on, having broken the protocol, is killed.
        """
        try:
            status = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            status = 0
        self.kill()
        stage = STAGES[min(self._stage_memory[0], len(STAGES) - 1)]
        if self._timed_out:
            return FailureCode.DEADLINE, stage, status
        if status == EXIT_OUT_OF_MEMORY:
            return FailureCode.OUT_OF_MEMORY, stage, status
        if status < 0:
            return _DEATHS.get(signal.Signals(-status), FailureCode.WORKER_KILLED), stage, status
        return FailureCode.WORKER_KILLED, stage, status

    def _shake_hands(self, settings: bytes) -> None:
        self._unsent += to_frame(settings)
        self.flush()
        ends = time.monotonic() + START_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(self.answers, selectors.EVENT_READ)
            while (left := ends - time.monotonic()) > 0:
                if not selector.select(left):
                    continue
                data = os.read(self.answers, PIPE_BYTES)
                frames = self._frames.feed(data)
                if frames == [READY]:
                    return
                if frames:
                    raise ChildStartError(f"a worker process cannot start: {frames[0].decode(errors='replace')}")
                if not data:
                    raise ChildStartError(f"a worker process ended at its start with status {self._process.wait()}")
        raise ChildStartError(f"a worker process was not ready after {START_SECONDS} seconds")


def _start(stage_descriptor: int, debug: bool) -> subprocess.Popen[bytes]:
    path = json.dumps([os.path.abspath(entry) for entry in sys.path])
    arguments = [sys.executable, "-I", "-c", _BOOT.format("crashbeam.workers.child")]
    if debug:
        arguments.append("debug")
    return subprocess.Popen(
        [*arguments, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None if debug else subprocess.DEVNULL,
        bufsize=0,
        pass_fds=(stage_descriptor,),
    )


def _with_stage(settings: ChildSettings, stage_descriptor: int) -> ChildSettings:
    return ChildSettings(settings.analyse, settings.options, settings.limits, stage_descriptor)
