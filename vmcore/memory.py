"""Reads by kernel address, and the log of the pages that were needed.

``PhysicalMemory`` holds decoded pages of a container in a bounded cache; ``KernelMemory`` puts a translation before
it. A page that the dump level left out reads as zeros where kernel data is asked for, if that level drops zero pages:
kernel data is normally dropped for no other reason. Code is never read that way.
"""

import struct
from collections.abc import Callable, Iterator

from crashbeam.vmcore.containers import Container
from crashbeam.vmcore.errors import PageError, PageStatus, TranslationError
from crashbeam.vmcore.limits import Budget

_CACHE_BYTES = 16 << 20
_PAGES_KNOWN = 4096
"""Translated pages that one KernelMemory remembers; pages themselves are shared with the cache above."""
_ZERO_PAGES_DROPPED = 1
"""Bit of makedumpfile's dump level."""


class PhysicalMemory:
    """The pages of one dump, decoded once each.

    ``needed`` has the number of every page that was asked for, in order, with the status of those that could not be
    read: what ``trim`` has to write. ``zeros_assumed`` has those that were excluded and read as zeros.
    """

    def __init__(self, container: Container, budget: Budget) -> None:
        facts = container.facts
        self.container = container
        self.page_bytes = facts.block_size
        self.page_shift = facts.block_size.bit_length() - 1
        self.needed: dict[int, PageStatus | None] = {}
        self.zeros_assumed: set[int] = set()
        self._zero_page = bytes(facts.block_size)
        self._excluded_are_zero = facts.container == "elf" or bool((facts.dump_level or 0) & _ZERO_PAGES_DROPPED)
        self._pages: dict[int, bytes | PageError] = {}
        self._pages_kept = max(_CACHE_BYTES // facts.block_size, 16)
        self._budget = budget

    def page(self, pfn: int, *, zeros: bool = True) -> bytes:
        """Page ``pfn``; with ``zeros``, an excluded page may read as zeros. Raises PageError."""
        found = self._pages.get(pfn)
        if found is None:
            found = self._load(pfn)
        if isinstance(found, bytes):
            return found
        if zeros and self._excluded_are_zero and found.status is PageStatus.EXCLUDED:
            self.zeros_assumed.add(pfn)
            return self._zero_page
        raise found

    def _load(self, pfn: int) -> bytes | PageError:
        if len(self._pages) >= self._pages_kept:
            self._pages.clear()
        found: bytes | PageError
        try:
            found = self.container.read_page(pfn)
            self._budget.charge_decoded(len(found))
            self.needed[pfn] = None
        except PageError as error:
            found = error
            self.needed[pfn] = error.status
        self._pages[pfn] = found
        return found

    def read(self, physical: int, size_bytes: int, *, zeros: bool = True) -> bytes:
        """``size_bytes`` at a physical address. Raises PageError."""
        offset = physical & (self.page_bytes - 1)
        page = self.page(physical >> self.page_shift, zeros=zeros)
        if offset + size_bytes <= self.page_bytes:
            return page[offset : offset + size_bytes]
        parts = [page[offset:]]
        missing = size_bytes - len(parts[0])
        pfn = physical >> self.page_shift
        while missing > 0:
            pfn += 1
            parts.append(self.page(pfn, zeros=zeros)[:missing])
            missing -= len(parts[-1])
        return b"".join(parts)

    def holds(self, physical: int, text: bytes) -> bool:
        """Whether ``text`` lies at a physical address. Pages that are tried in vain are not logged as needed."""
        pfn, last = physical >> self.page_shift, (physical + len(text) - 1) >> self.page_shift
        if physical < 0:
            return False
        try:
            pages = b"".join(self.container.read_page(number) for number in range(pfn, last + 1))
        except PageError:
            return False
        if not pages.startswith(text, physical & (self.page_bytes - 1)):
            return False
        return self.read(physical, len(text), zeros=False) == text


class KernelMemory:
    """The dumped kernel's memory by its own addresses, words in its own byte order.

    ``translate`` gives the physical address of a kernel address, or raises TranslationError. ``page_bytes`` is the
    kernel's page, where that may be smaller than the dump's (QEMU writes blocks of 64 KiB whatever the guest has).
    """

    def __init__(
        self,
        physical: PhysicalMemory,
        translate: Callable[[int], int],
        *,
        word_bytes: int,
        byte_order: str,
        page_bytes: int | None = None,
    ) -> None:
        self.physical = physical
        self.translate = translate
        self.word_bytes = word_bytes
        self.byte_order = byte_order
        order = ">" if byte_order == "big" else "<"
        self._order = order
        self._word = struct.Struct(order + ("I" if word_bytes == 4 else "Q"))
        self._u32 = struct.Struct(order + "I")
        self._i32 = struct.Struct(order + "i")
        self._u16 = struct.Struct(order + "H")
        self._page_bytes = min(page_bytes or physical.page_bytes, physical.page_bytes)
        self._shift = self._page_bytes.bit_length() - 1
        self._mask = self._page_bytes - 1
        self._word_mask = (1 << 8 * word_bytes) - 1
        self._pages: dict[int, bytes] = {}
        self._code_pages: dict[int, bytes] = {}

    def page_at(self, address: int) -> bytes:
        """The page that holds ``address``. Raises TranslationError, PageError."""
        number = address >> self._shift
        page = self._pages.get(number)
        if page is None:
            if not 0 <= address <= self._word_mask:
                raise TranslationError(f"{address:#x} is no kernel address")
            page = self._load(number, zeros=True)
            if len(self._pages) >= _PAGES_KNOWN:
                self._pages.clear()
            self._pages[number] = page
        return page

    def _load(self, number: int, *, zeros: bool) -> bytes:
        """The kernel's page of this number, which may be a part of one of the dump's."""
        physical = self.physical
        address = self.translate(number << self._shift)
        page = physical.page(address >> physical.page_shift, zeros=zeros)
        if self._shift == physical.page_shift:
            return page
        start = address & (physical.page_bytes - 1) & ~self._mask
        return page[start : start + self._page_bytes]

    def word(self, address: int) -> int:
        """The aligned word at ``address``. Raises TranslationError (also for an unaligned address), PageError."""
        page = self._pages.get(address >> self._shift) or self.page_at(address)
        offset = address & self._mask
        if offset % self.word_bytes:
            raise TranslationError(f"{address:#x} is no aligned word")
        value: int = self._word.unpack_from(page, offset)[0]
        return value

    def u32(self, address: int) -> int:
        """The 32-bit word at ``address``. Raises TranslationError, PageError."""
        value: int = self._u32.unpack(self.read(address, 4))[0]
        return value

    def i32(self, address: int) -> int:
        """The signed 32-bit word at ``address``. Raises TranslationError, PageError."""
        value: int = self._i32.unpack(self.read(address, 4))[0]
        return value

    def u16(self, address: int) -> int:
        """The 16-bit word at ``address``. Raises TranslationError, PageError."""
        value: int = self._u16.unpack(self.read(address, 2))[0]
        return value

    def number(self, address: int, size_bytes: int) -> int:
        """The unsigned number of 1 to 8 bytes at ``address``. Raises TranslationError, PageError."""
        return int.from_bytes(self.read(address, size_bytes), "big" if self._order == ">" else "little")

    def words(self, address: int, count: int) -> tuple[int, ...]:
        """``count`` words from ``address``. Raises TranslationError, PageError."""
        return struct.unpack(
            f"{self._order}{count}{self._word.format[-1:]}", self.read(address, count * self.word_bytes)
        )

    def read(self, address: int, size_bytes: int) -> bytes:
        """``size_bytes`` of data at ``address``. Raises TranslationError, PageError."""
        offset = address & self._mask
        page = self._pages.get(address >> self._shift) or self.page_at(address)
        if offset + size_bytes <= len(page):
            return page[offset : offset + size_bytes]
        return b"".join(self._pieces(address, size_bytes, self.page_at))

    def read_code(self, address: int, size_bytes: int) -> bytes:
        """``size_bytes`` of text at ``address``: excluded pages are never taken for zeros. Raises TranslationError,
        PageError.
        """
        offset = address & self._mask
        if offset + size_bytes <= self._mask + 1:
            return self._code_page_at(address)[offset : offset + size_bytes]
        return b"".join(self._pieces(address, size_bytes, self._code_page_at))

    def code_words(self, address: int, count: int) -> tuple[int, ...]:
        """``count`` instructions from ``address``. Raises TranslationError, PageError."""
        return struct.unpack(f"{self._order}{count}I", self.read_code(address, 4 * count))

    def _code_page_at(self, address: int) -> bytes:
        number = address >> self._shift
        page = self._code_pages.get(number)
        if page is None:
            page = self._load(number, zeros=False)
            if len(self._code_pages) >= _PAGES_KNOWN:
                self._code_pages.clear()
            self._code_pages[number] = page
        return page

    def _pieces(self, address: int, size_bytes: int, page_at: Callable[[int], bytes]) -> Iterator[bytes]:
        while size_bytes > 0:
            offset = address & self._mask
            piece = page_at(address)[offset : offset + size_bytes]
            yield piece
            address += len(piece)
            size_bytes -= len(piece)

    def text(self, address: int, size_bytes: int) -> bytes:
        """The bytes at ``address`` up to a NUL or ``size_bytes``. Raises TranslationError, PageError."""
        found = b""
        while len(found) < size_bytes:
            offset = address & self._mask
            piece = self.page_at(address)[offset : offset + size_bytes - len(found)]
            text, end, _ = piece.partition(b"\0")
            found += text
            if end:
                break
            address += len(piece)
        return found
