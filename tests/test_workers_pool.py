"""Children that die, hang, compute for ever or eat memory cost their own input and no other."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from crashbeam.schemas.records import Record
from crashbeam.vmcore.facts import AnalysisOptions, DumpInput
from crashbeam.vmcore.stages import to_record
from crashbeam.workers.child_process import ChildStartError
from crashbeam.workers.pool import Pool, PoolSettings
from crashbeam.workers.protocol import FrameBuffer, ProtocolError, to_frame
from tests import fake_analysis
from tests.running import QUICK_LIMITS, REPO, make_dumps, some_input

SETTINGS = PoolSettings(2, AnalysisOptions(), QUICK_LIMITS, fake_analysis.NAME)


@pytest.fixture
def pool() -> Iterator[Pool]:
    """Two children with the fake analysis."""
    pool = Pool(SETTINGS)
    yield pool
    pool.close()


def analyse(pool: Pool, *inputs: DumpInput) -> list[dict[str, Any]]:
    """The records of the inputs."""
    return [orjson.loads(line) for line in pool.analyse_run(inputs) if line is not None]


def code_of(record: dict[str, Any]) -> str:
    """What became of an input."""
    return str(record.get("code", "report"))


def test_records_come_back_in_input_order(pool: Pool) -> None:
    names = ["slow1", *(f"dump{number}" for number in range(40))]
    records = analyse(pool, *map(some_input, names))
    assert [record["source"]["uri"] for record in records] == [f"file:///{name}" for name in names]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("hang", "deadline"),
        ("spin", "deadline"),
        ("die", "worker_killed"),
        ("eat", "out_of_memory"),
        ("raise", "internal_error"),
        ("bad", "malformed"),
    ],
)
def test_trouble_costs_one_record_and_its_neighbours_nothing(pool: Pool, name: str, code: str) -> None:
    records = analyse(pool, *map(some_input, ["a", "b", name, "c", "d", "e", "f"]))
    assert [code_of(record) for record in records] == ["report", "report", code, *["report"] * 4]


@pytest.mark.parametrize("name", ["hang", "die", "eat", "raise"])
def test_a_failure_tells_the_file_and_the_last_stage(pool: Pool, name: str) -> None:
    (record,) = analyse(pool, some_input(name))
    assert record["stage"] == "notes"
    assert record["message"].startswith(f"/{name}")
    assert record["hint"]
    assert "Traceback" not in record["message"]


def test_many_deaths_in_a_row_end_in_as_many_records(pool: Pool) -> None:
    names = [f"die{number}" if number % 2 else f"dump{number}" for number in range(12)]
    codes = [code_of(record) for record in analyse(pool, *map(some_input, names))]
    assert codes == ["report", "worker_killed"] * 6


def test_an_idle_child_that_was_killed_costs_nothing(pool: Pool) -> None:
    analyse(pool, some_input("a"), some_input("b"))
    for process_id in pool.process_ids:
        os.kill(process_id, signal.SIGKILL)
        wait_until_gone(process_id)
    assert [code_of(record) for record in analyse(pool, *map(some_input, "cdef"))] == ["report"] * 4


def test_children_live_on_from_run_to_run_and_die_with_the_pool(pool: Pool) -> None:
    analyse(pool, *map(some_input, "abcd"))
    process_ids = pool.process_ids
    analyse(pool, *map(some_input, "efgh"))
    assert pool.process_ids == process_ids
    pool.close()
    for process_id in process_ids:
        with pytest.raises(ProcessLookupError):
            os.kill(process_id, 0)


def test_a_run_that_nobody_reads_to_its_end_leaves_nothing_for_the_next(pool: Pool) -> None:
    run = pool.analyse_run([some_input("a"), some_input("slow"), some_input("b"), some_input("c")])
    assert next(line for line in run if line is not None)
    del run
    assert [record["source"]["uri"] for record in analyse(pool, some_input("z"))] == ["file:///z"]


def test_requests_longer_than_a_pipe_do_not_block(pool: Pool) -> None:
    parts = tuple(f"/{'long' * 60}/{number}" for number in range(1024))
    inputs = [DumpInput(f"{number:032x}", "file:///set", parts, None, None, None) for number in range(6)]
    assert len(analyse(pool, *inputs)) == 6


def test_the_caller_is_told_that_nothing_is_ready_while_an_input_hangs(pool: Pool) -> None:
    assert None in list(pool.analyse_run([some_input("hang")]))


def test_a_file_that_changed_since_it_was_listed_is_said_to_have(pool: Pool, tmp_path: Path) -> None:
    (dump,) = make_dumps(tmp_path, "vmcore")
    status = dump.stat()
    listed = DumpInput(
        "0" * 32, dump.as_uri(), (str(dump),), status.st_size, str(status.st_mtime_ns), status.st_mtime_ns
    )
    assert [code_of(record) for record in analyse(pool, listed)] == ["report"]
    dump.write_bytes(b"KDUMP   and more")
    (record,) = analyse(pool, listed)
    assert (record["code"], record["stage"]) == ("input_changed", "open")


def test_an_analysis_that_cannot_be_imported_ends_the_run_with_its_name() -> None:
    pool = Pool(PoolSettings(1, AnalysisOptions(), QUICK_LIMITS, "tests.no_such_module:analyse"))
    with pytest.raises(ChildStartError, match="no_such_module"):
        analyse(pool, some_input("a"))


def test_a_child_cannot_write_files_nor_dump_core() -> None:
    pool = Pool(PoolSettings(1, AnalysisOptions(), QUICK_LIMITS, "tests.test_workers_pool:write_a_file"))
    (record,) = analyse(pool, some_input("a"))
    pool.close()
    assert record["message"] == "File too large; core 0"


def write_a_file(dump_input: DumpInput, _options: AnalysisOptions) -> Record:
    """An analysis that tries to leave something behind."""
    file = os.memfd_create("file")
    try:
        os.write(file, b"x")
        said = "written"
    except OSError as error:
        said = os.strerror(error.errno or 0)
    finally:
        os.close(file)
    core, _ = resource.getrlimit(resource.RLIMIT_CORE)
    return to_record(fake_analysis.failed(dump_input, f"{said}; core {core}"))


def test_no_child_outlives_a_driver_that_was_killed() -> None:
    program = """
