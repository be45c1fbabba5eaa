"""``crashbeam symbols``: what the cache of kernel profiles holds, is given, is worth, and can do without."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from stat import S_ISREG

import click
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from crashbeam.pipeline.exit_codes import OK, PromiseBrokenError, WrongUseError
from crashbeam.pipeline.interrupts import end_on_signals, end_with_reader
from crashbeam.pipeline.options import config_option, debug_option, option
from crashbeam.schemas.clean import clean_text
from crashbeam.schemas.codes import SymbolNames
from crashbeam.vmcore.errors import SymbolError
from crashbeam.vmcore.symbols.cache import default_folder, is_of_system_map, is_profile_name, profile_name
from crashbeam.vmcore.symbols.compiled import Arch
from crashbeam.vmcore.symbols.file_kind import FileKind
from crashbeam.vmcore.symbols.given import compile_file, read_profile, sources_of
from crashbeam.vmcore.symbols.index import INDEX_NAME, SymbolIndex, list_symbol_files
from crashbeam.vmcore.symbols.profile import SUFFIX, VERSION, KernelProfile, exclusive, name_in_place
from crashbeam.vmcore.symbols.store import ProfileStore

_LEFTOVER_SECONDS = 3600
_DAY_SECONDS = 86400
_MAX_LINE = 4096
_NO_SYMBOLS = "is no vmlinux for PowerPC, no System.map and no compiled profile"


class State(StrEnum):
    """What a profile in the cache is worth."""

    OK = "ok"
    RECOMPILED = "ok (recompiled)"
    OLDER_TABLES = "older tables"
    """Usable, but made before all that is wanted now was wanted."""
    OLDER_FORMAT = "older format"
    NEWER_FORMAT = "newer format"
    DAMAGED = "damaged"
    DIFFERS = "differs"
    UNREADABLE = "unreadable"


_BROKEN = (State.DAMAGED, State.DIFFERS, State.UNREADABLE)


class CachedProfile(Struct, frozen=True):
    """One profile of the cache, as ``list --json`` prints it; what a profile that cannot be used would say is null.

    ``build`` is its build id, else what names it in the cache; ``symbols`` is how many names it has; ``changed`` is
    when its file was last written (UTC).
    """

    build: str
    state: State
    reason: str | None
    path: str
    size_bytes: int
    changed: str
    build_id: str | None = None
    release: str | None = None
    banner: str | None = None
    arch: Arch | None = None
    names: str | None = None
    layouts: str | None = None
    symbols: int | None = None


class Removal(Struct, frozen=True):
    """A file of the cache that can go, why, and what it was when that was decided (inode, size, time of change)."""

    path: Path
    reason: str
    status: tuple[int, int, int]

    @property
    def size_bytes(self) -> int:
        """What its removal frees."""
        return self.status[1]


@click.group("symbols")
def symbols_command() -> None:
    """The cache of kernel profiles: each kernel build, compiled once from its vmlinux or System.map."""


def profiles_option(command: Callable[..., int]) -> Callable[..., int]:
    """``--profiles``: the folder of the cache."""
    return option("--profiles", metavar="DIR", help="Folder of the profiles. [default: the user's cache]")(command)


@symbols_command.command("add", short_help="Compile kernels into the cache.")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@profiles_option
@debug_option
@config_option
def add_command(paths: tuple[str, ...], profiles: str | None) -> int:
    """Compiles every kernel in PATH (a vmlinux, a System.map, a compiled profile, or a folder of them) into the cache.

    Prints a line for each. What the cache has already, no poorer and undamaged, is "known".
    """
    end_on_signals("the same command goes on")
    end_with_reader()
    folder = _folder_of(profiles)
    store = ProfileStore(folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise WrongUseError(f"{folder} cannot be made or written: give another --profiles DIR")
    new = known = 0
    for path in paths:
        for profile, is_new, source in _add(store, path):
            if profile.name != str(folder / profile_name(profile)):
                raise PromiseBrokenError(f"the profile of {source} could not be written into {folder}")
            _print(_added_line(profile, is_new, source))
            new, known = new + is_new, known + (not is_new)
        store.save_index()
    if new + known == 0:
        raise WrongUseError("none of the files could be used: give a vmlinux for PowerPC or a System.map")
    _say(f"{new} new, {known} known in {folder}")
    return OK


@symbols_command.command("list", short_help="List the kernel builds in the cache.")
@profiles_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead.")
@debug_option
@config_option
def list_command(profiles: str | None, as_json: bool) -> int:
    """Lists the kernel builds in the cache: from what their names and layouts are, how many names, and their state."""
    end_with_reader()
    folder = _folder_of(profiles)
    found = sorted(examined(folder), key=lambda cached: (cached.release is None, cached.release, cached.build))
    if as_json:
        for cached in found:
            click.echo(msgspec.json.encode(cached))
    elif found:
        for line in _table([_HEADINGS, *map(_cells, found)]):
            _print(line)
    if not found:
        _say(f"there are no profiles in {folder}")
    return OK


@symbols_command.command("verify", short_help="Prove that the profiles are whole, and what their kernels give.")
@click.argument("builds", metavar="[BUILD]...", nargs=-1)
@option(
    "--symbols",
    metavar="PATH",
    type=click.Path(),
    multiple=True,
    help="Recompile from these files or folders, instead of from those that the profiles are known to be made of.",
)
@profiles_option
@debug_option
@config_option
def verify_command(builds: tuple[str, ...], symbols: tuple[str, ...], profiles: str | None) -> int:
    """Reads every profile in the cache, or those of BUILD (a build id or its start), and compares its digest.

    Where the vmlinux or System.map is there, unchanged, the profile is compiled anew and compared byte for byte: "ok
    (recompiled)". Exits with 3 if any is damaged, differs or cannot be read: symbols are promised to be exactly those
    of the build, and a report made with these would break that promise.
    """
    end_on_signals("nothing was changed")
    end_with_reader()
    folder = _folder_of(profiles)
    chosen = _of_builds(list(examined(folder)), builds, folder)
    names = [os.path.basename(cached.path) for cached in chosen]
    sources = _given_sources(symbols, names) if symbols else _known_sources(folder, names)
    broken = 0
    for cached in chosen:
        checked = _recompiled(cached, sources.get(os.path.basename(cached.path), ()))
        _print(f"{checked.build:<40}  {checked.state:<15}  {checked.reason or ''}".rstrip())
        broken += checked.state in _BROKEN
    if not chosen:
        _say(f"there are no profiles in {folder}")
    if broken:
        raise PromiseBrokenError(
            f"{broken} of {len(chosen)} profiles cannot be trusted: remove them, and add them again"
        )
    return OK


@symbols_command.command("gc", short_help="Remove what the cache can do without.")
@option("--older-than", metavar="DAYS", type=click.IntRange(0), help="Also remove profiles written longer ago.")
@option("--max-size", metavar="BYTES", type=click.IntRange(0), help="Also remove the oldest profiles beyond this size.")
@option("--dry-run", is_flag=True, help="Only print what would go.")
@profiles_option
@debug_option
@config_option
def gc_command(older_than: int | None, max_size: int | None, dry_run: bool, profiles: str | None) -> int:
    """Removes what the cache can do without, and prints what went.

    Damaged profiles, those of an older format, those that would be made anew from a file that is still there, what
    interrupted writers left behind, and index entries of files that are gone. With the options also the profiles that
    were written longest ago. Nothing else in the folder is touched, and running readers keep what they have open.
    """
    end_on_signals("what is left stays usable")
    end_with_reader()
    folder = _folder_of(profiles)
    files, freed_bytes = 0, 0
    for removal in _removals(folder, older_than, max_size):
        if dry_run or _remove(removal):
            _print(f"{_size(removal.size_bytes):>8}  {removal.path.name}  {removal.reason}")
            files, freed_bytes = files + 1, freed_bytes + removal.size_bytes
    index = SymbolIndex(folder)
    gone = index.missing()
    for path in gone:
        _print(f"{'-':>8}  {INDEX_NAME}: {path}  no longer there")
    if not dry_run:
        try:
            index.forget(gone)
        except OSError as error:
            raise PromiseBrokenError(f"{folder / INDEX_NAME} cannot be written: {error.strerror}") from error
    verb = "would free" if dry_run else "freed"
    _print(f"{verb} {_size(freed_bytes)}: {_count(files, 'file')}, {_count(len(gone), 'index entry', 'index entries')}")
    return OK


def examined(folder: Path) -> Iterator[CachedProfile]:
    """Every profile of a cache folder, read to its end, by name. Raises WrongUseError if the folder cannot be read."""
    for path in _files(folder):
        if is_profile_name(path.name):
            cached = _examine(path)
            if cached is not None:
                yield cached


def _examine(path: Path) -> CachedProfile | None:
    """What a profile is worth; ``None`` if it went meanwhile, or is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    if not S_ISREG(status.st_mode):
        return None
    changed = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(status.st_mtime))
    cached = CachedProfile(path.name.removesuffix(SUFFIX), State.OK, None, str(path), status.st_size, changed)
    try:
        profile = KernelProfile.open(path)
        profile.verify()
    except SymbolError as error:
        return replace(cached, state=_state_of(error), reason=error.message) if os.path.lexists(path) else None
    if profile_name(profile) != path.name:
        return replace(cached, state=State.DAMAGED, reason=f"{path} holds the profile of another build")
    older = None if profile.is_current else "made before all that is wanted now was wanted"
    return replace(
        cached,
        state=State.OK if profile.is_current else State.OLDER_TABLES,
        reason=older,
        build_id=profile.build_id,
        release=profile.release,
        banner=profile.banner,
        arch=profile.arch,
        names=profile.names.value,
        layouts=profile.layouts.value,
        symbols=profile.symbol_count,
    )


