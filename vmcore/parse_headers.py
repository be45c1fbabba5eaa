"""Stage 1: what the headers of a dump and the kernel in it say of themselves."""

from datetime import UTC, datetime
from hashlib import blake2b

from crashbeam.schemas.clean import clean_text, int64
from crashbeam.schemas.codes import SymbolLayouts, SymbolNames, WarningCode
from crashbeam.schemas.crash_report import CpuMasks, Kernel, ReportWarning, Source, Symbols, System, Taint
from crashbeam.vmcore.dump import Dump, opened
from crashbeam.vmcore.errors import VmcoreError
from crashbeam.vmcore.facts import AnalysisOptions, DumpInput, Opened
from crashbeam.vmcore.limits import MAX_NAME_BYTES
from crashbeam.vmcore.taint import taint_letters

_UTSNAME_FIELD_BYTES = 65
"""``__NEW_UTS_LEN`` + 1 (include/uapi/linux/utsname.h)."""
_NODENAME, _MACHINE = 1, 4
"""Fields of ``struct new_utsname`` in order."""
_MAX_BANNER_BYTES = 512


def parse_headers(dump_input: DumpInput, options: AnalysisOptions) -> Opened:
    """Opens the dump and reads its headers. Raises VmcoreError where no report can be made."""
    dump = opened(dump_input, options)
    masks = _read_masks(dump)
    nodename = _read_utsname(dump, _NODENAME)
    kernel = _kernel(dump)
    source = _source(dump)
    warnings = [*dump.warnings, *_header_warnings(dump)]
    if masks.possible is None:
        warnings.append(ReportWarning(WarningCode.CPUS_UNKNOWN, None, "the mask of possible CPUs cannot be read"))
    return Opened(
        input=dump_input,
        source=source,
        crash_id=crash_id(dump, kernel, nodename),
        kernel=kernel,
        system=System(
            nodename=nodename,
            crash_time=_time(dump.vmcoreinfo.crash_time_seconds),
            uptime_seconds=None,
            cpus=masks,
            memory_bytes=None,
            hardware=None,
            taint=_read_taint(dump),
        ),
        warnings=tuple(warnings),
        pages=dump.pages_met,
    )


def source_without_headers(dump_input: DumpInput) -> Source:
    """What is known of an input that could not be opened."""
    return Source(
        uri=dump_input.uri,
        parts=tuple(clean_text(path, MAX_NAME_BYTES) for path in dump_input.paths) if len(dump_input.paths) > 1 else (),
        size_bytes=dump_input.size_bytes,
        modified=_time_ns(dump_input.modified_ns),
    )


def crash_id(dump: Dump, kernel: Kernel, nodename: str | None) -> str | None:
    """The identity of a crash: what no container changes. ``None`` without an NT_PRSTATUS
    note.
    """
    if not dump.notes:
        return None
    digest = blake2b(digest_size=16)
    crash_time = dump.vmcoreinfo.crash_time_seconds
    for text in (kernel.build_id or kernel.banner, nodename, None if crash_time is None else str(crash_time)):
        digest.update(b"\0" if text is None else text.encode() + b"\1")
    for content in sorted(note.content for note in dump.notes):
        digest.update(len(content).to_bytes(4, "big") + content)
    return digest.hexdigest()


def _source(dump: Dump) -> Source:
    facts, known = dump.facts, source_without_headers(dump.input)
    return Source(
        uri=known.uri,
        parts=known.parts,
        size_bytes=known.size_bytes,
        modified=known.modified,
        container=facts.container,
        wrapping=facts.wrapping,
        header_version=facts.header_version,
        written_by=facts.written_by,
        page_codecs=(),
        complete=facts.complete,
        incomplete_reason=facts.incomplete_reason,
        dump_level=facts.dump_level,
        quirks=facts.quirks,
    )


