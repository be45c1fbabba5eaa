"""What each real dump costs, by kernel and container; and what the first dump of a kernel build costs without any file.

Prints the tables of docs/formats.md. Bytes are counted where containers read; pages are those that a report needs; CPU
is the least of some rounds in one process with a warm profile; peak memory is that of a new process for each row.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from benchmarks.measuring import GOLDEN, options_in, real_dumps
from crashbeam.pipeline.inputs import list_inputs
from crashbeam.schemas.codes import SymbolNames
from crashbeam.schemas.crash_report import CrashReport
from crashbeam.vmcore import stages
from crashbeam.vmcore.byte_source import ByteSource
from crashbeam.vmcore.containers import Container, detect
from crashbeam.vmcore.containers.kdump import KdumpContainer
from crashbeam.vmcore.containers.split import SplitContainer
from crashbeam.vmcore.dump import close_last, opened
from crashbeam.vmcore.facts import AnalysisOptions, DumpInput
from crashbeam.vmcore.limits import Budget
from tests.shared_corpus import has_corpus, unpacked_corpus

ROUNDS = 9
FIRST_ROUNDS = 5
AIMS = {4096: (150, 3), 65536: (350, 6)}
"""KB beside the bitmap, and ms of CPU, by page size."""
PEAK = """
import sys
from crashbeam import AnalysisOptions, analyse, list_inputs
symbols, profiles, *paths = sys.argv[1:]
for dump_input in list_inputs(paths).inputs:
    analyse(dump_input, AnalysisOptions((symbols,), profiles))
