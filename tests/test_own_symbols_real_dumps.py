"""Reports of real dumps without any file beside them, against those made with the kernel's vmlinux."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from crashbeam.pipeline.inputs import list_inputs
from crashbeam.schemas.codes import MatchedBy, SymbolLayouts, SymbolNames, WarningCode
from crashbeam.schemas.crash_report import CrashReport
from crashbeam.schemas.encode import to_json_line
from crashbeam.vmcore.facts import AnalysisOptions
from crashbeam.vmcore.stages import analyse

WITHOUT_BTF_IN_MEMORY = ("n_61_null", "n2_61_extirq")
"""Linux 6.1 of the corpus carries kallsyms and no BTF."""


def what_must_be_equal(report: CrashReport) -> dict[str, Any]:
    """All but where names and types came from."""
    record: dict[str, Any] = orjson.loads(to_json_line(report))
    del record["kernel"]["symbols"]
    for holder in (*record["cpus"], *record["unassigned_notes"]):
        for frame in holder["stack"]["frames"]:
            del frame["source"]
    return record


@pytest.mark.corpus
@pytest.mark.parametrize("architecture", ["ppc32", "ppc64"])
def test_a_report_without_any_file_equals_the_one_with_vmlinux(architecture: str, corpus: Path, tmp_path: Path) -> None:
    alone = AnalysisOptions((), str(tmp_path / "alone"))
    with_vmlinux = AnalysisOptions((str(corpus / "kernels"),), str(tmp_path / "with_vmlinux"))
    compared = 0
    for dump_input in list_inputs([str(corpus / architecture)]).inputs:
        folder = Path(dump_input.paths[0]).parent.name
        if folder in (*WITHOUT_BTF_IN_MEMORY, "damaged"):
            continue
        report, expected = analyse(dump_input, alone), analyse(dump_input, with_vmlinux)
        assert isinstance(report, CrashReport), report
        assert isinstance(expected, CrashReport), expected
        symbols = report.kernel.symbols
        assert (symbols.names, symbols.layouts) == (SymbolNames.KALLSYMS, SymbolLayouts.BTF), folder
        assert symbols.matched_by is MatchedBy.DUMP_ITSELF
        assert expected.kernel.symbols.names is SymbolNames.VMLINUX
        assert what_must_be_equal(report) == what_must_be_equal(expected), dump_input.uri
        compared += 1
    assert compared >= 20


@pytest.mark.corpus
@pytest.mark.parametrize("scenario", WITHOUT_BTF_IN_MEMORY)
def test_names_without_types_name_registers_and_stacks_and_say_what_is_missing(
    scenario: str, corpus: Path, tmp_path: Path
) -> None:
    options = AnalysisOptions((), str(tmp_path))
    (dump_input,) = list_inputs([str(corpus / "ppc32" / scenario / "vmcore.zlib")]).inputs
    report = analyse(dump_input, options)
    assert isinstance(report, CrashReport), report
    assert (report.kernel.symbols.names, report.kernel.symbols.layouts) == (SymbolNames.KALLSYMS, SymbolLayouts.NONE)
    assert WarningCode.LAYOUTS_MISSING in [warning.code for warning in report.warnings]
    saved = [cpu for cpu in report.cpus if cpu.registers]
    assert saved
    assert all(cpu.task is None for cpu in report.cpus)
    assert any(frame.symbol for cpu in saved for frame in cpu.stack.frames)
