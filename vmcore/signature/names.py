"""Function names as they enter a signature: what compilers, ABIs and kernel builds add to a name is taken off.

Names come from symbol tables and from the kernel's own printed traces, of any age: the rules are those of
``docs/signatures.md``.
"""

import re
from functools import lru_cache

from msgspec import Struct

MAX_NAME_CHARACTERS = 512
"""``KSYM_NAME_LEN`` of the newest kernels: what is longer is no symbol."""

_MODULE = re.compile(r"\s*\[([^\]\s]+)[^\]]*\]$")
"""``[ipr]``, and as newer kernels print it: ``[ipr 0123abcd]``, ``[ipr(OE)]``."""
_MODULE_MARKS = re.compile(r"\([A-Z+-]*\)$")
_OFFSET = re.compile(r"\+0x[0-9a-f]+(/0x[0-9a-f]+)?$")
_SUFFIX = re.compile(
    r"\.(isra\.\d+|part\.\d+|constprop\.\d+|cold(\.\d+)?|lto_priv\.\d+|llvm\.\d+|localalias(\.\d+)?|ipa-[a-z]+\.\d+)$"
)
_STUB = re.compile(r"[0-9a-f]+\.(?:plt_call|long_branch|plt_branch)\.(.+?)(?:\+[0-9a-f]+)?$")
_SYSTEM_CALL = re.compile(
    r"(?:__se_compat_sys_|__do_compat_sys_|compat_SyS_|compat_sys_|__se_sys_|__do_sys_|ksys_|SyS_|SYSC_|sys_)(\w+)$"
)
_BPF_PROGRAM = re.compile(r"bpf_prog_[0-9a-f]{6,}(?:_(\w+))?$")
_NUMBERED = re.compile(r"\.\d+$")


class FunctionName(Struct, frozen=True):
    """A function by its normalised name, and the module that it is in (``None``: the kernel itself)."""

    function: str
    module: str | None


@lru_cache(maxsize=16384)
def normalise(name: str, module: str | None = None) -> FunctionName | None:
    """The name without offset, module, ELFv1 dot, compiler suffixes, stub prefixes and the words around a system call.

    ``module`` may be given beside the name or as its suffix. ``None`` where nothing is left that names a function.
    """
    name = name.strip()[:MAX_NAME_CHARACTERS]
    found = _MODULE.search(name)
    if found is not None:
        name, module = name[: found.start()], module or found[1]
    name = _OFFSET.sub("", name)
    if name.startswith(".") and not _NUMBERED.fullmatch(name):
        name = name[1:]
    stub = _STUB.fullmatch(name)
    if stub is not None:
        name = stub[1].removeprefix(".")
    while (suffix := _SUFFIX.search(name)) is not None and suffix.start() > 0:
        name = name[: suffix.start()]
    program = _BPF_PROGRAM.fullmatch(name)
    if program is not None:
        return FunctionName(f"bpf_prog_{program[1]}" if program[1] else "bpf_prog", None)
    call = _SYSTEM_CALL.fullmatch(name)
    if call is not None:
        name = f"sys_{call[1]}"
    return FunctionName(name, _module(module)) if name and not name.startswith("0x") else None


def _module(module: str | None) -> str | None:
    """The module's name as the kernel writes it: without taint marks or build id, ``_`` for ``-``."""
    if not module:
        return None
    return _MODULE_MARKS.sub("", module.split()[0]).replace("-", "_") or None
