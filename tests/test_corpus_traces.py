"""The kernel's own trace on the console against the unwound stack: every line is equal, or deviates as expected.

The kernel prints, for each frame, the word in its LR save slot, whether it is alive or stale. So four kinds of lines
differ: that of a frame whose return address was still in LR; that of the function that switched stacks, whose slot
nobody filled; one inside ``panic()``, printed at another instruction than the last; and the stale bottom line of an
idle CPU.
"""

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from crashbeam.pipeline.inputs import list_one
from crashbeam.schemas.crash_report import Cpu, CrashReport
from crashbeam.vmcore.facts import AnalysisOptions
from crashbeam.vmcore.stages import analyse

HEADER = re.compile(r"CPU: (\d+) (?:UID: \d+ )?PID: \d+ ")
LINE = re.compile(
    r"\[([0-9a-f]{8,16})\] \[([0-9a-f]{8,16})\] (\S+?)(?:\+0x[0-9a-f]+/0x[0-9a-f]+)?(?: \[\w+\])?( \(unreliable\))?$"
)
STAMP = re.compile(r"^\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? ")


class Line(NamedTuple):
    """A line of a trace."""

    stack_pointer: int
    address: int
    function: str
    is_flagged: bool


def traces_of(console: str) -> list[tuple[int, list[Line]]]:
    """The CPU and the lines of each trace of a console log."""
    found: list[tuple[int, list[Line]]] = []
    cpu, lines = -1, None
    for text in (STAMP.sub("", written) for written in console.splitlines()):
        if header := HEADER.search(text):
            cpu = int(header[1])
        if text.startswith("Call Trace:"):
            lines = []
            found.append((cpu, lines))
        elif text.startswith(("Code:", "---[ end trace", "Kernel panic", "Instruction dump")):
            lines = None
        elif lines is not None and (line := LINE.search(text)):
            lines.append(Line(int(line[1], 16), int(line[2], 16), line[3].lstrip("."), bool(line[4])))
    return found


def classify(line: Line, before: Line | None, is_last: bool, cpu: Cpu) -> str:
    """What a line of a trace is to the CPU's stack."""
    frames = [frame for frame in cpu.stack.frames if int(frame.stack_pointer, 16) == line.stack_pointer]
    if any(int(frame.address, 16) == line.address for frame in frames):
        return "equal"
    if line.is_flagged:
        return "flagged unreliable"
    if any(frame.trust == "link_register" for frame in frames):
        return "stale: LR was live"
    if before is not None and not frames and leaves_stack(cpu, before):
        return "the switching function's frame"
    if any(frame.symbol == line.function == "panic" for frame in frames):
        return "inside panic()"
    if is_last and not frames:
        return "bottom of an idle CPU"
    return "unexplained"


def leaves_stack(cpu: Cpu, line: Line) -> bool:
    """Whether the frame of a line is the first of an interrupt stack: the next one lies elsewhere."""
    for frame, following in pairwise(cpu.stack.frames):
        if int(frame.stack_pointer, 16) == line.stack_pointer:
            return frame.on in ("hardirq", "softirq") and following.on != frame.on
    return False


def dumps_of(corpus: Path) -> list[Path]:
    """One dump of each crash that has a console log."""
    found = []
    for log in sorted(corpus.glob("ppc*/*/dmesg.txt")):
        dumps = [path for path in log.parent.iterdir() if path.name.startswith(("vmcore.zlib", "vmcore.lzo", "qemu."))]
        found.append(min((path for path in dumps if path.name.startswith("vmcore")), default=min(dumps)))
    return found


@pytest.mark.corpus
def test_every_line_of_the_kernels_own_trace_is_explained(corpus: Path, tmp_path: Path) -> None:
    options = AnalysisOptions((str(corpus / "kernels"),), str(tmp_path))
    counts: Counter[str] = Counter()
    unexplained = []
    for path in dumps_of(corpus):
        report = analyse(list_one(str(path)), options)
        assert isinstance(report, CrashReport), report
        cpus = {cpu.cpu: cpu for cpu in report.cpus}
        for number, lines in traces_of((path.parent / "dmesg.txt").read_text(errors="replace")):
            cpu = cpus[number]
            for place, line in enumerate(lines):
                kind = "of a CPU without a note"
                if cpu.stack.frames:
                    before = lines[place - 1] if place else None
                    kind = classify(line, before, place == len(lines) - 1, cpu)
                counts[kind] += 1
                if kind == "unexplained":
                    unexplained.append(f"{path.parent.name} cpu {number}: {line}")
    print(*(f"{kind}: {count}" for kind, count in counts.most_common()), sep="\n")
    assert unexplained == []
    assert counts["equal"] > 300
