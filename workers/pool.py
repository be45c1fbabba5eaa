"""N children kept busy with a run of inputs, whose records come back in input order.

A child that dies, hangs or eats memory costs exactly one FailureRecord, that of the input it was on; what was queued
behind goes to the next child, and a new child takes its place.
"""

import contextlib
import heapq
import logging
import os
import selectors
import signal
import threading
import time
from collections.abc import Iterator, Sequence

from msgspec import Struct

from crashbeam.schemas.codes import FailureCode, Stage
from crashbeam.schemas.encode import to_json_line
from crashbeam.vmcore.dump import profile_store
from crashbeam.vmcore.errors import SymbolError
from crashbeam.vmcore.facts import AnalysisOptions, DumpInput, Failed
from crashbeam.vmcore.stages import to_record
from crashbeam.workers.analysis import ANALYSE, analyse_to_line, load_analyse, name_of
from crashbeam.workers.child_process import ChildProcess
from crashbeam.workers.limits import DEFAULT_LIMITS, Limits
from crashbeam.workers.protocol import ChildSettings

UNDER_WAY = 3
"""Inputs under way for each child, so that none waits for the driver."""
LOOK_AHEAD = 512
"""How many inputs beyond the oldest open one are handed out: what they yield is held in memory."""
TICK_SECONDS = 1.0
"""How long ``analyse_run`` keeps its caller waiting before it says that nothing is ready."""
_SENTENCES = {
    FailureCode.DEADLINE: "{name}: the analysis took longer than its deadline while {stage}",
    FailureCode.OUT_OF_MEMORY: "{name}: the analysis needed more memory than its limit while {stage}",
    FailureCode.WORKER_KILLED: "{name}: the worker process died ({death}) while {stage}",
}

_log = logging.getLogger(__name__)


class PoolSettings(Struct, frozen=True):
    """How many children, what they run, and within which limits; ``debug`` lets them write to standard error."""

    workers: int
    options: AnalysisOptions
    limits: Limits = DEFAULT_LIMITS
    analyse: str = ANALYSE
    debug: bool = False


