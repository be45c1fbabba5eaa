"""A sparse dump of 1 TiB: 2^28 pages of 4 KiB, of which few are stored, the highest among them.

A real crash's pages, in a file that announces as much memory as a large machine has.
"""

import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from msgspec.structs import replace

from crashbeam.pipeline.inputs import list_one
from crashbeam.schemas.crash_report import CrashReport
from crashbeam.vmcore.containers.detect import open_container
from crashbeam.vmcore.containers.kdump_writer import write_kdump
from crashbeam.vmcore.dump import close_last, opened
from crashbeam.vmcore.errors import PageError
from crashbeam.vmcore.facts import AnalysisOptions
from crashbeam.vmcore.limits import Budget
from crashbeam.vmcore.stages import run_stages
from tests.test_trim_reports import analysed, what_must_be_equal

PAGES = 1 << 28
BITMAP_BYTES = PAGES // 8
BESIDE_THE_BITMAP_BYTES = 150 << 10
MEMORY_BYTES = 40 << 20
CHILD = """
import resource, sys
from crashbeam.pipeline.inputs import list_one
from crashbeam.vmcore.facts import AnalysisOptions
from crashbeam.vmcore.stages import analyse
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
analyse(list_one(sys.argv[1]), AnalysisOptions((sys.argv[2],), sys.argv[3]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.fixture(scope="module")
def terabyte(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real crash in a file of 2^28 pages, with one page at the very end of memory."""
    container = open_container((str(golden / "be-null.kdump"),), Budget())
    pages = {}
    for pfn in range(container.facts.max_pfn):
        try:
            pages[pfn] = container.read_page(pfn)
        except PageError:
            continue
    path = tmp_path_factory.mktemp("terabyte") / "vmcore"
    facts = replace(container.facts, max_pfn=PAGES)
    with path.open("wb") as target:
        write_kdump(target, facts, {**pages, PAGES - 1: b"\x5a" * container.facts.block_size})
    container.close()
    return path


@pytest.fixture
def options(golden: Path, tmp_path: Path) -> AnalysisOptions:
    return AnalysisOptions((str(golden),), str(tmp_path / "profiles"))


def test_it_gives_the_report_of_the_small_dump(terabyte: Path, golden: Path, options: AnalysisOptions) -> None:
    report = what_must_be_equal(analysed(terabyte, options))
    assert report == what_must_be_equal(analysed(golden / "be-null.kdump", options))


def test_no_more_of_the_bitmap_is_read_than_up_to_the_highest_page_used(
    terabyte: Path, options: AnalysisOptions
) -> None:
    assert isinstance(run_stages(list_one(str(terabyte)), options), CrashReport)
    try:
        dump = opened(list_one(str(terabyte)), options)
        highest = max(dump.physical.needed)
        read_bytes = Budget().read_bytes - dump.budget.read_bytes
        assert highest < PAGES // 1000
        assert read_bytes < highest // 8 + BESIDE_THE_BITMAP_BYTES
        dump.physical.page(PAGES - 1)
        read_bytes = Budget().read_bytes - dump.budget.read_bytes
        assert BITMAP_BYTES <= read_bytes < BITMAP_BYTES + 2 * BESIDE_THE_BITMAP_BYTES
    finally:
        close_last()


def test_it_is_analysed_within_the_memory_of_any_other_dump(
    terabyte: Path, golden: Path, options: AnalysisOptions
) -> None:
    assert options.profiles is not None
    analysed(golden / "be-null.kdump", options)
    arguments = [sys.executable, "-c", CHILD, str(terabyte), str(golden), options.profiles]
    child = subprocess.run(arguments, check=True, capture_output=True)
    assert orjson.loads(child.stdout) * 1024 < MEMORY_BYTES
