"""The texts of ``oops_texts/``: each says above its log what it is.

They are written by hand from the formats of the kernel's own messages (4.x to 6.12, and what older and newer kernels
print in another form), with numbers and functions of nobody's machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "oops_texts"


@dataclass(frozen=True, slots=True)
class OopsText:
    """A log and what is true of it: ``facts`` by name, ``alternatives`` of the title."""

    name: str
    facts: dict[str, str]
    alternatives: tuple[str, ...]
    lines: tuple[str, ...]


def read_texts(folder: Path = FOLDER) -> Sequence[OopsText]:
    """All texts of a folder, by name."""
    return [_read(path) for path in sorted(folder.glob("*.txt"))]


def _read(path: Path) -> OopsText:
    lines = path.read_text(encoding="utf-8").splitlines()
    end = lines.index("")
    said = [line.removeprefix("# ").partition(": ") for line in lines[:end]]
    facts = {name: value for name, _, value in said if name != "alternative"}
    return OopsText(
        path.stem, facts, tuple(value for name, _, value in said if name == "alternative"), tuple(lines[end:])
    )
