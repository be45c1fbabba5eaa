"""Both forms of AnalyzeDumps make the same records, byte for byte."""

import os
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms import Create, Reshuffle

from crashbeam.pipeline.inputs import list_inputs
from crashbeam.pipeline.symbols import prepare_symbols
from crashbeam.schemas.crash_report import CrashReport
from crashbeam.transforms.analyze_dumps import AnalyzeDumps, AnalyzeRuns
from crashbeam.transforms.build_report import BuildReport
from crashbeam.transforms.map_notes import MapNotes
from crashbeam.transforms.parse_headers import ParseHeaders
from crashbeam.transforms.part_file import read_part
from crashbeam.transforms.records import Records, Run
from crashbeam.transforms.unwind_stacks import UnwindStacks
from crashbeam.transforms.write_parts import MAX_RECORDS, WriteParts
from crashbeam.vmcore.facts import AnalysisOptions, DumpInput, Failed
from crashbeam.workers.pool import PoolSettings, record_lines, shared_pool
from tests.running import make_dumps

RUNNER = "FnApiRunner"


def lines_of_children(inputs: tuple[DumpInput, ...], options: AnalysisOptions) -> list[bytes]:
    """The records that the default form makes."""
    settings = PoolSettings(1, options)
    lines = [line for line in record_lines(inputs, settings, isolated=True) if line is not None]
    shared_pool(settings).close()
    return lines


def check_forms(inputs: tuple[DumpInput, ...], options: AnalysisOptions) -> None:
    """The four stages in a row, and the same with every stage cut off from the next, against the children's records."""
    expected = lines_of_children(inputs, options)
    assert len(expected) == len(inputs)
    with beam.Pipeline(runner=RUNNER, options=PipelineOptions([])) as pipeline:
        dumps = pipeline | "Inputs" >> Create(inputs)
        assert_that(dumps | "Row" >> AnalyzeDumps(options), equal_to(expected), label="in a row")
    with beam.Pipeline(runner=RUNNER, options=PipelineOptions([])) as pipeline:
        facts = pipeline | "Inputs" >> Create(inputs)
        for stage in (ParseHeaders, MapNotes, UnwindStacks, BuildReport):
            facts = facts | stage.__name__ >> stage(options) | f"Break{stage.__name__}" >> Reshuffle()
        ids = facts | "Ids" >> beam.Map(id_of)
        assert_that(ids, equal_to([dump.input_id for dump in inputs]), label="cut off")


def id_of(facts: CrashReport | Failed) -> str:
    """The input that the last stage's value is about."""
    return facts.input.input_id if isinstance(facts, Failed) else facts.input_id


def test_files_that_are_no_dumps_end_in_the_same_failures(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("no dump")
    os.mkfifo(tmp_path / "fifo")
    make_dumps(tmp_path, "cut")
    names = ("empty", "text", "fifo", "missing", "cut")
    inputs = list_inputs([str(tmp_path / name) for name in names]).inputs
    check_forms(inputs, AnalysisOptions(profiles=str(tmp_path / "profiles")))


@pytest.mark.corpus
def test_real_dumps_give_the_same_reports(corpus: Path, tmp_path: Path) -> None:
    options = AnalysisOptions((str(corpus / "kernels" / "vmlinux-e500-61-nodebug.zst"),), str(tmp_path))
    prepare_symbols(options)
    inputs = list_inputs([str(corpus / "ppc32" / "n_61_null"), str(corpus / "ppc32" / "b_sysrq")]).inputs
    check_forms(inputs, options)


def test_records_are_cut_into_parts_by_number_and_where_inputs_are_not_consecutive(tmp_path: Path) -> None:
    batches = [
        Records(0, tuple(b"%d\n" % number for number in range(300))),
        Records(300, ()),
        Records(300, (b"300\n",)),
        Records(400, (b"400\n", b"401\n")),
    ]
    with beam.Pipeline(runner=RUNNER, options=PipelineOptions([])) as pipeline:
        _ = pipeline | Create(batches, reshuffle=False) | WriteParts(str(tmp_path))
    held = {name: read_part(str(tmp_path / name)) for name in sorted(os.listdir(tmp_path))}
    assert list(held) == ["00000000-00000256.jsonl.zst", "00000256-00000301.jsonl.zst", "00000400-00000402.jsonl.zst"]
    assert held["00000000-00000256.jsonl.zst"].count(b"\n") == MAX_RECORDS
    assert held["00000400-00000402.jsonl.zst"] == b"400\n401\n"


def test_runs_are_analysed_in_the_runners_own_process_when_isolation_is_off(tmp_path: Path) -> None:
    inputs = list_inputs([str(path) for path in make_dumps(tmp_path, "a", "b")]).inputs
    options = AnalysisOptions(profiles=str(tmp_path / "profiles"))
    expected = [Records(5, tuple(lines_of_children(inputs, options)))]
    with beam.Pipeline(runner=RUNNER, options=PipelineOptions([])) as pipeline:
        records = pipeline | Create([Run(5, inputs)]) | AnalyzeRuns(PoolSettings(1, options), isolated=False)
        assert_that(records, equal_to(expected))
