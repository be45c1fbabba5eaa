"""Which lines of the log begin a report, and which belong to one: the order of events in it.

A fatal header wins at once. A warning, lockup, stall or hung task counts only if the next fatal line or panic is its
own epilogue. A panic, or an ``Oops:`` line, belongs to the report of its context where there is one.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct, field

from crashbeam.vmcore.log_line import LogLine
from crashbeam.vmcore.oops.formats import HEAD_LENGTH, Format, Kind, OopsFormats

MAX_LINE_LENGTH = 1024
_MAX_STARTS = 64
_MAX_PENDING = 64
_MAX_STALLS = 4
_MAX_DISTANCE = 64
"""Lines between a refinement and the header that it precedes (a warning may come between)."""
_MAX_FOLLOWING = 400
"""Lines between a header and a refinement that follows it."""
_MAX_UNNAMED_LINES = 20
"""A line whose printer is not known (console output without a stamp) belongs to the last known one, so far back."""
_NS_PER_SECOND = 1_000_000_000
_PANIC = "Kernel panic - not syncing"


class Event(Struct, frozen=True):
    """A line of a known format. ``details`` are its groups, ``context`` is who printed it."""

    at: int
    format: Format
    details: Mapping[str, str]
    context: int | None
    time_ns: int | None
    text: str


class Start(Struct):
    """A report: its header and the lines that were found to belong to it."""

    header: Event
    is_fatal: bool
    epilogue: str | None = None
    epilogue_at: int | None = None
    ended_at: int | None = None
    has_oops_line: bool = False
    count: int | None = None
    """N of ``Oops: ... [#N]``."""
    is_cut: bool = False
    """Whether another report begins inside."""
    refinements: list[Event] = field(default_factory=list)


def find_events(lines: Sequence[LogLine], formats: OopsFormats) -> Iterator[Event]:
    """The lines of a known format, in order."""
    by_head = formats.by_head
    hits = [number for number, line in enumerate(lines) if line.text[:HEAD_LENGTH] in by_head]
    for number in hits:
        text = lines[number].text[:MAX_LINE_LENGTH]
        for format_ in by_head[text[:HEAD_LENGTH]]:
            if not text.startswith(format_.starts):
                continue
            match = format_.pattern.match(text) if format_.pattern else None
            if match or format_.pattern is None:
                details = details_of(match) if match else {}
                yield Event(number, format_, details, context_of(lines, number), lines[number].time_ns, text)
                break


def details_of(match: re.Match[str]) -> dict[str, str]:
    """The groups of a match that took part; ``file_4`` is ``file`` in another form of the text."""
    found = {}
    for name, value in match.groupdict().items():
        if value is not None and value.strip():
            found[name[:-2] if name[-2:-1] == "_" and name[-1].isdigit() else name] = value.strip()
    return found


def context_of(lines: Sequence[LogLine], number: int) -> int | None:
    """Who printed a line, by ``caller_id``; a line that does not tell belongs to the one before."""
    for place in range(number, max(number - _MAX_UNNAMED_LINES, -1), -1):
        if (caller := lines[place].caller) is not None:
            return caller
    return None


def find_starts(events: Iterable[Event]) -> list[Start]:
    """The reports: those that are fatal, in the order of their headers, then stalls that were not."""
    order = _Order()
    for event in events:
        order.take(event)
    return order.reports()


def is_same_context(one: int | None, other: int | None) -> bool:
    """Whether two lines may be of one printer."""
    return one is None or other is None or one == other


class _Order:
    """The reports so far, and those that await their epilogue."""

    def __init__(self) -> None:
        self._starts: list[Start] = []
        self._pending: deque[Start] = deque(maxlen=_MAX_PENDING)
        self._refinements: deque[Event] = deque(maxlen=4)
        self._stalls: deque[Start] = deque(maxlen=_MAX_STALLS)
        """Those whose epilogue never came before something else was fatal."""

    def reports(self) -> list[Start]:
        """All reports; those that still await an epilogue only where nothing fatal was met."""
        if not self._starts:
            return [start for start in self._pending if start.header.format.stands_alone]
        return [*sorted(self._starts, key=lambda start: start.header.at), *self._stalls]

    def take(self, event: Event) -> None:
        """The next line."""
        match event.format.kind:
            case Kind.REFINEMENT:
                self._take_refinement(event)
            case Kind.END:
                if (start := self._open(event)) is not None:
                    start.ended_at = event.at
            case Kind.CONDITIONAL:
                self._pending.append(self._new(event, is_fatal=False))
            case Kind.OOPS:
                self._take_oops_line(event)
            case Kind.PANIC:
                self._take_panic(event)
            case Kind.FATAL:
                if self._promote(event, event.text) is None and not self._is_absorbed(event):
                    self._begin(event)

    def _take_refinement(self, event: Event) -> None:
        if not event.format.follows:
            self._refinements.append(event)
        elif (start := self._open(event)) is not None and event.at - start.header.at <= _MAX_FOLLOWING:
            start.refinements.append(event)

    def _open(self, event: Event) -> Start | None:
        """The last report of the event's context, if it is not whole yet."""
        last: Start | None = None
        for starts in (self._starts, self._pending):
            same = (start for start in reversed(starts) if is_same_context(start.header.context, event.context))
            start = next(same, None)
            if start is not None and (last is None or start.header.at > last.header.at):
                last = start
        return last if last is not None and last.ended_at is None else None

    def _new(self, event: Event, *, is_fatal: bool) -> Start:
        start = Start(event, is_fatal)
        for refinement in self._refinements:
            is_near = event.at - refinement.at <= _MAX_DISTANCE
            if is_near and is_same_context(refinement.context, event.context):
                start.refinements.append(refinement)
        return start

    def _begin(self, event: Event) -> Start:
        before = self._open(event)
        if before is not None and before.is_fatal and before.epilogue is None:
            before.is_cut = True
        self._forget_pending()
        start = self._new(event, is_fatal=True)
        if len(self._starts) < _MAX_STARTS:
            self._starts.append(start)
        return start

    def _is_absorbed(self, event: Event) -> bool:
        """Whether a fatal header is but the way in which the report before it crashes: sysrq before 5.9 does by a NULL
        dereference.
        """
        start = self._open(event)
        return start is not None and start.is_fatal and _is_epilogue(start, event.text)

    def _take_oops_line(self, event: Event) -> None:
        start = self._promote(event, event.text)
        if start is None:
            last = self._open(event)
            is_part = last is not None and last.is_fatal and not last.has_oops_line
            start = last if last is not None and is_part else self._begin(event)
        start.has_oops_line = True
        start.count = int(event.details.get("count", "1")[:6])

    def _take_panic(self, event: Event) -> None:
        text = event.text.removeprefix(_PANIC).lstrip(": ")
        start = self._promote(event, text) or self._ended_by(event, text) or self._begin(event)
        if start.epilogue is None:
            start.epilogue, start.epilogue_at = text, event.at

    def _ended_by(self, event: Event, text: str) -> Start | None:
        """The report that a panic ends: the last one of its context that it can follow from, or of any context."""
        own = [
            start
            for start in self._starts
            if start.epilogue is None and (event.format.is_consequence or _is_epilogue(start, text))
        ]
        same = [start for start in own if is_same_context(start.header.context, event.context)]
        return same[-1] if same else own[-1] if own else None

    def _promote(self, event: Event, text: str) -> Start | None:
        """The report that awaited this line, if there is one."""
        own = [start for start in self._pending if _is_epilogue(start, text)]
        if not own:
            return None
        own = [start for start in own if is_same_context(start.header.context, event.context)] or own
        chosen = _first_of_batch(own, event)
        chosen.is_fatal = True
        self._starts.append(chosen)
        self._forget_pending()
        return chosen

    def _forget_pending(self) -> None:
        """After a fatal line no report is awaited any more."""
        self._stalls.extend(start for start in self._pending if start.header.format.is_stall and not start.is_fatal)
        self._pending.clear()


def _is_epilogue(start: Start, text: str) -> bool:
    return any(pattern.match(text) for pattern in start.header.format.epilogues)


def _first_of_batch(starts: list[Start], event: Event) -> Start:
    """Of reports that ended in the same panic: the first of the last one's class that was printed shortly before."""
    last = starts[-1]
    batch_ns = last.header.format.batch_seconds * _NS_PER_SECOND
    if not batch_ns:
        return last
    for start in starts:
        then = start.header.time_ns
        is_recent = then is None or event.time_ns is None or event.time_ns - then <= batch_ns
        if is_recent and start.header.format.class_ is last.header.format.class_:
            return start
    return last
