"""What lies in the topics. It knows records and bytes; it does not know brokers.

A request carries ids only. The question stays in the store, its media in the object store: so no customer's words lie in
the broker's log, forgetting a conversation needs no forgetting there, and a message is a few hundred bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from gateway.records import Answer, Feedback, Handoff, Ticket, TicketState
from gateway.store.codec import NotDecodable, decode, encode

MAX_BYTES: Final = 100_000
"""Of a body. More does not belong into a queue."""


@dataclass(frozen=True)
class Claim:
    """On the topic of requests: a ticket that wants an answer."""

    ticket_id: str
    tenant: str
    request_id: str


@dataclass(frozen=True)
class Reply:
    """On the topic of replies, at least once per ticket: what became of it. `answer` is None if too long: ask the API."""

    ticket_id: str
    tenant: str
    request_id: str
    conversation_id: str
    state: TicketState
    answer: Answer | None


def claim(ticket: Ticket) -> bytes:
    """The request for a worker."""
    return encode(Claim, Claim(ticket.ticket_id, ticket.tenant, ticket.question.request_id))


def claimed(body: bytes | None) -> Claim:
    """NotDecodable for anything that is no claim of this version."""
    if body is None or len(body) > MAX_BYTES:
        raise NotDecodable(
            f"body: got {'nothing' if body is None else f'{len(body)} bytes'}, allowed: a claim"
        )
    return decode(Claim, body)


def reply(ticket: Ticket) -> bytes:
    """The notice of a finished ticket."""
    record = Reply(
        ticket.ticket_id,
        ticket.tenant,
        ticket.question.request_id,
        ticket.question.conversation_id,
        ticket.state,
        ticket.answer,
    )
    body = encode(Reply, record)
    return body if len(body) <= MAX_BYTES else encode(Reply, replace(record, answer=None))


def notice(record: Handoff | Feedback) -> bytes:
    """A hand-off without its replies, or a judgement."""
    if isinstance(record, Feedback):
        return encode(Feedback, record)
    body = encode(Handoff, replace(record, replies=()))
    return (
        body if len(body) <= MAX_BYTES else encode(Handoff, replace(record, replies=(), summary="", media=()))
    )


def key(ticket: Ticket) -> str:
    """Tickets of one conversation lie in one partition, and so in order."""
    conversation = ticket.question.conversation_id
    return f"{ticket.tenant}/{conversation}" if conversation else ticket.ticket_id
