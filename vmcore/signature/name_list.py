"""A list of patterns of function names, asked so that one report compiles few of them."""

import re
from collections.abc import Iterable

_MEMO_ENTRIES = 65_536
_SPECIAL = re.compile(r"[\\^$.|?*+()\[\]{}]")
_CLASS = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
_REPEAT = re.compile(r"\{[^}]*\}")
_ESCAPES_OF_ONE_LETTER = "wWdDsSbB"


class NameList:
    """Patterns of names. What was asked is remembered, as the functions that crash are few."""

    __slots__ = ("_compiled", "_literals", "_others", "_seen", "patterns")

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self.patterns = tuple(dict.fromkeys(patterns))
        self._literals = frozenset(pattern for pattern in self.patterns if not _SPECIAL.search(pattern))
        self._others = [(required_text(one), one) for one in self.patterns if one not in self._literals]
        self._compiled: dict[str, re.Pattern[str]] = {}
        self._seen: dict[str, bool] = {}

    def matches(self, name: str) -> bool:
        """Whether one of the patterns matches the whole name."""
        known = self._seen.get(name)
        if known is None:
            known = name in self._literals or any(
                required in name and self._compile(pattern).fullmatch(name) is not None
                for required, pattern in self._others
            )
            if len(self._seen) < _MEMO_ENTRIES:
                self._seen[name] = known
        return known

    def _compile(self, pattern: str) -> re.Pattern[str]:
        # Compiling all of them takes twenty times as long as asking of one report's functions.
        compiled = self._compiled.get(pattern)
        if compiled is None:
            compiled = self._compiled[pattern] = re.compile(pattern)
        return compiled


def required_text(pattern: str) -> str:
    """A text that stands in whatever the pattern matches: its longest run of plain characters outside all groups.

    It is empty where there is none that is certain.
    """
    runs = [""]
    depth = at = 0
    while at < len(pattern):
        character = pattern[at]
        at += 1
        if character == "\\":
            # Of longer escapes (\x41, \u0041) the rest is no plain text; of others the letter is left out.
            escaped = pattern[at : at + 1]
            if escaped.isalnum() and escaped not in _ESCAPES_OF_ONE_LETTER:
                return ""
            at += 1
        elif character == "[":
            found = _CLASS.match(pattern, at - 1)
            if found is None:
                return ""
            at = found.end()
        elif character in "?*{":
            runs[-1] = runs[-1][:-1]
            repeat = _REPEAT.match(pattern, at - 1)
            at = at if repeat is None else repeat.end()
        elif character in "()":
            depth += 1 if character == "(" else -1
        elif character == "|" and depth == 0:
            return ""
        elif character not in "|+.^$":
            if depth == 0:
                runs[-1] += character
            continue
        runs.append("")
    return max(runs, key=len)
