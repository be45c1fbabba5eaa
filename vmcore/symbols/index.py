"""What each file of symbols is, remembered by path, size and time, so that a compressed vmlinux is looked into once."""

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from crashbeam.vmcore.errors import SymbolError
from crashbeam.vmcore.symbols.file_kind import FileKind
from crashbeam.vmcore.symbols.profile import KernelProfile, exclusive, write_profile

INDEX_NAME = "index.json"
_VERSION = 1
_MAX_INDEX_BYTES = 64 << 20
_MAX_ENTRIES = 20_000
_MAX_FILES = 4096
_MAX_DEPTH = 3
_PASSED_OVER = (".ko", ".ko.xz", ".ko.gz", ".ko.zst", ".o", ".json", ".jsonl", ".txt", ".md", ".html")


class SymbolFile(Struct, frozen=True):
    """A file that may hold symbols, as it was listed."""

    path: str
    size_bytes: int
    modified_ns: int


class IndexEntry(Struct, frozen=True):
    """What is known of such a file.

    ``compiled`` names the profile in the cache that was made of it, ``richness`` is that profile's.
    """

    size_bytes: int
    modified_ns: int
    kind: FileKind
    build_id: str | None = None
    banner: str | None = None
    compiled: str | None = None
    richness: tuple[int, ...] | None = None


class _Saved(Struct, frozen=True):
    version: int
    entries: dict[str, IndexEntry]


class SymbolIndex:
    """The entries of all files seen, kept in ``index.json`` of a cache folder; without a folder, in memory alone."""

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / INDEX_NAME if folder else None
        self._entries: dict[str, IndexEntry] | None = None
        self._changed: dict[str, IndexEntry] = {}

    def entry_of(self, file: SymbolFile) -> IndexEntry:
        """What a file is; it is opened only if it is new or has changed. Raises SymbolError if it cannot be read."""
        if self._entries is None:
            self._entries = self._load()
        entry = self._entries.get(file.path)
        if entry is None or (entry.size_bytes, entry.modified_ns) != (file.size_bytes, file.modified_ns):
            # A file that is known is not looked into: then what unpacks files is not needed either.
            from crashbeam.vmcore.symbols.identity import identify

            found = identify(file.path)
            richness = KernelProfile.open(file.path).richness if found.kind is FileKind.PROFILE else None
            entry = IndexEntry(
                file.size_bytes, file.modified_ns, found.kind, found.build_id, found.banner, richness=richness
            )
            self._entries[file.path] = self._changed[file.path] = entry
        return entry

    def set_compiled(self, file: SymbolFile, compiled: str, richness: tuple[int, ...]) -> None:
        """Remembers the profile that was made of a file."""
        entry = replace(self.entry_of(file), compiled=compiled, richness=richness)
        if self._entries is not None:
            self._entries[file.path] = self._changed[file.path] = entry

    def save(self) -> None:
        """Writes what has changed; an index that cannot be written is done without.

        What another process has written meanwhile stays. Files whose names are no UTF-8 are not remembered.
        """
        if self._changed and self._path is not None:
            with exclusive(self._path.parent):
                entries = self._load() | {path: self._changed[path] for path in self._changed if _is_utf8(path)}
                try:
                    self._write(entries)
                except OSError:
                    return
        self._changed.clear()

    def made_into(self, compiled: str) -> list[tuple[SymbolFile, IndexEntry]]:
        """The files that are known to give the profile of that name, and that have not changed since."""
        if self._entries is None:
            self._entries = self._load()
        return [
            (SymbolFile(path, entry.size_bytes, entry.modified_ns), entry)
            for path, entry in self._entries.items()
            if entry.compiled == compiled and _is_unchanged(path, entry)
        ]

    def missing(self) -> list[str]:
        """The saved paths at which there is no file any more."""
        return sorted(path for path in self._load() if _is_gone(path))

    def forget(self, paths: Iterable[str]) -> None:
        """Takes paths out of the saved index. Raises OSError if it cannot be written."""
        forgotten = frozenset(paths)
        if forgotten and self._path is not None:
            with exclusive(self._path.parent):
                self._write({path: entry for path, entry in self._load().items() if path not in forgotten})

    def _write(self, entries: dict[str, IndexEntry]) -> None:
        if self._path is not None:
            newest = dict(list(entries.items())[-_MAX_ENTRIES:])
            write_profile(self._path, msgspec.json.encode(_Saved(_VERSION, newest)))

    def _load(self) -> dict[str, IndexEntry]:
        """The saved entries; none of an index that is missing, damaged or of another version: it is made again."""
        try:
            if self._path is None or self._path.stat().st_size > _MAX_INDEX_BYTES:
                return {}
            saved = msgspec.json.decode(self._path.read_bytes(), type=_Saved)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return {}
        return saved.entries if saved.version == _VERSION else {}


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_unchanged(path: str, entry: IndexEntry) -> bool:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return False
    return (status.st_size, status.st_mtime_ns) == (entry.size_bytes, entry.modified_ns)


def _is_gone(path: str) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return True
    except OSError:
        return False
    return False


def list_symbol_files(path: str) -> list[SymbolFile]:
    """The file at ``path``, or those of the folder there, large ones first (likelier to have debug information).

    Folders are followed two levels down; modules, configurations and hidden files are passed over. Raises SymbolError
    if there is no regular file or folder at ``path``.
    """
    path = os.path.abspath(path)
    try:
        if not os.path.isdir(path):
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode):
                raise SymbolError(f"{path} is no regular file")
            return [SymbolFile(path, status.st_size, status.st_mtime_ns)]
        files = list(_files_below(path, 1))
    except OSError as error:
        raise SymbolError(f"{path} cannot be read: {error.strerror}", hint="check what --symbols names") from error
    return sorted(files, key=lambda file: (-file.size_bytes, file.path))


def _files_below(folder: str, depth: int) -> Iterator[SymbolFile]:
    seen = 0
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith((".", "config-")) or entry.name.endswith(_PASSED_OVER):
                continue
            if entry.is_dir(follow_symlinks=False):
                if depth < _MAX_DEPTH:
                    yield from _files_below(entry.path, depth + 1)
            elif entry.is_file():
                seen += 1
                if seen > _MAX_FILES:
                    return
                status = entry.stat()
                yield SymbolFile(entry.path, status.st_size, status.st_mtime_ns)
