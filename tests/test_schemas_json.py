"""The JSON Schemas: fresh, complete, and strict where a reader relies on them."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson
import pytest

from crashbeam.schemas.codes import CLOSED_LISTS
from crashbeam.schemas.encode import to_json_line
from crashbeam.schemas.fields import fields_of
from crashbeam.schemas.json_schema import FOLDER, as_text, dataclasses_in, json_schema, write_files
from crashbeam.schemas.privacy import Privacy
from crashbeam.schemas.records import RECORDS, Record
from tests.sample_records import FAILED, REPORT

SAMPLES: dict[str, Record] = {"crash_report": REPORT, "failure": FAILED}


def parsed(name: str) -> dict[str, Any]:
    """The sample record as a reader gets it."""
    record: dict[str, Any] = orjson.loads(to_json_line(SAMPLES[name]))
    return record


def is_valid(name: str, record: dict[str, Any]) -> bool:
    """Whether the schema accepts a record."""
    return jsonschema_rs.Draft202012Validator(json_schema(name), validate_formats=True).is_valid(record)


@pytest.mark.parametrize("name", RECORDS)
def test_the_committed_schema_is_fresh(name: str) -> None:
    assert (FOLDER / f"{name}.json").read_text(encoding="utf-8") == as_text(name), "run make docs"


def test_the_files_are_written_under_the_names_of_the_records(tmp_path: Path) -> None:
    write_files(tmp_path)
    assert {path.stem for path in tmp_path.glob("*.json")} == set(RECORDS)
    assert (tmp_path / "failure.json").read_text(encoding="utf-8") == as_text("failure")


@pytest.mark.parametrize("name", RECORDS)
def test_the_schema_is_a_valid_schema(name: str) -> None:
    jsonschema_rs.meta.validate(json_schema(name))


@pytest.mark.parametrize("name", RECORDS)
def test_a_whole_record_is_valid(name: str) -> None:
    assert is_valid(name, parsed(name))


@pytest.mark.parametrize("name", RECORDS)
def test_every_field_has_its_privacy_mark_in_the_schema(name: str) -> None:
    marks = {mark.value for mark in Privacy}
    for part in dataclasses_in(RECORDS[name]):
        properties = json_schema(name)["$defs"][part.__name__]["properties"]
        assert list(properties) == [field.name.removesuffix("_") for field in dataclasses.fields(part)]
        assert {schema["x-privacy"] for schema in properties.values()} <= marks


@pytest.mark.parametrize("name", RECORDS)
def test_every_field_is_required_since_what_is_absent_is_null(name: str) -> None:
    for part in dataclasses_in(RECORDS[name]):
        assert json_schema(name)["$defs"][part.__name__]["required"] == [
            field.name.removesuffix("_") for field in dataclasses.fields(part)
        ]


def test_a_field_without_a_mark_is_refused() -> None:
    @dataclass(frozen=True)
    class Unmarked:
        nodename: str

    with pytest.raises(TypeError, match=r"Unmarked\.nodename needs exactly one privacy mark"):
        fields_of(Unmarked)


def test_a_host_and_the_name_of_a_process_are_personal() -> None:
    definitions = json_schema("crash_report")["$defs"]
    personal = [("System", "nodename"), ("Task", "comm"), ("Panic", "comm"), ("Panic", "message"), ("Source", "uri")]
    assert {definitions[part]["properties"][field]["x-privacy"] for part, field in personal} == {"personal"}


@pytest.mark.parametrize(
    ("part", "field"),
    [("Frame", "address"), ("Frame", "stack_pointer"), ("Task", "address"), ("Task", "stack_base"), ("Panic", "task")],
)
def test_addresses_are_words_and_internal(part: str, field: str) -> None:
    schema = json_schema("crash_report")["$defs"][part]["properties"][field]
    assert "^([0-9a-f]{8}|[0-9a-f]{16})$" in str(schema)
    assert schema["x-privacy"] == "internal"


@pytest.mark.parametrize("address", ["0xc0423378", "C0423378", "c042337", "c04233780", "c0423378 "])
def test_an_address_that_is_no_lower_case_word_is_invalid(address: str) -> None:
    record = parsed("crash_report")
    record["cpus"][1]["stack"]["frames"][0]["address"] = address
    assert not is_valid("crash_report", record)


def test_a_64_bit_address_and_register_are_valid() -> None:
    record = parsed("crash_report")
    record["cpus"][1]["stack"]["frames"][0]["address"] = "c000000000423378"
    record["cpus"][1]["registers"]["r1"] = "c000000001234500"
    assert is_valid("crash_report", record)


def test_a_register_that_is_a_number_is_invalid() -> None:
    record = parsed("crash_report")
    record["cpus"][1]["registers"]["r1"] = 0xC1234500
    assert not is_valid("crash_report", record)


@pytest.mark.parametrize(("number", "valid"), [((1 << 63) - 1, True), (1 << 63, False), (-(1 << 63) - 1, False)])
def test_a_size_has_to_fit_int64(number: int, valid: bool) -> None:
    record = parsed("crash_report")
    record["system"]["memory_bytes"] = number
    assert is_valid("crash_report", record) == valid


@pytest.mark.parametrize(("pid", "valid"), [((1 << 31) - 1, True), (1 << 31, False)])
def test_a_pid_has_to_fit_int32(pid: int, valid: bool) -> None:
    record = parsed("crash_report")
    record["panic"]["pid"] = pid
    assert is_valid("crash_report", record) == valid


def test_a_state_outside_the_closed_list_is_invalid() -> None:
    record = parsed("crash_report")
    record["cpus"][0]["note"]["state"] = "lost"
    assert not is_valid("crash_report", record)


def test_a_time_that_is_no_rfc_3339_is_invalid() -> None:
    record = parsed("crash_report")
    record["system"]["crash_time"] = "2026-01-02 03:04"
    assert not is_valid("crash_report", record)


def test_a_record_of_another_major_version_is_invalid() -> None:
    record = parsed("crash_report")
    record["schema"] = "crashbeam.crash_report/2"
    assert not is_valid("crash_report", record)


def test_a_field_added_later_is_valid() -> None:
    record = parsed("crash_report")
    record["system"]["added_later"] = 1
    assert is_valid("crash_report", record)


def test_the_members_of_closed_lists_are_explained_in_the_schema() -> None:
    definitions = json_schema("crash_report")["$defs"] | json_schema("failure")["$defs"]
    for closed_list in CLOSED_LISTS:
        schema = definitions[closed_list.__name__]
        assert schema["enum"] == [str(member) for member in closed_list]
        assert schema["x-members"] == {str(member): member.sentence for member in closed_list}


def test_every_code_has_a_sentence_and_every_trouble_a_remedy() -> None:
    for closed_list in CLOSED_LISTS:
        for member in closed_list:
            assert member.sentence
            if closed_list.__name__ in ("WarningCode", "FailureCode"):
                assert member.remedy, member
