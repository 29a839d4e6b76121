"""How much waits in a database: numbers over all tenants, and nothing else. It knows tables; it does not know metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Table, func, select

from gateway.store.tables import HANDOFFS, TICKETS


@dataclass(frozen=True)
class Backlog:
    """Tickets without an answer and hand-offs that no agent has taken; the age of the oldest in seconds, 0 if none waits."""

    tickets: int
    ticket_age_s: float
    handoffs: int
    handoff_age_s: float


def count(connection: Connection, unfinished: Sequence[str], now_s: float) -> Backlog:
    """`unfinished`: states of a ticket that has no answer yet."""
    tickets, ticket_age_s = _waiting(connection, TICKETS, TICKETS.c.state.in_(unfinished), now_s)
    handoffs, handoff_age_s = _waiting(connection, HANDOFFS, HANDOFFS.c.state == "open", now_s)
    return Backlog(tickets, ticket_age_s, handoffs, handoff_age_s)


def _waiting(
    connection: Connection, table: Table, which: ColumnElement[bool], now_s: float
) -> tuple[int, float]:
    oldest: ColumnElement[float | None] = func.min(table.c.created_s)
    query = select(func.count(), oldest).select_from(table).where(which)
    number, oldest_s = connection.execute(query).one()
    return number, 0.0 if oldest_s is None else max(0.0, now_s - oldest_s)
