"""crashbeam reads crash dumps of PowerPC Linux kernels and says, CPU by CPU, what is known.

    for dump in crashbeam.list_inputs(["dumps/"]).inputs:
        record = crashbeam.analyse(dump, crashbeam.AnalysisOptions(symbols=("vmlinux",)))
        print(crashbeam.to_json_line(record))

What stands here is the public API; everything else may move. A name is imported when it is first asked for, so that
looking at one dump never imports Beam.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crashbeam.pipeline.inputs import list_inputs
    from crashbeam.schemas.crash_report import CrashReport
    from crashbeam.schemas.encode import to_json_line
    from crashbeam.schemas.failure import FailureRecord
    from crashbeam.schemas.json_schema import json_schema
    from crashbeam.transforms.analyze_dumps import AnalyzeDumps
    from crashbeam.vmcore.facts import AnalysisOptions, DumpInput
    from crashbeam.vmcore.stages import analyse

__all__ = [
    "AnalysisOptions",
    "AnalyzeDumps",
    "CrashReport",
    "DumpInput",
    "FailureRecord",
    "analyse",
    "json_schema",
    "list_inputs",
    "to_json_line",
]

_MODULES = {
    "AnalysisOptions": "crashbeam.vmcore.facts",
    "AnalyzeDumps": "crashbeam.transforms.analyze_dumps",
    "CrashReport": "crashbeam.schemas.crash_report",
    "DumpInput": "crashbeam.vmcore.facts",
    "FailureRecord": "crashbeam.schemas.failure",
    "analyse": "crashbeam.vmcore.stages",
    "json_schema": "crashbeam.schemas.json_schema",
    "list_inputs": "crashbeam.pipeline.inputs",
    "to_json_line": "crashbeam.schemas.encode",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
