"""Fenced code blocks of Markdown: what of a text is code, and how an open block is closed. Knows nothing else."""

from __future__ import annotations

import re
from typing import Final

_FENCE: Final = re.compile(r"[ \t>]*(`{3,}|~{3,})([^\n]*)")


def outside(text: str) -> str:
    """The text without its code blocks."""
    kept, fence = _walked(text)
    del fence
    return "".join(kept)


def closing(text: str) -> str:
    """What must follow a text so that it does not end inside a code block; "" when it does not."""
    _, fence = _walked(text)
    if not fence:
        return ""
    return fence if text.endswith("\n") else f"\n{fence}"


def _walked(text: str) -> tuple[list[str], str]:
    kept: list[str] = []
    fence = ""
    for line in text.splitlines(keepends=True):
        mark = _FENCE.match(line)
        if mark is None:
            if not fence:
                kept.append(line)
        elif not fence:
            if mark[1][0] == "~" or "`" not in mark[2]:
                fence = mark[1]
            else:
                kept.append(line)  # ```code``` within a line
        elif mark[1][0] == fence[0] and len(mark[1]) >= len(fence) and not mark[2].strip():
            fence = ""
    return kept, fence
