"""Qwen's tool calls -> OpenAI's. The model writes <tool_call>{"name": ..., "arguments": {...}}</tool_call> into its text.

Only names that the request defined become calls; anything else stays what it is: text.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

OPEN: Final = "<tool_call>"
_CALL: Final = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)


@dataclass(frozen=True)
class Parsed:
    """Text before the first call, and the calls in OpenAI's form. What follows the calls belongs to no customer."""

    text: str
    calls: tuple[dict[str, Any], ...]


def render(tools: Sequence[Mapping[str, Any]]) -> str:
    """Definitions as Qwen's chat template writes them: one JSON per line."""
    return "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)


def render_call(name: str, arguments: str) -> str:
    """A call of an earlier turn, as the model wrote it. `arguments`: JSON text."""
    try:
        given = json.loads(arguments) if arguments else {}
    except ValueError:
        given = arguments
    written = json.dumps({"name": name, "arguments": given}, ensure_ascii=False)
    return f"{OPEN}\n{written}\n</tool_call>"


def render_result(text: str) -> str:
    """What a tool gave."""
    return f"<tool_response>\n{text}\n</tool_response>"


def parse(text: str, names: Collection[str], limit: int | None = None) -> Parsed:
    """Find the calls. `names`: the tools that exist; `limit`: at most so many calls."""
    calls: list[dict[str, Any]] = []
    first = len(text)
    for found in _CALL.finditer(text):
        call = _call(found.group(1), names)
        if call is not None and (limit is None or len(calls) < limit):
            first = min(first, found.start())
            calls.append(call)
    return Parsed(text[:first].rstrip() if calls else text, tuple(calls))


def _call(written: str, names: Collection[str]) -> dict[str, Any] | None:
    try:
        given = json.loads(written)
    except (ValueError, RecursionError):
        return None
    if given.get("name") not in names:
        return None
    arguments = given.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    if not isinstance(arguments, dict):
        return None
    return {
        "id": f"call_{uuid.uuid4().hex[:24]}",
        "type": "function",
        "function": {"name": given["name"], "arguments": json.dumps(arguments, ensure_ascii=False)},
    }


class Holdback:
    """Streams text up to where a call may begin, and keeps the rest until it is known what it is."""

    def __init__(self) -> None:
        self._held = ""

    def push(self, text: str) -> str:
        """What may go out now."""
        self._held += text
        at = self._held.find(OPEN)
        if at < 0:
            at = len(self._held) - _overlap(self._held)
        out, self._held = self._held[:at], self._held[at:]
        return out


def _overlap(text: str) -> int:
    """How many of the last characters may be the beginning of a call."""
    return next((n for n in range(min(len(OPEN) - 1, len(text)), 0, -1) if OPEN.startswith(text[-n:])), 0)
