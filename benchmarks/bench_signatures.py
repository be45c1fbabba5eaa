"""How well signatures tell defects apart, and what signing a report costs.

B-cubed precision (a bucket mixes defects: low) and recall (a defect is spread over buckets: low) of ``id`` and ``wide``
against the defect, and of ``narrow`` against the defect with what it ran in: over the real dumps of the corpus, where
there is one, and over the labelled texts of ``tests/oops_texts``. Beside each, the bucket that mixes most and the
defect that is spread most.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.measuring import best_cpu_seconds, say
from crashbeam.schemas.crash_report import CrashReport
from crashbeam.vmcore.log_line import LogLine
from crashbeam.vmcore.oops import Oops, find_oopses
from crashbeam.vmcore.signature import Signed, sign
from crashbeam.vmcore.signature.rules import Rules, shipped_rules
from tests.b_cubed import b_cubed, most_spread, worst_bucket
from tests.shared_corpus import find_shared, has_corpus, unpacked_corpus
from tests.signing import LABELLED, labels, report_of_text, reports_of_dumps

KEYS = (("id", "fault"), ("wide", "fault"), ("narrow", "context"))
REACH_MS = 0.3

Labelled = tuple[CrashReport, Mapping[str, str]]
"""A report, and its labels."""


def main() -> None:
    """Prints the tables."""
    rules = shipped_rules()
    texts = [(report_of_text((LABELLED / name).read_text(encoding="utf-8")), of) for name, of in labels().items()]
    at_hand = [(report, of) for report, of in texts if "held_out" not in of]
    held_out = [(report, of) for report, of in texts if "held_out" in of]
    real = _real()
    if real:
        _print_fit(f"{len(real)} dumps of the corpus", real, rules)
    else:
        print("  no shared corpus here: its real dumps are left out")
    _print_fit(f"{len(at_hand)} texts that the lists were made with", at_hand, rules)
    _print_fit(f"{len(held_out)} texts held out: written when the lists stood", held_out, rules)
    print("signing one report, CPU")
    for what, reports in (("dumps", real), ("texts", texts)):
        if reports:
            _print_costs(what, [report for report, _ in reports], rules)


def _real() -> list[Labelled]:
    shared = find_shared()
    if shared is None or not has_corpus():
        return []
    of_scenario = json.loads((shared / "corpus" / "labels.json").read_text(encoding="utf-8"))
    corpus = unpacked_corpus()
    folders = [corpus / "ppc32", corpus / "ppc64"]
    with tempfile.TemporaryDirectory() as profiles:
        found = list(reports_of_dumps(folders, corpus / "kernels", Path(profiles)))
    return [(report, of_scenario[scenario]) for scenario, report in found if scenario in of_scenario]


def _print_fit(what: str, reports: Sequence[Labelled], rules: Rules) -> None:
    signed = [(sign(report, rules), of) for report, of in reports]
    print(f"{what}: B-cubed, buckets")
    for key, kind in KEYS:
        items = [(getattr(one.signature, key), of[kind]) for one, of in signed]
        fit, buckets = b_cubed(items), len({bucket for bucket, _ in items})
        figures = f"P {fit.precision:.3f}  R {fit.recall:.3f}  F1 {fit.f1:.3f}"
        say(f"{key} against {kind}: {buckets} buckets, {len({label for _, label in items})} labels", figures)
        bucket, mixed = worst_bucket(items)
        if len(mixed) > 1:
            print(f"    worst bucket: {bucket} {_title(signed, key, bucket)}: {_counted(mixed)}")
        label, spread = most_spread(items)
        if len(spread) > 1:
            print(f"    most spread:  {label}: {_counted(spread)}")
    grades = [one.signature.grade.value for one, _ in signed]
    print("    grades: " + ", ".join(f"{grade} {grades.count(grade)}" for grade in sorted(set(grades))))


def _title(signed: Sequence[tuple[Signed, Mapping[str, str]]], key: str, bucket: str) -> str:
    return next(one.title for one, _ in signed if getattr(one.signature, key) == bucket)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in sorted(counts.items()))


def _print_costs(what: str, reports: Sequence[CrashReport], rules: Rules) -> None:
    parsed = [_oopses(report) for report in reports]

    def with_parsed_log() -> None:
        for report, oopses in zip(reports, parsed, strict=True):
            sign(report, rules, oopses)

    def from_the_record_alone() -> None:
        for report in reports:
            sign(report, rules)

    with_parsed_log()
    for how, work, reach in (
        ("its log parsed already, as in a run", with_parsed_log, f"{REACH_MS} ms"),
        ("from the stored record alone, as regroup does", from_the_record_alone, ""),
    ):
        least, _ = best_cpu_seconds(work)
        say(f"{what}: {how}", f"{1000 * least / len(reports):.2f} ms", reach)


def _oopses(report: CrashReport) -> tuple[Oops, ...]:
    if report.dmesg is None or not report.dmesg.reports:
        return ()
    lines = [LogLine(number, None, None, None, text) for number, text in enumerate(report.dmesg.reports[0].lines)]
    return find_oopses(lines)[:1]


if __name__ == "__main__":
    main()
