"""A dump's own symbols: names of its kallsyms, layouts of the BTF in its memory, identity of its banner and notes."""

from dataclasses import dataclass, replace

import pytest

from crashbeam.schemas.codes import SymbolLayouts, SymbolNames
from crashbeam.vmcore.errors import SymbolError, TranslationError
from crashbeam.vmcore.symbols.compiled import ARCHES, Arch, ByteOrder
from crashbeam.vmcore.symbols.dump_symbols import DumpSymbols, read_dump_symbols
from crashbeam.vmcore.symbols.profile import KernelProfile, compile_profile
from tests.builders.btf import Btf
from tests.builders.elf_notes import note
from tests.builders.kallsyms import FakeMemory, KallsymsBuilder, Symbol

BANNER = "Linux version 6.12.1 (cc 13) #1 SMP Tue Jan  6 10:00:00 UTC 2026"
BUILD_ID = "00112233445566778899aabbccddeeff00112233"
SIZE = {"_etext": 0x8000, "tables": 0xA000, "btf": 0x20000, "_sinittext": 0x30000, "_einittext": 0x31000}


@dataclass
class Board:
    """A kernel in memory: text, kallsyms, BTF, banner and notes."""

    arch: Arch
    memory: FakeMemory
    labels: dict[str, int]
    base: int

    def read(self, build_id: str | None = None) -> DumpSymbols:
        """What is read of it."""
        return read_dump_symbols(self.memory.read, arch=self.arch, vmcoreinfo_symbols=self.labels, build_id=build_id)


def symbols_of(base: int, btf_bytes: int) -> list[Symbol]:
    text = ["T_stext", "T_text", "tDecrementer"]
    symbols = [*((base, entry) for entry in text[:2]), (base + 0x10, text[2])]
    symbols += [(base + 0x20, "t.Llocal"), (base + 0x24, "t$x"), (base + 0x30, "W__weak"), (base + 0x30, "Tchosen")]
    symbols += [(base + 0x40, "tchosen_end"), (base + 0x40, "t__last"), (base + 0x40, "tlast")]
    symbols += [(base + 0x100 + 16 * number, f"tfunction_{number}") for number in range(300)]
    symbols += [(base + SIZE["_etext"], "T_etext"), (base + SIZE["_etext"], "Tbehind_the_text")]
    symbols += [(base + 0x9000, "Rlinux_banner"), (base + 0x9400, "r__start_notes"), (base + 0x9424, "r__stop_notes")]
    symbols += [(base + SIZE["btf"], "R__start_BTF"), (base + SIZE["btf"] + btf_bytes, "R__stop_BTF")]
    symbols += [(base + SIZE["_sinittext"], "T_sinittext"), (base + SIZE["_sinittext"] + 16, "Tstart_kernel")]
    symbols += [(base + SIZE["_einittext"], "T_einittext"), (base + 0x40000, "bprb")]
    return [
        *symbols,
        *((base + 0x40010 + number, entry) for number, entry in enumerate(["bmodules", "bmodules"])),
        (base + 0x40020, "drtas"),
        (base + 0x40030, "Brtas"),
        (base + 0x40040, "Dunwanted"),
    ]


def btf_of(byte_order: ByteOrder) -> bytes:
    blob = Btf(byte_order)
    word = blob.integer("int", 4)
    blob.struct("list_head", 8, [("next", word, 0), ("prev", word, 32)])
    return blob.build()


def board(
    arch: Arch = "ppc32", *, named: bool = True, all_symbols: bool = True, with_btf: bool = True, moved: int = 0
) -> Board:
    """A kernel. Without ``named`` VMCOREINFO does not name its kallsyms; without ``all_symbols`` it has text symbols
    alone; ``moved`` is how far it was moved when it was started.
    """
    word_bytes, byte_order = ARCHES[arch]
    base = {4: 0xC0000000, 8: 0xC000000000000000}[word_bytes] + moved
    btf = btf_of(byte_order) if with_btf else b""
    symbols = symbols_of(base, len(btf))
    if not all_symbols:
        symbols = [(address, entry) for address, entry in symbols if entry[0] in "tTwW"]
    builder = KallsymsBuilder(symbols, word_bytes, byte_order)
    image = bytearray(0x41000)
    tables = builder.build(base + SIZE["tables"])
    notes = note(b"GNU\0", 3, bytes.fromhex(BUILD_ID), byte_order)
    assert len(notes) == 0x24
    for at, data in (
        (SIZE["tables"], tables),
        (0x9000, BANNER.encode() + b"\n\0"),
        (0x9400, notes),
        (SIZE["btf"], btf),
    ):
        image[at : at + len(data)] = data
    labels = {"_stext": base, **(builder.labels if named else {})}
    return Board(arch, FakeMemory({base: bytes(image)}), labels, base)


