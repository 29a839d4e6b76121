"""What must not be lost: tickets, answers, feedback, hand-offs. Safe from many threads and processes at once.

It knows records and tables. It does not know queues, HTTP or media; it gives back the references of media whose rows it
deletes. Every query names the tenant, but for those of the worker, which has the ticket's id from the queue.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, make_url, or_, select, update
from sqlalchemy.exc import IntegrityError, OperationalError

from gateway.errors import Conflict, NotFound, Unavailable
from gateway.records import (
    Answer,
    Feedback,
    Handoff,
    HandoffState,
    MediaRef,
    Message,
    Question,
    Ticket,
    TicketState,
)
from gateway.store import tables
from gateway.store.codec import decode, encode
from gateway.store.tables import ANSWERS, FEEDBACK, HANDOFFS, REPLIES, TICKETS

Asked = Question[MediaRef]
_UNFINISHED = ("queued", "working")


class Store:
    """One database.

    Args:
        url: SQLAlchemy's; the directory of an SQLite file is made.
    """

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite" and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        self._engine = tables.connect(url)
        with self._write() as connection:
            tables.prepare(connection)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def ready(self) -> bool:
        """Whether the database answers."""
        try:
            with self._engine.connect() as connection:
                connection.execute(select(tables.SCHEMA.c.version))
        except OperationalError:
            return False
        return True

    # Tickets

    def create_ticket(self, question: Asked) -> Ticket:
        """A new ticket, or the one that this tenant already has for this request id."""
        now_s = time.time()
        ticket = Ticket(f"ticket-{secrets.token_hex(12)}", question.tenant, "queued", now_s, now_s, question)
        row = {
            "ticket_id": ticket.ticket_id,
            "tenant": question.tenant,
            "request_id": question.request_id,
            "conversation_id": question.conversation_id,
            "state": ticket.state,
            "created_s": now_s,
            "updated_s": now_s,
            "attempts": 0,
            "question": encode(Asked, question).decode(),
        }
        try:
            with self._write() as connection:
                connection.execute(insert(TICKETS).values(row))
        except IntegrityError:
            return _ticket(self._one(TICKETS, tenant=question.tenant, request_id=question.request_id))
        return ticket

    def ticket(self, tenant: str, ticket_id: str) -> Ticket:
        """NotFound also if it is another tenant's."""
        return _ticket(self._one(TICKETS, tenant=tenant, ticket_id=ticket_id))

    def start_ticket(self, ticket_id: str) -> Ticket | None:
        """Count an attempt; None when it was answered before, NotFound when it is unknown (it was deleted)."""
        with self._write() as connection:
            done = connection.execute(
                update(TICKETS)
                .where(TICKETS.c.ticket_id == ticket_id, TICKETS.c.state.in_(_UNFINISHED))
                .values(state="working", attempts=TICKETS.c.attempts + 1, updated_s=time.time())
            )
        ticket = _ticket(self._one(TICKETS, ticket_id=ticket_id))
        return ticket if done.rowcount else None

    def finish_ticket(self, ticket_id: str, answer: Answer, state: TicketState) -> bool:
        """Store the answer, once: False when somebody else was first, and then nothing changes."""
        now_s = time.time()
        text = encode(Answer, answer).decode()
        with self._write() as connection:
            done = connection.execute(
                update(TICKETS)
                .where(TICKETS.c.ticket_id == ticket_id, TICKETS.c.state.in_(_UNFINISHED))
                .values(state=state, answer=text, updated_s=now_s)
            )
            if not done.rowcount:
                return False
            row = connection.execute(select(TICKETS).where(TICKETS.c.ticket_id == ticket_id)).one()
            _keep(connection, decode(Asked, row.question), text, now_s)
        return True

    def published(self, ticket_id: str) -> None:
        """The queue has it."""
        with self._write() as connection:
            connection.execute(
                update(TICKETS).where(TICKETS.c.ticket_id == ticket_id).values(published_s=time.time())
            )

    def unpublished(self, limit: int, older_than_s: float = 0.0, stale_s: float = 3600.0) -> list[Ticket]:
        """Unfinished tickets that the queue does not have, or was given so long ago that it must have lost them.

        Args:
            limit: at most so many, oldest first.
            older_than_s: leave those alone that were made in the last seconds: their maker is publishing them.
            stale_s: published longer ago than this, and not touched since.
        """
        now_s = time.time()
        lost = (TICKETS.c.published_s < now_s - stale_s) & (TICKETS.c.updated_s < now_s - stale_s)
        never = TICKETS.c.published_s.is_(None) & (TICKETS.c.created_s <= now_s - older_than_s)
        query = (
            select(TICKETS)
            .where(TICKETS.c.state.in_(_UNFINISHED), or_(never, lost))
            .order_by(TICKETS.c.created_s)
            .limit(limit)
        )
        with self._engine.connect() as connection:
            return [_ticket(row) for row in connection.execute(query)]

    # Answers

    def save_answer(self, question: Asked, answer: Answer) -> None:
        """Keep an answer; of two with the same request id the first stays."""
        with self._write() as connection:
            _keep(connection, question, encode(Answer, answer).decode(), time.time())

    def answer(self, tenant: str, request_id: str) -> Answer:
        """NotFound also if it is another tenant's."""
        return decode(Answer, self._one(ANSWERS, tenant=tenant, request_id=request_id).answer)

    def asked(self, tenant: str, request_id: str) -> Asked:
        """The question that an answer belongs to."""
        return decode(Asked, self._one(ANSWERS, tenant=tenant, request_id=request_id).question)

    def conversation(self, tenant: str, conversation_id: str) -> tuple[Message[MediaRef], ...]:
        """What was asked and answered, oldest first; NotFound when there is nothing."""
        query = (
            select(ANSWERS)
            .where(ANSWERS.c.tenant == tenant, ANSWERS.c.conversation_id == conversation_id)
            .order_by(ANSWERS.c.created_s)
        )
        messages: list[Message[MediaRef]] = []
        with self._engine.connect() as connection:
            for row in connection.execute(query):
                messages.append(decode(Asked, row.question).messages[-1])
                messages.append(Message("assistant", (decode(Answer, row.answer).text,)))
        if not messages:
            raise NotFound(f"there is no conversation {conversation_id!r}")
        return tuple(messages)

    # Feedback

    def add_feedback(self, feedback: Feedback) -> None:
        """Keep a judgement; NotFound unless the tenant has an answer with this request id."""
        self._one(ANSWERS, tenant=feedback.tenant, request_id=feedback.request_id)
        with self._write() as connection:
            connection.execute(insert(FEEDBACK).values(vars(feedback)))

    def feedback(self, tenant: str | None, since_s: float = 0.0) -> list[Feedback]:
        """Judgements of a tenant, or with None of all, oldest first."""
        query = select(FEEDBACK).where(FEEDBACK.c.created_s >= since_s).order_by(FEEDBACK.c.id)
        if tenant is not None:
            query = query.where(FEEDBACK.c.tenant == tenant)
        with self._engine.connect() as connection:
            return [
                Feedback(row.request_id, row.tenant, row.rating, row.comment, row.created_s)
                for row in connection.execute(query)
            ]

    # Hand-offs

    def open_handoff(self, handoff: Handoff) -> Handoff:
        """Keep it, or give the one that this request already has."""
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
        try:
            with self._write() as connection:
                connection.execute(insert(HANDOFFS).values(row))
        except IntegrityError:
            found = self._one(HANDOFFS, tenant=handoff.tenant, request_id=handoff.request_id)
            return self.handoff(handoff.tenant, found.handoff_id)
        return handoff

    def handoff(self, tenant: str, handoff_id: str) -> Handoff:
        """With its replies; NotFound also if it is another tenant's."""
        row = self._one(HANDOFFS, tenant=tenant, handoff_id=handoff_id)
        with self._engine.connect() as connection:
            return _handoff(row, connection)

    def handoffs(self, tenant: str, state: HandoffState | None = None, limit: int = 200) -> list[Handoff]:
        """Of one tenant, oldest first."""
        query = (
            select(HANDOFFS).where(HANDOFFS.c.tenant == tenant).order_by(HANDOFFS.c.created_s).limit(limit)
        )
        if state is not None:
            query = query.where(HANDOFFS.c.state == state)
        with self._engine.connect() as connection:
            return [_handoff(row, connection) for row in connection.execute(query).all()]

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
        handoff = self.handoff(tenant, handoff_id)
        if handoff.state != "claimed" or handoff.agent != agent:
            raise Conflict(f"hand-off {handoff_id} is {handoff.state}; claim it first")
        with self._write() as connection:
            connection.execute(
                insert(REPLIES).values(
                    tenant=tenant, handoff_id=handoff_id, agent=agent, at_s=time.time(), text=text
                )
            )
        return self.handoff(tenant, handoff_id)

    def close_handoff(self, tenant: str, handoff_id: str) -> Handoff:
        """Done; closing twice changes nothing."""
        with self._write() as connection:
            connection.execute(
                update(HANDOFFS)
                .where(HANDOFFS.c.tenant == tenant, HANDOFFS.c.handoff_id == handoff_id)
                .values(state="closed")
            )
        return self.handoff(tenant, handoff_id)

    # Forgetting

    def purge(self, before_s: float) -> list[tuple[str, MediaRef]]:
        """Delete all that was made before; gives (tenant, media) whose objects nobody refers to any more."""
        with self._write() as connection:
            gone = _media(connection, TICKETS.c.created_s < before_s, ANSWERS.c.created_s < before_s)
            for table in (TICKETS, ANSWERS, FEEDBACK, HANDOFFS):
                connection.execute(delete(table).where(table.c.created_s < before_s))
            connection.execute(delete(REPLIES).where(REPLIES.c.at_s < before_s))
        return gone

    def forget(self, tenant: str, conversation_id: str) -> list[tuple[str, MediaRef]]:
        """Delete a conversation with all that belongs to it; NotFound when there is none."""

        def of(table: Any) -> Any:
            return (table.c.tenant == tenant) & (table.c.conversation_id == conversation_id)

        with self._write() as connection:
            gone = _media(connection, of(TICKETS), of(ANSWERS))
            requests = select(ANSWERS.c.request_id).where(of(ANSWERS))
            handoffs = select(HANDOFFS.c.handoff_id).where(of(HANDOFFS))
            connection.execute(
                delete(FEEDBACK).where(FEEDBACK.c.tenant == tenant, FEEDBACK.c.request_id.in_(requests))
            )
            connection.execute(
                delete(REPLIES).where(REPLIES.c.tenant == tenant, REPLIES.c.handoff_id.in_(handoffs))
            )
            rows = sum(
                connection.execute(delete(table).where(of(table))).rowcount
                for table in (TICKETS, ANSWERS, HANDOFFS)
            )
        if not rows:
            raise NotFound(f"there is no conversation {conversation_id!r}")
        return gone

    def media(self, tenant: str, object_id: str) -> MediaRef | None:
        """What this tenant's questions say about an object; None if no question has it."""
        query = select(ANSWERS.c.question).where(
            ANSWERS.c.tenant == tenant, ANSWERS.c.question.contains(object_id, autoescape=True)
        )
        with self._engine.connect() as connection:
            for row in connection.execute(query):
                for item in decode(Asked, row.question).media:
                    if item.object_id == object_id:
                        return item
        return None

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        """A transaction. SQLite's takes the write lock at its beginning: one that takes it later may fail half-way."""
        try:
            if self._engine.dialect.name != "sqlite":
                with self._engine.begin() as connection:
                    yield connection
                return
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                try:
                    yield connection
                except BaseException:
                    connection.exec_driver_sql("ROLLBACK")
                    raise
                connection.exec_driver_sql("COMMIT")
        except OperationalError as error:
            raise Unavailable("the database does not answer") from error

    def _one(self, table: Any, **columns: str) -> Row[Any]:
        query = select(table).where(*(table.c[name] == value for name, value in columns.items()))
        try:
            with self._engine.connect() as connection:
                row = connection.execute(query).first()
        except OperationalError as error:
            raise Unavailable("the database does not answer") from error
        if row is None:
            raise NotFound(f"there is no {table.name.rstrip('s')} with this id")
        return row


