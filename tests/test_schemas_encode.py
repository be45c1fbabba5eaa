"""What a record's line looks like, and what can never stand in one."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crashbeam.schemas.clean import clean_text, int32, int64
from crashbeam.schemas.codes import CrashClass, LogSource
from crashbeam.schemas.crash_report import CrashReport, Dmesg, LogReport
from crashbeam.schemas.encode import RECORDS, to_json_line
from crashbeam.schemas.failure import FailureRecord
from tests.sample_records import FAILED, REPORT


def failed_with(message: str) -> FailureRecord:
    """The sample failure with another message."""
    return dataclasses.replace(FAILED, message=message)


def test_a_line_is_one_object_and_a_newline() -> None:
    line = to_json_line(REPORT)
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1


def test_keys_come_in_the_order_of_definition() -> None:
    keys = list(json.loads(to_json_line(REPORT)))
    assert keys == [field.name for field in dataclasses.fields(CrashReport)]


def test_what_is_absent_is_null_and_a_code_is_its_word() -> None:
    lost = json.loads(to_json_line(REPORT))["cpus"][0]
    assert lost["registers"] is None
    assert lost["note"] == {"state": "not_saved", "index": None, "evidence": [], "pid": None}


def test_a_word_of_python_is_a_key_like_any_other() -> None:
    report = LogReport(CrashClass.BUG, 'says "class_": and "from_":', 3, ("x",))
    dmesg = Dmesg((report,), (), None, False, LogSource.DUMP)
    parsed = json.loads(to_json_line(dataclasses.replace(REPORT, dmesg=dmesg)))
    assert parsed["dmesg"]["from"] == "dump"
    assert parsed["dmesg"]["reports"] == [
        {"class": "bug", "title": 'says "class_": and "from_":', "at_line": 3, "lines": ["x"]}
    ]


def test_text_is_utf_8_not_escaped() -> None:
    assert "Gerät".encode() in to_json_line(failed_with("Gerät"))


def test_a_newline_in_a_message_does_not_break_the_line() -> None:
    assert to_json_line(failed_with("a\nb")).count(b"\n") == 1


@pytest.mark.parametrize("message", ["a\0b", "\\\0", "\0"])
def test_a_nul_is_refused(message: str) -> None:
    with pytest.raises(ValueError, match="NUL"):
        to_json_line(failed_with(message))


@pytest.mark.parametrize("message", ["\\u0000", "\\\\u0000"])
def test_the_text_of_an_escape_is_no_nul(message: str) -> None:
    assert json.loads(to_json_line(failed_with(message)))["message"] == message


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(ValueError, match="surrogate"):
        to_json_line(failed_with("a\ud800"))


def test_the_records_are_known_by_name() -> None:
    assert RECORDS["crash_report"] is CrashReport
    assert RECORDS["failure"] is FailureRecord


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        (b"bash", "bash"),
        (b"kworker/0:1-ev\xff", "kworker/0:1-ev\ufffd"),
        (b"a\0b", "a\\x00b"),
        (b"\x1b[31mred", "\\x1b[31mred"),
        (b"two\tcolumns\nand a line", "two\tcolumns\nand a line"),
        ("Gerät".encode(), "Gerät"),
        ("\ud800x", "\ufffdx"),
        ("\x9b31m", "\\x9b31m"),
        (b"", ""),
    ],
)
def test_a_strangers_text_is_made_harmless(raw: bytes | str, clean: str) -> None:
    assert clean_text(raw, 100) == clean


@pytest.mark.parametrize("raw", [b"a" * 50, "a" * 50, b"\0" * 50, "\u20ac".encode() * 50])
def test_a_strangers_text_is_cut_at_its_limit(raw: bytes | str) -> None:
    assert len(clean_text(raw, 16)) == 16


@given(st.binary() | st.text(st.characters()), st.integers(0, 64))
def test_any_strangers_text_can_stand_in_a_record(raw: bytes | str, limit: int) -> None:
    text = clean_text(raw, limit)
    assert len(text) <= limit
    assert json.loads(to_json_line(failed_with(text)))["message"] == text


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=32))
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert clean_text(text.encode(), 32) == text


@pytest.mark.parametrize(
    ("number", "fits_int32", "fits_int64"),
    [
        (0, True, True),
        (-1, True, True),
        ((1 << 31) - 1, True, True),
        (1 << 31, False, True),
        (-(1 << 31), True, True),
        ((1 << 63) - 1, False, True),
        (1 << 63, False, False),
        (-(1 << 63), False, True),
        (-(1 << 63) - 1, False, False),
    ],
)
def test_a_number_that_does_not_fit_is_unknown(number: int, fits_int32: bool, fits_int64: bool) -> None:
    assert int32(number) == (number if fits_int32 else None)
    assert int64(number) == (number if fits_int64 else None)
