"""drgn beside crashbeam on the corpus' 64-bit dumps whose kernel has DWARF: time, memory, and where the frames differ.

    python -m benchmarks.bench_drgn --drgn-python PATH

drgn is no dependency of crashbeam: PATH is a Python of its own (``python -m venv D; D/bin/pip install drgn``), also
taken from ``$DRGN_PYTHON``. What is printed are the tables of docs/drgn.md.
"""

import argparse
import json
import lzma
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.drgn_differences import (
    Context,
    Difference,
    Frame,
    KernelImage,
    Proofs,
    Tally,
    contexts_of,
    counted,
    explained,
    words_wanted,
)
from tests.shared_corpus import has_corpus, unpacked_corpus

KERNEL = "p64le-612"
MODULES = ("crashlab", "crashext")
INSTALLED, WALKED, HANDED = "drgn, as installed", "drgn, its own page tables", "drgn, the same, pt_regs handed to it"
OURS = "crashbeam show"
LOOP = """
import sys, time
from crashbeam import AnalysisOptions, analyse, list_inputs, to_json_line
rounds, symbols, profiles, *paths = sys.argv[1:]
options = AnalysisOptions((symbols,), profiles)
inputs = [list_inputs([path]).inputs[0] for path in paths]
for number in range(int(rounds) + 1):
    wall, cpu = time.perf_counter(), time.process_time()
    for dump in inputs:
        to_json_line(analyse(dump, options))
    if number:
        print(time.perf_counter() - wall, time.process_time() - cpu)
"""
SHOW = "from crashbeam.pipeline.cli import main\nmain()"
PEAK = """
finally:
 import sys
 print(*[line for line in open('/proc/self/status') if 'VmHWM' in line], file=sys.stderr)
"""


@dataclass(frozen=True, slots=True)
class Dump:
    """One crash: its file, what is true of it, and a VMCOREINFO to hand to drgn where the file has none."""

    name: str
    path: Path
    truth: dict[str, Any]
    vmcoreinfo: Path | None


@dataclass(frozen=True, slots=True)
class Run:
    """What a process took, and its last words."""

    wall: float
    cpu: float
    peak_mb: float
    printed: str


@dataclass(frozen=True, slots=True)
class Tools:
    """Both tools, and one folder with what they are given: the kernel and its modules, unpacked."""

    drgn_python: str
    given: Path
    rounds: int

    def drgn(self, dumps: Sequence[Dump], page_tables: bool = True, **options: Any) -> tuple[Run, list[dict[str, Any]]]:
        """drgn over dumps in one process. ``page_tables``: it walks them itself instead of asking libkdumpfile."""
        job = {
            "dumps": [
                {
                    "path": str(dump.path),
                    "vmcoreinfo": str(dump.vmcoreinfo) if dump.vmcoreinfo and page_tables else None,
                }
                for dump in dumps
            ],
            "debug": [str(path) for path in sorted(self.given.iterdir())],
        }
        job |= {"registers": "note", "values": False, "words": []} | options
        run = measured(
            [self.drgn_python, str(Path(__file__).with_name("drgn_frames.py"))],
            json.dumps(job),
            {"DRGN_PREFER_PGTABLE_READER": str(int(page_tables))},
        )
        answers = [json.loads(line) for line in run.printed.splitlines()]
        return Run(run.wall, run.cpu, answers[-1]["peak_kb"] / 1024, ""), answers

    def drgn_run(self, dump: Dump) -> Run:
        return self.drgn([dump])[0]

    def show_without_cache(self, dump: Dump, symbols: bool) -> Run:
        with tempfile.TemporaryDirectory() as empty:
            return self.show(dump, Path(empty), symbols)

    def show(self, dump: Dump, profiles: Path, symbols: bool = True) -> Run:
        given = ["--symbols", str(self.given)] if symbols else []
        program = "try:\n " + SHOW.replace("\n", "\n ") + PEAK
        return measured(
            [sys.executable, "-c", program, "show", str(dump.path), "--json", "--profiles", str(profiles), *given]
        )