print(*(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


class CountedSource:
    """A source that notes what is read of it: offset and bytes."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self.reads: list[tuple[int, int]] = []

    @property
    def name(self) -> str:
        return self._source.name

    @property
    def size_bytes(self) -> int:
        return self._source.size_bytes

    def read(self, offset: int, size_bytes: int) -> bytes:
        data = self._source.read(offset, size_bytes)
        self.reads.append((offset, len(data)))
        return data

    def close(self) -> None:
        self._source.close()


class CountedKdump(KdumpContainer):
    """A kdump file that knows how much of its bitmaps was read."""

    def __init__(self, source: ByteSource, *, wrapping: tuple[str, ...] = (), cut_reason: str | None = None) -> None:
        self.counted = CountedSource(source)
        super().__init__(self.counted, wrapping=wrapping, cut_reason=cut_reason)

    @property
    def bitmap_bytes(self) -> int:
        header = self.main_header
        return sum(size for at, size in self.counted.reads if header.bitmap_at <= at < header.descriptors_at)


@dataclass(frozen=True, slots=True)
class Cost:
    """One dump. ``rest_kb`` is what was read beside the bitmaps."""

    path: str
    name: str
    kernel: str
    container: str
    build_id: str | None
    page_bytes: int
    bitmap_kb: float
    rest_kb: float
    pages: int
    cpu_ms: float


def main() -> None:
    inputs, symbols, kind = found()
    with tempfile.TemporaryDirectory() as profiles:
        options = AnalysisOptions((symbols,), profiles)
        for dump_input in inputs:
            stages.analyse(dump_input, options)
        costs = list(costs_of(inputs, options))
        print(f"{len(costs)} {kind}, profile warm: KB read, pages needed, ms of CPU (best of {ROUNDS})\n")
        print_containers(costs, symbols, profiles)
    print_dumps(costs)
    print_first_dumps(inputs, costs)


def found() -> tuple[Sequence[DumpInput], str, str]:
    """All real dumps, where their symbols are, and which dumps these are."""
    if has_corpus():
        corpus = unpacked_corpus()
        inputs = list_inputs([str(corpus / "ppc32"), str(corpus / "ppc64")]).inputs
        return inputs, str(corpus / "kernels"), "whole dumps of the corpus"
    paths, kind = real_dumps()
    return list_inputs([str(path) for path in paths]).inputs, options_in(GOLDEN).symbols[0], kind


def costs_of(inputs: Sequence[DumpInput], options: AnalysisOptions) -> Iterator[Cost]:
    cpu = best_cpu_ms(inputs, options)
    for dump_input in inputs:
        report = stages.analyse(dump_input, options)
        if not isinstance(report, CrashReport):
            continue
        bitmap_bytes, read_bytes, pages = reads_of(dump_input, options)
        path = Path(dump_input.paths[0])
        page_bytes = report.kernel.page_size or 0
        yield Cost(
            path=str(path),
            name=f"{path.parent.name}/{path.name}" if has_corpus() else path.stem,
            kernel=f"{report.kernel.arch}, {page_bytes >> 10}K",
            container=container_of(report),
            build_id=report.kernel.build_id,
            page_bytes=page_bytes,
            bitmap_kb=bitmap_bytes / 1000,
            rest_kb=(read_bytes - bitmap_bytes) / 1000,
            pages=pages,
            cpu_ms=cpu[dump_input.input_id],
        )


def container_of(report: CrashReport) -> str:
    """What the report says of its container: writer, codecs, wrapping."""
    source = report.source
    codecs = [codec for codec in source.page_codecs if codec != "raw" or len(source.page_codecs) == 1]
    words = [str(source.container), *map(str, codecs), *map(str, source.wrapping)]
    if source.written_by == "qemu":
        words.insert(0, "QEMU")
    return " ".join(words if source.complete else [*words, "not whole"])


def best_cpu_ms(inputs: Sequence[DumpInput], options: AnalysisOptions) -> dict[str, float]:
    """The least CPU time of each dump; the rounds go over all dumps, so that a slow moment does not meet one alone."""
    best: dict[str, float] = {}
    for _ in range(ROUNDS):
        for dump_input in inputs:
            spent = cpu_ms(dump_input, options)
            best[dump_input.input_id] = min(spent, best.get(dump_input.input_id, spent))
    return best


def cpu_ms(dump_input: DumpInput, options: AnalysisOptions) -> float:
    start = time.process_time()
    stages.analyse(dump_input, options)
    return 1000 * (time.process_time() - start)


def reads_of(dump_input: DumpInput, options: AnalysisOptions) -> tuple[int, int, int]:
    """Bytes of the bitmaps, bytes in all, and pages."""
    close_last()
    with patch.object(detect, "KdumpContainer", CountedKdump):
        stages.run_stages(dump_input, options)
        dump = opened(dump_input, options)
        read_bytes = Budget().read_bytes - dump.budget.read_bytes
        pages = sum(status is None for status in dump.physical.needed.values())
        bitmap_bytes = bitmap_bytes_of(dump.container)
        close_last()
    return bitmap_bytes, read_bytes, pages


def bitmap_bytes_of(container: Container) -> int:
    parts = container.parts if isinstance(container, SplitContainer) else (container,)
    return sum(part.bitmap_bytes for part in parts if isinstance(part, CountedKdump))


def print_containers(costs: Sequence[Cost], symbols: str, profiles: str) -> None:
    print("| kernel | container | dumps | bitmap | the rest, mean | worst | pages | CPU, mean | worst | peak MB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for kernel, container in sorted({(cost.kernel, cost.container) for cost in costs}):
        rows = [cost for cost in costs if (cost.kernel, cost.container) == (kernel, container)]
        aim_kb, aim_ms = AIMS.get(rows[0].page_bytes, (0, 0))
        aim_kb = aim_kb if "kdump" in container else 0
        cells = [
            f"{mean(cost.bitmap_kb for cost in rows):.0f}",
            f"{mean(cost.rest_kb for cost in rows):.0f}",
            judged(max(cost.rest_kb for cost in rows), aim_kb, 0),
            f"{mean(cost.pages for cost in rows):.0f}",
            judged(mean(cost.cpu_ms for cost in rows), aim_ms, 1),
            f"{max(cost.cpu_ms for cost in rows):.1f}",
            f"{peak_mb(rows, symbols, profiles):.0f}",
        ]
        print(f"| {kernel} | {container} | {len(rows)} | {' | '.join(cells)} |")


def print_dumps(costs: Sequence[Cost]) -> None:
    print(
        "\n| dump | kernel | container | bitmap | the rest | pages | CPU |\n| --- | --- | --- | --- | --- | --- | --- |"
    )
    for cost in costs:
        figures = f"{cost.bitmap_kb:.0f} | {cost.rest_kb:.0f} | {cost.pages} | {cost.cpu_ms:.1f}"
        print(f"| `{cost.name}` | {cost.kernel} | {cost.container} | {figures} |")


def mean(numbers: Iterator[float]) -> float:
    values = list(numbers)
    return sum(values) / len(values)


def judged(figure: float, aim: float, digits: int) -> str:
    text = f"{figure:.{digits}f}"
    return f"{text}, **missed**" if aim and round(figure, digits) > aim else text


def peak_mb(rows: Sequence[Cost], symbols: str, profiles: str) -> float:
    """The most memory that a process had which analysed these dumps one after the other."""
    command = [sys.executable, "-c", PEAK, symbols, profiles, *(cost.path for cost in rows)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1024


def print_first_dumps(inputs: Sequence[DumpInput], costs: Sequence[Cost]) -> None:
    """What is read out of a dump whose kernel nothing else tells of, over a warm profile; aims: 150 ms, then 0."""
    print("\n| kernel build | its first dump | symbols | the first, extra ms | the second, extra ms |")
    print("| --- | --- | --- | --- | --- |")
    dumps = {dump_input.paths[0]: dump_input for dump_input in inputs}
    once_ms: float | None = None
    for build_id in dict.fromkeys(cost.build_id for cost in costs):
        rows = [cost for cost in costs if cost.build_id == build_id]
        plain = [cost for cost in rows if cost.container == "kdump zlib"] or rows
        found = first_dump_of(dumps[plain[0].path], dumps[plain[min(1, len(plain) - 1)].path])
        once_ms = found.once_ms if once_ms is None else once_ms
        print(f"| {str(build_id)[:12]}, {plain[0].kernel} | `{plain[0].name}` | {found.cells} |")
    print(f"\nThe very first took {once_ms or 0:.0f} ms more: once in a process, what reads symbols is loaded.")


@dataclass(frozen=True, slots=True)
class FirstDump:
    """What the symbols of a kernel build cost; ``once_ms`` is what the first round took over the best one."""

    cells: str
    once_ms: float


def first_dump_of(first: DumpInput, second: DumpInput) -> FirstDump:
    rounds: list[tuple[float, float]] = []
    warm: list[tuple[float, float]] = []
    for _ in range(FIRST_ROUNDS):
        with tempfile.TemporaryDirectory() as profiles:
            options = AnalysisOptions((), profiles)
            rounds.append((cpu_ms(first, options), cpu_ms(second, options)))
            warm += [(cpu_ms(first, options), cpu_ms(second, options)) for _ in range(ROUNDS)]
            report = stages.analyse(first, options)
            close_last()
    best = [min(spent) for spent in zip(*rounds, strict=True)]
    least = [min(spent) for spent in zip(*warm, strict=True)]
    cells = "none in the dump | | "
    if isinstance(report, CrashReport) and report.kernel.symbols.names is SymbolNames.KALLSYMS:
        symbols = report.kernel.symbols
        extra = judged(best[0] - least[0], 150, 0), f"{best[1] - least[1]:.1f}"
        cells = f"{symbols.names}, {symbols.layouts} | {' | '.join(extra)}"
    return FirstDump(cells, rounds[0][0] - best[0])


if __name__ == "__main__":
    main()
