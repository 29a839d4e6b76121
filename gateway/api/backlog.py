"""Publishes what waits in the store. The numbers are the store's, so every gateway shows the same ones, and they are right also
while no worker or agent is there to be asked.
"""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING, Final

from prometheus_client import Gauge

if TYPE_CHECKING:
    from gateway.store import Store

_log = logging.getLogger(__name__)
_EVERY_S: Final = 10.0

TICKETS: Final = Gauge("cs_tickets_waiting", "Tickets without an answer")
TICKET_AGE: Final = Gauge(
    "cs_ticket_oldest_seconds", "Age of the oldest ticket without an answer; 0 if there is none"
)
HANDOFFS: Final = Gauge("cs_handoffs_open", "Hand-offs that no agent has taken")
HANDOFF_AGE: Final = Gauge(
    "cs_handoff_oldest_seconds", "Age of the oldest hand-off that no agent has taken; 0 if none"
)


async def measure(store: Store) -> None:
    """Look once. While the store is away nobody knows, and the numbers say so (NaN)."""
    try:
        found = await asyncio.to_thread(store.backlog)
        numbers: tuple[float, ...] = (found.tickets, found.ticket_age_s, found.handoffs, found.handoff_age_s)
    except Exception as error:  # whatever it is, the next look is as good as any
        _log.warning("the backlog is not known: %s", type(error).__name__)
        numbers = (math.nan,) * 4
    for gauge, number in zip((TICKETS, TICKET_AGE, HANDOFFS, HANDOFF_AGE), numbers, strict=True):
        gauge.set(number)


async def measuring(store: Store) -> None:
    """Look again and again, until cancelled."""
    while True:
        await measure(store)
        await asyncio.sleep(_EVERY_S)
