"""Rolling restart: two servers, one after the other drained and started again under load. No request may notice.

It holds because a request that a draining or absent server refuses goes to the next target, and a draining server
finishes what it has.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from loadtests.trace import Trace

Checks = dict[str, tuple[bool, str]]


class Restartable(Protocol):
    """What is needed of a server."""

    def start(self) -> None:
        """Start it where it was, and wait until it is ready."""

    def stop(self) -> int:
        """Drain and end it; its exit code."""


def roll(servers: Sequence[Restartable], pause_s: float) -> list[int]:
    """Restart one after the other, `pause_s` before each. Their exit codes."""
    codes = []
    for server in servers:
        time.sleep(pause_s)
        codes.append(server.stop())
        time.sleep(pause_s)
        server.start()
    return codes


def judge(traces: Sequence[Trace], codes: Sequence[int], servers: int, addresses: Sequence[str]) -> Checks:
    """Every check by name: whether it passed, and what was seen."""
    lost = [trace for trace in traces if trace.outcome in ("rejected", "failed", "aborted")]
    moved = sum(trace.attempts > 1 for trace in traces)
    served = {address: sum(trace.target == address for trace in traces) for address in addresses}
    return {
        "no request is lost": (
            not lost,
            f"{len(lost)} of {len(traces)} {sorted({t.cause for t in lost})}; {moved} went to the next target",
        ),
        "every server was restarted": (len(codes) == servers, f"{len(codes)} of {servers}"),
        "every server drained": (not any(codes), f"exit codes {list(codes)}"),
        "every server served": (all(served.values()), f"requests per target {served}"),
    }
