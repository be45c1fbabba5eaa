"""Makes the golden dumps anew from the unpacked corpus.

    python -m tests.make_golden CORPUS

Each is a real dump, trimmed to the pages that its report needs; the profiles are those of their kernels, without their
line tables.
``truth.json.xz`` holds the corpus' truth of them, so that reports are compared with what is known and never with
themselves.
"""

import json
import lzma
import sys
import tempfile
from pathlib import Path

from crashbeam.pipeline.inputs import list_one
from crashbeam.vmcore.facts import AnalysisOptions
from crashbeam.vmcore.symbols.profile import KernelProfile
from crashbeam.vmcore.trim import trim

GOLDEN = Path(__file__).parent / "golden"
KEPT = ("arch", "kernel", "online", "panic_cpu", "panic_task", "cpus_possible")
KEPT_OF_CPU = ("cpu", "state", "pid", "comm", "task", "registers", "frames", "stack", "mode")
KEPT_OF_LOST = ("chain",)


def main(corpus: Path) -> None:
    """Trims one dump of every scenario, and both damaged ones."""
    truths = {}
    for old in (*GOLDEN.glob("*.kdump"), *GOLDEN.glob("*.profile")):
        old.unlink()
    with tempfile.TemporaryDirectory() as cache:
        options = AnalysisOptions((str(corpus / "kernels"),), cache)
        for truth_file in sorted(corpus.glob("ppc*/*/truth.json")):
            make_one(dump_of(truth_file.parent), truth_file.parent.name, options)
            truths[truth_file.parent.name] = shorten(json.loads(truth_file.read_text()))
        for name in ("incomplete", "truncated"):
            make_one(corpus / "ppc32" / "damaged" / f"{name}.zlib", f"damaged_{name}", options)
        for profile in Path(cache).glob("*.profile"):
            (GOLDEN / profile.name).write_bytes(KernelProfile.open(profile).without_lines())
    (GOLDEN / "truth.json.xz").write_bytes(lzma.compress(json.dumps(truths, separators=(",", ":")).encode(), preset=9))


def dump_of(scenario: Path) -> Path:
    """One dump of a scenario: the zlib one of makedumpfile, else what there is."""
    dumps = sorted(path for path in scenario.iterdir() if path.name.startswith(("vmcore.", "qemu.")))
    return next((path for path in dumps if path.name == "vmcore.zlib"), dumps[0])


def make_one(dump: Path, name: str, options: AnalysisOptions) -> None:
    failure = trim(list_one(str(dump)), options, str(GOLDEN / f"{name}.kdump"))
    if failure is not None:
        raise SystemExit(f"{dump}: {failure.message}")


def shorten(truth: dict[str, object]) -> dict[str, object]:
    """What the tests compare."""
    cpus = truth["cpus"]
    assert isinstance(cpus, list)
    short = {key: truth[key] for key in KEPT if key in truth}
    short["cpus"] = [
        {key: cpu[key] for key in (*KEPT_OF_CPU, *(KEPT_OF_LOST if cpu["state"] == "not_saved" else ())) if key in cpu}
        for cpu in cpus
    ]
    return short


if __name__ == "__main__":
    main(Path(sys.argv[1]))