def measured(command: Sequence[str], given: str = "", environment: dict[str, str] | None = None) -> Run:
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, check=True, env={**os.environ, **(environment or {})}
    )
    wall, after = time.perf_counter() - start, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    peaks = [int(line.split()[1]) for line in done.stderr.splitlines() if line.startswith("VmHWM")]
    return Run(wall, cpu, peaks[-1] / 1024 if peaks else 0, done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description="drgn beside crashbeam")
    parser.add_argument("--drgn-python", default=os.environ.get("DRGN_PYTHON"), help="a Python that has drgn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("times", "frames"), help="one half of it")
    options = parser.parse_args()
    if not options.drgn_python:
        print("  left out: no drgn (pip install drgn into a venv, then --drgn-python or DRGN_PYTHON=its python)")
        return
    if not has_corpus():
        print("  left out: no shared corpus")
        return
    asked = [options.drgn_python, "-c", "import drgn; print(drgn.__version__, drgn._with_libkdumpfile)"]
    try:
        name, libkdumpfile = measured(asked).printed.split()
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"  left out: {options.drgn_python} does not import drgn ({error})")
        return
    corpus = unpacked_corpus()
    dumps = dumps_of(corpus)
    print(
        f"drgn {name}, {'with' if libkdumpfile == 'True' else 'WITHOUT'} libkdumpfile; {len(dumps)} crashes of {KERNEL}"
    )
    kdumps = [dump for dump in dumps if not dump.vmcoreinfo]
    with tempfile.TemporaryDirectory() as scratch:
        given = Path(scratch) / "given"
        given.mkdir()
        for name in (f"vmlinux-{KERNEL}", *(f"{module}-{KERNEL}.ko" for module in MODULES)):
            (given / name).write_bytes(lzma.decompress((corpus / "kernels" / f"{name}.xz").read_bytes()))
        tools = Tools(options.drgn_python, given, options.rounds)
        profiles = Path(scratch) / "profiles"
        if options.only != "frames":
            times(tools, kdumps, profiles)
        if options.only != "times":
            containers(tools, dumps, profiles)
            frames(tools, kdumps, profiles)
            frames(tools, [dump for dump in dumps if dump.vmcoreinfo], profiles)


def dumps_of(corpus: Path) -> list[Dump]:
    dumps = []
    for truth_path in sorted((corpus / "ppc64").glob("*/truth.json")):
        folder, truth = truth_path.parent, json.loads(truth_path.read_text())
        if truth["kernel"] == KERNEL:
            path = next(
                path for kind in ("vmcore.zlib", "vmcore.lzo", "qemu.zlib.flat") if (path := folder / kind).exists()
            )
            lacks_vmcoreinfo = path.name.startswith("qemu")
            dumps.append(Dump(folder.name, path, truth, folder / "vmcoreinfo.txt" if lacks_vmcoreinfo else None))
    return dumps


def row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


def heading(title: str, *columns: str) -> None:
    print(f"\n**{title}**\n")
    row(*columns)
    row(*("---" for _ in columns))


def median_of(rounds: int, work: Callable[[], Run]) -> Run:
    runs = [work() for _ in range(rounds)]
    wall, cpu, peak = (statistics.median(getattr(run, what) for run in runs) for what in ("wall", "cpu", "peak_mb"))
    return Run(wall, cpu, peak, runs[-1].printed)


def times(tools: Tools, dumps: list[Dump], profiles: Path) -> None:
    first = dumps[0]
    tools.show(first, profiles)
    heading("A new process for each dump: wall / CPU seconds, medians", "dump", "drgn", "crashbeam show, profile warm")
    rows: list[tuple[Run, Run]] = []
    for dump in dumps:
        theirs = median_of(tools.rounds, partial(tools.drgn_run, dump))
        ours = median_of(tools.rounds, partial(tools.show, dump, profiles))
        rows.append((theirs, ours))
        row(dump.name, *(f"{run.wall:.2f} / {run.cpu:.2f}" for run in rows[-1]))
    typical = [
        (statistics.median(run.wall for run in runs), statistics.median(run.cpu for run in runs))
        for runs in zip(*rows, strict=True)
    ]
    row("median", *(f"{wall:.2f} / {cpu:.2f}" for wall, cpu in typical))
    row("peak memory", *(f"{max(run.peak_mb for run in runs):.0f} MB" for runs in zip(*rows, strict=True)))

    heading(f"The same, {first.name}, nothing kept from before", "what", "wall / CPU seconds", "peak memory")
    for what, symbols in (("cache empty, vmlinux given", True), ("cache empty, no file given", False)):
        run = median_of(tools.rounds, partial(tools.show_without_cache, first, symbols))
        row(f"crashbeam show, {what}", f"{run.wall:.2f} / {run.cpu:.2f}", f"{run.peak_mb:.0f} MB")
    many_in_one(tools, dumps, profiles)