def _header_warnings(dump: Dump) -> list[ReportWarning]:
    warnings = []
    if not dump.facts.complete:
        warnings.append(
            ReportWarning(
                WarningCode.DUMP_INCOMPLETE, None, "the dump is incomplete: not all that it should hold is in it"
            )
        )
    warnings.extend(
        ReportWarning(WarningCode.PART_MISSING, None, clean_text(part, MAX_NAME_BYTES))
        for part in dump.facts.missing_parts
    )
    profile = dump.profile
    if profile is not None and profile.layouts is SymbolLayouts.NONE:
        warnings.append(
            ReportWarning(WarningCode.LAYOUTS_MISSING, None, f"the {profile.names} carries no struct layouts")
        )
    return warnings


def _kernel(dump: Dump) -> Kernel:
    profile, info = dump.profile, dump.vmcoreinfo
    symbols = Symbols(SymbolNames.NONE, SymbolLayouts.NONE, lines=False, matched_by=None)
    if profile is not None:
        symbols = Symbols(profile.names, profile.layouts, lines=profile.lines, matched_by=dump.matched_by)
    return Kernel(
        release=clean_text(dump.release, _UTSNAME_FIELD_BYTES) or None,
        banner=_read_banner(dump),
        build_id=info.build_id,
        arch=dump.arch.name,
        page_size=dump.page_bytes,
        machine=_read_utsname(dump, _MACHINE),
        symbols=symbols,
    )


def _read_banner(dump: Dump) -> str | None:
    """``linux_banner`` without its newline: that of the symbols, or as it lies in memory."""
    if dump.kernel is None:
        return None
    if dump.profile is not None and dump.profile.banner is not None:
        return clean_text(dump.profile.banner, _MAX_BANNER_BYTES) or None
    try:
        text = dump.kernel.kernel.memory.text(dump.kernel.kernel.address_of("linux_banner"), _MAX_BANNER_BYTES)
    except VmcoreError:
        return None
    return clean_text(text.rstrip(b"\n"), _MAX_BANNER_BYTES) or None


def _read_utsname(dump: Dump, place: int) -> str | None:
    """A field of the kernel's own ``init_uts_ns``, else of the main header's copy."""
    symbol = dump.vmcoreinfo.symbols.get("init_uts_ns")
    member = dump.vmcoreinfo.offsets.get("uts_namespace.name", 0)
    if symbol is not None and dump.memory is not None:
        try:
            text = dump.memory.text(symbol + member + place * _UTSNAME_FIELD_BYTES, _UTSNAME_FIELD_BYTES)
            return clean_text(text, _UTSNAME_FIELD_BYTES) or None
        except VmcoreError:
            pass
    utsname = dump.facts.utsname
    if utsname is None:
        return None
    return clean_text(utsname.nodename if place == _NODENAME else utsname.machine, _UTSNAME_FIELD_BYTES) or None


def _read_masks(dump: Dump) -> CpuMasks:
    return CpuMasks(*(_read_mask(dump, name) for name in ("possible", "present", "online")))


def _read_mask(dump: Dump, name: str) -> tuple[int, ...] | None:
    if dump.kernel is None:
        return None
    try:
        mask: tuple[int, ...] = getattr(dump.kernel.kernel, name)
    except VmcoreError:
        return None
    return mask or None


def _read_taint(dump: Dump) -> Taint | None:
    """``tainted_mask`` as it is in memory: with what the crash itself set."""
    if dump.kernel is None:
        return None
    try:
        mask = int64(dump.kernel.kernel.word_of("tainted_mask"))
    except VmcoreError:
        return None
    return None if mask is None else Taint(mask, taint_letters(mask), None)


def _time(seconds: int | None) -> str | None:
    return None if seconds is None else _time_ns(int64(seconds * 1_000_000_000))


def _time_ns(nanoseconds: int | None) -> str | None:
    """RFC 3339 in UTC, to the microsecond, as fine as stores keep it; ``None`` outside the years 1 to 9999."""
    if nanoseconds is None:
        return None
    seconds, rest = divmod(nanoseconds // 1000, 1_000_000)
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    fraction = f".{rest:06d}" if rest else ""
    return moment.strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0") + fraction + "Z"
