"""Works on one ticket: from the claim in the queue to an answer in the store and a notice of it.

A ticket has one answer, whoever works on it and however often: the store takes the first. What fails for a while is tried
again, ever more slowly; what fails for good goes to a person, and the customer is told. It does not know Kafka's offsets.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from gateway import telemetry
from gateway.api.archive import summary
from gateway.errors import InvalidInput, NotFound, Unavailable
from gateway.queue import message
from gateway.queue.metrics import BURIED, FINISHED, RETRIED, SECONDS
from gateway.records import (
    Answer,
    Handoff,
    Language,
    Media,
    MediaRef,
    Message,
    Question,
    Signals,
    Ticket,
    TicketState,
    Versions,
)
from gateway.store.codec import NotDecodable

if TYPE_CHECKING:
    from gateway.parts import Parts
    from gateway.queue.tickets import Tickets

_log = logging.getLogger(__name__)

T = TypeVar("T")

_LONGEST_PAUSE_S: Final = 30.0
APOLOGY: Final[dict[Language, str]] = {
    "zh": "抱歉，现在无法自动回答您的问题，已转接人工客服，稍后会有客服人员回复您。",
    "en": "Sorry, your question cannot be answered automatically right now. A colleague has it and will reply to you shortly.",
}
"""To a customer whose ticket could not be answered."""


class Unanswerable(Exception):
    """No further attempt will help. `reason`: a word for metrics and headers."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Desk:
    """Where tickets are answered. `parts.tickets` must be there."""

    def __init__(self, parts: Parts, tickets: Tickets) -> None:
        self._parts, self._tickets = parts, tickets
        self._settings = parts.settings.kafka

    async def handle(self, body: bytes | None, headers: Mapping[str, str], origin: Mapping[str, str]) -> None:
        """Finish what a message asks for. `origin`: topic, partition and offset, for the dead letter."""
        try:
            claim = message.claimed(body)
        except NotDecodable as error:
            _log.error("a message is no claim: %s", error, extra=dict(origin))
            await self._bury(body or b"", "not_decodable", str(error), headers, origin)
            return
        with (
            telemetry.bound(claim.request_id),
            telemetry.carried(headers),
            telemetry.span("ticket", **{"cs.ticket_id": claim.ticket_id}),
        ):
            try:
                await self._settle(claim)
            except Unanswerable as lost:
                await self._bury(body or b"", lost.reason, claim.ticket_id, headers, origin)

    async def _settle(self, claim: message.Claim) -> None:
        """Unanswerable when a person has it now, or when there is no such ticket."""
        lost: Unanswerable | None = None
        try:
            ticket = await self._start(claim)
            while ticket is not None:
                try:
                    answer = await self._attempt(ticket)
                except Unanswerable as error:
                    lost, answer = error, _apology(ticket.question)
                if answer is not None:
                    await self._finish(ticket, answer)
                    break
                RETRIED.inc()
                await asyncio.sleep(self._pause_s(ticket.attempts))
                ticket = await self._start(claim)
            finished = await self._stored(lambda: self._parts.store.ticket(claim.tenant, claim.ticket_id))
        except NotFound:
            raise Unanswerable("unknown_ticket") from None
        await self._announce(finished)
        if lost is not None:
            raise lost

    async def _start(self, claim: message.Claim) -> Ticket | None:
        return await self._stored(lambda: self._parts.store.start_ticket(claim.ticket_id))

    async def _attempt(self, ticket: Ticket) -> Answer | None:
        """An answer, None if it makes sense to try again, Unanswerable if not."""
        if ticket.attempts > self._settings.attempts:
            # Whoever tried last did not live to say why.
            raise Unanswerable("attempts")
        try:
            return await self._answer(ticket.question)
        except (InvalidInput, NotFound) as error:
            reason = "missing_object" if isinstance(error, NotFound) else "invalid"
            _log.warning("ticket %s cannot be answered: %s", ticket.ticket_id, reason)
            raise Unanswerable(reason) from None
        except Unavailable as error:
            _log.warning("ticket %s, attempt %d: %s", ticket.ticket_id, ticket.attempts, error)
            reason = "attempts"
        except Exception:
            _log.exception("ticket %s, attempt %d", ticket.ticket_id, ticket.attempts)
            reason = "error"
        if ticket.attempts >= self._settings.attempts:
            raise Unanswerable(reason)
        return None

    async def _answer(self, asked: Question[MediaRef]) -> Answer:
        question = await self._with_media(asked)
        async with aclosing(self._parts.assistant.answer(question)) as events:
            async for event in events:
                if isinstance(event, Answer):
                    return event
        raise RuntimeError("the assistant ended without an answer")

    async def _with_media(self, asked: Question[MediaRef]) -> Question[Media]:
        refs = list(dict.fromkeys(asked.media))
        found = await asyncio.gather(*(self._parts.objects.media(asked.tenant, ref) for ref in refs))
        media = dict(zip(refs, found, strict=True))
        messages = tuple(
            Message[Media](
                turn.role, tuple(part if isinstance(part, str) else media[part] for part in turn.content)
            )
            for turn in asked.messages
        )
        return Question(**{**vars(asked), "messages": messages})

    async def _finish(self, ticket: Ticket, answer: Answer) -> None:
        state: TicketState = "handed_off" if answer.handoff else "answered"
        first = await self._stored(lambda: self._parts.store.finish_ticket(ticket.ticket_id, answer, state))
        FINISHED.labels(state if first else "late").inc()
        if first:
            SECONDS.observe(time.time() - ticket.created_s)
            _log.info("ticket %s %s after %d attempts", ticket.ticket_id, state, ticket.attempts)

    async def _announce(self, ticket: Ticket) -> None:
        """Tell about what the store has. A ticket that comes a second time is announced again: who died in between may
        not have told.
        """
        if ticket.answer is not None and ticket.answer.handoff:
            wanted = _handoff(ticket.question, ticket.answer)
            store, objects = self._parts.store, self._parts.objects
            opened = await self._stored(lambda: store.open_handoff(wanted))
            gone = await self._stored(lambda: store.still_forgotten(wanted.tenant, wanted.conversation_id))
            for tenant, item in gone or ():
                await self._persist(partial(objects.delete, tenant, item.object_id))
            if gone is None:
                await self._persist(lambda: self._tickets.publish(opened))
        await self._persist(lambda: self._tickets.replied(ticket))

    async def _bury(
        self, body: bytes, reason: str, detail: str, headers: Mapping[str, str], origin: Mapping[str, str]
    ) -> None:
        told = {**headers, **origin, "reason": reason, "detail": detail}
        key = headers.get("ticket-id", "")
        await self._persist(lambda: self._tickets.bury(key, body[: message.MAX_BYTES], told))
        BURIED.labels(reason).inc()

    async def _stored(self, work: Callable[[], T]) -> T:
        """What the store says, asked until it says something."""
        return await self._persist(lambda: asyncio.to_thread(work))

    async def _persist(self, work: Callable[[], Awaitable[T]]) -> T:
        """Until it succeeds: a ticket is not finished before. Ended from outside, the ticket is given back."""
        attempts = 0
        while True:
            try:
                return await work()
            except Unavailable as error:
                attempts += 1
                _log.warning("trying again: %s", error)
                await asyncio.sleep(self._pause_s(attempts))

    def _pause_s(self, attempts: int) -> float:
        longest = min(_LONGEST_PAUSE_S, self._settings.backoff_s * 2.0 ** min(attempts - 1, 16))
        return longest * random.uniform(0.5, 1.0)


def _handoff(asked: Question[MediaRef], answer: Answer) -> Handoff:
    return Handoff(
        handoff_id=f"handoff-{uuid.uuid4().hex}",
        tenant=asked.tenant,
        request_id=asked.request_id,
        conversation_id=asked.conversation_id,
        reason=answer.handoff,
        summary=summary(asked, answer),
        state="open",
        created_s=time.time(),
        media=asked.media,
    )


def _apology(asked: Question[MediaRef]) -> Answer:
    return Answer(
        request_id=asked.request_id,
        text=APOLOGY[asked.language],
        language=asked.language,
        scene=asked.scene,
        citations=(),
        confidence=0.0,
        signals=Signals(0.0, 0.0, 0.0, 0.0),
        versions=Versions("", asked.adapter, "", ""),
        handoff="model_unavailable",
    )
