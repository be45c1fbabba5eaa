"""What the benchmarks share: inputs, repetition, and how a figure is printed."""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from crashbeam.pipeline.inputs import list_one
from crashbeam.vmcore.facts import AnalysisOptions, DumpInput
from tests.shared_corpus import has_corpus, unpacked_corpus

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden"


def real_dumps() -> tuple[list[Path], str]:
    """The corpus' zlib dumps where it is, else the golden ones, and which they are."""
    if has_corpus():
        return sorted((unpacked_corpus() / "ppc32").glob("*/vmcore.zlib")), "whole dumps of the corpus"
    return sorted(path for path in GOLDEN.glob("*.kdump") if "damaged" not in path.name), "golden dumps"


def listed(paths: Sequence[Path]) -> list[DumpInput]:
    """The dumps as inputs."""
    return [list_one(str(path)) for path in paths]


def options_in(profiles: Path) -> AnalysisOptions:
    """Symbols from the golden profiles, in a cache of their own."""
    return AnalysisOptions((str(GOLDEN),), str(profiles))


def best_cpu_seconds(work: Callable[[], object], rounds: int = 7) -> tuple[float, float]:
    """The least and the median CPU time of this process over some rounds of ``work``."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times), statistics.median(times)


def say(what: str, figure: str, reach: str = "") -> None:
    """One line of a benchmark's table."""
    print(f"  {what:<58} {figure:>14}" + (f"   (reach {reach})" if reach else ""))


def hard_links(folder: Path, sources: Sequence[Path], count: int) -> None:
    """``count`` names for the same few dumps, in folders of 1,000: inputs as many as wanted at no cost of space."""
    copies = folder / ".copies"
    copies.mkdir(parents=True)
    kept = []
    for source in sources:
        copy = copies / source.name
        copy.write_bytes(source.read_bytes())
        kept.append(copy)
    for number in range(count):
        part = folder / f"{number // 1000:03}"
        part.mkdir(exist_ok=True)
        os.link(kept[number % len(kept)], part / f"{number:06}.kdump")