def _state_of(error: SymbolError) -> State:
    version = error.facts.get("version")
    if isinstance(version, int):
        return State.OLDER_FORMAT if version < VERSION else State.NEWER_FORMAT
    return State.UNREADABLE if isinstance(error.__cause__, OSError) else State.DAMAGED


def _add(store: ProfileStore, path: str) -> Iterator[tuple[KernelProfile, bool, str]]:
    """The profile of each kernel in ``path``, whether it is new, and of what file; reasons go to standard error."""
    try:
        files = list_symbol_files(path)
    except SymbolError as error:
        _say(error.message)
        return
    for file in files:
        try:
            added = store.add_file(file)
        except SymbolError as error:
            _say(error.message)
            continue
        if added is not None:
            yield *added, file.path
        elif not os.path.isdir(path):
            _say(f"{path} {_NO_SYMBOLS}")


_Sources = dict[str, list[tuple[FileKind, str]]]


def _known_sources(folder: Path, names: Sequence[str]) -> _Sources:
    """The files that the index knows each profile to be made of."""
    index = SymbolIndex(folder)
    return {name: [(entry.kind, file.path) for file, entry in index.made_into(name)] for name in names}


def _given_sources(symbols: Sequence[str], names: Sequence[str]) -> _Sources:
    """The given files by the profile that they are compiled into. Raises WrongUseError for a path that is none."""
    try:
        sources, unusable = sources_of(symbols, any(map(is_of_system_map, names)))
    except SymbolError as error:
        raise WrongUseError(f"--symbols: {error.message}") from error
    for reason in unusable:
        _say(reason)
    return sources


