"""The logs of all real dumps against what the same crash showed on its serial console.

Every line of a log stands on the console, but for four classes: what is printed when the consoles are gone, what is
printed while the bootconsole hands over to the driver, a line behind which the firmware's text was cut off, and the
path of a source file, which the corpus' console has no folders of.
"""

import re
from collections import Counter
from pathlib import Path

import pytest

from crashbeam.pipeline.inputs import list_inputs
from crashbeam.vmcore.dmesg import open_log, open_log_by_vmcoreinfo
from crashbeam.vmcore.dmesg.text import format_line, parse_log_text
from crashbeam.vmcore.dump import Dump
from crashbeam.vmcore.facts import AnalysisOptions
from crashbeam.vmcore.log_line import LogLine

CONSOLES_GONE = re.compile(
    r"Sending IPI to other CPUs|IPI complete|ERROR: \d+ cpu\(s\) not responding"
    r"|Bye!|kexec: Starting switchover sequence\."
)
HANDED_OVER = re.compile(r"\S+: ttyS0 at MMIO 0x[0-9a-f]+ \(irq = \d+, base_baud = \d+\) is a 16550")
SOURCE_PATH = re.compile(r"kernel BUG at (\S*/)\w+\.c:\d+!")
FIRMWARE_CUT = re.compile(r"#\d SMP Mon Nov 2(?=\[)")


class Console:
    """What a serial console showed."""

    def __init__(self, path: Path) -> None:
        text = path.read_bytes()
        lines = text.decode("utf-8", "replace").replace("\r", "").split("\n")
        self.lines = set(lines)
        self.behind_firmware = {FIRMWARE_CUT.sub("", line) for line in lines if FIRMWARE_CUT.match(line)}
        # One is no console, but the text that makedumpfile took out of the real kdump: lines of one record in columns.
        self.lines |= {format_line(line) for line in parse_log_text(text)}

    def classify(self, line: LogLine, before: LogLine | None) -> str:
        """How a line of the log stands on the console."""
        plain = format_line(line)
        if {plain, format_line(line, with_caller=True)} & self.lines:
            return "equal"
        if CONSOLES_GONE.fullmatch(line.text):
            return "printed when the consoles were gone"
        if HANDED_OVER.fullmatch(line.text) and before is not None and before.text.endswith("[ttyS0] disabled"):
            return "printed while no console was registered"
        if plain in self.behind_firmware:
            return "behind text of the firmware"
        path = SOURCE_PATH.fullmatch(line.text)
        if path and plain.replace(path[1], "") in self.lines:
            return "path of a source file"
        return "unexplained"


@pytest.mark.corpus
def test_every_line_of_every_log_stands_on_the_console(corpus: Path, golden: Path, tmp_path: Path) -> None:
    options = AnalysisOptions((str(golden),), str(tmp_path))
    counts: Counter[str] = Counter()
    unexplained, problems = [], []
    for console_path in sorted(corpus.glob("ppc*/*/dmesg.txt")):
        console = Console(console_path)
        for dump_input in list_inputs([str(console_path.parent)]).inputs:
            lines, problem = read_log(Dump(dump_input, options))
            counts["dumps"] += 1
            if problem is not None:
                problems.append(f"{dump_input.uri}: {problem}")
            for before, line in zip([None, *lines], lines, strict=False):
                kind = console.classify(line, before)
                counts[kind] += 1
                if kind == "unexplained":
                    unexplained.append(f"{dump_input.uri}: {line}")
    print(*(f"{kind}: {count}" for kind, count in counts.most_common()), sep="\n")
    assert (unexplained, problems) == ([], [])
    assert counts["dumps"] == 60
    assert counts["equal"] > 9000


def read_log(dump: Dump) -> tuple[list[LogLine], str | None]:
    """All lines of a dump's log: the same by its symbols and by VMCOREINFO alone."""
    assert dump.kernel is not None
    assert dump.memory is not None
    log = open_log(dump.kernel.kernel)
    lines = log.read()
    assert open_log_by_vmcoreinfo(dump.memory, dump.vmcoreinfo).read() == lines
    dump.close()
    return lines, log.problem