from tests.test_workers_pool import SETTINGS, Pool, some_input
pool = Pool(SETTINGS)
for line in pool.analyse_run([some_input("a"), some_input("b"), some_input("hang"), some_input("hang2")]):
    print(*pool.process_ids, flush=True)
"""
    driver = subprocess.Popen([sys.executable, "-c", program], cwd=REPO, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    process_ids = [int(word) for word in driver.stdout.readline().split()]
    driver.kill()
    driver.wait()
    driver.stdout.close()
    for process_id in process_ids:
        wait_until_gone(process_id)
    assert len(process_ids) == 2


def wait_until_gone(process_id: int) -> None:
    """Waits for the end of a process, for at most as long as a child may live on."""
    ends = time.monotonic() + QUICK_LIMITS.wall_seconds + 5
    while is_running(process_id):
        assert time.monotonic() < ends
        time.sleep(0.05)


def is_running(process_id: int) -> bool:
    """Whether a process is there and is no zombie."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_frames_are_found_however_the_bytes_are_cut() -> None:
    stream = to_frame(b"one") + to_frame(b"") + to_frame(b"three" * 1000)
    for step in (1, 3, 7, len(stream)):
        buffer = FrameBuffer()
        frames = [frame for at in range(0, len(stream), step) for frame in buffer.feed(stream[at : at + step])]
        assert frames == [b"one", b"", b"three" * 1000]


def test_a_frame_of_absurd_length_is_refused() -> None:
    with pytest.raises(ProtocolError):
        FrameBuffer().feed(b"\xff\xff\xff\xff")
