"""Variables, members, per-CPU copies and CPU masks of a kernel."""

import pytest

from crashbeam.vmcore.errors import FormatError, PageError, SymbolError
from crashbeam.vmcore.kernel import Kernel
from crashbeam.vmcore.symbols.layouts import Field, StructLayout
from tests.builders.kernel_memory import MadeUpKernel

MASK, COUNT = 0xC0702100, 0xC0702200


def kernel_with_mask(*words: int, layout_bytes: int | None = None, cpu_ids: int | None = None) -> Kernel:
    made = MadeUpKernel()
    for name in ("__cpu_possible_mask", "__cpu_present_mask", "__cpu_online_mask"):
        made.variables[name] = MASK
    made.words(MASK, *words)
    if layout_bytes is not None:
        made.structs["cpumask"] = StructLayout(layout_bytes, {})
    if cpu_ids is not None:
        made.variables["nr_cpu_ids"] = COUNT
        made.words(COUNT, cpu_ids)
    return made.kernel()


def test_a_mask_of_one_word_has_cpu_0_in_its_lowest_bit() -> None:
    kernel = kernel_with_mask(0b1011, layout_bytes=4)
    assert kernel.possible == kernel.present == kernel.online == (0, 1, 3)


def test_masks_had_other_names_before_4_5() -> None:
    made = MadeUpKernel()
    for place, name in enumerate(("cpu_possible_bits", "cpu_present_bits", "cpu_online_bits")):
        made.variables[name] = MASK + 4 * place
    made.words(MASK, 0b111, 0b11, 0b1)
    made.structs["cpumask"] = StructLayout(4, {})
    kernel = made.kernel()
    assert (kernel.possible, kernel.present, kernel.online) == ((0, 1, 2), (0, 1), (0,))


def test_the_second_word_of_a_mask_has_the_cpus_from_32_on() -> None:
    assert kernel_with_mask(0x80000000, 1, layout_bytes=8).online == (31, 32)


def test_without_a_layout_the_number_of_cpu_ids_gives_the_words() -> None:
    assert kernel_with_mask(1, 1, 1, cpu_ids=33).online == (0, 32)
    assert kernel_with_mask(1, 1, cpu_ids=32).online == (0,)


@pytest.mark.parametrize("size", [1 << 20, 1025])
def test_a_mask_of_an_absurd_size_is_refused(size: int) -> None:
    with pytest.raises(FormatError, match="no mask of CPUs"):
        _ = kernel_with_mask(1, layout_bytes=size).online


@pytest.mark.parametrize("cpu_ids", [0, 0xFFFFFFFF])
def test_an_absurd_number_of_cpu_ids_is_refused(cpu_ids: int) -> None:
    with pytest.raises(FormatError, match="no mask of CPUs"):
        _ = kernel_with_mask(1, cpu_ids=cpu_ids).online


def test_each_cpu_has_its_own_copy_of_a_per_cpu_variable() -> None:
    made = MadeUpKernel()
    made.variables["__per_cpu_offset"] = 0xC0702000
    made.words(0xC0702000, 0x07000000, 0x0700D000, 0xFFFF0000)
    kernel = made.kernel()
    assert [kernel.per_cpu(0xC0B00000, cpu) for cpu in range(3)] == [0xC7B00000, 0xC7B0D000, 0xC0AF0000]


def test_a_kernel_for_one_cpu_has_only_the_variable_itself() -> None:
    assert MadeUpKernel().kernel().per_cpu(0xC0B00000, 0) == 0xC0B00000


def test_a_variable_and_a_member_are_read_by_name() -> None:
    made = MadeUpKernel()
    made.variables["panic_cpu"] = 0xC0702000
    made.words(0xC0702000, 5, 0x01020304)
    made.structs["pair"] = StructLayout(8, {"first": Field(4, 2), "last": Field(7, 1), "all": Field(0, 8)})
    kernel = made.kernel()
    assert kernel.word_of("panic_cpu") == 5
    assert kernel.number_at(0xC0702000, "pair", "first") == 0x0102
    assert kernel.number_at(0xC0702000, "pair", "last") == 4
    assert kernel.number_at(0xC0702000, "pair", "all") == 0x0000000501020304


def test_what_symbols_and_layouts_lack_is_said() -> None:
    made = MadeUpKernel()
    made.structs["task_struct"] = StructLayout(64, {"comm": Field(0, 16)})
    kernel = made.kernel()
    with pytest.raises(SymbolError, match="no crash_notes"):
        kernel.word_of("crash_notes")
    with pytest.raises(SymbolError, match=r"no task_struct\.pid"):
        kernel.field("task_struct", "pid")
    with pytest.raises(SymbolError, match=r"task_struct\.comm is no number \(16 bytes\)"):
        kernel.number_at(0xC0000000, "task_struct", "comm")


def test_a_mask_that_cannot_be_read_says_so() -> None:
    made = MadeUpKernel()
    made.variables["__cpu_online_mask"] = MASK
    made.structs["cpumask"] = StructLayout(4, {})
    with pytest.raises(PageError):
        _ = made.kernel().online
