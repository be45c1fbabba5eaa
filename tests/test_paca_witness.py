"""r13 as a witness: the PACA of a CPU, and everything else that may stand there."""

import pytest

from crashbeam.vmcore.arch.architecture import Architecture
from crashbeam.vmcore.arch.ppc64 import PPC64, PPC64LE
from crashbeam.vmcore.errors import PageStatus, SymbolError
from crashbeam.vmcore.paca import cpu_of_paca, read_current, read_paca_address
from tests.builders.kernel_memory import PAGE_OFFSET_64
from tests.builders.paca import KEXEC_PACA, PACA_BYTES, PACAS, TABLE, PacaKernel

both_orders = pytest.mark.parametrize("arch", [PPC64, PPC64LE], ids=lambda arch: arch.name)


@both_orders
def test_each_cpu_is_known_by_its_own_paca(arch: Architecture) -> None:
    pacas = PacaKernel(arch, (0, 1, 3))
    kernel = pacas.made.kernel()
    assert {cpu: cpu_of_paca(kernel, address) for cpu, address in pacas.addresses.items()} == {0: 0, 1: 1, 3: 3}


@both_orders
def test_token_and_index_are_one_word_of_either_byte_order(arch: Architecture) -> None:
    pacas = PacaKernel(arch, range(6))
    memory = pacas.made.kernel().memory
    assert memory.read(pacas.addresses[5] + 8, 4).hex() == ("80000005" if arch is PPC64 else "05000080")


@both_orders
@pytest.mark.parametrize("crashed", [0, 2])
def test_the_crashing_cpus_register_still_holds_the_original(arch: Architecture, crashed: int) -> None:
    """``paca_ptrs`` names its copy, ``kexec_paca``; both are that CPU's."""
    pacas = PacaKernel(arch, crashed=crashed)
    kernel = pacas.made.kernel()
    assert read_paca_address(kernel, crashed) == KEXEC_PACA
    assert [cpu_of_paca(kernel, pacas.addresses[cpu]) for cpu in range(4)] == [0, 1, 2, 3]
    assert cpu_of_paca(kernel, KEXEC_PACA) == crashed


@both_orders
def test_a_paca_that_the_table_does_not_name_is_none(arch: Architecture) -> None:
    """A copy anywhere else, as whole as it may be."""
    pacas = PacaKernel(arch, crashed=2)
    pacas.write(PACAS + 0x8000, 1)
    assert cpu_of_paca(pacas.made.kernel(), PACAS + 0x8000) is None


@both_orders
@pytest.mark.parametrize("token", [0, 0x80, 0x8001])
def test_another_token_is_no_paca(arch: Architecture, token: int) -> None:
    pacas = PacaKernel(arch)
    pacas.write(pacas.addresses[1], 1, token=token)
    assert cpu_of_paca(pacas.made.kernel(), pacas.addresses[1]) is None


@both_orders
@pytest.mark.parametrize("index", [4, 0xFFFF])
def test_an_index_that_is_no_possible_cpu_is_no_paca(arch: Architecture, index: int) -> None:
    pacas = PacaKernel(arch)
    pacas.write(pacas.addresses[1], index)
    pacas.made.words(TABLE + 8 * index, pacas.addresses[1])
    assert cpu_of_paca(pacas.made.kernel(), pacas.addresses[1]) is None


@both_orders
@pytest.mark.parametrize(
    "r13", [0, 0x7FFF8C2B6300, PACAS - PAGE_OFFSET_64, PACAS + 4, PACAS + 2, 0xC008000000001000, (1 << 64) - 8]
)
def test_what_is_no_aligned_address_of_the_kernels_memory_is_silent(arch: Architecture, r13: int) -> None:
    """A user's thread pointer, a physical address, another CPU's struct a few bytes on, what is not mapped."""
    assert cpu_of_paca(PacaKernel(arch).made.kernel(), r13) is None


@both_orders
def test_a_paca_is_aligned_whatever_the_table_says(arch: Architecture) -> None:
    pacas = PacaKernel(arch)
    pacas.write(PACAS + 0x8004, 1)
    pacas.made.words(TABLE + 8, PACAS + 0x8004)
    assert cpu_of_paca(pacas.made.kernel(), PACAS + 0x8004) is None


