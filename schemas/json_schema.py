"""The JSON Schema (draft 2020-12) of each record, derived from its dataclasses.

    python -m crashbeam.schemas.json_schema      writes schemas/json/*.json

msgspec gives the types; what it cannot know is added to each property: the privacy mark (``x-privacy``), the form of
hex strings, the range of integers, and of each closed list what its members mean (``x-members``). A reader has to
expect properties that it does not know: within a major version fields are added.
"""

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args

import msgspec

from crashbeam.schemas.codes import CLOSED_LISTS, Code
from crashbeam.schemas.crash_report import CRASH_REPORT
from crashbeam.schemas.failure import FAILURE
from crashbeam.schemas.fields import fields_of, json_name
from crashbeam.schemas.records import RECORDS
from crashbeam.schemas.tables import INT32_FIELDS, TIMESTAMP_FIELDS

FOLDER = Path(__file__).parent / "json"
DRAFT = "https://json-schema.org/draft/2020-12/schema"
_SCHEMA_OF = {"crash_report": CRASH_REPORT, "failure": FAILURE}

Schema = dict[str, Any]


def json_schema(name: str) -> Schema:
    """The JSON Schema of the record ``name``. Raises KeyError for a record that there is not."""
    record_class = RECORDS[name]
    (reference,), components = msgspec.json.schema_components([record_class], ref_template="#/$defs/{name}")
    for part in dataclasses_in(record_class):
        _complete_object(components[part.__name__], part)
    for closed_list in CLOSED_LISTS:
        if closed_list.__name__ in components:
            _complete_enum(components[closed_list.__name__], closed_list)
    properties = components[record_class.__name__]["properties"]
    properties["schema"] |= {"const": _SCHEMA_OF[name]}
    return {"$schema": DRAFT, "title": record_class.__name__, **reference, "$defs": components}


def dataclasses_in(record_class: type) -> list[type]:
    """A record's class and every dataclass that it is made of, each once."""
    found = [record_class]
    for part in found:
        for field in fields_of(part).values():
            found.extend(inner for inner in _dataclasses_of(field.type) if inner not in found)
    return found


def _dataclasses_of(field_type: Any) -> list[type]:
    if isinstance(field_type, type) and is_dataclass(field_type):
        return [field_type]
    return [inner for argument in get_args(field_type) for inner in _dataclasses_of(argument)]


def _complete_object(schema: Schema, record_class: type) -> None:
    facts = fields_of(record_class)
    schema["properties"] = {json_name(name): value for name, value in schema["properties"].items()}
    # A record is always written with all its fields, also those that have a default where it is made.
    schema["required"] = [json_name(field.name) for field in fields(record_class)]
    for name, property_schema in schema["properties"].items():
        property_schema.pop("default", None)
        form = facts[name].form
        for values in _value_schemas(property_schema):
            if values["type"] == "integer":
                bits = 31 if name in INT32_FIELDS else 63
                values |= {"minimum": -(1 << bits), "maximum": (1 << bits) - 1}
            if values["type"] == "string" and form is not None:
                values["pattern"] = form.pattern
            if values["type"] == "string" and name in TIMESTAMP_FIELDS:
                values["format"] = "date-time"
        property_schema["x-privacy"] = facts[name].privacy.value


def _value_schemas(schema: Schema) -> list[Schema]:
    """The schemas of the integers and strings in a property: its own, or those of its alternatives and elements."""
    inner = [*schema.get("anyOf", []), schema.get("items"), schema.get("additionalProperties")]
    found = [schema] if schema.get("type") in ("integer", "string") else []
    return found + [value for part in inner if isinstance(part, dict) for value in _value_schemas(part)]


def _complete_enum(schema: Schema, closed_list: type[Code]) -> None:
    schema["enum"] = [member.value for member in closed_list]
    schema["x-members"] = {member.value: member.sentence for member in closed_list}


def as_text(name: str) -> str:
    """The JSON Schema of a record as its file in ``schemas/json/`` holds it."""
    return json.dumps(json_schema(name), indent=2) + "\n"


def write_files(folder: Path = FOLDER) -> None:
    """Writes the schema of every record into ``folder``."""
    for name in RECORDS:
        (folder / f"{name}.json").write_text(as_text(name), encoding="utf-8")


if __name__ == "__main__":
    write_files()
