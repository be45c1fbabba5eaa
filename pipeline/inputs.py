"""Files, folders, globs and ``file://`` URIs to the list of inputs.

A file that is named is an input whatever it is. In a folder files are sniffed: a dump, an empty file and one that
cannot be read are inputs, anything else is counted as skipped; names that begin with a dot are passed over.
"""

import glob
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import quote_from_bytes, unquote_to_bytes, urlsplit

from msgspec import Struct

from crashbeam.pipeline.exit_codes import WrongUseError
from crashbeam.vmcore.containers.detect import looks_like_dump
from crashbeam.vmcore.containers.kdump_header import MAIN_HEADER_BYTES
from crashbeam.vmcore.containers.split import SplitKey, find_parts, may_be_part, split_part
from crashbeam.vmcore.facts import DumpInput

MAX_SET_PARTS = 1024
"""Files of one split set; makedumpfile writes one for each CPU at most. What is more begins a set of its own."""
INPUT_ID_BYTES = 16


class Listing(Struct, frozen=True):
    """The inputs, sorted by path, each once; ``skipped`` counts the files of folders that are no dumps."""

    inputs: tuple[DumpInput, ...]
    skipped: int


class _File(Struct, frozen=True):
    path: str
    size_bytes: int | None
    modified_ns: int | None
    may_be_part: bool = True


def list_inputs(arguments: Sequence[str]) -> Listing:
    """The inputs that the arguments of a command name.

    Raises WrongUseError for a glob without a match and an unknown scheme.
    """
    files: dict[str, _File] = {}
    skipped: set[str] = set()
    for argument in arguments:
        for path in _expand(argument):
            if os.path.isdir(path):
                _add_folder(path, files, skipped)
            else:
                files[path] = _stat_file(path)
    skipped.difference_update(files)
    ordered = [files[path] for path in sorted(files, key=os.fsencode)]
    return Listing(tuple(_join_split_sets(ordered)), len(skipped))


def list_one(argument: str) -> DumpInput:
    """The input behind a path or a ``file://`` URI, with the rest of its split set: for ``show`` and ``trim``."""
    return one_input([_stat_file(path) for path in find_parts(local_path(argument))])


def local_path(argument: str) -> str:
    """The absolute path behind a path or a ``file://`` URI. Raises WrongUseError for any other scheme."""
    if "://" not in argument:
        return os.path.abspath(argument)
    parts = urlsplit(argument)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise WrongUseError(f"{argument}: only local files, folders, globs and file:// URIs can be read")
    return os.path.abspath(from_uri(parts.path))


def to_uri(path: str) -> str:
    """The canonical URI of an absolute path; bytes that are no UTF-8 stay what they are, as percent escapes."""
    return "file://" + quote_from_bytes(os.fsencode(path))


def from_uri(uri: str) -> str:
    """The path behind a canonical URI."""
    path = uri.removeprefix("file://")
    return os.fsdecode(unquote_to_bytes(path)) if "%" in path else path


def one_input(files: Sequence["_File"]) -> DumpInput:
    """The input that these files make together, the first giving its URI."""
    uri = to_uri(files[0].path)
    sizes = [file.size_bytes for file in files]
    times = [file.modified_ns for file in files]
    size_bytes = sum(size for size in sizes if size is not None) if None not in sizes else None
    version = ",".join(str(time) for time in times) if None not in times else None
    newest = max((time for time in times if time is not None), default=None)
    return DumpInput(
        input_id=input_id(uri, size_bytes, version),
        uri=uri,
        paths=tuple(file.path for file in files),
        size_bytes=size_bytes,
        version=version,
        modified_ns=newest,
    )


def input_id(uri: str, size_bytes: int | None, version: str | None) -> str:
    """BLAKE2b-128, in hex, of the URI, the size and the version token, joined by NUL; what is absent is empty."""
    fields = (uri, "" if size_bytes is None else str(size_bytes), version or "")
    return hashlib.blake2b("\0".join(fields).encode(), digest_size=INPUT_ID_BYTES).hexdigest()


def _expand(argument: str) -> list[str]:
    path = local_path(argument)
    if not glob.has_magic(path) or os.path.lexists(path):
        return [path]
    matches = sorted(glob.glob(path, recursive=True), key=os.fsencode)
    if not matches:
        raise WrongUseError(f"{argument}: no file matches")
    return matches


def _stat_file(path: str) -> _File:
    try:
        status = os.stat(path)
    except OSError:
        return _File(path, None, None)
    return _File(path, status.st_size, status.st_mtime_ns)


def _add_folder(folder: str, files: dict[str, _File], skipped: set[str]) -> None:
    for path, readable in _walk(folder):
        if not readable:
            files.setdefault(path, _stat_file(path))
        elif path not in files:
            file = _sniff(path)
            if file is None:
                skipped.add(path)
            else:
                files[path] = file


def _walk(folder: str) -> Iterator[tuple[str, bool]]:
    """Every file below a folder, and whether it could be listed: a folder that cannot be is given itself.

    Links to folders are followed, each folder once.
    """
    seen: set[tuple[int, int]] = set()
    pending = [folder]
    while pending:
        here = pending.pop()
        try:
            status = os.stat(here)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(here) as entries:
                names = sorted((entry for entry in entries if not entry.name.startswith(".")), key=_name_bytes)
        except OSError:
            yield here, False
            continue
        for entry in names:
            if entry.is_dir():
                pending.append(entry.path)
            else:
                yield entry.path, True


def _name_bytes(entry: os.DirEntry[str]) -> bytes:
    return os.fsencode(entry.name)


def _sniff(path: str) -> _File | None:
    """The file if it belongs among the inputs of its folder, else ``None``."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return _stat_file(path) if _may_be_file(path) else None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return None
        first = os.pread(descriptor, MAIN_HEADER_BYTES, 0)
        if status.st_size and not looks_like_dump(first):
            return None
        part = may_be_part(first, lambda offset, size_bytes: os.pread(descriptor, size_bytes, offset))
        return _File(path, status.st_size, status.st_mtime_ns, part)
    except OSError:
        return _stat_file(path)
    finally:
        os.close(descriptor)


def _may_be_file(path: str) -> bool:
    """Whether what cannot be opened may be a dump: not a socket, a FIFO or a device."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return True


def _join_split_sets(files: Iterable[_File]) -> Iterator[DumpInput]:
    """The inputs of files in order; a split set stands where its first file by name stands."""
    sets: dict[SplitKey, list[tuple[int, _File]]] = {}
    groups: list[list[tuple[int, _File]]] = []
    for file in files:
        part = split_part(file.path) if file.size_bytes and file.may_be_part else None
        group = sets.get(part.key) if part is not None else None
        if group is None or len(group) >= MAX_SET_PARTS:
            group = []
            groups.append(group)
            if part is not None:
                sets[part.key] = group
        group.append((part.start_pfn if part is not None else 0, file))
    for group in groups:
        yield one_input([file for _, file in sorted(group, key=lambda part: (part[0], os.fsencode(part[1].path)))])
