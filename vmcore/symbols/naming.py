"""Which of several names at one address is the one to show: the same, whatever source the names come from.

kallsyms itself takes whichever the linker put first; that differs between a vmlinux, its System.map and the dump.
"""

from collections.abc import Iterable
from typing import NamedTuple

_BOUNDARY_SUFFIXES = ("_start", "_end", "_begin")
_BOUNDARY_PREFIXES = (
    "__start_",
    "__stop_",
    "__end_",
    "start_first_",
    "end_first_",
    "start_real_",
    "end_real_",
    "start_virt_",
    "end_virt_",
)
_BOUNDARIES = frozenset(
    (
        "_text",
        "_stext",
        "_start",
        "__start",
        "_etext",
        "_sinittext",
        "_einittext",
        "__head_end",
        "start_text",
        "copy_to_here",
    )
)
"""Labels of the linker script and of ``arch/powerpc/include/asm/head-64.h`` that mark a place, not a function."""


class SymbolName(NamedTuple):
    """A name as its source has it (an ELFv1 function's with its dot), and whether it is a weak symbol."""

    name: str
    weak: bool


def without_dot(name: str) -> str:
    """``.foo``, the code of function ``foo`` (64-bit PowerPC ELF ABI, "function descriptors"), as ``foo``."""
    return name[1:] if name.startswith(".") else name


def choose_name(names: Iterable[SymbolName]) -> str:
    """The name to show, without its ELFv1 dot.

    Last come boundary labels; before them weak symbols (else ``sys_ni_syscall`` would be shown as one of its many
    aliases); then names with more leading underscores, then the later in the alphabet.
    """
    return without_dot(min(names, key=_rank).name)


def is_local_label(name: str) -> bool:
    """Whether a symbol without a type is an assembler's label or a mapping symbol, which kallsyms leaves out too."""
    return name.startswith((".L", "$"))


def _rank(symbol: SymbolName) -> tuple[bool, bool, int, str]:
    name = without_dot(symbol.name)
    boundary = name in _BOUNDARIES or name.endswith(_BOUNDARY_SUFFIXES) or name.startswith(_BOUNDARY_PREFIXES)
    return boundary, symbol.weak, len(name) - len(name.lstrip("_")), name