def _recompiled(cached: CachedProfile, sources: Iterable[tuple[FileKind, str]]) -> CachedProfile:
    """The profile against what its sources give now. Of a richer or a poorer source another profile is expected."""
    if cached.state is not State.OK:
        return cached
    for kind, path in sources:
        try:
            kept = read_profile(cached.path)
            data = compile_file(kind, path)
        except SymbolError as error:
            cached = replace(cached, reason=cached.reason or error.message)
            continue
        if data == kept:
            return replace(cached, state=State.RECOMPILED, reason=path)
        made = KernelProfile(data)
        if (made.names, made.layouts, made.is_current) == (cached.names, cached.layouts, True):
            cached = replace(cached, state=State.DIFFERS, reason=f"{path} gives another profile")
        elif cached.state is State.OK:
            cached = replace(cached, reason=f"{path} gives {made.names}/{made.layouts}: not compared")
    return cached


def _of_builds(found: list[CachedProfile], builds: Sequence[str], folder: Path) -> list[CachedProfile]:
    for build in builds:
        if not any(cached.build.startswith(build.lower()) for cached in found):
            raise WrongUseError(f"there is no profile of build {build} in {folder}: see crashbeam symbols list")
    starts = tuple(build.lower() for build in builds)
    return [cached for cached in found if cached.build.startswith(starts)] if builds else found


