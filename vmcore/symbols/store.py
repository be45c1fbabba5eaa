"""Finds the kernel profile of a dump's build: among the files given with ``--symbols``, and in the cache folder.

Each build is compiled once, into ``BUILD_ID.profile`` of the cache folder (of a kernel without build id, a name made of
its banner's digest; of a System.map, of its profile's). Files are put in place whole, and are the same whoever makes
them, so many processes may share a folder. A folder that cannot be written is done without: profiles stay in memory.

Within one store each answer is kept; one that found nothing is looked for anew when a given path, or the build's place
in the cache, has changed. So a dump of a known build costs no system call, others one stat for each path.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from crashbeam.schemas.codes import MatchedBy, WarningCode
from crashbeam.vmcore.errors import SymbolError
from crashbeam.vmcore.symbols.cache import ProfileCache, default_folder, name_of_build, profile_name
from crashbeam.vmcore.symbols.compiled import CompiledKernel, release_of
from crashbeam.vmcore.symbols.identity import FileKind
from crashbeam.vmcore.symbols.index import IndexEntry, SymbolFile, SymbolIndex, list_symbol_files
from crashbeam.vmcore.symbols.matching import WantedKernel, is_decided, same_addresses, same_build
from crashbeam.vmcore.symbols.profile import KernelProfile, compile_profile

__all__ = ["ProfileStore", "SymbolSearch", "WantedKernel", "default_folder"]

_MAX_ANSWERS = 256
_MAX_NAMED = 4


@dataclass(frozen=True, slots=True)
class SymbolSearch:
    """What was found: a profile and how it was matched, or else a warning, whose message says what to do about it.

    What matches by ``addresses`` is yet to be confirmed by the caller: the dump's memory at
    ``profile.address_of("linux_banner")`` must hold the profile's banner, or if it has none, the dump's release.
    """

    profile: KernelProfile | None
    matched_by: MatchedBy | None
    warning: WarningCode | None = None
    message: str | None = None


_Question = tuple[tuple[str, ...], str | None, str | None, str | None, frozenset[tuple[str, int]]]
_State = tuple[int, ...]


class _Given:
    """The files of symbols that were given, each with what it is."""

    def __init__(self, index: SymbolIndex, symbols: Sequence[str]) -> None:
        self.files: list[tuple[SymbolFile, IndexEntry]] = []
        self.missing: list[str] = []
        self.unusable: list[str] = []
        for path in symbols:
            try:
                found = list_symbol_files(path)
            except SymbolError as error:
                self.missing.append(error.message)
                continue
            for file in found:
                self._add(index, file)

    def _add(self, index: SymbolIndex, file: SymbolFile) -> None:
        try:
            entry = index.entry_of(file)
        except SymbolError as error:
            self.unusable.append(error.message)
            return
        if entry.kind is not FileKind.OTHER:
            self.files.append((file, entry))

    def kernels(self) -> list[tuple[SymbolFile, IndexEntry]]:
        """The files that say which build they belong to."""
        return [(file, entry) for file, entry in self.files if entry.build_id or entry.banner]


class ProfileStore:
    """Compiled profiles of kernels, by build. ``folder`` is the cache; ``None`` keeps profiles in memory alone."""

    def __init__(self, folder: Path | None) -> None:
        self._cache = ProfileCache(folder)
        self._index = SymbolIndex(self._cache.folder)
        self._answers: dict[_Question, tuple[SymbolSearch, _State]] = {}

    def find(self, symbols: Sequence[str], wanted: WantedKernel) -> SymbolSearch:
        """The richest profile of exactly the wanted kernel, from the files and folders ``symbols`` and the cache."""
        question = (
            tuple(symbols),
            wanted.build_id,
            wanted.banner,
            wanted.release,
            frozenset(wanted.vmcoreinfo_symbols.items()),
        )
        kept = self._answers.get(question)
        if kept is not None and kept[0].profile is not None:
            return kept[0]
        state = self._state(symbols, wanted)
        if kept is not None and kept[1] == state:
            return kept[0]
        answer = self._search(symbols, wanted)
        self._index.save()
        if len(self._answers) >= _MAX_ANSWERS:
            self._answers.clear()
        self._answers[question] = (answer, state)
        return answer

    def compile_given(self, symbols: Sequence[str]) -> list[KernelProfile]:
        """The profiles of all kernels in the files and folders given; those that are new are compiled into the cache.

        For whoever starts processes that may not write. Raises SymbolError if a path does not exist; files that cannot
        be used are passed over.
        """
        given = _Given(self._index, symbols)
        profiles = [self._profile_of(file, entry, given) for file, entry in given.files]
        self._index.save()
        if given.missing:
            raise SymbolError(given.missing[0], hint="check what --symbols names")
        return [profile for profile in profiles if profile is not None]

    def add_file(self, file: SymbolFile) -> tuple[KernelProfile, bool] | None:
        """Compiles a file's kernel into the cache: its profile, and whether it is new there; ``None`` if it holds none.

        What is there already, whole and no poorer, stays. Raises SymbolError for a file that cannot be used.
        """
        entry = self._index.entry_of(file)
        if entry.kind is FileKind.OTHER:
            return None
        if entry.kind is FileKind.PROFILE:
            return self._cache.keep(read_profile(file.path))
        profile = self._cache.whole(entry.compiled) if entry.compiled else None
        if profile is not None and entry.richness is not None and profile.richness >= entry.richness:
            return profile, False
        profile, is_new = self._cache.keep(compile_file(entry.kind, file.path))
        self._index.set_compiled(file, profile_name(profile), profile.richness)
        return profile, is_new

    def add(self, kernel: CompiledKernel) -> KernelProfile:
        """Keeps the kernel that a dump carries itself; gives the richer one of its build, if that is there already."""
        return self._cache.add(kernel)

    def save_index(self) -> None:
        """Writes down what the files that were looked into are."""
        self._index.save()

    def _search(self, symbols: Sequence[str], wanted: WantedKernel) -> SymbolSearch:
        best = self._cache.of_build(wanted)
        given = _Given(self._index, symbols)
        for file, entry in given.kernels():
            if not same_build(entry.build_id, entry.banner, wanted):
                continue
            if best is None or entry.richness is None or entry.richness > best.richness:
                profile = self._profile_of(file, entry, given)
                if profile is None or not same_build(profile.build_id, profile.banner, wanted):
                    continue
                if best is None or profile.richness > best.richness:
                    best = profile
        if best is not None:
            return SymbolSearch(best, same_build(best.build_id, best.banner, wanted))
        for profile in self._by_addresses(given, wanted):
            if same_addresses(profile, wanted):
                return SymbolSearch(profile, MatchedBy.ADDRESSES)
        return _nothing_found(given, wanted)

    def _by_addresses(self, given: _Given, wanted: WantedKernel) -> Iterator[KernelProfile]:
        """Profiles that addresses alone can match: System.maps, and kernels that nothing else tells apart."""
        for file, entry in given.files:
            undecided = entry.kind is FileKind.SYSTEM_MAP or not is_decided(entry.build_id, entry.banner, wanted)
            if undecided and entry.banner is not None:
                undecided = release_of(entry.banner) == wanted.release
            profile = self._profile_of(file, entry, given) if undecided else None
            if profile is not None:
                yield profile
        yield from self._cache.of_system_maps()

    def _profile_of(self, file: SymbolFile, entry: IndexEntry, given: _Given) -> KernelProfile | None:
        """The profile of a file, from the cache if it was made before; ``None`` of a file that cannot be used."""
        try:
            if entry.kind is FileKind.PROFILE:
                return self._cache.open(Path(file.path))
            profile = self._cache.named(entry.compiled) if entry.compiled else None
            if profile is None or entry.richness is None or profile.richness < entry.richness:
                profile = self._cache.add(read_kernel(entry.kind, file.path))
                self._index.set_compiled(file, profile_name(profile), profile.richness)
            return profile
        except SymbolError as error:
            given.unusable.append(error.message)
            return None

    def _state(self, symbols: Sequence[str], wanted: WantedKernel) -> _State:
        """What an answer that found nothing depends on: the paths given, and the place of the build in the cache."""
        return tuple(map(_changed_ns, [*symbols, *map(str, self._cache.places_of(wanted))]))


def read_profile(path: str) -> bytes:
    """The bytes of a compiled profile that is whole. Raises SymbolError."""
    KernelProfile.open(path).verify()
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SymbolError(f"{path} cannot be read: {error.strerror}") from error


def compile_file(kind: FileKind, path: str) -> bytes:
    """The profile of the kernel in a vmlinux or a System.map. Raises SymbolError."""
    return compile_profile(read_kernel(kind, path))


def sources_of(symbols: Sequence[str], of_system_maps: bool) -> tuple[dict[str, list[tuple[FileKind, str]]], list[str]]:
    """The files to compile among those given, with what they are, by the name of the profile that each gives; and why
    others cannot be used.

    A System.map must be compiled to learn that name: they are passed over unless they are asked for. Raises
    SymbolError for a path that does not exist.
    """
    index = SymbolIndex(None)
    sources: dict[str, list[tuple[FileKind, str]]] = {}
    unusable = []
    for file in chain.from_iterable(map(list_symbol_files, symbols)):
        try:
            entry = index.entry_of(file)
            if entry.kind not in (FileKind.VMLINUX, FileKind.SYSTEM_MAP):
                continue
            name = name_of_build(entry.build_id, entry.banner)
            if name is None and of_system_maps:
                name = profile_name(KernelProfile(compile_file(entry.kind, file.path)))
        except SymbolError as error:
            unusable.append(error.message)
            continue
        if name is not None:
            sources.setdefault(name, []).append((entry.kind, file.path))
    return sources, unusable


def read_kernel(kind: FileKind, path: str) -> CompiledKernel:
    """The kernel in a vmlinux or a System.map. Raises SymbolError for a file that is none.

    The readers are loaded here: a dump whose profile is in the cache does not wait for readers of ELF and DWARF.
    """
    if kind is FileKind.SYSTEM_MAP:
        from crashbeam.vmcore.symbols.system_map import read_system_map

        return read_system_map(path)
    from crashbeam.vmcore.symbols.vmlinux import read_vmlinux

    return read_vmlinux(path)


def _nothing_found(given: _Given, wanted: WantedKernel) -> SymbolSearch:
    of_dump = _build_text(wanted.build_id, release_of(wanted.banner) or wanted.release)
    of_files = [
        f"{os.path.basename(file.path)} has {_build_text(entry.build_id, release_of(entry.banner))}"
        for file, entry in given.files
    ]
    problems = [*given.missing, *given.unusable][:_MAX_NAMED]
    if not of_files:
        message = f"no symbols were found for the dump's kernel, {of_dump}"
        return SymbolSearch(None, None, WarningCode.SYMBOLS_MISSING, "; ".join((message, *problems)))
    named = of_files[:_MAX_NAMED]
    if len(of_files) > _MAX_NAMED:
        named.append(f"{len(of_files) - _MAX_NAMED} more files have others")
    message = f"the dump has {of_dump}; " + "; ".join((*named, *problems))
    return SymbolSearch(None, None, WarningCode.SYMBOLS_MISMATCH, message)


def _build_text(build_id: str | None, release: str | None) -> str:
    identity = f"build id {build_id}" if build_id else "no build id"
    return f"{identity} ({release})" if release else identity


def _changed_ns(path: str) -> int:
    """When the file or folder was last changed; -1 if it is not there."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return -1