@both_orders
@pytest.mark.parametrize("index", [3, 5])
def test_without_the_mask_of_possible_cpus_the_table_alone_tells(arch: Architecture, index: int) -> None:
    pacas = PacaKernel(arch)
    del pacas.made.variables["__cpu_possible_mask"]
    pacas.write(pacas.addresses[1], index)
    pacas.made.words(TABLE + 8 * 5, pacas.addresses[1])
    assert cpu_of_paca(pacas.made.kernel(), pacas.addresses[1]) == (5 if index == 5 else None)


@both_orders
@pytest.mark.parametrize("lost", [PACAS, TABLE])
def test_memory_that_cannot_be_read_is_silent(arch: Architecture, lost: int) -> None:
    pacas = PacaKernel(arch)
    pacas.made.lose(lost, PageStatus.CORRUPT)
    assert cpu_of_paca(pacas.made.kernel(), pacas.addresses[1]) is None


@both_orders
@pytest.mark.parametrize("missing", ["lock_token", "paca_index"])
def test_without_the_members_of_the_struct_nothing_is_said(arch: Architecture, missing: str) -> None:
    pacas = PacaKernel(arch)
    layout = pacas.made.structs["paca_struct"]
    fields = {name: field for name, field in layout.fields.items() if name != missing}
    pacas.made.structs["paca_struct"] = type(layout)(layout.size, fields)
    assert cpu_of_paca(pacas.made.kernel(), pacas.addresses[1]) is None


@both_orders
def test_before_4_17_the_table_holds_the_structs_themselves(arch: Architecture) -> None:
    pacas = PacaKernel(arch, old=True)
    kernel = pacas.made.kernel()
    assert [read_paca_address(kernel, cpu) for cpu in range(4)] == [PACAS + cpu * PACA_BYTES for cpu in range(4)]
    assert [cpu_of_paca(kernel, address) for address in pacas.addresses.values()] == [0, 1, 2, 3]
    pacas.write(PACAS + 0x8000, 1)
    assert cpu_of_paca(pacas.made.kernel(), PACAS + 0x8000) is None


@both_orders
@pytest.mark.parametrize("crashed", [0, 2])
def test_before_4_17_the_crash_path_lost_the_table_and_the_per_cpu_offset_proves_a_paca(
    arch: Architecture, crashed: int
) -> None:
    """``paca = &kexec_paca - paca_index``: the entries of the others are whatever lies around ``kexec_paca``."""
    pacas = PacaKernel(arch, old=True, crashed=crashed)
    kernel = pacas.made.kernel()
    assert [cpu_of_paca(kernel, address) for address in pacas.addresses.values()] == [0, 1, 2, 3]
    assert read_paca_address(kernel, crashed) == KEXEC_PACA
    for cpu in {0, 1, 2, 3} - {crashed}:
        with pytest.raises(SymbolError, match=f"that of cpu {cpu} lies is not known"):
            read_paca_address(kernel, cpu)


@both_orders
def test_before_4_17_what_looks_like_a_paca_but_has_another_per_cpu_offset_is_none(arch: Architecture) -> None:
    pacas = PacaKernel(arch, old=True, crashed=2)
    pacas.write(PACAS + 0x8000, 1, data_offset=0xFEEEEEEEEEEEEEEE)
    assert cpu_of_paca(pacas.made.kernel(), PACAS + 0x8000) is None


@both_orders
def test_the_task_that_a_paca_names(arch: Architecture) -> None:
    pacas = PacaKernel(arch, crashed=2)
    pacas.write(pacas.addresses[1], 1, __current=PAGE_OFFSET_64 + 0x123400)
    pacas.write(KEXEC_PACA, 2, __current=PAGE_OFFSET_64 + 0x567800)
    kernel = pacas.made.kernel()
    assert [read_current(kernel, cpu) for cpu in (1, 2)] == [PAGE_OFFSET_64 + 0x123400, PAGE_OFFSET_64 + 0x567800]
