"""What people decide about single signatures moves buckets, and only buckets."""

from pathlib import Path

import pytest

from crashbeam.vmcore.signature.overrides import RulesError, read_overrides

A, B, C = "a" * 16, "b" * 16, "c" * 16


def merge(ids: list[str], into: str, author: str = "A", reason: str = "one defect") -> str:
    """One merge, as it stands in the file."""
    return f'[[merge]]\nids = {ids}\ninto = "{into}"\nauthor = "{author}"\nreason = "{reason}"\n'.replace("'", '"')


def ignore(ids: list[str], author: str = "A", reason: str = "tests of the lab") -> str:
    """One ignore."""
    return f'[[ignore]]\nids = {ids}\nauthor = "{author}"\nreason = "{reason}"\n'.replace("'", '"')


def written(folder: Path, text: str) -> Path:
    """A file of overrides."""
    path = folder / "overrides.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_merge_moves_a_bucket_to_the_end_of_the_chain(tmp_path: Path) -> None:
    overrides = read_overrides(written(tmp_path, merge([A], B) + merge([B], C)))
    assert [overrides.bucket_of(one) for one in (A, B, C)] == [C, C, C]


def test_what_is_merged_into_an_ignored_bucket_is_ignored_too(tmp_path: Path) -> None:
    overrides = read_overrides(written(tmp_path, merge([A], B) + ignore([B])))
    ignored = overrides.ignored(A)
    assert ignored is not None
    assert ignored.reason == "tests of the lab"
    assert overrides.ignored(C) is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (merge([A], B) + merge([B], A), "go round"),
        (merge([A], A), "go round"),
        (merge([A], B) + merge([A], C), "was merged into"),
        (merge([A], B, author=" "), "author and reason must say something"),
        (merge(["xyz"], B), "no signature id"),
        (merge([A], "short"), "no signature id"),
        (ignore([]), "ids is a list"),
        ('[[ignore]]\nids = ["' + A + '"]\n', "has to have author, ids, reason"),
        ("[merge]\nx = 1\n", r"is written \[\[merge\]\]"),
        ("[[move]]\n", "neither"),
        ("[[merge", "overrides.toml"),
    ],
)
def test_an_override_that_cannot_hold_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(RulesError, match=complaint):
        read_overrides(written(tmp_path, text))
