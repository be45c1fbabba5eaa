"""Titles of crashes, in the manner of syzkaller's reports: what happened, and where."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from crashbeam.schemas.clean import clean_text
from crashbeam.schemas.codes import CrashClass
from crashbeam.vmcore.oops import Oops
from crashbeam.vmcore.oops.formats import ClassTitle, OopsFormats, shipped_formats
from crashbeam.vmcore.signature.names import normalise

MAX_TITLE_LENGTH = 120
_PARTS = re.compile(r"\[([^\[\]]*)\]|([^\[\]]+)")
_FIELD = re.compile(r"\{(\w+)\}")
_JUMPS = (CrashClass.BAD_JUMP, CrashClass.EXEC_USER, CrashClass.BAD_MODULE)
_NAMES = ("function", "module", "where", "caller", "vector", "exit_code", "unloaded")
"""Fields that are names or numbers which tell crashes apart: they are not cleaned of numbers."""


@cache
def _cleanings() -> tuple[tuple[re.Pattern[str], str], ...]:
    """What differs from crash to crash, in the order in which it is replaced."""
    pairs = (
        (r"[^\x21-\x7e]+", " "),
        (r"\b(?:0x)?(?=[0-9a-f]*\d)[0-9a-f]{6,}\b|\b0x[0-9a-f]{6,}\b", "ADDR"),
        (r"\b\d{1,3}(?:\.\d{1,3}){3}\b", "IP"),
        (r"(\b[\w/.-]+\.[chS]):\d+(?::\d+)?", r"\1:LINE"),
        (r"(\b[\w.$]+)\+0x[0-9a-f]+(?:/0x[0-9a-f]+)?", r"\1"),
        (r"\bCPU[#: ]?\d+\b", "CPU"),
        (r"#(?:\d[0-9a-f]*|[a-f])\b", "#NUM"),
        (r"\b(?:[shv]d[a-z]{1,3}\d*|(?:nvme\d+n|mmcblk)\d+(?:p\d+)?|dm-\d+|md\d+|loop\d+)\b", "DEV"),
        (r"(?<![\w.])\d+(?![\w.])", "NUM"),
        (r"\d{7,}", "NUM"),
    )
    return tuple((re.compile(pattern), by) for pattern, by in pairs)


def titles_of(
    oops: Oops | None,
    class_: CrashClass,
    culprit: str | None,
    module: str | None,
    *,
    caller: str | None = None,
    formats: OopsFormats | None = None,
) -> tuple[str, tuple[str, ...]]:
    """A crash's title and its alternatives, cleaned of all that differs from crash to crash of one kind.

    ``culprit`` and ``module`` are the function to name, normalised; without one it is that of the text, if there is
    one. ``caller`` is what a wild jump came from (``culprit`` if not given).
    """
    formats = formats or shipped_formats()
    of_class = formats.titles.get(class_) or ClassTitle(class_.sentence, (), False)
    format_ = formats.by_name.get(oops.format) if oops is not None else None
    title, alternatives = of_class.title, of_class.alternatives
    if format_ is not None and format_.class_ is class_:
        title = format_.title if format_.title is not None else title
        alternatives = format_.alternatives if format_.alternatives is not None else alternatives
    if oops is not None and (culprit is None or (of_class.place_from_text and oops.function)):
        culprit, module = _named_in(oops)
    fields = dict(oops.details) if oops is not None else {}
    if culprit is not None:
        fields["function"] = culprit
        fields["where"] = f"{culprit} [{module}]" if module else culprit
    if caller is not None or culprit is not None:
        fields["caller"] = caller if caller is not None and caller != culprit else fields["where"]
    fields = {name: value if name in _NAMES else clean_title(value) for name, value in fields.items()}
    filled = _filled(title, fields)
    others = (_filled(alternative, fields) for alternative in alternatives if _has_fields(alternative, fields))
    return filled or class_.sentence, tuple(dict.fromkeys(other for other in others if other and other != filled))


def _named_in(oops: Oops) -> tuple[str | None, str | None]:
    """The function that the text names, and its module; after a wild jump the one in LR."""
    name, module = oops.function, oops.module
    if name is None and oops.class_ in _JUMPS:
        name, module = oops.link_function, oops.link_module
    found = normalise(name, module) if name is not None else None
    return (found.function, found.module) if found is not None else (None, None)


def clean_title(text: str) -> str:
    """Text without addresses, numbers, places in files and other things that differ from crash to crash."""
    text = text[:1024]
    for pattern, by in _cleanings():
        text = pattern.sub(by, text)
    return text.strip()


def _has_fields(template: str, fields: Mapping[str, str]) -> bool:
    return all(name in fields for name in _FIELD.findall(_PARTS.sub(lambda part: part[2] or "", template)))


def _filled(template: str, fields: Mapping[str, str]) -> str:
    """A template with its fields: a part in brackets is left out if it lacks one, elsewhere ``?`` stands for it."""
    parts = []
    for optional, fixed in _PARTS.findall(template):
        part = optional or fixed
        if optional and any(name not in fields for name in _FIELD.findall(optional)):
            continue
        parts.append(_FIELD.sub(lambda field: fields.get(field[1], "?"), part))
    text = re.sub(r"[^\x20-\x7e]+", " ", "".join(parts))
    return clean_text(re.sub(r" {2,}", " ", text).strip(), MAX_TITLE_LENGTH).rstrip()