def _removals(folder: Path, older_than_days: int | None, max_size_bytes: int | None) -> Iterator[Removal]:
    """What can go: what is of no use, then the profiles written longest ago as far as the options say."""
    now = time.time()
    usable: list[tuple[int, Removal]] = []
    for path in _files(folder):
        status = _own_status(path)
        if status is None:
            continue
        meant = name_in_place(path.name)
        if meant is not None and (meant == INDEX_NAME or is_profile_name(meant)):
            if now - status[2] / 1e9 > _LEFTOVER_SECONDS:
                yield Removal(path, "left by an interrupted writer", status)
        elif is_profile_name(path.name):
            cached = _examine(path)
            if cached is not None:
                reason = _useless(cached, folder)
                if reason is not None:
                    yield Removal(path, reason, status)
                else:
                    usable.append((status[2], Removal(path, "", status)))
    usable.sort(key=lambda entry: (entry[0], entry[1].path))
    left_bytes = sum(removal.size_bytes for _, removal in usable)
    for changed_ns, removal in usable:
        is_old = older_than_days is not None and now - changed_ns / 1e9 > older_than_days * _DAY_SECONDS
        if is_old or (max_size_bytes is not None and left_bytes > max_size_bytes):
            left_bytes -= removal.size_bytes
            yield replace(removal, reason=f"older than {older_than_days} days" if is_old else "beyond the size allowed")


def _useless(cached: CachedProfile, folder: Path) -> str | None:
    """Why a profile is of no use; ``None`` of one that is. One of older tables is, if nothing could make it anew."""
    if cached.state in (State.DAMAGED, State.OLDER_FORMAT):
        return cached.state.value
    if cached.state is State.OLDER_TABLES:
        if cached.names == SymbolNames.KALLSYMS:
            return f"{cached.state}: dumps of that build give it anew"
        sources = SymbolIndex(folder).made_into(os.path.basename(cached.path))
        return f"{cached.state}: add {sources[0][0].path} again" if sources else None
    return None


def _remove(removal: Removal) -> bool:
    """Removes a file, unless a writer has put another in its place since. Raises PromiseBrokenError."""
    with exclusive(removal.path.parent):
        if _own_status(removal.path) != removal.status:
            return False
        try:
            os.unlink(removal.path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise PromiseBrokenError(f"{removal.path} cannot be removed: {error.strerror}") from error
    return True


def _own_status(path: Path) -> tuple[int, int, int] | None:
    """Inode, size and time of change (ns) of a regular file; ``None`` of a link and of anything else."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return (status.st_ino, status.st_size, status.st_mtime_ns) if S_ISREG(status.st_mode) else None


def _files(folder: Path) -> list[Path]:
    """What lies in a cache folder, by name; nothing in one that does not exist."""
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise WrongUseError(f"{folder} cannot be read: {error.strerror}; give another --profiles DIR") from error


def _folder_of(profiles: str | None) -> Path:
    folder = default_folder() if profiles is None else Path(os.path.abspath(profiles))
    if folder is None:
        raise WrongUseError("there is no home folder for the cache: give --profiles DIR")
    return folder


_HEADINGS = ("BUILD", "RELEASE", "ARCH", "NAMES", "LAYOUTS", "SYMBOLS", "SIZE", "CHANGED (UTC)", "STATE")
_NUMBERS = (5, 6)


def _cells(cached: CachedProfile) -> tuple[str, ...]:
    facts = (cached.release, cached.arch, cached.names, cached.layouts)
    symbols = f"{cached.symbols:,}" if cached.symbols is not None else "-"
    changed = cached.changed[:16].replace("T", " ")
    return (cached.build, *(fact or "-" for fact in facts), symbols, _size(cached.size_bytes), changed, cached.state)


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if number in _NUMBERS else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _added_line(profile: KernelProfile, is_new: bool, source: str) -> str:
    state = "new" if is_new else "known"
    build = profile_name(profile).removesuffix(SUFFIX)
    made_of = f"{profile.names}/{profile.layouts}"
    facts = f"{profile.release or '-':<27}  {profile.arch:<7}  {made_of:<15}  {_size(profile.size_bytes):>8}"
    return f"{state:<5}  {build:<40}  {facts}  {os.path.basename(source)}"


def _size(size_bytes: int) -> str:
    if size_bytes < 1024:
        return f"{size_bytes} B"
    return f"{size_bytes / 1024:.0f} KiB" if size_bytes < 1 << 20 else f"{size_bytes / (1 << 20):.1f} MiB"


def _count(number: int, word: str, words: str | None = None) -> str:
    return f"{number:,} {word if number == 1 else words or word + 's'}"


def _print(line: str) -> None:
    click.echo(clean_text(" ".join(line.split("\n")), _MAX_LINE))


def _say(message: str) -> None:
    click.echo(f"crashbeam: {clean_text(' '.join(message.split()), _MAX_LINE)}", err=True)
