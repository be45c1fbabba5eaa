"""Titles: one line in the manner of syzkaller's reports, without what differs from crash to crash."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crashbeam.schemas.codes import CrashClass
from crashbeam.vmcore.oops import find_oopses, parse_lines
from crashbeam.vmcore.title import MAX_TITLE_LENGTH, clean_title, titles_of


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("journal lost at c000000007aa1008", "journal lost at ADDR"),
        ("bad word 0xdeadbeef here", "bad word ADDR here"),
        ("peer 192.168.7.12 gone", "peer IP gone"),
        ("fs/labfs/inode.c:812: no space", "fs/labfs/inode.c:LINE: no space"),
        ("stuck in lab_open+0x34/0x9c", "stuck in lab_open"),
        ("lost on CPU#7", "lost on CPU"),
        ("PHB#1c and PHB#b failed", "PHB#NUM and PHB#NUM failed"),
        ("EXT4-fs (device sdb1): panic", "EXT4-fs (device DEV): panic"),
        ("XFS (nvme0n1p2), XFS (dm-4)", "XFS (DEV), XFS (DEV)"),
        ("CPU 12 is gone", "CPU is gone"),
        ("slot 3 of 16 failed", "slot NUM of NUM failed"),
        ("serial 123456789x", "serial NUMx"),
        ("a\x1b[31m  red \u2603 word", "a [31m red word"),
        ("the facade of a decade", "the facade of a decade"),
    ],
)
def test_what_differs_from_crash_to_crash_is_taken_out_of_a_text(text: str, cleaned: str) -> None:
    assert clean_title(text) == cleaned


def test_the_function_of_the_stack_goes_before_that_of_the_text() -> None:
    oops = find_oopses(parse_lines(["kernel BUG at lab_check+0x4/0x10 [lab]"]))[0]
    assert titles_of(oops, oops.class_, None, None)[0] == "kernel BUG in lab_check [lab]"
    assert titles_of(oops, oops.class_, "lab_open", None)[0] == "kernel BUG in lab_open"


def test_a_function_of_the_text_loses_what_the_compiler_added() -> None:
    oops = find_oopses(parse_lines(["kernel BUG at lab_check.isra.0+0x4/0x10"]))[0]
    assert titles_of(oops, oops.class_, None, None)[0] == "kernel BUG in lab_check"


def test_a_jump_names_who_jumped() -> None:
    titles = titles_of(None, CrashClass.BAD_JUMP, "lab_call", "lab", caller="lab_call")
    assert titles == ("Bad kernel instruction fetch, called from lab_call [lab]", ("bad access in lab_call [lab]",))


@pytest.mark.parametrize("class_", CrashClass)
def test_every_class_has_a_title_even_when_nothing_else_is_known(class_: CrashClass) -> None:
    title, alternatives = titles_of(None, class_, None, None)
    assert title
    assert not set("{}[]?") & set(title)
    assert all("{" not in alternative for alternative in alternatives)


@given(st.sampled_from(CrashClass), st.text(min_size=1, max_size=300), st.one_of(st.none(), st.text(max_size=80)))
def test_a_title_is_one_short_line_of_plain_characters(class_: CrashClass, culprit: str, module: str | None) -> None:
    for title in (lambda found: (found[0], *found[1]))(titles_of(None, class_, culprit, module)):
        assert title
        assert len(title) <= MAX_TITLE_LENGTH
        assert title.isascii()
        assert title.isprintable()


@given(st.text(max_size=400))
def test_cleaning_a_clean_text_changes_nothing(text: str) -> None:
    once = clean_title(text)
    assert clean_title(once) == once