@pytest.mark.parametrize("arch", ["ppc32", "ppc64", "ppc64le"])
@pytest.mark.parametrize("named", [True, False])
def test_names_layouts_and_identity(arch: Arch, named: bool) -> None:
    kernel_board = board(arch, named=named)
    base = kernel_board.base
    found = kernel_board.read()
    kernel = found.kernel
    assert found.problem is None
    assert (kernel.arch, kernel.names, kernel.layouts) == (arch, SymbolNames.KALLSYMS, SymbolLayouts.BTF)
    assert (kernel.build_id, kernel.banner, kernel.release) == (BUILD_ID, BANNER, "6.12.1")
    assert kernel.text_ranges == ((base, base + 0x8000), (base + 0x30000, base + 0x31000))
    assert list(kernel.structs) == ["list_head"]
    assert kernel.structs["list_head"].size == 8


def test_one_name_for_each_address_of_the_text_as_every_source_chooses_it() -> None:
    kernel = board().read().kernel
    text = dict(kernel.text)
    base = 0xC0000000
    assert [kernel.text[0], kernel.text[1]] == [(base, "_stext"), (base + 0x10, "Decrementer")]
    assert (text[base + 0x30], text[base + 0x40]) == ("chosen", "last")
    assert (text[base + 0x30000], text[base + 0x30010]) == ("_sinittext", "start_kernel")
    for outside in (0x20, 0x24, 0x8000, 0x31000):
        assert base + outside not in text
    assert len(text) == 306
    assert kernel.text == sorted(text.items())


def test_code_of_elfv1_loses_its_dot_and_descriptors_are_no_text() -> None:
    base = 0xC000000000000000
    symbols = [(base, "T_stext"), (base + 0x40, "T.schedule"), (base + 0x80, "t.L.local"), (base + 0x80, "t.local")]
    symbols += [(base + 0x8000, "T_etext"), (base + 0x9000, "Dschedule"), (base + 0x9018, "dlocal")]
    builder = KallsymsBuilder(symbols)
    memory = FakeMemory({base + 0x10000: builder.build(base + 0x10000)})
    kernel = read_dump_symbols(memory.read, arch="ppc64", vmcoreinfo_symbols=builder.labels).kernel
    assert kernel.text == [(base, "_stext"), (base + 0x40, "schedule"), (base + 0x80, "local")]


def test_a_global_variable_goes_before_static_ones_and_two_static_ones_mean_neither() -> None:
    variables = board().read().kernel.variables
    assert (variables["rtas"], variables["prb"]) == (0xC0040030, 0xC0040000)
    assert "modules" not in variables
    assert "unwanted" not in variables


def test_a_kernel_that_was_moved_has_the_addresses_at_which_it_ran() -> None:
    moved = 0x2000000
    at_home, away = board("ppc64").read().kernel, board("ppc64", moved=moved).read().kernel
    assert away.text == [(address + moved, name) for address, name in at_home.text]
    assert away.variables["linux_banner"] == at_home.variables["linux_banner"] + moved


def test_what_vmcoreinfo_says_of_variables_joins_what_kallsyms_do_not_have() -> None:
    kernel_board = board(all_symbols=False)
    kernel_board.labels |= {"prb": 0xC0040000, "mem_section": 0xC0050000, "something": 0xC0060000, "_etext": 1}
    variables = kernel_board.read().kernel.variables
    assert (variables["prb"], variables["_etext"]) == (0xC0040000, 0xC0008000)
    assert not {"mem_section", "something"} & variables.keys()


@pytest.mark.parametrize("arch", ["ppc32", "ppc64", "ppc64le"])
def test_without_data_symbols_the_btf_is_found_by_its_header(arch: Arch) -> None:
    found = board(arch, all_symbols=False).read(build_id="ab" * 20)
    assert (found.kernel.layouts, list(found.kernel.structs)) == (SymbolLayouts.BTF, ["list_head"])
    assert (found.kernel.build_id, found.kernel.banner) == ("ab" * 20, None)