def many_in_one(tools: Tools, dumps: list[Dump], profiles: Path) -> None:
    heading(
        f"{len(dumps)} dumps in one process, from the second round on: ms per dump",
        "what",
        "wall",
        "CPU",
        "peak memory",
    )
    run, answers = tools.drgn(dumps * (tools.rounds + 1))
    answers = answers[len(dumps) :]
    per_dump = [statistics.median(answer[what] for answer in answers) for what in ("wall_seconds", "cpu_seconds")]
    row("drgn, a Program for each dump", *(f"{1000 * seconds:.0f}" for seconds in per_dump), f"{run.peak_mb:.0f} MB")
    for what, field in (
        ("opening the dump", "open_seconds"),
        ("loading debug information", "debug_seconds"),
        ("stacks of all CPUs, with lines", "stacks_seconds"),
    ):
        row(f"- of it {what}", "", f"{1000 * statistics.median(answer[field] for answer in answers):.0f}", "")
    arguments = [str(tools.rounds), str(tools.given), str(profiles), *(str(dump.path) for dump in dumps)]
    program = "try:\n" + "".join(f" {line}\n" for line in LOOP.splitlines()) + PEAK
    ours = measured([sys.executable, "-c", program, *arguments])
    rounds = [[float(word) for word in line.split()] for line in ours.printed.splitlines()]
    medians = [1000 * statistics.median(column) / len(dumps) for column in zip(*rounds, strict=True)]
    row("crashbeam, whole report", *(f"{figure:.1f}" for figure in medians), f"{ours.peak_mb:.0f} MB")


def containers(tools: Tools, dumps: list[Dump], profiles: Path) -> None:
    """What both say to each file as it is; VMCOREINFO handed to drgn makes a second line."""
    heading("Every file as it is", "file", INSTALLED, WALKED, OURS)
    for dump in dumps:
        for name in dump.truth["containers"]:
            same = Dump(dump.name, dump.path.with_name(name), dump.truth, None)
            said = [outcome(tools.drgn([same], page_tables)[1][0]) for page_tables in (False, True)]
            cpus = json.loads(tools.show(same, profiles).printed)["cpus"]
            stacks = sum(bool(cpu["stack"] and cpu["stack"]["frames"]) for cpu in cpus)
            row(f"{dump.name}/{name}", *said, f"{stacks} of {len(cpus)} CPUs")
        if dump.vmcoreinfo:
            row(f"{dump.name}, VMCOREINFO given", "", outcome(tools.drgn([dump])[1][0]), "")


def outcome(answer: dict[str, Any]) -> str:
    if answer["refused"]:
        return f"refused: {answer['refused'].split(': ', 1)[1]}"
    if answer["stopped"]:
        return f"opened, then {answer['stopped'].split(': ', 1)[1]}"
    modules = [name for name in answer["modules"] if name != "kernel"]
    stacks = sum(not cpu["error"] for cpu in answer["cpus"])
    return f"{stacks} of {len(answer['cpus'])} CPUs, modules: {', '.join(modules) or 'none found'}"


def drgn_stacks(answer: dict[str, Any]) -> dict[int, list[Frame]]:
    """The frames that stand in memory; an inlined one shares them with its caller."""
    return {
        cpu["cpu"]: [
            Frame(frame["pc"], frame["sp"], frame["symbol"] or f"0x{frame['pc']:x}")
            for frame in cpu["frames"]
            if not frame["inlined"]
        ]
        for cpu in answer["cpus"]
    }


def crashbeam_stacks(report: dict[str, Any]) -> dict[int, list[Frame]]:
    return {
        cpu["cpu"]: [
            Frame(
                int(frame["address"], 16), int(frame["stack_pointer"], 16), frame["symbol"] or f"0x{frame['address']}"
            )
            for frame in cpu["stack"]["frames"]
        ]
        for cpu in report["cpus"]
        if cpu["stack"]
    }


