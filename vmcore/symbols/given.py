"""The files and folders that were given with ``--symbols``, and the kernels in them.

Loaded where such files are given: a dump whose profile is in the cache waits for none of this.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from crashbeam.vmcore.errors import SymbolError
from crashbeam.vmcore.symbols.cache import ProfileCache, name_of_build, profile_name
from crashbeam.vmcore.symbols.compiled import CompiledKernel, release_of
from crashbeam.vmcore.symbols.file_kind import FileKind
from crashbeam.vmcore.symbols.index import IndexEntry, SymbolFile, SymbolIndex, list_symbol_files
from crashbeam.vmcore.symbols.matching import WantedKernel, is_decided
from crashbeam.vmcore.symbols.profile import KernelProfile, compile_profile


class Given:
    """The files of symbols that were given, each with what it is."""

    def __init__(self, cache: ProfileCache, index: SymbolIndex, symbols: Sequence[str]) -> None:
        self._cache = cache
        self._index = index
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
                self._add(file)

    def _add(self, file: SymbolFile) -> None:
        try:
            entry = self._index.entry_of(file)
        except SymbolError as error:
            self.unusable.append(error.message)
            return
        if entry.kind is not FileKind.OTHER:
            self.files.append((file, entry))

    def kernels(self) -> list[tuple[SymbolFile, IndexEntry]]:
        """The files that say which build they belong to."""
        return [(file, entry) for file, entry in self.files if entry.build_id or entry.banner]

    def undecided(self, wanted: WantedKernel) -> Iterator[KernelProfile]:
        """Profiles that addresses alone can match: System.maps, and kernels that nothing else tells apart."""
        for file, entry in self.files:
            undecided = entry.kind is FileKind.SYSTEM_MAP or not is_decided(entry.build_id, entry.banner, wanted)
            if undecided and entry.banner is not None:
                undecided = release_of(entry.banner) == wanted.release
            profile = self.profile_of(file, entry) if undecided else None
            if profile is not None:
                yield profile

    def profile_of(self, file: SymbolFile, entry: IndexEntry) -> KernelProfile | None:
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
            self.unusable.append(error.message)
            return None


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
