"""What a run was asked for, and which part of it its records depend on."""

import hashlib

from msgspec import Struct

from crashbeam.vmcore.facts import AnalysisOptions
from crashbeam.workers.analysis import ANALYSE
from crashbeam.workers.limits import Limits

ISOLATIONS = ("children", "none")
DIGEST_BYTES = 16


class RunOptions(Struct, frozen=True):
    """What ``crashbeam run`` was asked for; paths are absolute. ``analyse`` is no option of the command."""

    inputs: tuple[str, ...]
    output: str
    symbols: tuple[str, ...]
    profiles: str | None
    sinks: tuple[str, ...]
    workers: int
    runner: str
    isolation: str
    limits: Limits
    fail_on_failures: bool
    retry_failures: bool
    debug: bool
    analyse: str = ANALYSE
    dmesg_lines: int = 0
    rules: str | None = None

    @property
    def analysis(self) -> AnalysisOptions:
        """What a report may depend on."""
        return AnalysisOptions(self.symbols, self.profiles, self.dmesg_lines, self.rules)


def options_digest(options: RunOptions, symbols_digest: str, rules_digest: str) -> str:
    """BLAKE2b-128, in hex, of what can change a record: symbols and rules by content, lines of the log, limits."""
    limits = options.limits
    fields = (
        symbols_digest,
        rules_digest,
        options.dmesg_lines,
        limits.cpu_seconds,
        limits.wall_seconds,
        limits.memory_bytes,
    )
    return hashlib.blake2b(repr(fields).encode(), digest_size=DIGEST_BYTES).hexdigest()
