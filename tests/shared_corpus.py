"""The shared corpus of real dumps, unpacked once for each user of this machine.

    python -m tests.shared_corpus      prints where it lies

``$CRASHBEAM_CORPUS`` names one that is unpacked already. Else the archives of ``$SHARED/corpus`` (or of ``shared``
beside the repo) are unpacked by the tool that lies with them, into a folder outside the repo.
"""

import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path

_BESIDE_THE_REPO = Path(__file__).resolve().parent.parent.parent / "shared"


def find_shared() -> Path | None:
    """The folder that holds ``corpus/`` and the tool that unpacks it, or ``None``."""
    shared = Path(os.environ.get("SHARED") or _BESIDE_THE_REPO).resolve()
    return shared if (shared / "corpus").is_dir() and (shared / "tools" / "expand_corpus.py").is_file() else None


def has_corpus() -> bool:
    """Whether ``unpacked_corpus`` can give one."""
    return bool(os.environ.get("CRASHBEAM_CORPUS")) or find_shared() is not None


def unpacked_corpus() -> Path:
    """The folder with ``ppc32``, ``ppc64`` and ``kernels``. Raises FileNotFoundError where there is no corpus."""
    named = os.environ.get("CRASHBEAM_CORPUS")
    if named:
        return Path(named)
    shared = find_shared()
    if shared is None:
        raise FileNotFoundError("no shared corpus: set SHARED to the folder that holds corpus/ and tools/")
    archives_bytes = sum(archive.stat().st_size for archive in (shared / "corpus").rglob("bundle-*.tar.xz"))
    folder = Path(tempfile.gettempdir()) / f"crashbeam-corpus-{os.getuid()}-{archives_bytes}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else")
    _unpack_once(shared, folder)
    return folder


def _unpack_once(shared: Path, folder: Path) -> None:
    done = folder / ".unpacked"
    # The kernels are a link to where the corpus lay when it was unpacked.
    if done.exists() and (folder / "kernels").exists():
        return
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kernels = folder / "kernels"
        if done.exists() and kernels.exists():
            return
        kernels.unlink(missing_ok=True)
        tool = shared / "tools" / "expand_corpus.py"
        subprocess.run(
            [sys.executable, str(tool), str(folder), "--from", str(shared / "corpus")],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        done.touch()


if __name__ == "__main__":
    print(unpacked_corpus())
