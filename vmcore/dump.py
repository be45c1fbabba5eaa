"""An open dump: the facade of ``vmcore/``, and the one place that knows the boot order.

    container -> VMCOREINFO and raw notes -> architecture -> linear map -> build id -> profile -> kernel -> page tables

Each step may fail on its own: without symbols there is no kernel, without a kernel there are still headers, notes and
registers. What could not be had is a warning in ``Dump.warnings``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from crashbeam.schemas.codes import MatchedBy, Stage, SymbolLayouts, SymbolNames, WarningCode
from crashbeam.schemas.crash_report import ReportWarning
from crashbeam.vmcore import stage_mark
from crashbeam.vmcore.arch import ARCHITECTURES, choose_architecture
from crashbeam.vmcore.arch.architecture import Architecture, LinearMap
from crashbeam.vmcore.containers import ByteOrder, Container
from crashbeam.vmcore.containers.detect import open_container
from crashbeam.vmcore.errors import LimitError, PageError, PageStatus, TranslationError, VmcoreError
from crashbeam.vmcore.facts import AnalysisOptions, DumpInput, PagesMet
from crashbeam.vmcore.firmware import FirmwareAreas
from crashbeam.vmcore.kernel import Kernel
from crashbeam.vmcore.limits import MAX_NAME_BYTES, Budget
from crashbeam.vmcore.memory import KernelMemory, PhysicalMemory
from crashbeam.vmcore.modules import Text
from crashbeam.vmcore.note_map import FileNote, decode_note
from crashbeam.vmcore.notes import parse_notes, prstatus
from crashbeam.vmcore.symbols.profile import KernelProfile, compile_profile
from crashbeam.vmcore.symbols.store import ProfileStore, WantedKernel, default_folder
from crashbeam.vmcore.unwind import Unwinder
from crashbeam.vmcore.vmcoreinfo import Vmcoreinfo, read_vmcoreinfo
from crashbeam.vmcore.vmcoreinfo_search import search_vmcoreinfo

_DAMAGED = (PageStatus.LOST, PageStatus.TRUNCATED, PageStatus.CORRUPT)
_RELEASE_AT = 2 * 65
"""``release`` in ``struct new_utsname``: the third of its strings of ``__NEW_UTS_LEN`` + 1 bytes."""
_EMPTY_VMCOREINFO = Vmcoreinfo.parse(b"")
_KERNELS = frozenset((arch.word_bytes, arch.byte_order) for arch in ARCHITECTURES.values())
"""What a kernel can be: no memory, and no note, makes one of any other kind."""


class OpenKernel(Struct, frozen=True):
    """The kernel in a dump whose symbols are known, with its text and an unwinder."""

    kernel: Kernel
    text: Text
    firmware: FirmwareAreas
    unwinder: Unwinder


class Dump:
    """One open dump. Close it, or use ``opened``, which keeps the last one of each thread open."""

    def __init__(self, dump_input: DumpInput, options: AnalysisOptions) -> None:
        """Opens the dump. Raises VmcoreError for what makes a report impossible."""
        self.input = dump_input
        self.options = options
        self.warnings: list[ReportWarning] = []
        self.budget = Budget()
        stage_mark.enter(Stage.OPEN)
        self.container: Container = open_container(dump_input.paths, self.budget)
        try:
            self._boot()
        except BaseException:
            self.container.close()
            raise

    def _boot(self) -> None:
        stage_mark.enter(Stage.HEADERS)
        facts = self.facts = self.container.facts
        self.physical = PhysicalMemory(self.container, self.budget)
        text = facts.vmcoreinfo
        if text is not None:
            self.vmcoreinfo = read_vmcoreinfo(text)
            self.arch: Architecture = choose_architecture(facts.word_bytes, facts.byte_order)
        else:
            self.vmcoreinfo, self.arch = self._search_vmcoreinfo()
        self.notes = self._read_notes()
        self.release = self.vmcoreinfo.osrelease or (facts.utsname.release if facts.utsname else "")
        self.page_bytes = self.vmcoreinfo.page_size or facts.block_size
        linear = self.arch.find_linear_map(self.physical, _release_evidence(self.vmcoreinfo))
        self.memory = None if linear is None else self._memory(_linear_translation(linear))
        stage_mark.enter(Stage.SYMBOLS)
        self.matched_by: MatchedBy | None = None
        self.profile = self._find_profile(linear)
        self.kernel = self._find_kernel(linear)

    @property
    def pages_met(self) -> PagesMet:
        """What the pages read so far have shown."""
        unreadable = (pfn for pfn, status in self.physical.needed.items() if status in _DAMAGED)
        return PagesMet(self.container.codecs_met, frozenset(unreadable), frozenset(self.physical.zeros_assumed))

    def name_at(self, address: str) -> str | None:
        """The function at an address (hex), with its module; ``None`` outside kernel and module text."""
        function = self.kernel.text.function_at(int(address, 16)) if self.kernel else None
        if function is None or function.name is None:
            return None
        return f"{function.name} [{function.module}]" if function.module else function.name

    def close(self) -> None:
        """Closes its files."""
        self.container.close()

    def _memory(self, translate: Callable[[int], int]) -> KernelMemory:
        arch = self.arch
        return KernelMemory(
            self.physical,
            translate,
            word_bytes=arch.word_bytes,
            byte_order=arch.byte_order,
            page_bytes=self.page_bytes,
        )

    def _search_vmcoreinfo(self) -> tuple[Vmcoreinfo, Architecture]:
        """VMCOREINFO out of memory, where a file lacks it, and the architecture by its byte order.

        Headers and notes of such files may be in another order than memory. A page that begins like the note is the
        kernel's only if memory holds the release where it says.
        """
        facts = self.facts
        try:
            for physical, byte_order, text in search_vmcoreinfo(self.container):
                if (facts.word_bytes, byte_order) not in _KERNELS:
                    continue
                info, arch = Vmcoreinfo.parse(text), choose_architecture(facts.word_bytes, byte_order)
                linear = arch.find_linear_map(self.physical, _release_evidence(info))
                evidence = _release_evidence(info)
                if linear and any(self.physical.holds(place - linear.offset, release) for place, release in evidence):
                    self.physical.read(physical, len(text))
                    self.warn(
                        WarningCode.COSTLY_INPUT, "VMCOREINFO is not in the file: memory was searched for the kernel's"
                    )
                    return info, arch
        except (LimitError, PageError):
            pass
        self.warn(WarningCode.COSTLY_INPUT, "VMCOREINFO is not in the file, and a search of memory did not find it")
        return _EMPTY_VMCOREINFO, choose_architecture(facts.word_bytes, self._byte_order_of_notes())

    def _byte_order_of_notes(self) -> ByteOrder:
        """The byte order that most CPUs ran in, by MSR[LE]; that of the headers where no note tells.

        Firmware runs in its own order, a user's process in its own: neither is asked.
        """
        facts = self.facts
        arch = choose_architecture(facts.word_bytes, facts.byte_order)
        little = big = 0
        for note in prstatus(parse_notes(facts.notes, facts.byte_order)):
            decoded = decode_note(arch, facts.byte_order, 0, note.whole)
            if decoded is not None and decoded.registers.is_translated and not decoded.registers.is_user:
                little += decoded.registers.is_little_endian
                big += not decoded.registers.is_little_endian
        order: ByteOrder = "little" if little > big else "big"
        return order if little != big and (facts.word_bytes, order) in _KERNELS else facts.byte_order

    def _read_notes(self) -> tuple[FileNote, ...]:
        found = parse_notes(self.facts.notes, self.facts.byte_order)
        if found.problem is not None:
            self.warn(WarningCode.DUMP_INCOMPLETE, f"the notes cannot all be read: {found.problem}")
        notes = []
        for index, note in enumerate(prstatus(found)):
            decoded = decode_note(self.arch, self.facts.byte_order, index, note.whole)
            if decoded is None:
                self.warn(
                    WarningCode.NOTE_UNASSIGNED, f"note {index} has an unknown size ({len(note.descriptor)} bytes)"
                )
            else:
                notes.append(decoded)
        return tuple(notes)

    def _find_profile(self, linear: LinearMap | None) -> KernelProfile | None:
        """The richest symbols of the dump's kernel: those of a vmlinux, else its own, else a System.map's."""
        info = self.vmcoreinfo
        moved_bytes = info.kernel_offset or 0
        wanted = WantedKernel(
            build_id=info.build_id,
            banner=None,
            vmcoreinfo_symbols={name: address - moved_bytes for name, address in info.symbols.items()}
            if moved_bytes
            else info.symbols,
            release=info.osrelease,
        )
        found = profile_store(self.options).find(self.options.symbols, wanted)
        profile = found.profile
        if linear is not None and (profile is None or _may_be_bettered(profile)):
            own = self._read_own_profile(linear)
            if own is not None and (profile is None or own.richness > profile.richness):
                profile = own
        if profile is None:
            self.warn(found.warning or WarningCode.SYMBOLS_MISSING, found.message or "no symbols were found")
            return None
        matched_by = MatchedBy.DUMP_ITSELF if profile.names is SymbolNames.KALLSYMS else found.matched_by
        return self._confirm_profile(profile.moved(moved_bytes), matched_by)

    def _read_own_profile(self, linear: LinearMap) -> KernelProfile | None:
        """The profile of the symbols in the dump's own memory; ``None`` if it has none that can be read.

        The reader is loaded here: a dump whose profile is in the cache does not wait for it.
        """
        from crashbeam.vmcore.own_symbols import read_own_symbols

        try:
            own = read_own_symbols(self.input.paths, self.arch, _linear_translation(linear), self.vmcoreinfo)
        except VmcoreError:
            return None
        for pfn in own.pfns:
            self.physical.needed.setdefault(pfn, None)
        if own.symbols.problem is None:
            return profile_store(self.options).add(own.symbols.kernel)
        return KernelProfile(compile_profile(own.symbols.kernel))

    def _confirm_profile(self, profile: KernelProfile, matched_by: MatchedBy | None) -> KernelProfile | None:
        """The profile if memory shows that it is the kernel's: what only addresses match needs the banner too."""
        if matched_by is MatchedBy.ADDRESSES and not self._holds_banner(profile):
            name = os.path.basename(profile.name)
            message = f"{name} has the dump's addresses, but memory does not hold the kernel's banner there"
            self.warn(WarningCode.SYMBOLS_MISMATCH, message)
            return None
        is_exact = matched_by is MatchedBy.ADDRESSES and profile.banner is not None
        self.matched_by = MatchedBy.BANNER if is_exact else matched_by
        return profile

    def _holds_banner(self, profile: KernelProfile) -> bool:
        """Whether memory at the profile's ``linux_banner`` holds its banner, or, if it has none, the dump's release."""
        address = profile.address_of("linux_banner")
        if address is None or self.memory is None:
            return False
        try:
            text = self.memory.text(address, MAX_NAME_BYTES).decode("utf-8", "replace")
        except VmcoreError:
            return False
        if profile.banner is not None:
            return text.startswith(profile.banner)
        return text.startswith(f"Linux version {self.release} ")

    def _find_kernel(self, linear: LinearMap | None) -> OpenKernel | None:
        profile = self.profile
        if profile is None:
            return None
        linear = linear or self.arch.find_linear_map(self.physical, _banner_evidence(profile))
        if linear is None:
            self.warn(
                WarningCode.PAGES_UNREADABLE,
                "the kernel's linear map was not found: neither release nor banner can be read",
            )
            memory = self._memory(_no_translation)
        else:
            provisional = self.memory or self._memory(_linear_translation(linear))
            memory = self._memory(self._translation(linear, profile, provisional))
        self.memory = memory
        kernel = Kernel(memory, profile, self.arch)
        text, firmware = Text(kernel), FirmwareAreas(kernel)
        return OpenKernel(kernel, text, firmware, Unwinder(memory, self.arch, text, firmware))

    def _translation(
        self, linear: LinearMap, profile: KernelProfile, provisional: KernelMemory
    ) -> Callable[[int], int]:
        """The whole translation: the linear map up to its end, page tables elsewhere."""
        try:
            linear = self.arch.bound_linear_map(linear, profile, provisional)
        except VmcoreError:
            self.warn(WarningCode.PAGES_UNREADABLE, "the end of the kernel's linear map cannot be read")
        walk = self.arch.page_walk(linear, profile, provisional, self.page_bytes) or _no_translation
        start, end, offset = linear.start, linear.end, linear.offset

        def translate(address: int) -> int:
            return address - offset if start <= address < end else walk(address)

        return translate

    def warn(self, code: WarningCode, message: str) -> None:
        """Adds a warning about the dump as a whole."""
        self.warnings.append(ReportWarning(code, None, message))


