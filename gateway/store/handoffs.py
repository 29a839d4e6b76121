"""Conversations that wait for a person, or have one: the part of the store that agents work with.

It knows hand-offs, their states and replies. Every query names the tenant.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from gateway.errors import Conflict, NotFound
from gateway.records import Handoff, HandoffState, MediaRef
from gateway.store import media
from gateway.store.codec import decode, encode
from gateway.store.database import Database, insert_new
from gateway.store.tables import HANDOFFS, REPLIES


class Handoffs:
    """Hand-offs in one database; `Store` is one."""

    def __init__(self, database: Database) -> None:
        self._read, self._write = database.read, database.write

    def open_handoff(self, handoff: Handoff) -> Handoff:
        """Keep it, or give the one that this request or this conversation already has, with these media added: one case
        for the agents, however often the customer writes.
        """
        row = {
            "handoff_id": handoff.handoff_id,
            "tenant": handoff.tenant,
            "request_id": handoff.request_id,
            "conversation_id": handoff.conversation_id,
            "state": handoff.state,
            "agent": handoff.agent,
            "created_s": handoff.created_s,
            "record": encode(Handoff, replace(handoff, replies=())).decode(),
        }
        with self._write() as connection:
            if (case := _case(connection, handoff.tenant, handoff.conversation_id)) is not None:
                _add_media(connection, case, handoff.media)
                return _read(connection, handoff.tenant, handoff_id=case.handoff_id)
            new = insert_new(connection, HANDOFFS, row)
            if new:
                media.remember(connection, "handoff", row, handoff.media)
                return handoff
            return _read(connection, handoff.tenant, request_id=handoff.request_id)

    def handoff(self, tenant: str, handoff_id: str) -> Handoff:
        """With its replies; NotFound also if it is another tenant's."""
        with self._read() as connection:
            return _read(connection, tenant, handoff_id=handoff_id)

    def handoffs(self, tenant: str, state: HandoffState | None = None, limit: int = 200) -> list[Handoff]:
        """Of one tenant, oldest first."""
        query = (
            select(HANDOFFS).where(HANDOFFS.c.tenant == tenant).order_by(HANDOFFS.c.created_s).limit(limit)
        )
        if state is not None:
            query = query.where(HANDOFFS.c.state == state)
        with self._read() as connection:
            return _handoffs(connection.execute(query).all(), connection)

    def attended(self, tenant: str, conversation_id: str) -> bool:
        """Whether an agent has taken this conversation over and not closed it."""
        with self._read() as connection:
            case = _case(connection, tenant, conversation_id)
        return case is not None and case.state == "claimed"

    def claim(self, tenant: str, handoff_id: str, agent: str) -> Handoff:
        """Take it over; Conflict when another agent has it or it is closed."""
        with self._write() as connection:
            done = connection.execute(
                update(HANDOFFS)
                .where(
                    HANDOFFS.c.tenant == tenant,
                    HANDOFFS.c.handoff_id == handoff_id,
                    (HANDOFFS.c.state == "open")
                    | ((HANDOFFS.c.state == "claimed") & (HANDOFFS.c.agent == agent)),
                )
                .values(state="claimed", agent=agent)
            )
        handoff = self.handoff(tenant, handoff_id)
        if not done.rowcount:
            raise Conflict(
                f"hand-off {handoff_id} is {handoff.state}"
                + (f" by {handoff.agent}" if handoff.agent else "")
            )
        return handoff

    def reply(self, tenant: str, handoff_id: str, agent: str, text: str) -> Handoff:
        """An agent's words to the customer; Conflict unless this agent has claimed it."""
        mine = update(HANDOFFS).where(
            HANDOFFS.c.tenant == tenant,
            HANDOFFS.c.handoff_id == handoff_id,
            HANDOFFS.c.state == "claimed",
            HANDOFFS.c.agent == agent,
        )
        with self._write() as connection:
            # The update holds the row, so that nobody closes the hand-off in between.
            done = connection.execute(mine.values(agent=agent)).rowcount
            if done:
                row = {"tenant": tenant, "handoff_id": handoff_id, "agent": agent, "text": text}
                connection.execute(insert(REPLIES).values(row | {"at_s": time.time()}))
        handoff = self.handoff(tenant, handoff_id)
        if not done:
            raise Conflict(f"hand-off {handoff_id} is {handoff.state}; claim it first")
        return handoff

    def close_handoff(self, tenant: str, handoff_id: str) -> Handoff:
        """Done; closing twice changes nothing."""
        with self._write() as connection:
            connection.execute(
                update(HANDOFFS)
                .where(HANDOFFS.c.tenant == tenant, HANDOFFS.c.handoff_id == handoff_id)
                .values(state="closed")
            )
        return self.handoff(tenant, handoff_id)


def _read(connection: Connection, tenant: str, **columns: str) -> Handoff:
    query = select(HANDOFFS).where(
        HANDOFFS.c.tenant == tenant, *(HANDOFFS.c[name] == value for name, value in columns.items())
    )
    if (row := connection.execute(query).first()) is None:
        raise NotFound("there is no handoff with this id")
    return _handoffs([row], connection)[0]


def _case(connection: Connection, tenant: str, conversation_id: str) -> Row[Any] | None:
    """The hand-off of a conversation that is not closed; a claimed one before one that waits."""
    if not conversation_id:
        return None
    query = (
        select(HANDOFFS)
        .where(
            HANDOFFS.c.tenant == tenant,
            HANDOFFS.c.conversation_id == conversation_id,
            HANDOFFS.c.state != "closed",
        )
        .order_by(HANDOFFS.c.state, HANDOFFS.c.created_s)
        .limit(1)
    )
    return connection.execute(query).first()


def _add_media(connection: Connection, case: Row[Any], more: Sequence[MediaRef]) -> None:
    known = decode(Handoff, case.record)
    if new := [item for item in more if item not in known.media]:
        record = encode(Handoff, replace(known, media=(*known.media, *new))).decode()
        connection.execute(
            update(HANDOFFS).where(HANDOFFS.c.handoff_id == case.handoff_id).values(record=record)
        )
        media.remember(connection, "handoff", case._asdict(), new)


def _handoffs(rows: Sequence[Row[Any]], connection: Connection) -> list[Handoff]:
    """Of one tenant."""
    replies: dict[str, list[tuple[float, str, str]]] = {row.handoff_id: [] for row in rows}
    if rows:
        query = select(REPLIES).where(
            REPLIES.c.tenant == rows[0].tenant, REPLIES.c.handoff_id.in_(list(replies))
        )
        for reply in connection.execute(query.order_by(REPLIES.c.id)):
            replies[reply.handoff_id].append((reply.at_s, reply.agent, reply.text))
    return [
        replace(
            decode(Handoff, row.record),
            state=row.state,
            agent=row.agent,
            replies=tuple(replies[row.handoff_id]),
        )
        for row in rows
    ]
