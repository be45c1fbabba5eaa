"""Which container a file is, by its first bytes."""

from collections.abc import Sequence
from typing import Final

from crashbeam.schemas.codes import FailureCode
from crashbeam.vmcore.byte_source import ByteSource, FileSource
from crashbeam.vmcore.containers import Container
from crashbeam.vmcore.containers.flattened import FLATTENED_SIGNATURE, FlattenedSource
from crashbeam.vmcore.containers.kdump import KdumpContainer
from crashbeam.vmcore.containers.kdump_header import SIGNATURE as KDUMP_SIGNATURE
from crashbeam.vmcore.containers.split import SplitContainer
from crashbeam.vmcore.errors import FormatError, TruncatedError, VmcoreError
from crashbeam.vmcore.limits import Budget

SNIFFED_BYTES: Final = 64
DISKDUMP_SIGNATURE: Final = b"DISKDUMP"
ELF_SIGNATURE: Final = b"\x7fELF"
CORE_TYPES: Final = (b"\0\4", b"\4\0")
"""ET_CORE at e_type, in either byte order."""


def looks_like_dump(first_bytes: bytes) -> bool:
    """Whether a file that begins with ``first_bytes`` (64 are enough) is a crash dump, readable or not.

    True for kdump, diskdump and flattened files, and for ELF core files of any machine.
    """
    if first_bytes.startswith((KDUMP_SIGNATURE, DISKDUMP_SIGNATURE, FLATTENED_SIGNATURE)):
        return True
    return first_bytes.startswith(ELF_SIGNATURE) and first_bytes[16:18] in CORE_TYPES


def open_container(paths: Sequence[str], budget: Budget) -> Container:
    """Opens a dump: one file, or the parts of a split set, in any order.

    Raises SourceError for a file that cannot be read, FormatError (``unknown_format``, ``unsupported``, ``malformed``),
    TruncatedError when headers or notes are cut, LimitError. A broken part of a set is named in its facts, as long as
    one part can be read; otherwise its error is raised.
    """
    if len(paths) == 1:
        return _open_file(paths[0], budget)
    parts: list[KdumpContainer] = []
    broken: dict[str, VmcoreError] = {}
    for path in paths:
        try:
            parts.append(_open_part(path, budget, parts))
        except VmcoreError as error:
            broken[path] = error
    if not parts:
        raise next(iter(broken.values()))
    return SplitContainer(parts, tuple(broken))


def _open_part(path: str, budget: Budget, others: Sequence[KdumpContainer]) -> KdumpContainer:
    """A part that belongs to the parts opened before it. Raises VmcoreError."""
    part = _open_file(path, budget)
    if isinstance(part, KdumpContainer) and part.sub_header.split and (not others or part.belongs_to(others[0])):
        return part
    part.close()
    raise FormatError(f"{path} is no part of this split dump")


def _open_file(path: str, budget: Budget) -> Container:
    source: ByteSource = FileSource(path, budget)
    try:
        return _open_source(source, budget)
    except BaseException:
        source.close()
        raise


def _open_source(source: ByteSource, budget: Budget) -> Container:
    wrapping: tuple[str, ...] = ()
    cut_reason: str | None = None
    first = source.read(0, SNIFFED_BYTES)
    if first.startswith(FLATTENED_SIGNATURE):
        source = FlattenedSource(source, budget)
        wrapping = ("flattened",)
        cut_reason = source.cut_reason
        first = source.read(0, SNIFFED_BYTES)
    if first.startswith(KDUMP_SIGNATURE):
        return KdumpContainer(source, wrapping=wrapping, cut_reason=cut_reason)
    if first.startswith(ELF_SIGNATURE):
        from crashbeam.vmcore.containers.elf import ElfContainer

        return ElfContainer(source, budget, wrapping=wrapping, cut_reason=cut_reason)
    raise _unknown(source.name, first, wrapping)


def _unknown(name: str, first: bytes, wrapping: tuple[str, ...]) -> FormatError | TruncatedError:
    if first.startswith(DISKDUMP_SIGNATURE):
        return FormatError(
            f"{name} is a diskdump file, of a kernel older than 2.6.19",
            code=FailureCode.UNSUPPORTED,
            hint="read it with crash: it holds one register set and no notes",
        )
    signatures = (KDUMP_SIGNATURE, DISKDUMP_SIGNATURE, FLATTENED_SIGNATURE, ELF_SIGNATURE)
    if any(signature.startswith(first) for signature in signatures):
        return TruncatedError(f"{name} ends inside its first bytes", size_bytes=len(first))
    return FormatError(
        f"{name} {'holds' if wrapping else 'is'} no kdump, flattened or ELF dump", code=FailureCode.UNKNOWN_FORMAT
    )
