"""What the annotations of a record tell about its fields."""

from dataclasses import dataclass

import pytest

from crashbeam.schemas.crash_report import CrashReport
from crashbeam.schemas.failure import FailureRecord
from crashbeam.schemas.fields import field_at, fields_of
from crashbeam.schemas.privacy import Privacy, Public
from crashbeam.schemas.tables import Column, ColumnType, Table, json_shape
from crashbeam.schemas.words import Form


def test_a_field_inside_lists_is_found_by_its_keys() -> None:
    field = field_at(CrashReport, ("cpus", "stack", "frames", "level"))
    assert (field.type, field.nullable, field.privacy) == (int, False, Privacy.PUBLIC)


def test_what_is_inside_an_optional_part_can_be_absent_and_the_strictest_mark_counts() -> None:
    field = field_at(CrashReport, ("cpus", "task", "comm"))
    assert (field.type, field.nullable, field.privacy) == (str, True, Privacy.PERSONAL)


@pytest.mark.parametrize("path", [("cpus", "no_such_field"), ("input_id", "length"), ("cpus", "registers", "r1", "x")])
def test_a_path_to_nothing_is_refused(path: tuple[str, ...]) -> None:
    with pytest.raises(KeyError):
        field_at(CrashReport, path)


def test_the_form_of_a_word_is_found_inside_optionals_and_dicts() -> None:
    word = Form("^([0-9a-f]{8}|[0-9a-f]{16})$")
    assert field_at(CrashReport, ("panic", "task")).form == word
    assert field_at(CrashReport, ("cpus", "registers")).form == word
    assert field_at(FailureRecord, ("input_id",)).form == Form("^[0-9a-f]{32}$")
    assert field_at(FailureRecord, ("message",)).form is None


def test_a_choice_of_types_stays_a_choice() -> None:
    @dataclass(frozen=True)
    class Choice:
        value: Public[int | str | None]

    assert fields_of(Choice)["value"].type == int | str | None


def test_a_column_that_goes_through_another_is_refused() -> None:
    columns = (
        Column("whole", ColumnType.TEXT, False, ("a",), Privacy.PUBLIC),
        Column("part", ColumnType.TEXT, False, ("a", "b"), Privacy.PUBLIC),
    )
    with pytest.raises(ValueError, match="goes through the column a"):
        json_shape(Table("wrong", None, (), ("whole",), columns))
