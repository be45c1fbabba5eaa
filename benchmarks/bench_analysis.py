"""One dump in ``vmcore/``: CPU time and bytes read with a warm profile, and each stage's share."""

import os
import tempfile
import time
from pathlib import Path

from benchmarks.measuring import best_cpu_seconds, listed, options_in, real_dumps, say
from crashbeam.vmcore import stages
from crashbeam.vmcore.dump import close_last, opened
from crashbeam.vmcore.facts import AnalysisOptions, DumpInput
from crashbeam.vmcore.limits import Budget


def main() -> None:
    paths, kind = real_dumps()
    inputs = listed(paths)
    with tempfile.TemporaryDirectory() as profiles:
        options = options_in(Path(profiles))
        for dump_input in inputs:
            stages.analyse(dump_input, options)
        print(f"analysis of {len(inputs)} {kind}, profile warm, one process")
        least, median = best_cpu_seconds(lambda: [stages.analyse(dump_input, options) for dump_input in inputs])
        say("CPU per dump, best round", f"{1000 * least / len(inputs):.2f} ms", "3 ms")
        say("CPU per dump, median round", f"{1000 * median / len(inputs):.2f} ms", "3 ms")
        shares_of_stages(inputs, options)
        reads(inputs, options)


def shares_of_stages(inputs: list[DumpInput], options: AnalysisOptions) -> None:
    spent = dict.fromkeys((stage.__name__ for stage in stages.STAGES), 0.0)
    for dump_input in inputs:
        facts = dump_input
        for stage in stages.STAGES:
            start = time.perf_counter()
            facts = stage(facts, options)
            spent[stage.__name__] += time.perf_counter() - start
        close_last()
    for name, seconds in spent.items():
        say(f"  wall in {name}", f"{1000 * seconds / len(inputs):.2f} ms")


def reads(inputs: list[DumpInput], options: AnalysisOptions) -> None:
    total = pages = size = 0
    for dump_input in inputs:
        stages.run_stages(dump_input, options)
        dump = opened(dump_input, options)
        total += Budget().read_bytes - dump.budget.read_bytes
        pages += len(dump.physical.needed)
        size += os.stat(dump_input.paths[0]).st_size
        close_last()
    count = len(inputs)
    say("bytes read per dump, bitmap and all", f"{total / count / 1000:.0f} KB", "150 KB")
    say("pages needed per dump", f"{pages / count:.0f}")
    say("size of a dump", f"{size / count / 1000:.0f} KB")


if __name__ == "__main__":
    main()
