"""``crashbeam dmesg``: the log is printed as the kernel prints it, and what it is not is said on standard error."""

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from crashbeam.pipeline.cli import main
from crashbeam.vmcore.arch import ARCHITECTURES
from crashbeam.vmcore.arch.architecture import Architecture
from crashbeam.vmcore.arch.ppc32 import PPC32
from crashbeam.vmcore.containers import Utsname
from crashbeam.vmcore.containers.kdump_writer import write_kdump
from tests.builders.kernel_memory import container_facts
from tests.builders.printk_ring import TEXT_AT, PrintkRing, vmcoreinfo_text
from tests.running import crashbeam

RELEASE = "6.12.0-board"
UTS_AT = 0x60000
LINES = (
    (b"Oops: Kernel access of bad area, sig: 11 [#1]", 6_180_262_000, 81),
    (b"NIP:  c0423378\nLR:  c0423d8c", 6_180_300_000, 81),
    (b"evil \x1b]0;title\x07", 6_190_000_000, 0x80000005),
)
PLAIN = """\
[    6.180262] Oops: Kernel access of bad area, sig: 11 [#1]
[    6.180300] NIP:  c0423378
[    6.180300] LR:  c0423d8c
[    6.190000] evil \\x1b]0;title\\x07
"""
WITH_CALLERS = """\
[    6.180262][   T81] Oops: Kernel access of bad area, sig: 11 [#1]
[    6.180300][   T81] NIP:  c0423378
[    6.180300][   T81] LR:  c0423d8c
[    6.190000][    C5] evil \\x1b]0;title\\x07
"""


def ring_of(arch: Architecture = PPC32, count_bits: int = 4) -> PrintkRing:
    """The log of a crash."""
    ring = PrintkRing(arch, count_bits, 12)
    for text, time_ns, caller in LINES:
        ring.log(text, time_ns, caller)
    return ring


def write_dump(folder: Path, ring: PrintkRing, *, lost_text: bool = False) -> Path:
    """A dump of a kernel that has this log, and VMCOREINFO: nobody has its symbols."""
    made_up = ring.place()
    made_up.put(made_up.base + UTS_AT, bytes(130) + RELEASE.encode() + b"\0")
    info = f"OSRELEASE={RELEASE}\nPAGESIZE=4096\nSYMBOL(init_uts_ns)={made_up.base + UTS_AT:x}\n".encode()
    info += b"OFFSET(uts_namespace.name)=0\n" + vmcoreinfo_text(ring.arch)
    order = ring.arch.byte_order
    note = b"".join(number.to_bytes(4, order) for number in (11, len(info), 0)) + b"VMCOREINFO\0\0" + info
    facts = replace(
        container_facts(arch=ring.arch, dump_level=31),
        notes=(note + bytes(-len(info) % 4),),
        vmcoreinfo=info,
        utsname=Utsname("Linux", "board", RELEASE, "#1 SMP", "ppc" if ring.word == 4 else "ppc64", "(none)"),
        max_pfn=0x1000,
    )
    pages = {pfn: bytes(page) for pfn, page in made_up.container.pages.items()}
    lost = [TEXT_AT // 4096] if lost_text else []
    for pfn in lost:
        del pages[pfn]
    path = folder / "vmcore"
    with path.open("wb") as target:
        write_kdump(target, facts, pages, lost_pfns=lost)
    return path


def dmesg(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, list[str]]:
    """Exit code, standard output, and the lines of standard error."""
    dump = Path(str(arguments[-1]))
    code = main(["dmesg", *map(str, arguments), "--profiles", str(dump.parent / "profiles")])
    said = capsys.readouterr()
    return code, said.out, said.err.splitlines()


@pytest.mark.parametrize("arch", ARCHITECTURES.values(), ids=lambda arch: arch.name)
def test_the_log_is_printed_as_dmesg_prints_it_without_any_symbols(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arch: Architecture
) -> None:
    dump = write_dump(tmp_path, ring_of(arch))
    assert dmesg(capsys, dump) == (0, PLAIN, [])
    assert dmesg(capsys, "--caller", dump) == (0, WITH_CALLERS, [])


def test_json_has_every_line_and_what_is_known_of_the_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, said = dmesg(capsys, "--json", write_dump(tmp_path, ring_of()))
    assert (code, said, out.count("\n")) == (0, [], 1)
    log = json.loads(out)
    lines = log.pop("lines")
    assert log == {"from": "dump", "problem": None, "overwritten_records": 0}
    assert [(line["sequence"], line["caller"]) for line in lines] == [(0, "T81"), (1, "T81"), (1, "T81"), (2, "C5")]
    assert lines[2] == {"sequence": 1, "time_ns": 6_180_300_000, "caller": "T81", "level": 6, "text": "LR:  c0423d8c"}


def test_a_log_that_lost_its_beginning_is_said_to_be_truncated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ring = ring_of(count_bits=2)
    ring.log(b"last words", 7_000_000_000)
    ring.log(b"really", 7_000_000_000)
    kept = PLAIN.split("\n", 1)[1] + "[    7.000000] last words\n[    7.000000] really\n"
    code, out, said = dmesg(capsys, write_dump(tmp_path, ring))
    assert (code, out) == (0, kept)
    assert said == ["crashbeam: warning: the log is truncated: records overwritten at its beginning: 1"]


def test_a_record_that_was_being_written_is_said_to_be_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ring = ring_of()
    ring.reserve(10)
    code, out, said = dmesg(capsys, write_dump(tmp_path, ring))
    assert (code, out) == (0, PLAIN)
    assert said == ["crashbeam: warning: records of the log are missing: 1 half written"]


def test_the_sidecar_stands_in_for_a_log_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dump = write_dump(tmp_path, ring_of(), lost_text=True)
    (tmp_path / "vmcore-dmesg.txt").write_text(WITH_CALLERS)
    code, out, said = dmesg(capsys, dump)
    assert (code, out) == (0, PLAIN)
    assert said == [
        "crashbeam: warning: the log is that of vmcore-dmesg.txt beside the dump: "
        "records of the log are missing: 3 unreadable"
    ]
    assert json.loads(dmesg(capsys, "--json", dump)[1])["from"] == "sidecar"


def test_the_dumps_own_log_goes_before_the_sidecar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dump = write_dump(tmp_path, ring_of())
    (tmp_path / "vmcore-dmesg.txt").write_text("another log\n")
    assert dmesg(capsys, dump) == (0, PLAIN, [])


def test_an_unreadable_log_without_a_sidecar_is_empty_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, said = dmesg(capsys, write_dump(tmp_path, ring_of(), lost_text=True))
    assert (code, out) == (0, "")
    assert said == ["crashbeam: warning: records of the log are missing: 3 unreadable"]


def test_a_dump_that_tells_no_log_is_a_failure_with_a_hint(tmp_path: Path, golden: Path) -> None:
    result = crashbeam("dmesg", golden / "damaged_truncated.kdump", "--profiles", tmp_path, fake=False)
    assert result.returncode == 4
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("crashbeam: the log cannot be read: ")


def test_what_is_no_dump_fails_as_show_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(b"no dump at all")
    code, out, said = dmesg(capsys, path)
    assert (code, out) == (4, "")
    assert main(["show", str(path)]) == 4
    assert capsys.readouterr().err.splitlines() == said
