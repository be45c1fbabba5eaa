"""The warning that the kernel printed another trace than the one that was unwound."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from crashbeam.pipeline.inputs import list_one
from crashbeam.schemas.codes import WarningCode
from crashbeam.schemas.crash_report import CrashReport
from crashbeam.vmcore.facts import AnalysisOptions, Unwound
from crashbeam.vmcore.oops import Oops
from crashbeam.vmcore.stages import build_report, map_notes, parse_headers, unwind_stacks


def warnings_of(record: object) -> list[str]:
    assert isinstance(record, CrashReport)
    return [warning.message for warning in record.warnings if warning.code is WarningCode.TRACE_DIFFERS]


def with_cause(unwound: Unwound, cause: Oops) -> Unwound:
    log = unwound.mapped.log
    assert log is not None
    return replace(unwound, mapped=replace(unwound.mapped, log=replace(log, oopses=(cause, *log.oopses[1:]))))


@pytest.mark.parametrize("name", ["c_null_module", "le-null-module", "be-null"])
def test_a_line_of_another_function_is_told_of_a_fatal_report_alone(name: str, golden: Path, tmp_path: Path) -> None:
    options = AnalysisOptions((str(golden),), str(tmp_path))
    dump_input = list_one(str(golden / f"{name}.kdump"))
    unwound = unwind_stacks(map_notes(parse_headers(dump_input, options), options), options)
    assert isinstance(unwound, Unwound)
    assert unwound.mapped.log is not None
    cause = unwound.mapped.log.cause
    assert cause is not None
    assert warnings_of(build_report(unwound, options)) == []

    place = next(number for number, line in enumerate(cause.trace) if number > 1 and not line.is_unreliable)
    line = cause.trace[place]
    assert line.address is not None
    false = replace(line, address=line.address + 0x1000, function="elsewhere")
    other = replace(cause, trace=(*cause.trace[:place], false, *cause.trace[place + 1 :]))
    assert warnings_of(build_report(with_cause(unwound, other), options)) == [
        f"cpu {cause.cpu}: 1 lines of the trace that the kernel printed are not in its stack"
    ]
    went_on = replace(other, is_fatal=False)
    assert warnings_of(build_report(with_cause(unwound, went_on), options)) == []
