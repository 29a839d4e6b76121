"""What must not be lost: tickets, answers, feedback, hand-offs. Safe from many threads and processes at once.

It knows records and tables. It does not know queues, HTTP or media; it gives back the references of media whose rows it
deletes. Every query names the tenant, but for those of the worker, which has the ticket's id from the queue, and for counts.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Collection, Iterable
from typing import Any

from sqlalchemy import Connection, Row, delete, exists, insert, or_, select, update

from gateway.errors import NotFound
from gateway.records import (
    Answer,
    Feedback,
    MediaRef,
    Message,
    Question,
    Ticket,
    TicketState,
)
from gateway.store import backlog, media
from gateway.store.backlog import Backlog
from gateway.store.codec import NotDecodable, decode, encode
from gateway.store.database import Database, insert_new
from gateway.store.handoffs import Handoffs
from gateway.store.tables import ANSWERS, FEEDBACK, HANDOFFS, MEDIA, REPLIES, TICKETS

_log = logging.getLogger(__name__)

Asked = Question[MediaRef]
_UNFINISHED = ("queued", "working")


class Store(Handoffs):
    """One database.

    Args:
        url: SQLAlchemy's; the directory of an SQLite file is made.
    """

    def __init__(self, url: str) -> None:
        self._database = Database(url)
        super().__init__(self._database)

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    def ready(self) -> bool:
        """Whether the database answers."""
        return self._database.ready()

    def backlog(self) -> Backlog:
        """What waits, over all tenants."""
        with self._database.read() as connection:
            return backlog.count(connection, _UNFINISHED, time.time())

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
        with self._write() as connection:
            new = insert_new(connection, TICKETS, row)
            if new:
                media.remember(connection, "ticket", row, question.media)
        if new:
            return ticket
        return _ticket(self._one(TICKETS, tenant=question.tenant, request_id=question.request_id))

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
        with self._read() as connection:
            return list(_readable(connection.execute(query).all()))

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
        """What was asked and answered, oldest first; NotFound when there is nothing, and for "", which joins nothing."""
        query = (
            select(ANSWERS)
            .where(ANSWERS.c.tenant == tenant, ANSWERS.c.conversation_id == conversation_id)
            .order_by(ANSWERS.c.created_s)
        )
        messages: list[Message[MediaRef]] = []
        _joined(conversation_id)
        with self._read() as connection:
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
        with self._read() as connection:
            return [
                Feedback(row.request_id, row.tenant, row.rating, row.comment, row.created_s)
                for row in connection.execute(query)
            ]

    # Forgetting

    def purge(self, before_s: float) -> list[tuple[str, MediaRef]]:
        """Delete all that was made before, and what belongs to it; gives (tenant, medium) that nobody refers to any more."""
        answered = exists().where(
            ANSWERS.c.tenant == FEEDBACK.c.tenant, ANSWERS.c.request_id == FEEDBACK.c.request_id
        )
        handed = exists().where(
            HANDOFFS.c.tenant == REPLIES.c.tenant, HANDOFFS.c.handoff_id == REPLIES.c.handoff_id
        )
        with self._write() as connection:
            gone = media.forget(connection, MEDIA.c.created_s < before_s)
            for table in (TICKETS, ANSWERS, HANDOFFS):
                connection.execute(delete(table).where(table.c.created_s < before_s))
            connection.execute(delete(FEEDBACK).where((FEEDBACK.c.created_s < before_s) | ~answered))
            connection.execute(delete(REPLIES).where((REPLIES.c.at_s < before_s) | ~handed))
        return gone

    def forget(self, tenant: str, conversation_id: str) -> list[tuple[str, MediaRef]]:
        """Delete a conversation with all that belongs to it; NotFound when there is none."""

        def of(table: Any) -> Any:
            return (table.c.tenant == tenant) & (table.c.conversation_id == conversation_id)

        _joined(conversation_id)
        requests = select(ANSWERS.c.request_id).where(of(ANSWERS))
        handoffs = select(HANDOFFS.c.handoff_id).where(of(HANDOFFS))
        with self._write() as connection:
            gone = media.forget(connection, of(MEDIA))
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

    def still_forgotten(self, tenant: str, conversation_id: str) -> list[tuple[str, MediaRef]] | None:
        """Delete what came into a conversation while it was being deleted, a hand-off for instance; None when it is there.

        To be asked after such a thing was written: whoever deletes later than that deletes it too.
        """
        query = select(ANSWERS.c.request_id).where(
            ANSWERS.c.tenant == tenant, ANSWERS.c.conversation_id == conversation_id
        )
        with self._read() as connection:
            if not conversation_id or connection.execute(query.limit(1)).first() is not None:
                return None
        try:
            return self.forget(tenant, conversation_id)
        except NotFound:
            return []

    def referenced(self, object_ids: Collection[str]) -> set[tuple[str, str]]:
        """(tenant, object id) of those of these objects that any row refers to."""
        with self._read() as connection:
            return media.referenced(connection, object_ids)

    def media(self, tenant: str, object_id: str) -> MediaRef | None:
        """What this tenant's tickets, answers and hand-offs say about an object; None if none of them has it."""
        with self._read() as connection:
            return media.find(connection, tenant, object_id)

    def _one(self, table: Any, **columns: str) -> Row[Any]:
        query = select(table).where(*(table.c[name] == value for name, value in columns.items()))
        with self._read() as connection:
            row = connection.execute(query).first()
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
    if insert_new(connection, ANSWERS, row):
        media.remember(connection, "answer", row, question.media)


def _joined(conversation_id: str) -> None:
    """Questions without a conversation are of different customers: nothing may treat them as one."""
    if not conversation_id:
        raise NotFound("there is no conversation ''")


def _readable(rows: Iterable[Row[Any]]) -> Iterable[Ticket]:
    """A ticket that another version wrote must not keep those behind it from being published."""
    for row in rows:
        try:
            yield _ticket(row)
        except NotDecodable as error:
            _log.error("ticket %s cannot be read: %s", row.ticket_id, error)


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
