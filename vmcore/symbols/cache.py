"""The folder of compiled kernel profiles, and those that are open."""

import os
import re
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from stat import S_ISREG

from crashbeam.vmcore.errors import SymbolError
from crashbeam.vmcore.symbols.compiled import CompiledKernel
from crashbeam.vmcore.symbols.matching import WantedKernel, same_build
from crashbeam.vmcore.symbols.profile import SUFFIX, KernelProfile, compile_profile, exclusive, write_profile

_BUILD_ID = re.compile(r"[0-9a-f]{8,128}")
_MAP_PREFIX = "map-"
_BANNER_PREFIX = "banner-"
_MAX_OPEN = 16
_MAX_CANDIDATES = 256


def default_folder() -> Path | None:
    """``$XDG_CACHE_HOME/crashbeam``, else ``~/.cache/crashbeam``; ``None`` where there is no home."""
    base = os.environ.get("XDG_CACHE_HOME")
    if base and os.path.isabs(base):
        return Path(base) / "crashbeam"
    try:
        return Path.home() / ".cache" / "crashbeam"
    except RuntimeError:
        return None


def profile_name(profile: KernelProfile) -> str:
    """The file name of a build's profile: its build id, else a digest of its banner, else of the whole profile."""
    return name_of_build(profile.build_id, profile.banner) or f"{_MAP_PREFIX}{profile.digest}{SUFFIX}"


def name_of_build(build_id: str | None, banner: str | None) -> str | None:
    """The file name of the profile of a build with that identity; ``None`` without any."""
    if build_id and _BUILD_ID.fullmatch(build_id):
        return build_id + SUFFIX
    return _banner_name(banner) if banner else None


def is_profile_name(name: str) -> bool:
    """Whether a file of that name in a cache folder is one of the cache's profiles."""
    prefix = next((prefix for prefix in (_BANNER_PREFIX, _MAP_PREFIX) if name.startswith(prefix)), "")
    return name.endswith(SUFFIX) and _BUILD_ID.fullmatch(name.removesuffix(SUFFIX)[len(prefix) :]) is not None


def is_of_system_map(name: str) -> bool:
    """Whether the profile of that name was made of a System.map: nothing but its content names it."""
    return name.startswith(_MAP_PREFIX)


class ProfileCache:
    """Profiles by file name. A folder that cannot be made or written is done without: profiles then stay in memory."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder if folder is not None and _is_made(folder) else None
        self._open: dict[Path, tuple[tuple[int, int, int], KernelProfile]] = {}
        self._in_memory: dict[str, KernelProfile] = {}

    def of_build(self, wanted: WantedKernel) -> KernelProfile | None:
        """The profile of the dump's build id, else of its banner."""
        for place in self.places_of(wanted):
            profile = self.named(place.name)
            if profile is not None and same_build(profile.build_id, profile.banner, wanted):
                return profile
        return None

    def without_identity(self, wanted: WantedKernel) -> Iterator[KernelProfile]:
        """The profiles that addresses alone can match: those of System.maps, and, where the dump has no build id
        (before Linux 5.9), those of its release. In the order of their names, the richest kind first.
        """
        names = set(self._in_memory)
        if self.folder is not None:
            names |= {path.name for path in self.folder.glob(f"*{SUFFIX}") if is_profile_name(path.name)}
        of_maps = sorted(name for name in names if is_of_system_map(name))
        if wanted.build_id is None and wanted.release is not None:
            for name in sorted(names.difference(of_maps))[:_MAX_CANDIDATES]:
                profile = self.named(name)
                if profile is not None and profile.release == wanted.release:
                    yield profile
        for name in of_maps[:_MAX_CANDIDATES]:
            profile = self.named(name)
            if profile is not None:
                yield profile

    def places_of(self, wanted: WantedKernel) -> list[Path]:
        """Where the profile of the dump's build would be. Only digits and digests of what a dump says become names."""
        names = []
        if wanted.build_id and _BUILD_ID.fullmatch(wanted.build_id.lower()):
            names.append(wanted.build_id.lower() + SUFFIX)
        if wanted.banner:
            names.append(_banner_name(wanted.banner))
        return [(self.folder or Path()) / name for name in names]

    def named(self, name: str) -> KernelProfile | None:
        """The profile of that file name; ``None`` if there is none, or one that cannot be used and is to be remade."""
        if name in self._in_memory:
            return self._in_memory[name]
        if self.folder is None:
            return None
        try:
            return self.open(self.folder / name)
        except SymbolError:
            return None

    def open(self, path: Path) -> KernelProfile:
        """The profile in a file, kept open until the file changes. Raises SymbolError."""
        try:
            status = os.stat(path)
        except OSError as error:
            raise SymbolError(f"{path} cannot be read: {error.strerror}") from error
        if not S_ISREG(status.st_mode):
            raise SymbolError(f"{path} is no regular file")
        state = (status.st_ino, status.st_size, status.st_mtime_ns)
        kept = self._open.pop(path, None)
        profile = kept[1] if kept is not None and kept[0] == state else KernelProfile.open(path)
        if len(self._open) >= _MAX_OPEN:
            del self._open[next(iter(self._open))]
        self._open[path] = (state, profile)
        return profile

    def add(self, kernel: CompiledKernel) -> KernelProfile:
        """Compiles a kernel and keeps its profile; of two profiles of one build, the richer is kept and given."""
        return self.keep(compile_profile(kernel))[0]

    def keep(self, data: bytes) -> tuple[KernelProfile, bool]:
        """Keeps a compiled profile, and gives it; or that of its build which is there, whole and no poorer, and False.

        Raises SymbolError if ``data`` is no profile.
        """
        made = KernelProfile(data)
        name = profile_name(made)
        with exclusive(self.folder):
            existing = self.whole(name)
            if existing is not None and existing.richness >= made.richness:
                return existing, False
            if self.folder is not None:
                try:
                    write_profile(self.folder / name, data)
                    return self.open(self.folder / name), True
                except (OSError, SymbolError):
                    pass
        self._in_memory[name] = made
        return made, True

    def remember(self, data: bytes) -> KernelProfile:
        """Keeps a compiled profile in this process alone. Raises SymbolError if ``data`` is none."""
        made = KernelProfile(data)
        self._in_memory[profile_name(made)] = made
        return made

    def whole(self, name: str) -> KernelProfile | None:
        """The profile of that file name, read to its end; ``None`` also if it is damaged, or another build's."""
        profile = self.named(name)
        try:
            if profile is not None and profile_name(profile) == name:
                profile.verify()
                return profile
        except SymbolError:
            pass
        return None


def _banner_name(banner: str) -> str:
    return f"{_BANNER_PREFIX}{blake2b(banner.encode('utf-8', 'replace'), digest_size=16).hexdigest()}{SUFFIX}"


def _is_made(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return True
