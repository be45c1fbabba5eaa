"""When symbols belong to a dump: by build id, else by the exact banner, else by addresses."""

from collections.abc import Mapping

from msgspec import Struct, field

from crashbeam.schemas.codes import MatchedBy
from crashbeam.vmcore.symbols.profile import KernelProfile

_NO_ADDRESS_OF_A_SYMBOL = frozenset(("mem_section", "vmemmap"))
"""VMCOREINFO_SYMBOL_ARRAY() of a pointer gives what it points to (``kernel/vmcore_info.c`` of 6.12)."""
_MIN_EQUAL_SYMBOLS = 3


class WantedKernel(Struct, frozen=True):
    """What a dump says of its kernel.

    ``vmcoreinfo_symbols`` are the SYMBOL() lines of VMCOREINFO, as the kernel was linked (less KERNELOFFSET);
    ``banner`` is the text at ``linux_banner`` without its newline, if it could be read without symbols.
    """

    build_id: str | None = None
    banner: str | None = None
    vmcoreinfo_symbols: Mapping[str, int] = field(default_factory=dict)
    release: str | None = None


def same_build(build_id: str | None, banner: str | None, wanted: WantedKernel) -> MatchedBy | None:
    """How symbols with this identity match the dump; ``None`` if they do not, or if there is nothing to compare."""
    if build_id and wanted.build_id:
        return MatchedBy.BUILD_ID if build_id == wanted.build_id.lower() else None
    if banner and wanted.banner:
        return MatchedBy.BANNER if banner == wanted.banner else None
    return None


def is_decided(build_id: str | None, banner: str | None, wanted: WantedKernel) -> bool:
    """Whether build ids or banners can be compared at all."""
    return bool((build_id and wanted.build_id) or (banner and wanted.banner))


def same_addresses(profile: KernelProfile, wanted: WantedKernel) -> bool:
    """Whether every SYMBOL() of VMCOREINFO that the profile has is at its address there; three at least."""
    equal = 0
    for name, address in wanted.vmcoreinfo_symbols.items():
        known = None if name in _NO_ADDRESS_OF_A_SYMBOL else profile.variables.get(name)
        if known is not None and known != address:
            return False
        equal += known is not None
    return equal >= _MIN_EQUAL_SYMBOLS
