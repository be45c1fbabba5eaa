"""``crashbeam show`` of a log's text, without any dump."""

from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner

from crashbeam.pipeline.cli import crashbeam
from crashbeam.pipeline.exit_codes import FAILURES, OK
from crashbeam.schemas.json_schema import json_schema
from tests.test_schemas_json import is_valid

CONSOLE = """\
[    0.000000] Linux version 6.12.1-lab (lab@lab) (gcc) #1 SMP
[    6.100000] BUG: Kernel NULL pointer dereference on write at 0x00000000
[    6.100100] Faulting instruction address: 0xc0023878
[    6.100200] Oops: Kernel access of bad area, sig: 11 [#1]
[    6.100300] CPU: 3 UID: 0 PID: 81 Comm: writer Not tainted 6.12.1-lab #1
[    6.100400] NIP:  c0023878 LR: c00238b0 CTR: c0010000
[    6.100500] REGS: c0b7fcc0 TRAP: 0300   Not tainted  (6.12.1-lab)
[    6.100600] NIP [c0023878] flush_table+0x18/0x40
[    6.100700] LR [c00238b0] close_table+0x10/0x38
[    6.100800] Call Trace:
[    6.100900] [c0b7fda0] [c0023900] drop_table+0x10/0x38
[    6.101000] [c0b7fdb0] [c01d93d4] vfs_write+0x124/0x3dc
[    6.101100] ---[ end trace 0000000000000000 ]---
[    6.101200] Kernel panic - not syncing: Fatal exception
"""


def show(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(crashbeam, ["show", *arguments], standalone_mode=False)
    code = result.return_value if result.exception is None else 1
    return int(code or 0), result.stdout, result.stderr


def test_the_crash_that_a_console_tells_of_is_named_and_signed(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    path.write_text(CONSOLE)
    code, shown, _ = show(str(path))
    assert code == OK
    assert "title: Kernel NULL pointer dereference in flush_table\n" in shown
    assert 'panic: cpu 3, pid 81 "writer" (by dmesg)\n' in shown
    assert "(stack_from_text)" in shown
    assert "BUG: Kernel NULL pointer dereference on write at 0x00000000\n" in shown


def test_its_report_is_a_record_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    path.write_text(CONSOLE)
    code, shown, _ = show(str(path), "--json")
    record = orjson.loads(shown)
    assert code == OK
    assert is_valid("crash_report", record)
    assert record["signature"]["frames"][:2] == ["flush_table", "close_table"]
    assert (record["dmesg"]["from"], record["cpus"], record["kernel"]["release"]) == ("text", [], "6.12.1-lab")
    assert json_schema("crash_report")["$defs"]["LogSource"]["enum"] == ["dump", "sidecar", "text"]


@pytest.mark.parametrize("text", ["nothing but words\n", "[    0.000000] Linux version 6.12.1 (a) #1\n"])
def test_a_text_without_a_crash_says_so(text: str, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(text)
    code, shown, complaint = show(str(path))
    assert (code, shown) == (FAILURES, "")
    assert "is no kdump, flattened or ELF dump (unknown_format)" in complaint
