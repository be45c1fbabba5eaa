"""Dump files to pages of physical memory and raw notes.

Every container gives the same two things: ``ContainerFacts`` (what its headers say) and ``read_page``. Flattened files
and split sets are layers below or beside them, so that each container works in each wrapping.
"""

from __future__ import annotations

from typing import Literal, Protocol

from msgspec import Struct

ByteOrder = Literal["big", "little"]


class Utsname(Struct, frozen=True):
    """The six strings of ``struct new_utsname`` that a main header carries; empty where the writer left them out."""

    sysname: str
    nodename: str
    release: str
    version: str
    machine: str
    domainname: str


class ContainerFacts(Struct, frozen=True):
    """What the headers of a dump say.

    ``byte_order`` is that of headers and notes; ``word_bytes`` that of the dumped kernel as far as the headers tell (4
    or 8). ``notes`` holds the ELF note segments, one after another; ``vmcoreinfo`` the text of the VMCOREINFO note, or
    ``None``. ``missing_parts`` names the page ranges and broken files of a split set that could not be had.
    """

    container: str
    wrapping: tuple[str, ...]
    header_version: int | None
    written_by: str
    byte_order: ByteOrder
    word_bytes: int
    block_size: int
    max_pfn: int
    dump_level: int | None
    complete: bool
    incomplete_reason: str | None
    quirks: tuple[str, ...]
    utsname: Utsname | None
    timestamp_seconds: int | None
    notes: tuple[bytes, ...]
    vmcoreinfo: bytes | None
    missing_parts: tuple[str, ...] = ()


class Container(Protocol):
    """An open dump: pages by number."""

    @property
    def facts(self) -> ContainerFacts:
        """What its headers say."""
        ...

    @property
    def codecs_met(self) -> frozenset[str]:
        """The codecs (``raw``, ``zlib``, ``lzo``, ``snappy``, ``zstd``) of the pages read so far."""
        ...

    def read_page(self, pfn: int) -> bytes:
        """The ``block_size`` bytes of physical page ``pfn``. Raises PageError, whose ``status`` tells why not."""
        ...

    def close(self) -> None:
        """Closes the files."""
        ...
