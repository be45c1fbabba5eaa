"""Buckets made anew from stored reports: what other rules would move."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace

from msgspec import Struct, field

from crashbeam.schemas.codes import Grade
from crashbeam.schemas.crash_report import CrashReport, Signature
from crashbeam.vmcore.signature import sign
from crashbeam.vmcore.signature.rules import Rules

UNSIGNED = "(unsigned)"
"""The bucket of a report that was stored without a signature."""
MAX_ROWS = 20


class HistoryRow(Struct, frozen=True):
    """One report's signature, before and after: what a history of signatures keeps."""

    input_id: str
    old_id: str | None
    old_algorithm: str | None
    old_rules: str | None
    new_id: str
    new_algorithm: str
    new_rules: str
    bucket: str
    ignored: bool


class Regrouping(Struct):
    """Buckets before and after, by crashes: each distinct ``crash_id`` counts once."""

    reports: int = 0
    changed: int = 0
    crashes: set[str] = field(default_factory=set)
    ignored: set[str] = field(default_factory=set)
    intentional: set[str] = field(default_factory=set)
    unattributed: set[str] = field(default_factory=set)
    moves: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    titles: dict[str, str] = field(default_factory=dict)
    wide: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def add(self, report: CrashReport, rules: Rules) -> tuple[CrashReport, HistoryRow]:
        """Signs one more report; the report with its new signature and titles, and its row of history."""
        signed = sign(report, rules)
        signature, old = signed.signature, report.signature
        bucket = rules.overrides.bucket_of(signature.id)
        crash = report.crash_id or report.input_id
        is_ignored = rules.overrides.ignored(signature.id) is not None
        self.reports += 1
        self.changed += old is None or old.id != signature.id
        self.crashes.add(crash)
        for counted, crashes in (
            (is_ignored, self.ignored),
            (signature.intentional, self.intentional),
            (signature.grade is Grade.D, self.unattributed),
        ):
            if counted:
                crashes.add(crash)
        self.moves[(UNSIGNED if old is None else old.id, bucket)].add(crash)
        # A bucket is shown by a crash of its own signature, never by one that was merged into it.
        if bucket == signature.id:
            self.titles[bucket] = signed.title
        self.titles.setdefault(bucket, signed.title)
        self.wide[signature.wide].add(bucket)
        panic = replace(report.panic, title=signed.title, alternative_titles=signed.alternative_titles)
        row = _row(report, old, signature, bucket, is_ignored)
        return replace(report, signature=signature, panic=panic), row

    def lines(self) -> Iterator[str]:
        """What moved, for people: counts, then merges, splits and new names of whole buckets, largest first."""
        before, after = _buckets(self.moves, 0), _buckets(self.moves, 1)
        signed = {bucket for bucket in before if bucket != UNSIGNED}
        yield f"{self.reports} reports of {len(self.crashes)} crashes; {self.changed} signatures changed"
        yield f"buckets: {len(signed)} before, {len(after)} after; {_singles(after)} of one crash"
        yield (
            f"apart from defects: {len(self.unattributed)} crashes unattributed (grade D), "
            f"{len(self.intentional)} intentional, {len(self.ignored)} ignored"
        )
        merged = {new: olds for new, olds in _sources(self.moves).items() if len(olds) > 1}
        split = {old: news for old, news in _targets(self.moves).items() if len(news) > 1 and old != UNSIGNED}
        renamed = [
            (old, new)
            for (old, new) in self.moves
            if old not in (new, UNSIGNED) and new not in merged and old not in split
        ]
        yield from self._section("merged", merged)
        yield from self._section("split", split)
        for old, new in sorted(renamed, key=lambda pair: -len(self.moves[pair]))[:MAX_ROWS]:
            yield f"renamed: {old} -> {new} ({len(self.moves[old, new])})  {self.titles[new]}"
        if not (merged or split or renamed):
            yield "nothing moved" if signed else "no report was signed before: all buckets are new"
        spread = sorted((buckets for buckets in self.wide.values() if len(buckets) > 1), key=len, reverse=True)
        for buckets in spread[:MAX_ROWS]:
            first = min(buckets)
            yield f"look at: {len(buckets)} buckets of one culprit: {self.titles[first]} ({', '.join(sorted(buckets))})"

    def _section(self, word: str, changes: dict[str, Counter[str]]) -> Iterator[str]:
        for bucket in sorted(changes, key=lambda name: (-changes[name].total(), name))[:MAX_ROWS]:
            others = ", ".join(f"{other} ({count})" for other, count in changes[bucket].most_common())
            arrow = "<-" if word == "merged" else "->"
            title = self.titles.get(bucket, "")
            yield f"{word}: {bucket} {arrow} {others}" + (f"  {title}" if title else "")
        if len(changes) > MAX_ROWS:
            yield f"{word}: and {len(changes) - MAX_ROWS} more"


def _row(report: CrashReport, old: Signature | None, new: Signature, bucket: str, is_ignored: bool) -> HistoryRow:
    return HistoryRow(
        input_id=report.input_id,
        old_id=None if old is None else old.id,
        old_algorithm=None if old is None else old.algorithm,
        old_rules=None if old is None else old.rules,
        new_id=new.id,
        new_algorithm=new.algorithm,
        new_rules=new.rules,
        bucket=bucket,
        ignored=is_ignored,
    )


def _buckets(moves: dict[tuple[str, str], set[str]], side: int) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for pair, crashes in moves.items():
        found[pair[side]] |= crashes
    return found


def _singles(buckets: dict[str, set[str]]) -> int:
    return sum(len(crashes) == 1 for crashes in buckets.values())


def _sources(moves: dict[tuple[str, str], set[str]]) -> dict[str, Counter[str]]:
    """By new bucket, the crashes that came from each old one."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for (old, new), crashes in moves.items():
        if old != UNSIGNED:
            found[new][old] += len(crashes)
    return found


def _targets(moves: dict[tuple[str, str], set[str]]) -> dict[str, Counter[str]]:
    """By old bucket, the crashes that went to each new one."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for (old, new), crashes in moves.items():
        found[old][new] += len(crashes)
    return found