def test_a_header_that_no_btf_follows_is_passed_over() -> None:
    kernel_board = board(all_symbols=False)
    image = bytearray(kernel_board.memory.parts[kernel_board.base])
    image[0x1F000:0x1F018] = image[0x20000:0x20010] + b"\0\0\0\1\0\0\0\1"
    kernel_board.memory.parts[kernel_board.base] = bytes(image)
    assert list(kernel_board.read().kernel.structs) == ["list_head"]


def test_a_kernel_without_btf_has_no_layouts() -> None:
    for all_symbols in (True, False):
        found = board(with_btf=False, all_symbols=all_symbols).read()
        assert (found.kernel.layouts, found.kernel.structs, found.problem) == (SymbolLayouts.NONE, {}, None)


def test_btf_that_cannot_be_read_is_said() -> None:
    kernel_board = board()
    image = kernel_board.memory.parts[kernel_board.base]
    kernel_board.memory.parts = {kernel_board.base: image[:0x20000], kernel_board.base + 0x21000: image[0x21000:]}
    found = kernel_board.read()
    assert found.kernel.layouts is SymbolLayouts.NONE
    assert found.problem is not None
    assert "BTF" in found.problem
    assert len(found.kernel.text) == 306


def test_btf_of_impossible_size_is_said() -> None:
    kernel_board = board("ppc64")
    base = kernel_board.base
    symbols = symbols_of(base, (64 << 20) + 1)
    symbols = sorted(symbols, key=lambda symbol: symbol[0])
    builder = KallsymsBuilder(symbols)
    memory = FakeMemory({base + (1 << 30): builder.build(base + (1 << 30))})
    found = replace(kernel_board, memory=memory, labels=builder.labels).read()
    assert found.problem is not None
    assert "larger" in found.problem


def test_the_build_id_of_vmcoreinfo_is_taken_first() -> None:
    assert board().read(build_id="cd" * 20).kernel.build_id == "cd" * 20


def test_banner_and_notes_that_are_not_there_are_not_made_up() -> None:
    kernel_board = board()
    image = bytearray(kernel_board.memory.parts[kernel_board.base])
    image[0x9000:0x9424] = bytes(0x424)
    kernel_board.memory.parts = {kernel_board.base: bytes(image)}
    kernel = kernel_board.read().kernel
    assert (kernel.banner, kernel.build_id) == (None, None)
    kernel_board.memory.parts = {
        kernel_board.base: bytes(image[:0x9000]),
        kernel_board.base + 0xA000: bytes(image[0xA000:]),
    }
    kernel = kernel_board.read().kernel
    assert (kernel.banner, kernel.build_id) == (None, None)


def test_a_profile_is_made_of_it() -> None:
    profile = KernelProfile(compile_profile(board("ppc64le").read().kernel))
    symbol = profile.symbol_at(0xC000000000030014)
    assert symbol is not None
    assert (symbol.name, symbol.end) == ("start_kernel", 0xC000000000031000)
    assert (profile.names, profile.release) == (SymbolNames.KALLSYMS, "6.12.1")


def test_a_dump_without_kallsyms_has_no_symbols() -> None:
    def read(address: int, size_bytes: int) -> bytes:
        raise TranslationError("nothing")

    with pytest.raises(SymbolError, match="where the kernel's text begins"):
        read_dump_symbols(read, arch="ppc32", vmcoreinfo_symbols={})
    with pytest.raises(SymbolError, match="no kallsyms"):
        read_dump_symbols(read, arch="ppc32", vmcoreinfo_symbols={"_stext": 0xC0000000})
    with pytest.raises(SymbolError, match="cannot be read: nothing"):
        read_dump_symbols(read, arch="ppc32", vmcoreinfo_symbols=board().labels)


def test_kallsyms_without_the_bounds_of_the_text_are_not_those_of_a_kernel() -> None:
    builder = KallsymsBuilder([(0xC0000000, "T_stext"), (0xC0000010, "Tschedule")], 4)
    memory = FakeMemory({0xC0010000: builder.build(0xC0010000)})
    with pytest.raises(SymbolError, match="_etext"):
        read_dump_symbols(memory.read, arch="ppc32", vmcoreinfo_symbols=builder.labels)
