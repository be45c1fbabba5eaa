"""What people decided about single signatures: which are one defect, and which are none of theirs. Data, with author
and reason; it holds for reports to come. An override moves a report to another bucket and never changes its id.

    [[merge]]
    ids = ["0123456789abcdef"]
    into = "fedcba9876543210"
    author = "A. Engineer"
    reason = "both are the freed queue of ticket 17"

    [[ignore]]
    ids = ["00112233445566aa"]
    author = "A. Engineer"
    reason = "the lab's fault injection"
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct, field

_ID = re.compile(r"[0-9a-f]{16}")
_FIELDS = {"merge": {"ids", "into", "author", "reason"}, "ignore": {"ids", "author", "reason"}}


class RulesError(ValueError):
    """A list or an override that cannot be used: one line that says where and why."""


class Override(Struct, frozen=True):
    """One decision: ``into`` is the bucket that the signature ``id`` goes to, ``None`` where it is ignored."""

    id: str
    into: str | None
    author: str
    reason: str


class Overrides(Struct, frozen=True):
    """All decisions, by the signature id that each is about."""

    merges: Mapping[str, Override] = field(default_factory=dict)
    ignores: Mapping[str, Override] = field(default_factory=dict)

    def bucket_of(self, signature_id: str) -> str:
        """The bucket of a signature: its id, unless it was merged into another's (merges never go round)."""
        into = self.merges[signature_id].into if signature_id in self.merges else None
        return signature_id if into is None else self.bucket_of(into)

    def ignored(self, signature_id: str) -> Override | None:
        """The decision to ignore this signature, or the bucket that it was merged into."""
        return self.ignores.get(signature_id) or self.ignores.get(self.bucket_of(signature_id))


NO_OVERRIDES = Overrides()


def read_overrides(path: Path) -> Overrides:
    """The decisions in a file. Raises RulesError for one without author or reason, and for merges that contradict each
    other or go round.
    """
    # Few users have overrides, and `show` is not to wait for a reader of TOML.
    import tomllib

    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RulesError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RulesError(f"{path}: {error}") from error
    unknown = sorted(set(given) - set(_FIELDS))
    if unknown:
        raise RulesError(f"{path}: [[{unknown[0]}]] is neither [[merge]] nor [[ignore]]")
    merges: dict[str, Override] = {}
    ignores: dict[str, Override] = {}
    for kind, found in (("merge", merges), ("ignore", ignores)):
        for override, at in _entries(given.get(kind, []), kind, path):
            if override.id in found and found[override.id].into != override.into:
                raise RulesError(f"{at}: {override.id} was merged into {found[override.id].into} before")
            found[override.id] = override
    for signature_id in merges:
        _refuse_circle(signature_id, merges, path)
    return Overrides(merges, ignores)


def _entries(entries: Any, kind: str, path: Path) -> Iterator[tuple[Override, str]]:
    if not isinstance(entries, list):
        raise RulesError(f"{path}: {kind} is written [[{kind}]]")
    for number, entry in enumerate(entries, start=1):
        at = f"{path}: [[{kind}]] number {number}"
        if not isinstance(entry, dict) or set(entry) != _FIELDS[kind]:
            raise RulesError(f"{at}: has to have {', '.join(sorted(_FIELDS[kind]))}, and nothing else")
        author, reason, ids, into = entry["author"], entry["reason"], entry["ids"], entry.get("into")
        if not all(isinstance(text, str) and text.strip() for text in (author, reason)):
            raise RulesError(f"{at}: author and reason must say something")
        if not isinstance(ids, list) or not ids:
            raise RulesError(f"{at}: ids is a list of signature ids")
        for signature_id in (*ids, *([] if kind == "ignore" else [into])):
            if not isinstance(signature_id, str) or not _ID.fullmatch(signature_id):
                raise RulesError(f"{at}: {signature_id!r} is no signature id (16 hex digits)")
        for signature_id in ids:
            yield Override(signature_id, into, author.strip(), reason.strip()), at


def _refuse_circle(signature_id: str, merges: Mapping[str, Override], path: Path) -> None:
    passed = {signature_id}
    into = merges[signature_id].into
    while into is not None and into not in passed:
        passed.add(into)
        into = merges[into].into if into in merges else None
    if into is not None:
        raise RulesError(f"{path}: the merges of {signature_id} go round")
