"""Lists of patterns: a name is in a list exactly if one of its patterns matches the whole of it."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crashbeam.vmcore.signature.name_list import NameList, required_text
from crashbeam.vmcore.signature.rules import NAME_LISTS, shipped_rules

SHIPPED = sorted({pattern for name in NAME_LISTS for pattern in shipped_rules().lists[name].patterns})
STRANGE = [
    *("a{2}bc", "ab{0,3}cd", "x*yy", "zz?", "(ab)?cd(ef)+", "[]x]ab", r"[\]a]bc", r"\.foo\w", r"a\-b", "a|b", "(a|b)"),
    *(
        "(?:ab)cd",
        "(?!x)abc",
        "(?<!x)abc",
        "a{b",
        "a.b",
        "aa+",
        "ab+?c",
        "ab??c",
        r"[^a\]]b",
        "((a)b)c",
        r"a\\b",
        r"\x41bc",
    ),
]


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("(__)?mutex_lock(_nested|_slowpath)?", "mutex_lock"),
        (r"lkdtm_\w+", "lkdtm_"),
        ("k?list_(del|next)", "list_"),
        ("(do|my)_exit", "_exit"),
        ("action_re[dt]s?ult", "action_re"),
        ("count{0,3}er", "coun"),
        ("read|write", ""),
        (r"\w+", ""),
        (r"\x41bcd", ""),
        (r"foo\.bar_x", "bar_x"),
    ],
)
def test_the_text_that_every_match_has_is_the_longest_outside_of_groups(pattern: str, text: str) -> None:
    assert required_text(pattern) == text


@pytest.mark.parametrize("pattern", [*SHIPPED, *STRANGE])
def test_what_a_pattern_matches_has_its_required_text(pattern: str) -> None:
    required = required_text(pattern)

    @settings(max_examples=20)
    @given(st.from_regex(pattern, fullmatch=True))
    def has_it(name: str) -> None:
        assert required in name
        assert NameList([pattern]).matches(name)

    has_it()


@given(st.lists(st.sampled_from(SHIPPED), max_size=8), st.sampled_from(SHIPPED).flatmap(st.from_regex))
def test_a_list_matches_what_its_patterns_together_match(patterns: list[str], name: str) -> None:
    together = re.compile("|".join(f"(?:{pattern})" for pattern in patterns) or r"\Zx")
    assert NameList(patterns).matches(name) is (together.fullmatch(name) is not None)
