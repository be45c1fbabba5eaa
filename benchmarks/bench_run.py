"""``crashbeam run`` over 20,000 inputs with 1 and 2 workers, against a bare loop; peak memory of driver and children.

The inputs are hard links of the golden dumps. The bare loop analyses the same dumps in one process and makes each
record's line of JSON: what the pipeline adds is listing, framing, parts and their fsync. Two processes that run at once
slow each other down: the CPU time of ``--workers 2`` is compared with that of two bare loops at once.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.measuring import GOLDEN, hard_links, listed, options_in, say
from crashbeam.schemas.encode import to_json_line
from crashbeam.vmcore.stages import analyse

COUNT = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
SAMPLE = 2_000
LOADS = 3


def main() -> None:
    dumps = sorted(path for path in GOLDEN.glob("*.kdump") if "damaged" not in path.name)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "dumps"
        hard_links(folder, dumps, COUNT)
        profiles = Path(scratch) / "profiles"
        print(f"{COUNT} dumps (hard links of {len(dumps)} golden dumps)")
        for workers in (1, 2):
            run(folder, Path(scratch) / f"out{workers}", profiles, workers, dumps)
        load(Path(scratch) / "out2", Path(scratch))


def bare_loop(dumps: list[Path], profiles: Path) -> tuple[float, float]:
    """Wall and CPU seconds per dump of the analysis and the encoding alone."""
    options, inputs = options_in(profiles), listed(dumps)
    for dump_input in inputs:
        to_json_line(analyse(dump_input, options))
    wall, cpu = time.perf_counter(), time.process_time()
    for number in range(SAMPLE):
        to_json_line(analyse(inputs[number % len(inputs)], options))
    return (time.perf_counter() - wall) / SAMPLE, (time.process_time() - cpu) / SAMPLE


def bare_cpu(dumps: list[Path], profiles: Path, workers: int) -> float:
    """CPU seconds per dump of as many bare loops at once."""
    with ProcessPoolExecutor(workers) as loops:
        times = list(loops.map(bare_loop, [dumps] * workers, [profiles] * workers))
    return statistics.mean(cpu for _, cpu in times)


def run(folder: Path, output: Path, profiles: Path, workers: int, dumps: list[Path]) -> None:
    """One run, between two bare loops: the speed of a machine that others share drifts while it is measured."""
    wall_before, cpu_before = bare_loop(dumps, profiles)[0], bare_cpu(dumps, profiles, workers)
    wall, cpu, driver_cpu, driver, child = measured(
        ["run", folder, "-o", output, "--symbols", GOLDEN, "--profiles", profiles, "--workers", workers]
    )
    cpu_after, wall_after = bare_cpu(dumps, profiles, workers), bare_loop(dumps, profiles)[0]
    say("bare loop before and after, wall per dump", f"{1000 * wall_before:.2f}, {1000 * wall_after:.2f} ms")
    say(f"{workers} at once before and after, CPU per dump", f"{1000 * cpu_before:.2f}, {1000 * cpu_after:.2f} ms")
    say(f"run --workers {workers}, wall per dump", f"{1000 * wall / COUNT:.2f} ms")
    say(
        "  against the bare loop",
        f"{(wall_before + wall_after) / 2 * COUNT / wall:.2f} x",
        "1.6x" if workers == 2 else "",
    )
    over = cpu / COUNT - (cpu_before + cpu_after) / 2
    say(f"  CPU per dump over {workers} bare at once", f"{1000 * over:.2f} ms", "0.15 ms")
    say("  CPU of the driver alone", f"{1000 * driver_cpu / COUNT:.2f} ms")
    say("  peak memory of the driver", f"{driver:.0f} MB", "200 MB")
    say("  peak memory of a child", f"{child:.0f} MB", "40 MB")


def measured(arguments: list[object]) -> tuple[float, float, float, float, float]:
    """Wall and CPU seconds of a command with its children, CPU seconds of itself; peak MB of itself and a child.

    A child's peak is read while it lives: what the system keeps of one that has ended counts its parent's memory from
    before the exec.
    """
    program = "import resource,sys;from crashbeam.pipeline.cli import main\n"
    program += "try: main()\nfinally:\n used = resource.getrusage(resource.RUSAGE_SELF)\n"
    program += " print(used.ru_utime + used.ru_stime, used.ru_maxrss)"
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-c", program, *map(str, arguments)]
    child_kb = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            child_kb = max(child_kb, peak_kb_of_children(process.pid))
            time.sleep(0.2)
        wall = time.perf_counter() - start
        printed = process.stdout.read() if process.stdout else ""
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    own_cpu, own_kb = map(float, printed.split()[-2:])
    return wall, cpu, own_cpu, own_kb / 1024, child_kb / 1024


def peak_kb_of_children(parent: int) -> int:
    """The largest VmHWM of the children that a process has now, in KB."""
    peak = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except OSError:
            continue
        if fields.get("PPid", "").strip() == str(parent) and "VmHWM" in fields:
            peak = max(peak, int(fields["VmHWM"].split()[0]))
    return peak


def load(output: Path, scratch: Path) -> None:
    """The stores, each filled anew from the parts of a finished run; the time of an empty command is taken off."""
    for kind, reach in (("parquet", "0.15 ms"), ("duckdb", "0.10 ms")):
        _, empty, *_ = measured(["schema", "failure"])
        loads = [
            measured(["load", output, "--sink", f"{kind}:{scratch / f'sink{number}.{kind}'}"])
            for number in range(LOADS)
        ]
        times = [1000 * (cpu - empty) / COUNT for _, cpu, *_ in loads]
        figures = f"{min(times):.3f}, {statistics.median(times):.3f} ms"
        say(f"load --sink {kind}, CPU per dump, best and median", figures, reach)
        say("  peak memory", f"{max(memory for _, _, _, memory, _ in loads):.0f} MB")


if __name__ == "__main__":
    main()
