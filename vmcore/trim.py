"""A dump to a small one that gives the same report: headers, notes and the pages that were needed, nothing else.

The log of ``PhysicalMemory`` says which pages those are. What could not be read stays unreadable: a page that the
dump level left out is left out again, a damaged one is marked as never written.
"""

import os
import tempfile
from contextlib import suppress

from crashbeam.schemas.failure import FailureRecord
from crashbeam.vmcore.containers.kdump_writer import write_kdump
from crashbeam.vmcore.dump import Dump, close_last, opened
from crashbeam.vmcore.errors import PageStatus
from crashbeam.vmcore.facts import AnalysisOptions, DumpInput, Failed
from crashbeam.vmcore.stages import run_stages, to_record

_LEFT_OUT = (PageStatus.EXCLUDED,)
_DAMAGED = (PageStatus.LOST, PageStatus.TRUNCATED, PageStatus.CORRUPT)


def trim(dump_input: DumpInput, options: AnalysisOptions, output_path: str) -> FailureRecord | None:
    """Writes the trimmed dump to ``output_path``, whole or not at all; returns why that is impossible, else ``None``.

    The trimmed dump is kdump-compressed, whatever the original was. Raises OSError for an output that cannot be
    written.
    """
    try:
        facts = run_stages(dump_input, options)
        if isinstance(facts, Failed):
            return to_record(facts)
        _write(opened(dump_input, options), output_path)
        return None
    finally:
        close_last()


def _write(dump: Dump, output_path: str) -> None:
    folder, name = os.path.split(os.path.abspath(output_path))
    descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as target:
            needed = dump.physical.needed
            write_kdump(
                target,
                dump.facts,
                {pfn: dump.container.read_page(pfn) for pfn, status in needed.items() if status is None},
                excluded_pfns=[pfn for pfn, status in needed.items() if status in _LEFT_OUT],
                lost_pfns=[pfn for pfn, status in needed.items() if status in _DAMAGED],
            )
            target.flush()
            os.fsync(target.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.rename(temporary, output_path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
