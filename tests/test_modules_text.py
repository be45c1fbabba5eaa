"""Functions of loaded modules, from the dump's own module list and symbols."""

import pytest

from crashbeam.vmcore.modules import Function, Text
from crashbeam.vmcore.symbols.layouts import StructLayout
from tests.builders.instructions import BLR
from tests.builders.kernel_memory import INIT_TEXT, MadeUpKernel
from tests.builders.modules import (
    HEAD,
    LAYOUTS,
    MEMORIES,
    OLDEST,
    STT_OBJECT,
    LoadedModule,
    ModuleSymbol,
    load,
)

LAB = LoadedModule(
    0xC4000000,
    "crashlab",
    (0xC9064000, 0x400),
    (0xC906A000, 0x100),
    (
        ModuleSymbol("level_b", 0xC9064100),
        ModuleSymbol("level_a", 0xC9064040),
        ModuleSymbol("__level_a_alias", 0xC9064040),
        ModuleSymbol("counter", 0xC9064200, STT_OBJECT),
        ModuleSymbol("outside", 0xC9080000),
        ModuleSymbol("init_module", 0xC906A010),
    ),
)
OTHER = LoadedModule(0xC4010000, "other", (0xC90A0000, 0x100), symbols=(ModuleSymbol("thing", 0xC90A0000),))


def text_of(*modules: LoadedModule, structs: dict[str, StructLayout] = MEMORIES) -> Text:
    made = MadeUpKernel()
    made.structs.update(structs)
    load(made, *modules)
    return Text(made.kernel())


@pytest.mark.parametrize("structs", [MEMORIES, LAYOUTS, OLDEST], ids=["6.4 and later", "4.5 to 6.3", "before 4.5"])
def test_a_function_reaches_to_the_next_one_and_the_last_to_the_end_of_its_text(
    structs: dict[str, StructLayout],
) -> None:
    text = text_of(LAB, OTHER, structs=structs)
    level_a = Function("level_a", 0xC9064040, 0xC9064100, "crashlab")
    assert text.function_at(0xC9064040) == level_a
    assert text.function_at(0xC90640FC) == level_a
    assert text.function_at(0xC90643FC) == Function("level_b", 0xC9064100, 0xC9064400, "crashlab")
    assert text.function_at(0xC906A0F0) == Function("init_module", 0xC906A010, 0xC906A100, "crashlab")
    assert text.function_at(0xC90A0080) == Function("thing", 0xC90A0000, 0xC90A0100, "other")
    assert [module.name for module in text.modules] == ["crashlab", "other"]


@pytest.mark.parametrize("structs", [MEMORIES, LAYOUTS, OLDEST], ids=["6.4 and later", "4.5 to 6.3", "before 4.5"])
def test_data_behind_the_text_is_no_code(structs: dict[str, StructLayout]) -> None:
    text = text_of(LAB, structs=structs)
    for address in (0xC9063FFC, 0xC9064400, 0xC9064800, 0xC9069FFC, 0xC906A100, 0xC9F00000, 0):
        assert text.function_at(address) is None


def test_text_before_the_first_symbol_has_a_module_but_no_name() -> None:
    text = text_of(LAB)
    assert text.function_at(0xC9064000) == Function(None, 0xC9064000, 0xC9064400, "crashlab")
    assert text.function_at(0xC906A000) == Function(None, 0xC906A000, 0xC906A100, "crashlab")


def test_modules_below_page_offset_are_code_as_well() -> None:
    """book3s32 loads modules into the 256 MiB below PAGE_OFFSET."""
    low = LoadedModule(0xC4000000, "ext4", (0xBF000000, 0x1000), symbols=(ModuleSymbol("ext4_read", 0xBF000100),))
    assert text_of(low).function_at(0xBF000104) == Function("ext4_read", 0xBF000100, 0xBF001000, "ext4")


