"""The kernel's own trace on the console against the unwound stack: every line is equal, or deviates as expected.

The kernel prints, for each frame, the word in its LR save slot, whether it is alive or stale. So four kinds of lines
differ: that of a frame whose return address was still in LR; that of the function that switched stacks, whose slot
nobody filled; one inside ``panic()``, printed at another instruction than the last; and the stale bottom line of an
idle CPU.
"""

import re
from collections import Counter
from pathlib import Path

import pytest

from crashbeam.pipeline.inputs import list_one
from crashbeam.schemas.crash_report import CrashReport
from crashbeam.vmcore.facts import AnalysisOptions
from crashbeam.vmcore.oops import TraceLine
from crashbeam.vmcore.stages import analyse
from crashbeam.vmcore.trace_check import LineKind, compare_trace

HEADER = re.compile(r"CPU: (\d+) (?:UID: \d+ )?PID: \d+ ")
LINE = re.compile(
    r"\[([0-9a-f]{8,16})\] \[([0-9a-f]{8,16})\] (\S+?)(?:\+0x[0-9a-f]+/0x[0-9a-f]+)?(?: \[\w+\])?( \(unreliable\))?$"
)
STAMP = re.compile(r"^\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? ")


def traces_of(console: str) -> list[tuple[int, list[TraceLine]]]:
    """The CPU and the lines of each trace of a console log."""
    found: list[tuple[int, list[TraceLine]]] = []
    cpu = -1
    lines: list[TraceLine] | None = None
    for text in (STAMP.sub("", written) for written in console.splitlines()):
        if header := HEADER.search(text):
            cpu = int(header[1])
        if text.startswith("Call Trace:"):
            lines = []
            found.append((cpu, lines))
        elif text.startswith(("Code:", "---[ end trace", "Kernel panic", "Instruction dump")):
            lines = None
        elif lines is not None and (line := LINE.search(text)):
            lines.append(TraceLine(int(line[1], 16), int(line[2], 16), line[3].lstrip("."), None, None, bool(line[4])))
    return found


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
            stack = cpus[number].stack
            if stack.recovered:
                counts["of a CPU without a note"] += len(lines)
                continue
            kinds = compare_trace(lines, stack)
            counts.update(kind.value for kind in kinds)
            unexplained += [
                f"{path.parent.name} cpu {number}: {line}"
                for line, kind in zip(lines, kinds, strict=True)
                if kind is LineKind.UNEXPLAINED
            ]
    print(*(f"{kind}: {count}" for kind, count in counts.most_common()), sep="\n")
    assert unexplained == []
    assert counts["equal"] > 300
