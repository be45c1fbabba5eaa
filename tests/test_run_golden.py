"""The whole way on real dumps: folder to parts to stores, as ``make demo`` and a fleet go it."""

import shutil
from pathlib import Path

import duckdb
import pyarrow.parquet
import pytest

from crashbeam.transforms.part_file import read_part
from tests.running import crashbeam


@pytest.fixture
def folder(golden: Path, tmp_path: Path) -> Path:
    """Three golden dumps with times of change as file systems have them, to the nanosecond."""
    target = tmp_path / "dumps"
    target.mkdir()
    for name in ("h_lostnote_sysrq", "e_bug", "m_userbusy"):
        shutil.copyfile(golden / f"{name}.kdump", target / f"{name}.kdump")
    return target


def test_real_dumps_reach_every_store(folder: Path, golden: Path, tmp_path: Path) -> None:
    output, parquet, database = tmp_path / "out", tmp_path / "tables", tmp_path / "crashes.duckdb"
    done = crashbeam(
        *("run", folder, "-o", output, "--symbols", golden, "--profiles", tmp_path / "profiles"),
        *("--sink", f"parquet:{parquet}", "--sink", f"duckdb:{database}", "--sink", f"jsonl:{tmp_path / 'all.jsonl'}"),
        fake=False,
    )
    assert done.returncode == 0, done.stderr
    assert "3 reports, 0 failures" in done.stderr
    parts = b"".join(read_part(str(part)) for part in sorted((output / "parts").iterdir()))
    assert parts.count(b"\n") == 3
    assert (tmp_path / "all.jsonl").read_bytes() == parts
    cpus = [path for path in parquet.rglob("*.parquet") if "cpus" in str(path.relative_to(parquet))]
    rows = sum(pyarrow.parquet.read_metadata(path).num_rows for path in cpus)
    assert rows == 24
    with duckdb.connect(str(database), read_only=True) as connection:
        assert connection.execute("select count(*) from crashes").fetchone() == (3,)
        assert connection.execute("select count(*) from cpus").fetchone() == (24,)
        lost = connection.execute("select count(*) from warnings where code = 'note_not_saved'").fetchone()
        assert lost == (7,)
