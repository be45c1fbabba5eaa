"""Texts of the kernel's log that were written for this, several defects of each class, each with its label."""

from functools import cache

import pytest

from crashbeam.schemas.codes import CrashClass, Grade
from crashbeam.vmcore.signature import Signed, sign
from crashbeam.vmcore.signature.rules import shipped_rules
from tests.b_cubed import b_cubed
from tests.signing import LABELLED, labels, report_of_text

LABELS = labels()
HELD_OUT = [name for name, of in LABELS.items() if "held_out" in of]
AT_HAND = [name for name in LABELS if name not in HELD_OUT]
WITHOUT_TEXT = {CrashClass.UNCLASSIFIED, CrashClass.EMPTY}
KNOWN_MERGES = {
    frozenset({"lost_cause_a", "lost_cause_b"}),
    frozenset({"null_ext4_end_bio", "null_ext4_end_bio_private"}),
    frozenset({"wq_stuck_nvme", "wq_stuck_vmstat"}),
}
"""What no rule can tell apart: no cause in the text, the same functions, no functions."""
KNOWN_SPLITS = {"hung_nfs_io", "null_ext4_writepages", "null_nfs_state"}
"""A function that was renamed, one defect met on two ways, a culprit that was inlined."""


@cache
def signed(name: str) -> Signed:
    """A labelled text, signed."""
    return sign(report_of_text((LABELLED / name).read_text(encoding="utf-8")), shipped_rules())


def test_there_are_enough_texts_and_every_one_has_a_label() -> None:
    assert len(LABELS) >= 60
    assert {path.name for path in LABELLED.glob("*.txt")} == set(LABELS)


def test_every_class_that_a_text_can_tell_is_there() -> None:
    assert {signed(name).signature.class_ for name in LABELS} == set(CrashClass) - WITHOUT_TEXT


@pytest.mark.parametrize(
    ("texts", "key", "kind", "precision", "recall"),
    [
        ("at hand", "id", "fault", 0.98, 0.98),
        ("at hand", "narrow", "context", 0.95, 0.9),
        ("held out", "id", "fault", 1.0, 0.84),
        ("held out", "wide", "fault", 1.0, 0.93),
    ],
)
def test_buckets_fit_the_labels(texts: str, key: str, kind: str, precision: float, recall: float) -> None:
    names = HELD_OUT if texts == "held out" else AT_HAND
    fit = b_cubed([(getattr(signed(name).signature, key), LABELS[name][kind]) for name in names])
    assert fit.precision >= precision
    assert fit.recall >= recall


def test_what_is_merged_and_split_is_known_one_by_one() -> None:
    faults: dict[str, set[str]] = {}
    ids: dict[str, set[str]] = {}
    for name in AT_HAND:
        bucket = signed(name).signature.id
        faults.setdefault(bucket, set()).add(LABELS[name]["fault"])
        ids.setdefault(LABELS[name]["fault"], set()).add(bucket)
    assert {frozenset(merged) for merged in faults.values() if len(merged) > 1} == KNOWN_MERGES
    assert {fault for fault, spread in ids.items() if len(spread) > 1} == KNOWN_SPLITS


def test_a_text_alone_is_never_an_a() -> None:
    assert {name for name in LABELS if signed(name).signature.grade is Grade.A} == set()


@pytest.mark.parametrize("name", sorted(LABELS))
def test_the_keys_of_a_text_are_nested(name: str) -> None:
    found = signed(name).signature
    same_id = [other for other in LABELS if signed(other).signature.narrow == found.narrow]
    same_wide = [other for other in LABELS if signed(other).signature.id == found.id]
    assert {signed(other).signature.id for other in same_id} == {found.id}
    assert {signed(other).signature.wide for other in same_wide} == {found.wide}


def test_sysrq_is_one_bucket_in_all_its_texts() -> None:
    found = [signed(name).signature for name in LABELS if name.startswith("sysrq_")]
    assert len(found) == 4
    assert len({one.id for one in found}) == 1
    assert all(one.intentional for one in found)