def frames(tools: Tools, dumps: list[Dump], profiles: Path) -> None:
    contexts = {dump.name: contexts_of(dump.name, dump.truth) for dump in dumps}
    words = sorted({word for every in contexts.values() for one in every for word in words_wanted(one)})
    _, installed = tools.drgn(dumps, page_tables=False)
    _, walked = tools.drgn(dumps, words=words, values=True)
    _, handed = tools.drgn(dumps, registers="pt_regs")
    reports = [json.loads(tools.show(dump, profiles).printed) for dump in dumps]
    tools_stacks = {
        INSTALLED: [drgn_stacks(answer) for answer in installed],
        WALKED: [drgn_stacks(answer) for answer in walked],
        HANDED: [drgn_stacks(answer) for answer in handed],
        OURS: [crashbeam_stacks(report) for report in reports],
    }
    everything = [context for every in contexts.values() for context in every]
    heading(
        f"{dumps[0].name if len(dumps) == 1 else f'{len(dumps)} crashes'}: {len(everything)} CPUs, "
        f"{sum(len(one.frames) for one in everything)} kernel frames of the truth, by (pc, sp)",
        *("tool", "frames right", "missing", "not true", "CPUs answered", "CPUs exact", "user frames", "names differ"),
    )
    found: dict[str, dict[tuple[str, str], Difference]] = {}
    for tool, stacks in tools_stacks.items():
        tally = Tally()
        found[tool] = {}
        for dump, answer, theirs in zip(dumps, walked, stacks, strict=True):
            proofs = Proofs(answer["words"], image_of(tools, dump))
            for context in contexts[dump.name]:
                add_differences(found[tool], tally, context, theirs.get(context.cpu, []), proofs)
        user = sum(context.user_pc is not None for context in everything)
        row(
            tool,
            tally.right,
            tally.missing,
            tally.untrue,
            tally.answered,
            tally.exact,
            f"{tally.user} of {user}",
            tally.names_differ,
        )
    if not any(any(stacks.values()) for stacks in tools_stacks[WALKED]):
        return
    table_of(WALKED, found[WALKED], words=True)
    table_of(HANDED, found[HANDED], words=False)
    table_of(OURS, found[OURS], words=True)
    true = {(one.dump, one.cpu, frame.pc, frame.sp) for one in everything for frame in one.frames}
    richer(true, dict(zip((dump.name for dump in dumps), walked, strict=True)), reports)


def image_of(tools: Tools, dump: Dump) -> KernelImage:
    modules = [
        (tools.given / f"{module['name']}-{KERNEL}.ko", int(module["text_base"], 16))
        for module in dump.truth["modules"]
    ]
    return KernelImage([*modules, (tools.given / f"vmlinux-{KERNEL}", 0)])


def add_differences(
    found: dict[tuple[str, str], Difference], tally: Tally, context: Context, answer: list[Frame], proofs: Proofs
) -> None:
    for first, missing, untrue in counted(tally, context, answer):
        kind, after, proof = explained(context, first, proofs)
        difference = found.setdefault((kind, after), Difference(kind, after, proof))
        difference.where.append(f"{context.dump} CPU {context.cpu}")
        difference.missing += missing
        difference.untrue += [f"{frame.name} at {frame.pc:x}" for frame in untrue]


def table_of(tool: str, differences: dict[tuple[str, str], Difference], words: bool) -> None:
    if not differences:
        print(f"\n{tool}: no difference from the truth.")
        return
    shown = ("first case", "the words there") if words else ()
    heading(
        f"Where it differs: {tool}",
        *("kind", "the frame below", "CPUs", "frames missing", "frames not true", "first of these", *shown),
    )
    for one in sorted(differences.values(), key=lambda one: (one.kind, -len(one.where))):
        untrue = one.untrue[0] if one.untrue else ""
        cells = (one.where[0], one.proof) if words else ()
        row(one.kind, one.after, len(one.where), one.missing, len(one.untrue), untrue, *cells)


def richer(
    true: set[tuple[str, int, int, int | None]], answers: dict[str, dict[str, Any]], reports: list[dict[str, Any]]
) -> None:
    """What stands in drgn's frames that are right, each counted once; in frames that are not it says nothing."""
    every = list(
        {
            (dump, cpu["cpu"], frame["pc"], frame["sp"], frame["name"]): frame
            for dump, answer in answers.items()
            for cpu in answer["cpus"]
            for frame in cpu["frames"]
            if (dump, cpu["cpu"], frame["pc"], frame["sp"]) in true
        }.values()
    )
    ours = [frame for report in reports for cpu in report["cpus"] if cpu["stack"] for frame in cpu["stack"]["frames"]]
    calls = sum(len(frame["source"]["inlined"]) for frame in ours if frame["source"])
    exceptions = sum(frame["exception"] is not None for frame in ours)
    heading("What else the frames say that are right", "what", WALKED, OURS)
    row("inlined calls", sum(frame["inlined"] for frame in every), calls)
    with_line = sum(frame["source"] is not None and not frame["inlined"] for frame in every)
    row("frames with file and line", with_line, sum(frame["source"] is not None for frame in ours))
    row("arguments and locals with a value", sum(frame.get("values", 0) for frame in every), 0)
    row("exception frames with their registers", 0, exceptions)


if __name__ == "__main__":
    main()