def test_before_linux_5_2_the_type_is_a_letter() -> None:
    module = LoadedModule(
        0xC4000000,
        "old",
        (0xC9064000, 0x400),
        symbols=(
            ModuleSymbol("local", 0xC9064000, ord("t")),
            ModuleSymbol("exported", 0xC9064100, ord("T")),
            ModuleSymbol("table", 0xC9064200, ord("d")),
        ),
    )
    text = text_of(module, structs=LAYOUTS)
    found = [text.function_at(address) for address in (0xC9064004, 0xC9064104, 0xC9064204)]
    assert [function.name for function in found if function] == ["local", "exported", "exported"]


def test_symbols_that_cannot_be_read_leave_the_module_without_names() -> None:
    made = MadeUpKernel()
    load(made, LAB)
    made.lose(LAB.symbol_table)
    text = Text(made.kernel())
    assert text.function_at(0xC9064040) == Function(None, 0xC9064000, 0xC9064400, "crashlab")
    assert text.problems == {"the symbols of module crashlab cannot be read"}


def test_names_that_cannot_be_read_leave_the_bounds() -> None:
    made = MadeUpKernel()
    load(made, LAB)
    made.lose(LAB.string_table)
    assert Text(made.kernel()).function_at(0xC9064040) == Function(None, 0xC9064040, 0xC9064100, "crashlab")


def test_a_symbol_with_an_empty_name_has_none() -> None:
    module = LoadedModule(0xC4000000, "m", (0xC9064000, 0x400), symbols=(ModuleSymbol("", 0xC9064000),))
    assert text_of(module).function_at(0xC9064000) == Function(None, 0xC9064000, 0xC9064400, "m")


def test_a_module_that_cannot_be_read_ends_the_list_after_those_that_can() -> None:
    made = MadeUpKernel()
    load(made, LAB, OTHER)
    made.lose(OTHER.address)
    text = Text(made.kernel())
    assert [module.name for module in text.modules] == ["crashlab"]
    assert text.problems == {"the list of modules cannot be read beyond its first 1"}


@pytest.mark.parametrize("link", [0, 0x10000000, 0xFFFFFFF0, 0xC5000004])
def test_a_list_that_points_nowhere_has_no_modules(link: int) -> None:
    made = MadeUpKernel()
    load(made)
    made.words(HEAD, link)
    text = Text(made.kernel())
    assert text.modules == ()
    assert text.function_at(0xC9064040) is None


def test_a_list_that_never_comes_back_to_its_head_is_bounded() -> None:
    made = MadeUpKernel()
    load(made, LAB, OTHER)
    made.words(OTHER.link, LAB.link)
    text = Text(made.kernel())
    assert [module.name for module in text.modules] == ["crashlab", "other"]
    assert text.problems == {"the list of modules cannot be read beyond its first 2"}
    assert text.function_at(0xC90A0000) == Function("thing", 0xC90A0000, 0xC90A0100, "other")


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x10000000])
def test_text_of_an_absurd_size_is_none(size: int) -> None:
    module = LoadedModule(0xC4000000, "broken", (0xC9064000, size))
    text = text_of(module, OTHER)
    assert text.function_at(0xC9064000) is None
    assert text.function_at(0xC90A0000) is not None


def test_an_absurd_number_of_symbols_is_not_believed() -> None:
    made = MadeUpKernel()
    load(made, LAB)
    made.words(LAB.address + 0xF00 + 4, 0xFFFFFFFF)
    assert Text(made.kernel()).function_at(0xC9064040) == Function(None, 0xC9064000, 0xC9064400, "crashlab")


def test_without_layouts_there_are_no_modules_but_kernel_text_has_names() -> None:
    made = MadeUpKernel()
    made.variables["modules"] = HEAD
    made.words(HEAD, 0xC4000004)
    start = made.function("panic", (BLR,)).start
    text = Text(made.kernel())
    assert text.modules == ()
    found = text.function_at(start)
    assert found is not None
    assert (found.name, found.start, found.module) == ("panic", start, None)


def test_only_init_text_was_freed() -> None:
    text = text_of(LAB)
    assert text.is_freed_text(INIT_TEXT[0])
    assert not text.is_freed_text(INIT_TEXT[0] - 4)
    assert not text.is_freed_text(INIT_TEXT[1])
    assert not text.is_freed_text(0xC9064000)
