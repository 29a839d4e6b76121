"""Accepts tickets: stored first, then published. What was stored and not published, or lost by the broker, the relay sends.

It knows the store and the topics. It does not know who answers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from gateway import telemetry
from gateway.errors import GatewayError, Unavailable
from gateway.objects import Objects
from gateway.queue import message
from gateway.queue.metrics import PUBLISHED
from gateway.queue.producer import Producer
from gateway.records import Feedback, Handoff, MediaRef, Question, Ticket
from gateway.settings import Kafka
from gateway.store import Store

_log = logging.getLogger(__name__)

_SUBMIT_WAIT_S: Final = 2.0
"""Longest that a customer waits for the broker; the relay does the rest."""
_RELAY_S: Final = 2.0
_RELAY_BATCH: Final = 100


class Tickets:
    """The way into the queue.

    Args:
        settings: the section `kafka`.
        store: has every ticket before the broker has it.
        objects: has its media.
    """

    def __init__(self, settings: Kafka, store: Store, objects: Objects) -> None:
        self._settings, self._store, self._objects = settings, store, objects
        self._producer = Producer(settings)
        self._relay: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to relay; `submit` does it too."""
        if self._relay is None:
            self._relay = asyncio.get_running_loop().create_task(self._relaying(), name="outbox-relay")

    async def submit(self, question: Question[MediaRef]) -> Ticket:
        """A ticket that will be answered or handed over; Unavailable if it could not be stored.

        The broker may be away: then the ticket waits in the store. The same request id gives the same ticket.
        """
        self.start()
        ticket = await asyncio.to_thread(self._store.create_ticket, question)
        try:
            await self._request(ticket, _SUBMIT_WAIT_S)
        except Unavailable as error:
            _log.warning(
                "ticket %s waits in the store: %s",
                ticket.ticket_id,
                error,
                extra={"request_id": question.request_id},
            )
        return ticket

    async def publish(self, record: Handoff | Feedback) -> None:
        """Tell who listens about something that the store has; Unavailable."""
        topic = self._settings.handoff if isinstance(record, Handoff) else self._settings.feedback
        headers = {"request-id": record.request_id}
        await self._send(topic, f"{record.tenant}/{record.request_id}", message.notice(record), headers)

    async def replied(self, ticket: Ticket) -> None:
        """Tell who listens what became of a ticket; Unavailable. Readers drop a ticket id that they have seen."""
        headers = {"request-id": ticket.question.request_id, "ticket-id": ticket.ticket_id}
        await self._send(self._settings.replies, message.key(ticket), message.reply(ticket), headers)

    async def bury(self, key: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Put a message that cannot be worked on where a person will look; Unavailable."""
        await self._send(self._settings.dead_letters, key, body, headers)

    async def create_topics(self) -> None:
        """Make those that are missing; Unavailable."""
        await asyncio.to_thread(self._producer.create_topics)

    async def close(self) -> None:
        """End the relay, then wait a moment for what is on its way."""
        if self._relay is not None:
            self._relay.cancel()
            await asyncio.gather(self._relay, return_exceptions=True)
        await self._producer.close()

    async def relay(self) -> int:
        """Publish tickets that the broker does not have, once; gives how many. Unavailable at the first that fails."""
        waiting = await asyncio.to_thread(
            self._store.unpublished, _RELAY_BATCH, 2 * _SUBMIT_WAIT_S, self._settings.lost_s
        )
        for ticket in waiting:
            await self._request(ticket, _SUBMIT_WAIT_S)
        if waiting:
            _log.info("relayed %d tickets", len(waiting))
        return len(waiting)

    async def _relaying(self) -> None:
        known = False
        while True:
            try:
                known = known or await self._topics_exist()
                if await self.relay() == _RELAY_BATCH:
                    continue
            except GatewayError as error:
                known = False  # the broker may come back without its topics
                _log.warning("the relay waits: %s", error)
            except Exception:
                _log.exception("the relay failed; it goes on")
            await asyncio.sleep(_RELAY_S)

    async def _topics_exist(self) -> bool:
        try:
            await self.create_topics()
        except Unavailable as error:
            # Perhaps the broker makes topics by itself, or we may not ask: what is sent will show it.
            _log.warning("topics: %s", error)
            return False
        return True

    async def _request(self, ticket: Ticket, timeout_s: float) -> None:
        headers = {"request-id": ticket.question.request_id, "ticket-id": ticket.ticket_id}
        await self._send(
            self._settings.requests, message.key(ticket), message.claim(ticket), headers, timeout_s
        )
        await asyncio.to_thread(self._store.published, ticket.ticket_id)

    async def _send(
        self, topic: str, key: str, body: bytes, headers: Mapping[str, str], timeout_s: float = 10.0
    ) -> None:
        with telemetry.span("publish", **{"messaging.destination.name": topic}):
            try:
                await self._producer.send(topic, key, body, {**headers, **telemetry.inject()}, timeout_s)
            except Unavailable:
                PUBLISHED.labels(topic, "failed").inc()
                raise
        PUBLISHED.labels(topic, "delivered").inc()
