"""The folder of compiled kernel profiles, and those that are open."""

import os
import re
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

from crashbeam.vmcore.errors import SymbolError
from crashbeam.vmcore.symbols.compiled import CompiledKernel
from crashbeam.vmcore.symbols.matching import WantedKernel, same_build
from crashbeam.vmcore.symbols.profile import SUFFIX, KernelProfile, compile_profile, write_profile

_BUILD_ID = re.compile(r"[0-9a-f]{8,128}")
_MAP_PREFIX = "map-"
_MAX_OPEN = 16
_MAX_SYSTEM_MAPS = 256


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
    if profile.build_id and _BUILD_ID.fullmatch(profile.build_id):
        return profile.build_id + SUFFIX
    return _banner_name(profile.banner) if profile.banner else f"{_MAP_PREFIX}{profile.digest}{SUFFIX}"


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

    def of_system_maps(self) -> Iterator[KernelProfile]:
        """The profiles that were made of System.maps, in the order of their names."""
        names = [name for name in self._in_memory if name.startswith(_MAP_PREFIX)]
        if self.folder is not None:
            names += [path.name for path in self.folder.glob(f"{_MAP_PREFIX}*{SUFFIX}")]
        for name in sorted(names)[:_MAX_SYSTEM_MAPS]:
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
        state = (status.st_ino, status.st_size, status.st_mtime_ns)
        kept = self._open.pop(path, None)
        profile = kept[1] if kept is not None and kept[0] == state else KernelProfile.open(path)
        if len(self._open) >= _MAX_OPEN:
            del self._open[next(iter(self._open))]
        self._open[path] = (state, profile)
        return profile

    def add(self, kernel: CompiledKernel) -> KernelProfile:
        """Compiles a kernel and keeps its profile; of two profiles of one build, the richer is kept and given."""
        data = compile_profile(kernel)
        made = KernelProfile(data)
        name = profile_name(made)
        existing = self.named(name)
        if existing is not None and existing.richness >= made.richness:
            return existing
        if self.folder is not None:
            try:
                write_profile(self.folder / name, data)
                return self.open(self.folder / name)
            except (OSError, SymbolError):
                pass
        self._in_memory[name] = made
        return made


def _banner_name(banner: str) -> str:
    return f"banner-{blake2b(banner.encode('utf-8', 'replace'), digest_size=16).hexdigest()}{SUFFIX}"


def _is_made(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return True
