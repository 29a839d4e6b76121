"""Numbers of the queue. Labels are names of ours: no tenant, no id, no text."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

PUBLISHED: Final = Counter("cs_messages_total", "Messages to the broker", ["topic", "result"])
FINISHED: Final = Counter("cs_tickets_total", "Tickets that a worker is done with", ["outcome"])
RETRIED: Final = Counter("cs_ticket_retries_total", "Attempts at a ticket that failed and were repeated")
BURIED: Final = Counter("cs_dead_letters_total", "Messages that nobody could work on", ["reason"])
for _reason in ("not_decodable", "unknown_ticket", "missing_object", "invalid", "attempts", "error"):
    BURIED.labels(_reason)  # a count that begins at 1 has no increase: the first dead letter would be missed
HELD: Final = Gauge("cs_tickets_held", "Tickets that this worker has taken and not finished")
LAG: Final = Gauge("cs_queue_lag", "Messages that wait behind the last one read", ["partition"])
SECONDS: Final = Histogram(
    "cs_ticket_seconds",
    "From accepting a ticket to its answer",
    buckets=(0.1, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600),
)
