"""The fields of a record as its annotations tell them: what stands at a path, can it be absent, who may see it."""

import types
from dataclasses import dataclass, is_dataclass
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from crashbeam.schemas.privacy import Privacy
from crashbeam.schemas.words import Form

Path = tuple[str, ...]
"""Keys from the root of a record; a list is passed through, its elements being meant."""

_STRICTNESS = (Privacy.PUBLIC, Privacy.INTERNAL, Privacy.PERSONAL)


@dataclass(frozen=True, slots=True)
class FieldFacts:
    """``type`` without its marks and without ``None``; ``privacy`` is the strictest mark on the way.

    ``form`` is that of the string, or of the strings inside, where one is stated.
    """

    type: Any
    nullable: bool
    privacy: Privacy
    form: Form | None = None


@cache
def fields_of(record_class: type) -> dict[str, FieldFacts]:
    """The fields of a dataclass in definition order, by their names in JSON.

    Raises TypeError for a field without exactly one privacy mark.
    """
    fields = {}
    for name, annotation in get_type_hints(record_class, include_extras=True).items():
        marks = [mark for mark in getattr(annotation, "__metadata__", ()) if isinstance(mark, Privacy)]
        if len(marks) != 1:
            raise TypeError(f"{record_class.__name__}.{name} needs exactly one privacy mark")
        bare, nullable = _without_none(without_marks(annotation))
        fields[json_name(name)] = FieldFacts(bare, nullable, marks[0], _form_in(annotation))
    return fields


def json_name(field_name: str) -> str:
    """A field's name in JSON: without the underscore that keeps it from being a word of Python."""
    return field_name.removesuffix("_")


def field_at(record_class: type, path: Path) -> FieldFacts:
    """The field at a path below ``record_class``. Raises KeyError where there is none."""
    here: Any = record_class
    nullable = False
    privacy = Privacy.PUBLIC
    form = None
    for key in path:
        if get_origin(here) is tuple:
            here = without_marks(get_args(here)[0])
        if not (isinstance(here, type) and is_dataclass(here)):
            raise KeyError(".".join(path))
        field = fields_of(here)[key]
        here, form = field.type, field.form
        nullable = nullable or field.nullable
        privacy = max(privacy, field.privacy, key=_STRICTNESS.index)
    return FieldFacts(here, nullable, privacy, form)


def without_marks(annotation: Any) -> Any:
    """The annotation that ``Annotated`` wraps."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _form_in(annotation: Any) -> Form | None:
    """The form stated anywhere in an annotation: of a string, or of what an optional, a tuple or a dict holds."""
    for mark in getattr(annotation, "__metadata__", ()):
        if isinstance(mark, Form):
            return mark
    return next((form for inner in get_args(annotation) if (form := _form_in(inner))), None)


def _without_none(annotation: Any) -> tuple[Any, bool]:
    if get_origin(annotation) not in (Union, types.UnionType):
        return annotation, False
    members = [member for member in get_args(annotation) if member is not type(None)]
    if len(members) == 1:
        return without_marks(members[0]), True
    return annotation, False
