"""Which metrics an expression of Prometheus selects, and by which labels.

It knows as much of the language as that needs; whether an expression is right is Prometheus' to say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_STRING = r'"(?:[^"\\]|\\.)*"'
_LABEL_LIST = r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)"
_PASSED_OVER = rf"{_STRING}|{_LABEL_LIST}|\[[^]]*\]|\boffset\s+\w+|(?<![\w:])\d[\w.]*"
_TOKEN = re.compile(
    rf"(?:{_PASSED_OVER})|(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{{(?P<labels>(?:{_STRING}|[^}}\"])*)\}})?"
)
_MATCHER = re.compile(rf"(\w+)\s*(=~|!~|!=|=)\s*({_STRING})")
_CALL = re.compile(r"\s*(?:\(|by\b|without\b)")
_WORDS = frozenset({"and", "or", "unless", "bool", "group_left", "group_right", "inf", "nan"})


@dataclass(frozen=True)
class Selector:
    """A metric, and what it is selected by: label, operator, value in quotes."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]

    def __str__(self) -> str:
        return f"{self.name}{{{','.join(''.join(matcher) for matcher in self.matchers)}}}"


def selectors(expression: str) -> tuple[Selector, ...]:
    """Every selector of an expression, in order."""
    found = []
    for match in _TOKEN.finditer(expression):
        function = match["labels"] is None and _CALL.match(expression, match.end())
        if match["name"] and not function and match["name"].lower() not in _WORDS:
            found.append(Selector(match["name"], tuple(_MATCHER.findall(match["labels"] or ""))))
    return tuple(found)
