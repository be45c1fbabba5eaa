"""The lines of real kernels are those that ``addr2line -i`` gives, for thousands of addresses.

``golden/addr2line-KERNEL.json.xz`` holds what GNU addr2line 2.40 says of addresses picked at random from all text: for
each, functions and places from the innermost outwards, the folders of the source and of the build taken off.
"""

import json
import lzma
from pathlib import Path

import pytest

from crashbeam.vmcore.symbols.profile import KernelProfile, compile_profile
from crashbeam.vmcore.symbols.vmlinux import read_vmlinux

pytestmark = [pytest.mark.corpus, pytest.mark.slow]

GOLDEN = Path(__file__).parent / "golden"
KERNELS = ("e500-612", "p64le-612")


@pytest.fixture(scope="module", params=KERNELS)
def kernel(request: pytest.FixtureRequest, corpus: Path) -> tuple[str, KernelProfile]:
    name: str = request.param
    return name, KernelProfile(compile_profile(read_vmlinux(str(corpus / "kernels" / f"vmlinux-{name}.xz"))))


def test_lines_and_inlined_calls_are_those_of_addr2line(kernel: tuple[str, KernelProfile]) -> None:
    name, profile = kernel
    expected: dict[str, list[list[str | int]]] = json.loads(
        lzma.decompress((GOLDEN / f"addr2line-{name}.json.xz").read_bytes())
    )
    different = []
    inlined = 0
    for address, places in expected.items():
        source = profile.source_at(int(address, 16))
        found: list[list[str | int | None]] = []
        if source is not None:
            functions = [call.function for call in source.inlined]
            found = [[source.file, source.line], *([call.file, call.line] for call in source.inlined)]
            found = [[function, *place] for function, place in zip([*functions, places[-1][0]], found, strict=True)]
            inlined += bool(functions)
        if found != places:
            different.append((address, places, found))
    assert len(expected) == 4000
    assert inlined > 1500
    assert different == []


def test_no_path_of_the_machine_that_built_it_is_left(kernel: tuple[str, KernelProfile]) -> None:
    profile = kernel[1]
    files = set()
    for start, end in profile.text_ranges:
        for address in range(start, end, 64):
            source = profile.source_at(address)
            files |= set() if source is None else {source.file, *(call.file for call in source.inlined)}
    assert {"kernel/panic.c", "include/linux/list.h", "arch/powerpc/kernel/traps.c"} <= files
    assert [file for file in files if file is None or file.startswith(("/", "."))] == []


def test_lines_are_a_few_megabytes(kernel: tuple[str, KernelProfile]) -> None:
    profile = kernel[1]
    assert len(profile.without_lines()) < 1 << 20
    assert profile.size_bytes < 5 << 20
