"""Real dumps: their own symbols say what the vmlinux says, with and without the help of VMCOREINFO."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from crashbeam.schemas.codes import SymbolLayouts, SymbolNames
from crashbeam.vmcore.containers.detect import open_container
from crashbeam.vmcore.errors import TranslationError
from crashbeam.vmcore.limits import Budget
from crashbeam.vmcore.memory import KernelMemory, PhysicalMemory
from crashbeam.vmcore.symbols.compiled import ARCHES, Arch
from crashbeam.vmcore.symbols.dump_symbols import read_dump_symbols
from crashbeam.vmcore.symbols.vmlinux import read_vmlinux
from crashbeam.vmcore.vmcoreinfo import Vmcoreinfo, read_vmcoreinfo

pytestmark = pytest.mark.corpus

KERNELS: list[tuple[Arch, str, str]] = [
    ("ppc32", "ppc32/h_lostnote_sysrq/vmcore.zlib", "vmlinux-e500-612-lostnote-nodebug.gz"),
    ("ppc32", "ppc32/n_61_null/vmcore.zlib", "vmlinux-e500-61-nodebug.zst"),
    ("ppc64", "ppc64/be-null/vmcore.zlib", "vmlinux-p64be-612-nodebug.zst"),
    ("ppc64le", "ppc64/le-lostnote-sysrq/vmcore.zlib", "vmlinux-p64le-612-lostnote.xz"),
]
LINEAR_MAP = {4: 0xC0000000, 8: 0xC000000000000000}
"""Where all memory is mapped; these kernels lie at physical 0."""


@contextmanager
def opened(path: Path, arch: Arch) -> Iterator[tuple[KernelMemory, Vmcoreinfo]]:
    """A dump's memory through the linear map, and its VMCOREINFO."""
    word_bytes, byte_order = ARCHES[arch]
    start = LINEAR_MAP[word_bytes]

    def translate(address: int) -> int:
        if not start <= address < start + (1 << 28):
            raise TranslationError(f"{address:#x} is not in the linear map")
        return address - start

    budget = Budget()
    container = open_container([str(path)], budget)
    try:
        assert container.facts.vmcoreinfo is not None
        memory = PhysicalMemory(container, budget)
        yield (
            KernelMemory(memory, translate, word_bytes=word_bytes, byte_order=byte_order),
            read_vmcoreinfo(container.facts.vmcoreinfo),
        )
    finally:
        container.close()


@pytest.mark.parametrize(("arch", "dump", "vmlinux"), KERNELS)
def test_a_dump_names_every_address_as_its_vmlinux_does(corpus: Path, arch: Arch, dump: str, vmlinux: str) -> None:
    expected = read_vmlinux(str(corpus / "kernels" / vmlinux))
    with opened(corpus / dump, arch) as (memory, info):
        assert info.symbols.keys() >= {"kallsyms_names", "kallsyms_offsets"}
        unnamed = {name: address for name, address in info.symbols.items() if not name.startswith("kallsyms")}
        for symbols in (info.symbols, unnamed):
            found = read_dump_symbols(memory.read, arch=arch, vmcoreinfo_symbols=symbols)
            kernel = found.kernel
            assert (found.problem, kernel.names) == (None, SymbolNames.KALLSYMS)
            assert (kernel.build_id, kernel.banner) == (expected.build_id, expected.banner)
            assert kernel.text_ranges == expected.text_ranges
            assert kernel.text == expected.text
            assert len(kernel.text) > 10_000
            # node_online_map is a macro for a part of node_states: VMCOREINFO alone names it. The kernel of 6.1 leaves
            # the labels of kallsyms out of them.
            assert {
                name for name, _ in kernel.variables.items() ^ expected.variables.items() if "kallsyms" not in name
            } == {"node_online_map"}


@pytest.mark.parametrize(("arch", "dump", "vmlinux"), KERNELS)
def test_the_layouts_in_memory_are_those_of_the_vmlinux(corpus: Path, arch: Arch, dump: str, vmlinux: str) -> None:
    expected = read_vmlinux(str(corpus / "kernels" / vmlinux))
    with opened(corpus / dump, arch) as (memory, info):
        kernel = read_dump_symbols(memory.read, arch=arch, vmcoreinfo_symbols=info.symbols).kernel
    if "61-nodebug" in vmlinux:
        # Built without CONFIG_DEBUG_INFO_BTF: its .BTF was added to the file alone.
        assert (kernel.layouts, kernel.structs) == (SymbolLayouts.NONE, {})
    else:
        assert kernel.layouts is SymbolLayouts.BTF
        assert kernel.structs == expected.structs
        assert len(kernel.structs) > 25
