"""How far a run is, on standard error: a bar on a terminal only, and a closing summary always."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from crashbeam.pipeline.manifest import Counts

POLL_SECONDS = 0.2


@contextmanager
def progress_bar(total: int, count_done: Callable[[], int]) -> Iterator[None]:
    """Shows ``count_done`` against ``total`` while the block runs."""
    if total == 0 or not sys.stderr.isatty():
        yield
        return
    from tqdm import tqdm

    done = threading.Event()
    with tqdm(total=total, unit=" dumps", file=sys.stderr, dynamic_ncols=True, leave=False) as bar:

        def follow() -> None:
            while not done.wait(POLL_SECONDS):
                bar.update(count_done() - bar.n)

        follower = threading.Thread(target=follow, daemon=True)
        follower.start()
        try:
            yield
        finally:
            done.set()
            follower.join()
            bar.update(count_done() - bar.n)


def print_summary(counts: Counts, analysed: int, skipped: int, seconds: float, parts: str) -> None:
    """The closing lines: what came in, what came out, how fast, and where it is."""
    failures = counts.failures.total()
    codes = ", ".join(f"{code} {number}" for code, number in sorted(counts.failures.items()))
    lines = [f"{_count(counts.records, 'input')}: {_count(counts.reports, 'report')}, {_count(failures, 'failure')}"]
    if codes:
        lines[0] += f" ({codes})"
    if skipped:
        lines[0] += f"; {_count(skipped, 'file')} skipped that are no dumps"
    if analysed < counts.records:
        lines.append(f"{counts.records - analysed} of them stood already")
    if analysed:
        speed = _count(round(analysed / seconds), "dump")
        lines.append(f"{_count(analysed, 'dump')} analysed in {seconds:.1f} s, {speed}/s")
    lines.append(f"records are in {parts}")
    for line in lines:
        click.echo(f"crashbeam: {line}", err=True)


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}" + ("" if number == 1 else "s")