def _may_be_bettered(profile: KernelProfile) -> bool:
    """Whether the dump itself may give a better profile: than a System.map, than symbols without layouts (unless its
    kernel is known to carry none), than what another dump gave for older tables.
    """
    if profile.names is SymbolNames.KALLSYMS:
        has_types = profile.address_of("__start_BTF") is not None
        return not profile.is_current or (profile.layouts is SymbolLayouts.NONE and has_types)
    return profile.layouts is SymbolLayouts.NONE


def _release_evidence(info: Vmcoreinfo) -> list[tuple[int, bytes]]:
    """Where ``init_uts_ns`` must hold the release that VMCOREINFO names."""
    address = info.symbols.get("init_uts_ns")
    if address is None or not info.osrelease:
        return []
    place = address + info.offsets.get("uts_namespace.name", 0) + _RELEASE_AT
    return [(place, info.osrelease.encode() + b"\0")]


def _banner_evidence(profile: KernelProfile) -> list[tuple[int, bytes]]:
    address = profile.address_of("linux_banner")
    return [] if address is None or profile.banner is None else [(address, profile.banner.encode())]


def _linear_translation(linear: LinearMap) -> Callable[[int], int]:
    def translate(address: int) -> int:
        if not linear.start <= address < linear.end:
            raise TranslationError(f"{address:#x} is outside the linear map", address=address)
        return address - linear.offset

    return translate


def _no_translation(address: int) -> int:
    raise TranslationError(f"{address:#x}: the kernel's address translation is not known", address=address)


_STORES: dict[str | None, ProfileStore] = {}
_LAST = threading.local()


def profile_store(options: AnalysisOptions) -> ProfileStore:
    """The store of kernel profiles of these options: one per folder in a process, so that a loaded profile serves all
    dumps.
    """
    store = _STORES.get(options.profiles)
    if store is None:
        folder = default_folder() if options.profiles is None else Path(options.profiles)
        store = _STORES[options.profiles] = ProfileStore(folder)
    return store


def opened(dump_input: DumpInput, options: AnalysisOptions) -> Dump:
    """The open dump of ``dump_input``: the thread's last one if it is the same, else a new one. Raises VmcoreError."""
    last: Dump | None = getattr(_LAST, "dump", None)
    if last is not None:
        if last.input == dump_input and last.options == options:
            return last
        close_last()
    _LAST.dump = Dump(dump_input, options)
    dump: Dump = _LAST.dump
    return dump


def close_last() -> None:
    """Closes the dump that this thread has open, if any."""
    last: Dump | None = getattr(_LAST, "dump", None)
    _LAST.dump = None
    if last is not None:
        last.close()
