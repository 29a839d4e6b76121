"""What Triton's log says while it loads: progress to show, and reasons when it fails.

It knows lines of Triton's log, nothing else.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ensemble.contract import MODELS

_LOADED = re.compile(r"successfully loaded '([^']+)'")
# The lines that hold a reason, most telling first; the rest of a log of errors repeats them.
_REASONS = (
    re.compile(r"Socket '(?P<reason>[^']+)' already in use"),
    re.compile(r"failed to load '[^']+' version \d+: (?P<reason>.*)"),
    re.compile(r"^error: (?P<reason>.*)"),
)
_SIGKILL = -9


class StartError(RuntimeError):
    """Triton did not become ready; the text says why as far as the log tells."""


@contextmanager
def show_progress(log: Path) -> Iterator[Callable[[], None]]:
    """Gives a function to call now and then: it shows on standard error how many models are loaded."""
    started_s, shown, terminal = time.monotonic(), "", sys.stderr.isatty()

    def show() -> None:
        nonlocal shown
        loaded = [name for name in MODELS if name in set(_LOADED.findall(_read(log)))]
        text = f"loading models: {len(loaded)}/{len(MODELS)} {' '.join(loaded)}".rstrip()
        if terminal:
            print(f"\r{text}  {time.monotonic() - started_s:.0f} s ", end="", file=sys.stderr, flush=True)
        elif text != shown:
            print(text, file=sys.stderr, flush=True)
        shown = text

    try:
        yield show
    finally:
        if terminal and shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def explain(log: Path, returncode: int | None) -> str:
    """Why the server did not start, from its log and exit code."""
    text = _read(log)
    if returncode == _SIGKILL or "is not healthy" in text:
        return (
            "a process of the server was killed while it loaded, most likely because memory ran out. "
            "Give the machine (or the container) more, or lower kv_cache_bytes"
        )
    for pattern in _REASONS:
        reasons = [
            match["reason"].strip().strip('"')
            for line in text.splitlines()
            if (match := pattern.search(line))
        ]
        if reasons and "already in use" in pattern.pattern:
            return f"{reasons[0]} was taken by another program in the meantime; start again"
        # Triton writes line ends as \\n, and a Python traceback after the message.
        reasons = [reason.split("\\n\\nAt:")[0].replace("\\n", "\n") for reason in reasons]
        if reasons:
            return "\n".join(dict.fromkeys(reasons))
    tail = "\n".join(text.splitlines()[-10:])
    return f"tritonserver ended with exit code {returncode}; the end of its log:\n{tail}"


def _read(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
