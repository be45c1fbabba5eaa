"""Records to the parts of a run folder."""

import time
from collections.abc import Iterator

import apache_beam as beam
from apache_beam.pvalue import PCollection
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from crashbeam.transforms.part_file import PartRange, write_part
from crashbeam.transforms.records import Records

MAX_RECORDS = 256
MAX_BYTES = 16 << 20
MAX_AGE_SECONDS = 2.0
"""Without an age, slow failures in front would let kills commit nothing for ever."""


class WriteParts(beam.PTransform[PCollection[Records], PCollection[PartRange]]):
    """Writes records, as they come, into parts of at most 256 records, 16 MiB and 2 seconds; gives their ranges.

    ``folder`` is the ``parts`` folder of a run. Raises OutputError.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = folder

    def expand(self, records: PCollection[Records]) -> PCollection[PartRange]:
        """Records to ranges."""
        ranges: PCollection[PartRange] = records | "CutAndWrite" >> beam.ParDo(_CutAndWrite(self._folder))
        return ranges


class _CutAndWrite(beam.DoFn):
    def __init__(self, folder: str) -> None:
        self._folder = folder

    def start_bundle(self) -> None:
        self._first = 0
        self._lines: list[bytes] = []
        self._size_bytes = 0
        self._began = 0.0

    def process(self, records: Records) -> Iterator[PartRange]:
        if self._lines and records.lines and records.first != self._first + len(self._lines):
            yield self._cut()
        for number, line in enumerate(records.lines, start=records.first):
            if not self._lines:
                self._first = number
                self._began = time.monotonic()
            self._lines.append(line)
            self._size_bytes += len(line)
            if len(self._lines) >= MAX_RECORDS or self._size_bytes >= MAX_BYTES:
                yield self._cut()
        if self._lines and time.monotonic() - self._began >= MAX_AGE_SECONDS:
            yield self._cut()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self._lines:
            window = GlobalWindow()
            yield WindowedValue(self._cut(), window.max_timestamp(), (window,))

    def _cut(self) -> PartRange:
        part = write_part(self._folder, self._first, self._lines)
        self._lines = []
        self._size_bytes = 0
        return part
