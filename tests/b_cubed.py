"""B-cubed: how well buckets fit labels (Bagga and Baldwin 1998; for crash reports Campbell et al. 2016)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fit:
    """``precision`` falls where a bucket mixes defects, ``recall`` where a defect is spread over buckets."""

    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """The harmonic mean of both."""
        return 2 * self.precision * self.recall / (self.precision + self.recall)


def b_cubed(items: Sequence[tuple[str, str]]) -> Fit:
    """The fit of items, each with its bucket and its label."""
    buckets, labels, both = Counter(b for b, _ in items), Counter(label for _, label in items), Counter(items)
    precision = sum(both[item] / buckets[item[0]] for item in items) / len(items)
    recall = sum(both[item] / labels[item[1]] for item in items) / len(items)
    return Fit(precision, recall)


def worst_bucket(items: Sequence[tuple[str, str]]) -> tuple[str, Counter[str]]:
    """The bucket that mixes defects most, and what is in it: the one that costs most precision."""
    found: dict[str, Counter[str]] = {}
    for bucket, label in items:
        found.setdefault(bucket, Counter())[label] += 1

    def cost(bucket: str) -> float:
        labels = found[bucket]
        return sum(count * (1 - count / labels.total()) for count in labels.values())

    worst = max(sorted(found), key=cost)
    return worst, found[worst]


def most_spread(items: Sequence[tuple[str, str]]) -> tuple[str, Counter[str]]:
    """The label that is spread over most buckets, by what it costs of recall, and the buckets."""
    return worst_bucket([(label, bucket) for bucket, label in items])