class Pool:
    """The children of this process. Raises ChildStartError where they cannot start."""

    def __init__(self, settings: PoolSettings) -> None:
        self._settings = settings
        self._child_settings = ChildSettings(settings.analyse, settings.options, settings.limits, -1)
        self._selector = selectors.DefaultSelector()
        self._children: list[ChildProcess] = []
        self._writing: set[ChildProcess] = set()
        self._waiting: list[int] = []
        self._lines: dict[int, bytes] = {}
        self._one_run = threading.Lock()

    @property
    def process_ids(self) -> list[int]:
        """The process ids of the children that live."""
        return [child.process_id for child in self._children]

    def analyse_run(self, inputs: Sequence[DumpInput]) -> Iterator[bytes | None]:
        """The JSON line of every input, in order; ``None`` now and then while nothing is ready for a second."""
        with self._one_run:
            self._waiting = list(range(len(inputs)))
            self._lines = {}
            wanted = 0
            self._forget_dead()
            try:
                while wanted < len(inputs):
                    self._hand_out(inputs, wanted + LOOK_AHEAD)
                    if wanted not in self._lines and not self._await(inputs):
                        yield None
                    while wanted in self._lines:
                        yield self._lines.pop(wanted)
                        wanted += 1
            finally:
                self._drop_unfinished()

    def close(self) -> None:
        """Ends the children; a later run starts new ones."""
        while self._children:
            self._remove(self._children[0]).kill()

    def _hand_out(self, inputs: Sequence[DumpInput], before: int) -> None:
        while len(self._children) < self._settings.workers and self._waiting:
            self._add_child()
        for depth in range(UNDER_WAY):
            for child in self._children:
                if self._waiting and self._waiting[0] < before and len(child.under_way) <= depth:
                    number = heapq.heappop(self._waiting)
                    child.send(number, inputs[number])
                    self._watch(child)

    def _await(self, inputs: Sequence[DumpInput]) -> bool:
        """Waits for answers, for a death or for a deadline; whether there was any within ``TICK_SECONDS``."""
        deadlines = [child.deadline for child in self._children if child.deadline is not None]
        now = time.monotonic()
        timeout = max(0.0, min([TICK_SECONDS, *(deadline - now for deadline in deadlines)]))
        moved = False
        for key, events in self._selector.select(timeout):
            child: ChildProcess = key.data
            if child not in self._children:
                continue
            if events & selectors.EVENT_WRITE:
                child.flush()
                self._watch(child)
            if key.fd == child.answers:
                answers, dead = child.receive()
                self._lines.update(answers)
                self._keep_profiles(child)
                moved = moved or bool(answers) or dead
                if dead:
                    self._bury(child, inputs)
        for child in list(self._children):
            if child.kill_overdue():
                self._bury(child, inputs)
                moved = True
        return moved

    def _keep_profiles(self, child: ChildProcess) -> None:
        """Puts what a child made of dumps' own symbols into the cache, where the other children find it."""
        while child.profiles:
            try:
                profile_store(self._settings.options).keep_from_dump(child.profiles.pop())
            except SymbolError as error:
                _log.debug("a child's profile was refused: %s", error.message)

    def _bury(self, child: ChildProcess, inputs: Sequence[DumpInput]) -> None:
        self._remove(child)
        code, stage, status = child.find_death()
        if child.under_way:
            number = child.under_way.popleft()
            self._lines[number] = to_json_line(to_record(_failed(inputs[number], code, stage, status)))
        for number in child.under_way:
            heapq.heappush(self._waiting, number)

    def _forget_dead(self) -> None:
        """Drops the children that died while they had nothing to do."""
        for child in list(self._children):
            if not child.is_alive:
                self._remove(child).kill()

    def _drop_unfinished(self) -> None:
        """Ends the children that still owe answers: nobody asks for them any more."""
        for child in list(self._children):
            if child.under_way:
                self._remove(child).kill()

    def _add_child(self) -> None:
        child = ChildProcess(self._child_settings, self._settings.debug)
        self._children.append(child)
        self._selector.register(child.answers, selectors.EVENT_READ, child)

    def _remove(self, child: ChildProcess) -> ChildProcess:
        self._children.remove(child)
        self._selector.unregister(child.answers)
        if child in self._writing:
            self._writing.remove(child)
            self._selector.unregister(child.requests)
        return child

    def _watch(self, child: ChildProcess) -> None:
        """Asks to be told of room in the pipe for as long as there is something to write."""
        if child.wants_to_write and child not in self._writing:
            self._writing.add(child)
            self._selector.register(child.requests, selectors.EVENT_WRITE, child)
        elif child in self._writing and not child.wants_to_write:
            self._writing.remove(child)
            self._selector.unregister(child.requests)


def _failed(dump_input: DumpInput, code: FailureCode, stage: Stage, status: int) -> Failed:
    death = f"signal {-status}" if status < 0 else f"exit status {status}"
    message = _SENTENCES[code].format(name=name_of(dump_input), stage=stage.sentence, death=death)
    return Failed(input=dump_input, stage=stage, code=code, message=message, hint=code.remedy, facts={})


def record_lines(inputs: Sequence[DumpInput], settings: PoolSettings, isolated: bool) -> Iterator[bytes | None]:
    """The JSON line of every input, in order, from child processes or (not ``isolated``) made in this one.

    ``None`` now and then while nothing is ready.
    """
    if isolated:
        return shared_pool(settings).analyse_run(inputs)
    analyse = load_analyse(settings.analyse)
    return (analyse_to_line(analyse, dump_input, settings.options) for dump_input in inputs)


_pools: dict[tuple[int, PoolSettings], Pool] = {}


def shared_pool(settings: PoolSettings) -> Pool:
    """The one pool of this process with these settings (a pool for each DoFn instance would start its own children)."""
    key = (os.getpid(), settings)
    if key not in _pools:
        _pools[key] = Pool(settings)
    return _pools[key]


def close_pools() -> None:
    """Ends every child of this process."""
    while _pools:
        _pools.popitem()[1].close()


def kill_children() -> None:
    """Kills the children of this process without waiting: for a signal handler, right before the process ends."""
    for pool in _pools.values():
        for process_id in pool.process_ids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGKILL)
