"""The kernels' symbols, made ready before the first dump is read.

Child processes may not write files, so every kernel that ``--symbols`` names is compiled into the folder of profiles
beforehand: once for each build, however many runs there are.
"""

import hashlib
import os
from collections.abc import Sequence

from crashbeam.pipeline.exit_codes import WrongUseError
from crashbeam.vmcore.dump import profile_store
from crashbeam.vmcore.errors import SymbolError
from crashbeam.vmcore.facts import AnalysisOptions

DIGEST_BYTES = 16


def prepare_symbols(options: AnalysisOptions) -> str:
    """Compiles the kernels that the folder of profiles lacks; a digest of what all of them say, whatever their names.

    Raises WrongUseError for a path that does not exist.
    """
    if not options.symbols:
        return ""
    try:
        profiles = profile_store(options).compile_given(options.symbols)
    except SymbolError as error:
        raise WrongUseError(f"--symbols: {error.message}") from error
    digests = sorted({profile.digest for profile in profiles})
    return hashlib.blake2b("".join(digests).encode(), digest_size=DIGEST_BYTES).hexdigest()


def absolute_symbols(symbols: Sequence[str]) -> tuple[str, ...]:
    """The absolute paths of what ``--symbols`` names. Raises WrongUseError for one that does not exist."""
    for path in symbols:
        if not os.path.exists(path):
            raise WrongUseError(f"--symbols {path}: no such file or folder")
    return tuple(map(os.path.abspath, symbols))


def absolute_profiles(profiles: str | None) -> str | None:
    """The absolute path of what ``--profiles`` names; ``None`` is the user's cache."""
    return None if profiles is None else os.path.abspath(profiles)
