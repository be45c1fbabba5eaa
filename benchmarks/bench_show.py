"""``crashbeam show`` end to end: a new process, profile warm; and how long a profile takes to compile and to load."""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measuring import GOLDEN, best_cpu_seconds, real_dumps, say
from crashbeam.vmcore.symbols.profile import KernelProfile, compile_profile
from crashbeam.vmcore.symbols.vmlinux import read_vmlinux
from tests.shared_corpus import has_corpus, unpacked_corpus

ROUNDS = 15


def main() -> None:
    paths, kind = real_dumps()
    with tempfile.TemporaryDirectory() as profiles:
        command = [
            str(Path(sys.executable).with_name("crashbeam")),
            "show",
            "--symbols",
            str(GOLDEN),
            "--profiles",
            profiles,
        ]
        subprocess.run([*command, paths[0]], check=True, capture_output=True)
        times = []
        for number in range(ROUNDS):
            start = time.perf_counter()
            subprocess.run([*command, paths[number % len(paths)]], check=True, capture_output=True)
            times.append(time.perf_counter() - start)
        print(f"crashbeam show, {kind}")
        say("end to end, best", f"{min(times):.3f} s", "0.2 s")
        say("end to end, median", f"{statistics.median(times):.3f} s", "0.2 s")
    start = time.perf_counter()
    for _ in range(ROUNDS):
        subprocess.run([sys.executable, "-c", "pass"], check=True)
    say("of that, an empty Python process", f"{(time.perf_counter() - start) / ROUNDS:.3f} s")
    profile = next(GOLDEN.glob("*.profile"))
    load, _ = best_cpu_seconds(lambda: [KernelProfile.open(profile) for _ in range(100)])
    say("load of a profile", f"{10 * load:.2f} ms")
    if has_corpus():
        compile_times(unpacked_corpus() / "kernels")


def compile_times(kernels: Path) -> None:
    print("compiling a kernel's profile, once per build")
    for vmlinux in sorted(kernels.glob("vmlinux-e500*")):
        seconds, _ = best_cpu_seconds(lambda path=vmlinux: compile_profile(read_vmlinux(str(path))), rounds=3)
        say(f"CPU, {vmlinux.name}", f"{seconds:.2f} s", "5 s")


if __name__ == "__main__":
    main()
