"""An analysis that needs no dump: what becomes of an input is in the name of its file.

``hang`` waits, ``spin`` computes for ever, ``die`` is killed, ``eat`` asks for too much memory, ``raise`` meets a
defect, ``bad`` ends in a FailureRecord, ``slow`` takes its time, ``write`` writes a file, anything else gives a report
of its own.
"""

import os
import signal
import time
from dataclasses import replace

from crashbeam.schemas.codes import FailureCode, Stage
from crashbeam.schemas.records import Record
from crashbeam.vmcore.facts import AnalysisOptions, DumpInput, Failed
from crashbeam.vmcore.stage_mark import enter
from crashbeam.vmcore.stages import to_record
from tests.sample_records import REPORT, SOURCE

NAME = "tests.fake_analysis:analyse"
SLOW_SECONDS = 0.2


def analyse(dump_input: DumpInput, _options: AnalysisOptions) -> Record:
    """The record of an input by its name."""
    enter(Stage.NOTES)
    name = os.path.basename(dump_input.paths[0])
    if "hang" in name:
        time.sleep(1000)
    if "spin" in name:
        while True:
            pass
    if "die" in name:
        os.kill(os.getpid(), signal.SIGKILL)
    if "eat" in name:
        return to_record(failed(dump_input, f"{len(bytearray(1 << 31))} bytes were had"))
    if "write" in name:
        with open(dump_input.paths[0] + ".written", "wb", buffering=0) as file:
            file.write(b"out of the child")
    if "raise" in name:
        raise ZeroDivisionError(name)
    if "slow" in name:
        time.sleep(SLOW_SECONDS)
    if "bad" in name:
        return to_record(failed(dump_input, f"{name} is bad"))
    source = replace(SOURCE, uri=dump_input.uri, size_bytes=dump_input.size_bytes)
    return replace(REPORT, input_id=dump_input.input_id, crash_id=dump_input.input_id[::-1], source=source)


def failed(dump_input: DumpInput, message: str) -> Failed:
    """A failure of that input."""
    return Failed(dump_input, Stage.HEADERS, FailureCode.MALFORMED, message, FailureCode.MALFORMED.remedy, {})