def _keep(connection: Connection, question: Asked, answer: str, now_s: float) -> None:
    row = {
        "tenant": question.tenant,
        "request_id": question.request_id,
        "conversation_id": question.conversation_id,
        "created_s": now_s,
        "question": encode(Asked, question).decode(),
        "answer": answer,
    }
    known = select(ANSWERS.c.request_id).where(
        ANSWERS.c.tenant == question.tenant, ANSWERS.c.request_id == question.request_id
    )
    if connection.execute(known).first() is None:
        connection.execute(insert(ANSWERS).values(row))


def _ticket(row: Row[Any]) -> Ticket:
    return Ticket(
        row.ticket_id,
        row.tenant,
        row.state,
        row.created_s,
        row.updated_s,
        decode(Asked, row.question),
        None if row.answer is None else decode(Answer, row.answer),
        row.attempts,
    )


def _handoff(row: Row[Any], connection: Connection) -> Handoff:
    query = select(REPLIES).where(REPLIES.c.tenant == row.tenant, REPLIES.c.handoff_id == row.handoff_id)
    replies = tuple(
        (reply.at_s, reply.agent, reply.text) for reply in connection.execute(query.order_by(REPLIES.c.id))
    )
    return replace(decode(Handoff, row.record), state=row.state, agent=row.agent, replies=replies)


def _media(connection: Connection, tickets: Any, answers: Any) -> list[tuple[str, MediaRef]]:
    """Media of the rows that are about to go; those that a remaining row refers to are kept."""
    going: dict[tuple[str, str], MediaRef] = {}
    staying: set[tuple[str, str]] = set()
    for table, condition in ((TICKETS, tickets), (ANSWERS, answers)):
        for row in connection.execute(select(table.c.tenant, table.c.question).where(condition)):
            for item in decode(Asked, row.question).media:
                going[row.tenant, item.object_id] = item
    if going:
        tenants: Sequence[str] = sorted({tenant for tenant, _ in going})
        for table, condition in ((TICKETS, tickets), (ANSWERS, answers)):
            rest = select(table.c.tenant, table.c.question).where(table.c.tenant.in_(tenants), ~condition)
            for row in connection.execute(rest):
                staying.update((row.tenant, item.object_id) for item in decode(Asked, row.question).media)
    return [
        (tenant, item) for (tenant, object_id), item in going.items() if (tenant, object_id) not in staying
    ]
