"""One input to one JSON line, whatever happens short of the death of the process.

The same function runs in a child and, with ``--isolation none``, in the driver.
"""

import logging
import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

from crashbeam.schemas.codes import FailureCode, Stage
from crashbeam.schemas.encode import to_json_line
from crashbeam.schemas.records import Record
from crashbeam.vmcore import stage_mark, stages
from crashbeam.vmcore.facts import AnalysisOptions, DumpInput, Failed, Mapped, Opened, Unwound

Analyse = Callable[[DumpInput, AnalysisOptions], Record]
ANALYSE = "crashbeam.vmcore.stages:analyse"

_log = logging.getLogger(__name__)


def load_analyse(name: str) -> Analyse:
    """The function behind ``module:function``. Raises ImportError."""
    module, _, function = name.partition(":")
    loaded: Analyse = getattr(import_module(module), function)
    return loaded


def analyse_to_line(analyse: Analyse, dump_input: DumpInput, options: AnalysisOptions) -> bytes:
    """The record of ``dump_input`` as a JSON line. Raises MemoryError, and nothing else."""
    stage_mark.enter(Stage.OPEN)
    changed = find_change(dump_input)
    if changed is not None:
        return to_json_line(stages.to_record(changed))
    try:
        return to_json_line(analyse(dump_input, options))
    except MemoryError:
        raise
    except Exception as error:
        # The boundary of one input: a defect costs its own record, never the run.
        _log.debug("%s", dump_input.uri, exc_info=True)
        return to_json_line(stages.to_record(defect(dump_input, error)))


def run_stage(stage: Callable[[Any, AnalysisOptions], Any], facts: Any, options: AnalysisOptions) -> Any:
    """One stage of ``STAGES`` on what the one before gave, bounded as ``analyse_to_line`` is. Raises MemoryError."""
    if isinstance(facts, DumpInput):
        stage_mark.enter(Stage.OPEN)
        changed = find_change(facts)
        if changed is not None:
            return changed
    try:
        return stage(facts, options)
    except MemoryError:
        raise
    except Exception as error:
        dump_input = input_of(facts)
        _log.debug("%s", dump_input.uri, exc_info=True)
        return defect(dump_input, error)


def input_of(facts: DumpInput | Opened | Mapped | Unwound | Failed) -> DumpInput:
    """The input that facts between two stages are about."""
    match facts:
        case DumpInput():
            return facts
        case Mapped():
            return facts.opened.input
        case Unwound():
            return facts.mapped.opened.input
        case _:
            return facts.input


def defect(dump_input: DumpInput, error: Exception) -> Failed:
    """The failure of an input that met a defect of crashbeam."""
    stage = stage_mark.current()
    return Failed(
        input=dump_input,
        stage=stage,
        code=FailureCode.INTERNAL_ERROR,
        message=f"{name_of(dump_input)}: {type(error).__name__} while {stage.sentence}",
        hint=FailureCode.INTERNAL_ERROR.remedy,
        facts={},
    )


def find_change(dump_input: DumpInput) -> Failed | None:
    """The failure of an input whose sizes or times of change are not what was listed, else ``None``.

    Files that cannot be stat'ed are left to the analysis, which says why.
    """
    if dump_input.size_bytes is None:
        return None
    try:
        found = [os.stat(path) for path in dump_input.paths]
    except OSError:
        return None
    size_bytes = sum(status.st_size for status in found)
    version = ",".join(str(status.st_mtime_ns) for status in found)
    if (size_bytes, version) == (dump_input.size_bytes, dump_input.version):
        return None
    return Failed(
        input=dump_input,
        stage=Stage.OPEN,
        code=FailureCode.INPUT_CHANGED,
        message=f"{name_of(dump_input)} changed since it was listed",
        hint=FailureCode.INPUT_CHANGED.remedy,
        facts={"listed_bytes": dump_input.size_bytes, "size_bytes": size_bytes},
    )


def name_of(dump_input: DumpInput) -> str:
    """What to call an input in a message: its path, with what is no UTF-8 shown as escapes."""
    return os.fsencode(dump_input.paths[0]).decode("utf-8", "backslashreplace")
