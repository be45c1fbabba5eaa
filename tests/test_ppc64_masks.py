"""CPU masks, pids and per-CPU offsets of 64-bit kernels of both byte orders."""

from pathlib import Path

import pytest

from crashbeam.pipeline.inputs import list_one
from crashbeam.schemas.crash_report import CrashReport
from crashbeam.vmcore.arch.architecture import Architecture
from crashbeam.vmcore.arch.ppc64 import PPC64, PPC64LE
from crashbeam.vmcore.errors import FormatError
from crashbeam.vmcore.facts import AnalysisOptions
from crashbeam.vmcore.kernel import Kernel
from crashbeam.vmcore.note_map import decode_note
from crashbeam.vmcore.stages import analyse
from crashbeam.vmcore.symbols.layouts import StructLayout
from tests.builders.board_64 import machine_of, note_of
from tests.builders.kernel_memory import PAGE_OFFSET_64, MadeUpKernel

MASK, COUNT = PAGE_OFFSET_64 + 0x702100, PAGE_OFFSET_64 + 0x702300

both_orders = pytest.mark.parametrize("arch", [PPC64, PPC64LE], ids=lambda arch: arch.name)


def kernel_with_mask(
    arch: Architecture, text: str, layout_bytes: int | None = None, cpu_ids: int | None = None
) -> Kernel:
    """A kernel with the bytes of a mask as they lie in memory."""
    made = MadeUpKernel(arch=arch)
    for name in ("__cpu_possible_mask", "__cpu_present_mask", "__cpu_online_mask"):
        made.variables[name] = MASK
    made.put(MASK, bytes.fromhex(text))
    if layout_bytes is not None:
        made.structs["cpumask"] = StructLayout(layout_bytes, {})
    if cpu_ids is not None:
        made.variables["nr_cpu_ids"] = COUNT
        made.number(COUNT, cpu_ids, 4)
    return made.kernel()


@pytest.mark.parametrize(
    ("arch", "text"),
    [(PPC64, "800000000000000b 0000000000000001"), (PPC64LE, "0b00000000000080 0100000000000000")],
    ids=["big", "little"],
)
def test_a_mask_is_an_array_of_doublewords(arch: Architecture, text: str) -> None:
    kernel = kernel_with_mask(arch, text, layout_bytes=16)
    assert kernel.possible == kernel.present == kernel.online == (0, 1, 3, 63, 64)


@both_orders
@pytest.mark.parametrize(("cpu_ids", "last"), [(64, 63), (65, 127), (128, 127)])
def test_without_a_layout_the_number_of_cpu_ids_gives_the_doublewords(
    arch: Architecture, cpu_ids: int, last: int
) -> None:
    kernel = kernel_with_mask(arch, "ff" * 32, cpu_ids=cpu_ids)
    assert kernel.online == tuple(range(last + 1))


@both_orders
def test_a_mask_for_2048_cpus(arch: Architecture) -> None:
    text = "00" * 248 + ("8000000000000000" if arch is PPC64 else "0000000000000080")
    assert kernel_with_mask(arch, text, layout_bytes=256).online == (2047,)


@both_orders
@pytest.mark.parametrize("layout_bytes", [0x10000, 1032])
def test_a_mask_of_an_absurd_size_is_refused(arch: Architecture, layout_bytes: int) -> None:
    with pytest.raises(FormatError, match="no mask of CPUs"):
        _ = kernel_with_mask(arch, "01", layout_bytes=layout_bytes).online


@both_orders
def test_per_cpu_offsets_are_doublewords_that_may_reach_around_the_end(arch: Architecture) -> None:
    made = MadeUpKernel(arch=arch)
    made.variables["__per_cpu_offset"] = MASK
    made.words(MASK, 0x0E000000, (1 << 64) - 0x10000)
    kernel = made.kernel()
    assert [kernel.per_cpu(PAGE_OFFSET_64 + 0xB00000, cpu) for cpu in (0, 1)] == [
        PAGE_OFFSET_64 + 0xEB00000,
        PAGE_OFFSET_64 + 0xAF0000,
    ]


@pytest.mark.parametrize(
    ("arch", "pid", "text"),
    [(PPC64, 1001, "000003e9"), (PPC64LE, 1001, "e9030000"), (PPC64, -1, "ffffffff"), (PPC64LE, 4194304, "00004000")],
)
def test_the_pid_of_a_note_stands_32_bytes_into_its_descriptor(arch: Architecture, pid: int, text: str) -> None:
    """... and r1, r13, nip and trap at 120, 216, 368 and 432 (``pr_reg`` at 112)."""
    named = {"r1": 0xC00000000F3ABD10, "r13": 0xC00000003FFF7400, "nip": 0xC00000000004C2A8, "trap": 0x100}
    content = note_of(arch, named, pid, arch.byte_order)
    assert (len(content), content[20 + 32 : 20 + 36].hex()) == (524, text)
    for name, offset in (("r1", 120), ("r13", 216), ("nip", 368), ("trap", 432)):
        word = content[20 + offset : 20 + offset + 8]
        assert int.from_bytes(word, arch.byte_order) == named[name]
    note = decode_note(arch, arch.byte_order, 0, content)
    assert note is not None
    registers = note.registers
    assert (note.pid, registers.stack_pointer, registers.nip, registers.trap) == (
        pid,
        named["r1"],
        named["nip"],
        named["trap"],
    )


@both_orders
def test_a_machine_of_more_cpus_than_a_doubleword_has_bits(arch: Architecture, tmp_path: Path) -> None:
    """Notes of CPUs 2, 63, 64 and 69; 65 is offline."""
    machine = machine_of(arch, {2, 63, 64, 69}, frozenset({65}), cpus=70)
    machine.mask_bytes = 16
    options = AnalysisOptions((str(tmp_path / "kernel.profile"),), str(tmp_path / "cache"))
    report = analyse(list_one(str(machine.write(tmp_path))), options)
    assert isinstance(report, CrashReport), report
    assert len(report.cpus) == 70
    assert {cpu.cpu: cpu.note.index for cpu in report.cpus if cpu.note.index is not None} == {2: 0, 63: 1, 64: 2, 69: 3}
    assert report.cpus[65].note.state == "offline"
    assert report.notes.not_saved == 65
    for cpu in report.cpus:
        if cpu.registers is not None:
            assert cpu.registers["r13"] == f"{machine.cpus[cpu.cpu].paca:016x}"
