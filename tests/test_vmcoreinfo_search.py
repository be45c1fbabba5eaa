"""VMCOREINFO in the memory of files that lack it, and the byte order that it tells."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from crashbeam.pipeline.inputs import list_one
from crashbeam.schemas.codes import NoteState, WarningCode
from crashbeam.schemas.crash_report import CrashReport
from crashbeam.vmcore.arch.architecture import Architecture
from crashbeam.vmcore.arch.ppc32 import PPC32
from crashbeam.vmcore.arch.ppc64 import PPC64, PPC64LE
from crashbeam.vmcore.errors import PageStatus
from crashbeam.vmcore.facts import AnalysisOptions
from crashbeam.vmcore.stages import analyse
from crashbeam.vmcore.vmcoreinfo_search import search_vmcoreinfo
from tests.builders.board_64 import FAKE_AT, RELEASE, VMCOREINFO_AT, Machine, machine_of, registers_of, vmcoreinfo
from tests.builders.elf_file import PPC, PT_LOAD, PT_NOTE, ElfFile, Segment
from tests.builders.elf_notes import note, prstatus_note, vmcoreinfo_note
from tests.builders.kernel_memory import PAGE_OFFSET_64, FakeContainer, container_facts

both_orders = pytest.mark.parametrize("arch", [PPC64, PPC64LE], ids=lambda arch: arch.name)
INFO = vmcoreinfo()
IN_FILE = "VMCOREINFO is not in the file"


def pages_with(*notes: tuple[int, bytes], page_bytes: int = 4096) -> FakeContainer:
    """Memory of a few pages, with bytes at physical addresses."""
    container = FakeContainer(replace(container_facts(page_bytes, arch=PPC64), max_pfn=64))
    for physical, data in notes:
        for place, byte in enumerate(data, physical):
            page = container.pages.setdefault(place // page_bytes, bytearray(page_bytes))
            page[place % page_bytes] = byte
    return container


def found_in(container: FakeContainer) -> list[tuple[int, str, bytes]]:
    return list(search_vmcoreinfo(container))


@pytest.mark.parametrize("order", ["big", "little"])
def test_the_note_at_the_start_of_a_page_tells_its_byte_order(order: str) -> None:
    assert found_in(pages_with((0x7000, vmcoreinfo_note(INFO, order)))) == [(0x7000, order, INFO)]


@pytest.mark.parametrize("offset", [0x1000, 0xF000])
def test_a_page_of_4k_may_lie_anywhere_in_a_block_of_64k(offset: int) -> None:
    container = pages_with((0x30000 + offset, vmcoreinfo_note(INFO)), page_bytes=0x10000)
    assert found_in(container) == [(0x30000 + offset, "big", INFO)]


def test_a_note_longer_than_its_page_goes_on_in_the_next_ones() -> None:
    """``vmcoreinfo_note`` has room for a whole page of text, and a header."""
    text = INFO + b"SYMBOL(x)=0\n" * 600
    assert found_in(pages_with((0x7000, vmcoreinfo_note(text)))) == [(0x7000, "big", text)]


def test_a_note_whose_end_is_not_in_the_dump_is_none() -> None:
    container = pages_with((0x7000, vmcoreinfo_note(INFO + b"SYMBOL(x)=0\n" * 600)))
    container.status_of[8] = PageStatus.LOST
    assert found_in(container) == []


@pytest.mark.parametrize(
    ("physical", "data"),
    [
        (0x7004, vmcoreinfo_note(INFO)),
        (0x7000, note(b"CORE\0", 0, INFO)),
        (0x7000, vmcoreinfo_note(INFO)[4:8] + vmcoreinfo_note(INFO)[4:]),
        (0x7000, vmcoreinfo_note(b"")),
        (0x7000, b"\0\0\0\x0b\xff\xff\xff\xff\0\0\0\0VMCOREINFO\0\0" + INFO),
    ],
    ids=["not at the start", "another name", "another length of the name", "without text", "without end"],
)
def test_what_does_not_begin_like_the_note_is_none(physical: int, data: bytes) -> None:
    assert found_in(pages_with((physical, data))) == []


def test_all_candidates_are_given_lowest_first() -> None:
    container = pages_with((0x9000, vmcoreinfo_note(INFO)), (0x3000, vmcoreinfo_note(b"OSRELEASE=x\n", "little")))
    assert [(physical, order) for physical, order, _ in found_in(container)] == [(0x3000, "little"), (0x9000, "big")]


def test_the_search_ends_with_so_many_pages_read_and_so_many_tried() -> None:
    container = pages_with((((1 << 18) + 5) * 4096, vmcoreinfo_note(INFO)))
    container.facts = container_facts(arch=PPC64)
    assert (found_in(container), len(container.reads)) == ([], 1 << 18)
    large = FakeContainer(container_facts(0x10000, arch=PPC64), missing=PageStatus.ABSENT)
    page = bytearray(0x10000)
    large.pages = dict.fromkeys(range(5000), page)
    assert (found_in(large), len(large.reads)) == ([], 4096)


def report_of(machine: Machine, folder: Path) -> CrashReport:
    options = AnalysisOptions((str(folder / "kernel.profile"),), str(folder / "cache"))
    record = analyse(list_one(str(machine.write(folder))), options)
    assert isinstance(record, CrashReport), record
    return record


def seen_by_qemu(arch: Architecture, vmcoreinfo_is: str) -> Machine:
    machine = machine_of(arch, set(), made_by="qemu")
    machine.headers, machine.vmcoreinfo = "big", vmcoreinfo_is
    machine.after_crash = {n: registers_of(arch, n, cpu) for n, cpu in enumerate(machine.cpus)}
    return machine


def costs(report: CrashReport) -> list[str]:
    return [warning.message for warning in report.warnings if warning.code is WarningCode.COSTLY_INPUT]


@both_orders
def test_the_kernels_note_is_found_and_the_cost_is_told(arch: Architecture, tmp_path: Path) -> None:
    report = report_of(seen_by_qemu(arch, "memory"), tmp_path)
    assert (report.kernel.arch, report.kernel.release, report.kernel.symbols.matched_by) == (
        arch.name,
        RELEASE,
        "build_id",
    )
    assert costs(report) == [f"{IN_FILE}: memory was searched for the kernel's"]
    assert all(cpu.registers for cpu in report.cpus)


@both_orders
@pytest.mark.parametrize("order", ["big", "little"])
@pytest.mark.parametrize(
    "symbol",
    [0, PAGE_OFFSET_64 + VMCOREINFO_AT, PAGE_OFFSET_64 + (1 << 59), (1 << 64) - 1],
    ids=["no address", "other memory", "no memory", "no end"],
)
def test_a_users_note_before_the_kernels_is_passed_over(
    arch: Architecture, order: str, symbol: int, tmp_path: Path
) -> None:
    """It names a release that memory does not hold where it says."""
    machine = seen_by_qemu(arch, "memory")
    machine.fakes = {FAKE_AT: vmcoreinfo_note(vmcoreinfo(symbol, "6.6.6-user"), order)}
    report = report_of(machine, tmp_path)
    assert (report.kernel.arch, report.kernel.release) == (arch.name, RELEASE)
    assert [cpu.note.state for cpu in report.cpus] == [NoteState.NOT_POPULATED] * 4


@both_orders
def test_without_any_note_there_is_a_report_of_headers_notes_and_registers(arch: Architecture, tmp_path: Path) -> None:
    """The byte order is that which the CPUs ran in."""
    machine = seen_by_qemu(arch, "nowhere")
    report = report_of(machine, tmp_path)
    assert costs(report) == [f"{IN_FILE}, and a search of memory did not find it"]
    assert (report.kernel.arch, report.kernel.release, report.notes.in_file) == (arch.name, None, 4)
    assert [note.registers["nip"] for note in report.unassigned_notes] == [
        "c000000000020410",
        "c000000000020410",
        "c00000000002001c",
        "c000000000020410",
    ]


@both_orders
def test_firmware_and_users_are_not_asked_for_the_kernels_byte_order(arch: Architecture, tmp_path: Path) -> None:
    """RTAS runs big endian on every kernel, a process in its own order."""
    machine = seen_by_qemu(arch, "nowhere")
    assert machine.after_crash is not None
    other = int(arch is PPC64)
    firmware = {"r1": PAGE_OFFSET_64 + 0x3003000, "nip": 0x2FFF1234, "msr": 0x8000000000001002 | other}
    process = {"r1": 0x7FFFD2340000, "nip": 0x10001234, "msr": 0x800000000280F032 | other}
    machine.after_crash = {0: firmware, 1: process, 2: process, 3: machine.after_crash[3]}
    assert report_of(machine, tmp_path).kernel.arch == arch.name


def test_where_no_note_tells_the_byte_order_it_is_that_of_the_headers(tmp_path: Path) -> None:
    machine = seen_by_qemu(PPC64LE, "nowhere")
    machine.after_crash = {0: {"r1": 1, "nip": 2, "msr": 0x8000000000001003}}
    assert report_of(machine, tmp_path).kernel.arch == "ppc64"


def test_a_process_of_a_32_bit_machine_cannot_make_its_dump_unreadable(tmp_path: Path) -> None:
    """A page that begins like a little-endian kernel's note: there is no such 32-bit kernel."""
    fake = vmcoreinfo_note(b"OSRELEASE=6.6.6-user\nSYMBOL(init_uts_ns)=c0001000\n", "little")
    notes = prstatus_note(1) + note(b"CORE\0", 2, bytes(264))
    segments = [Segment(PT_NOTE, notes), Segment(PT_LOAD, fake.ljust(4096, b"\0"), 0x1000)]
    path = tmp_path / "vmcore"
    path.write_bytes(ElfFile(segments, machine=PPC).build())
    record = analyse(list_one(str(path)), AnalysisOptions((), str(tmp_path / "cache")))
    assert isinstance(record, CrashReport), record
    assert (record.source.written_by, record.kernel.arch) == ("qemu", PPC32.name)
    assert costs(record) == [f"{IN_FILE}, and a search of memory did not find it"]


def test_the_notes_of_a_32_bit_machine_do_not_make_its_kernel_little_endian(tmp_path: Path) -> None:
    """Bit 0 of the MSR means LE on some 32-bit cores, but no such kernel exists."""
    notes = prstatus_note(0x21) + note(b"CORE\0", 2, bytes(264))
    path = tmp_path / "vmcore"
    segments = [Segment(PT_NOTE, notes), Segment(PT_LOAD, bytes(4096), 0x1000)]
    path.write_bytes(ElfFile(segments, machine=PPC).build())
    record = analyse(list_one(str(path)), AnalysisOptions((), str(tmp_path / "cache")))
    assert isinstance(record, CrashReport), record
    assert record.kernel.arch == PPC32.name
