"""Finds the kernel profile of a dump's build: among the files given with ``--symbols``, and in the cache folder.

Each build is compiled once, into ``BUILD_ID.profile`` of the cache folder (of a kernel without build id, a name made of
its banner's digest; of a System.map, of its profile's). Files are put in place whole, and are the same whoever makes
them, so many processes may share a folder. A folder that cannot be written is done without: profiles stay in memory.

Within one store each answer is kept; one that found nothing is looked for anew when a given path, or the build's place
in the cache, has changed. So a dump of a known build costs no system call, others one stat for each path.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from crashbeam.schemas.codes import MatchedBy, SymbolNames, WarningCode
from crashbeam.vmcore.errors import SymbolError
from crashbeam.vmcore.symbols.cache import ProfileCache, default_folder, profile_name
from crashbeam.vmcore.symbols.compiled import CompiledKernel, release_of
from crashbeam.vmcore.symbols.file_kind import FileKind
from crashbeam.vmcore.symbols.matching import WantedKernel, same_addresses, same_build
from crashbeam.vmcore.symbols.profile import KernelProfile, compile_profile

if TYPE_CHECKING:
    from crashbeam.vmcore.symbols.given import Given
    from crashbeam.vmcore.symbols.index import SymbolFile, SymbolIndex

__all__ = ["ProfileStore", "SymbolSearch", "WantedKernel", "default_folder"]

_MAX_ANSWERS = 256
_MAX_NAMED = 4


class SymbolSearch(Struct, frozen=True):
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


class _Hooks(Struct):
    take_profile: Callable[[bytes], None] | None = None


_hooks = _Hooks()


def set_profile_hook(take_profile: Callable[[bytes], None] | None) -> None:
    """From now on ``take_profile`` is given every profile that is made of a dump, for a process that may not write."""
    _hooks.take_profile = take_profile


class ProfileStore:
    """Compiled profiles of kernels, by build. ``folder`` is the cache; ``None`` keeps profiles in memory alone."""

    def __init__(self, folder: Path | None) -> None:
        self._cache = ProfileCache(folder)
        self._answers: dict[_Question, tuple[SymbolSearch, _State]] = {}

    @cached_property
    def _index(self) -> SymbolIndex:
        from crashbeam.vmcore.symbols.index import SymbolIndex

        return SymbolIndex(self._cache.folder)

    def _given(self, symbols: Sequence[str]) -> Given:
        from crashbeam.vmcore.symbols.given import Given

        return Given(self._cache, self._index, symbols)

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
        if symbols:
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
        given = self._given(symbols)
        profiles = [given.profile_of(file, entry) for file, entry in given.files]
        self._index.save()
        if given.missing:
            raise SymbolError(given.missing[0], hint="check what --symbols names")
        return [profile for profile in profiles if profile is not None]

    def add_file(self, file: SymbolFile) -> tuple[KernelProfile, bool] | None:
        """Compiles a file's kernel into the cache: its profile, and whether it is new there; ``None`` if it holds none.

        What is there already, whole and no poorer, stays. Raises SymbolError for a file that cannot be used.
        """
        from crashbeam.vmcore.symbols.given import compile_file, read_profile

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
        """Keeps the kernel that a dump carries itself; gives the richer one of its build, if that is there already.

        Where a hook is set, the folder is left alone: whoever set it puts the profile there.
        """
        if _hooks.take_profile is None:
            return self._cache.add(kernel)
        data = compile_profile(kernel)
        _hooks.take_profile(data)
        return self._cache.remember(data)

    def keep_from_dump(self, data: bytes) -> None:
        """Puts a profile into the folder that a process without the right to do so made of a dump.

        Raises SymbolError for what is damaged, or is no profile of a dump's own symbols.
        """
        profile = KernelProfile(data)
        profile.verify()
        if profile.names is not SymbolNames.KALLSYMS:
            raise SymbolError("a profile that claims to be more than what a dump carries")
        self._cache.keep(data)

    def save_index(self) -> None:
        """Writes down what the files that were looked into are."""
        self._index.save()

    def _search(self, symbols: Sequence[str], wanted: WantedKernel) -> SymbolSearch:
        best = self._cache.of_build(wanted)
        given = self._given(symbols) if symbols else None
        if given is not None:
            best = _best_given(given, wanted, best)
        if best is not None:
            return SymbolSearch(best, same_build(best.build_id, best.banner, wanted))
        for profile in chain(given.undecided(wanted) if given else (), self._cache.without_identity(wanted)):
            if same_addresses(profile, wanted):
                return SymbolSearch(profile, MatchedBy.ADDRESSES)
        return _nothing_found(given, wanted)

    def _state(self, symbols: Sequence[str], wanted: WantedKernel) -> _State:
        """What an answer that found nothing depends on: the paths given, and the place of the build in the cache."""
        return tuple(map(_changed_ns, [*symbols, *map(str, self._cache.places_of(wanted))]))


def _best_given(given: Given, wanted: WantedKernel, best: KernelProfile | None) -> KernelProfile | None:
    """The richest profile of exactly the wanted kernel: ``best``, or that of a file that was given."""
    for file, entry in given.kernels():
        if not same_build(entry.build_id, entry.banner, wanted):
            continue
        if best is None or entry.richness is None or entry.richness > best.richness:
            profile = given.profile_of(file, entry)
            if profile is None or not same_build(profile.build_id, profile.banner, wanted):
                continue
            if best is None or profile.richness > best.richness:
                best = profile
    return best


def _nothing_found(given: Given | None, wanted: WantedKernel) -> SymbolSearch:
    of_dump = _build_text(wanted.build_id, release_of(wanted.banner) or wanted.release)
    of_files = [
        f"{os.path.basename(file.path)} has {_build_text(entry.build_id, release_of(entry.banner))}"
        for file, entry in (given.files if given else ())
    ]
    problems = [*given.missing, *given.unusable][:_MAX_NAMED] if given else []
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
