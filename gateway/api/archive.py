"""Keeps what was asked and answered, and opens hand-offs. What a customer has read, the store has."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from typing import TYPE_CHECKING, Final

from gateway.errors import GatewayError
from gateway.records import Answer, Feedback, Handoff, Media, MediaRef, Message, Question

if TYPE_CHECKING:
    from gateway.parts import Parts
    from gateway.queue import Tickets

_log = logging.getLogger(__name__)

_SUMMARY_CHARACTERS: Final = 600
_CLOSE_S: Final = 5.0
_LABELS: Final = {
    "zh": ("客户问题", "助手回答", "把握", "附件"),
    "en": ("Customer asks", "Assistant said", "Sure to", "Attachments"),
}


class Archive:
    """Writes to the store, the objects and, where there is a broker, to its topics."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._publishing: set[asyncio.Task[None]] = set()

    async def stored(self, question: Question[Media]) -> Question[MediaRef]:
        """The question with its media in the object store; Unavailable, and then none of them is left there."""
        objects, tenant = self._parts.objects, question.tenant
        media = list(dict.fromkeys(question.media))
        done = await asyncio.gather(*(objects.put(tenant, item) for item in media), return_exceptions=True)
        refs: dict[Media, MediaRef] = {}
        fault: BaseException | None = None
        for item, one in zip(media, done, strict=True):
            if isinstance(one, BaseException):
                fault = fault or one
            else:
                refs[item] = one
        if fault is not None:
            for ref in refs.values():
                await objects.delete(tenant, ref.object_id)
            raise fault
        messages = tuple(
            Message[MediaRef](
                message.role,
                tuple(part if isinstance(part, str) else refs[part] for part in message.content),
            )
            for message in question.messages
        )
        return Question(**{**vars(question), "messages": messages})

    async def keep(self, question: Question[Media], answer: Answer) -> Handoff | None:
        """Save an answer and, if it needs one, its hand-off. Ends what it has begun even if the reader has left."""
        return await asyncio.shield(asyncio.ensure_future(self._keep(question, answer)))

    async def _keep(self, question: Question[Media], answer: Answer) -> Handoff | None:
        asked = await self.stored(question)
        await asyncio.to_thread(self._parts.store.save_answer, asked, answer)
        return await self.hand_over(asked, answer, answer.handoff) if answer.handoff else None

    async def hand_over(self, asked: Question[MediaRef], answer: Answer, reason: str) -> Handoff:
        """Open a hand-off, or give the one that the request has; then tell the broker."""
        new = Handoff(
            handoff_id=f"handoff-{uuid.uuid4().hex}",
            tenant=asked.tenant,
            request_id=asked.request_id,
            conversation_id=asked.conversation_id,
            reason=reason,
            summary=summary(asked, answer),
            state="open",
            created_s=time.time(),
            media=asked.media,
        )
        store = self._parts.store
        opened = await asyncio.to_thread(store.open_handoff, new)
        gone = await asyncio.to_thread(store.still_forgotten, asked.tenant, asked.conversation_id)
        for tenant, item in gone or ():
            await self._parts.objects.delete(tenant, item.object_id)
        if gone is None and opened.handoff_id == new.handoff_id:
            self._publish(opened)
        return opened

    async def judge(self, feedback: Feedback) -> None:
        """Keep a judgement; NotFound unless the tenant has such an answer."""
        await asyncio.to_thread(self._parts.store.add_feedback, feedback)
        self._publish(feedback)

    def _publish(self, record: Handoff | Feedback) -> None:
        """Tell the broker, without making anybody wait: a broker that is away costs the notice, not the thing."""
        if self._parts.tickets is not None:
            task = asyncio.ensure_future(self._published(self._parts.tickets, record))
            self._publishing.add(task)
            task.add_done_callback(self._publishing.discard)

    async def _published(self, tickets: Tickets, record: Handoff | Feedback) -> None:
        try:
            await tickets.publish(record)
        except GatewayError as error:
            kind = type(record).__name__
            _log.warning("%s of request %s was not published: %s", kind, record.request_id, error)

    async def close(self) -> None:
        """Wait for what is being published."""
        if self._publishing:
            await asyncio.wait(self._publishing, timeout=_CLOSE_S)


def summary(asked: Question[MediaRef], answer: Answer) -> str:
    """What an agent reads first, in the customer's language. Everything in it is masked."""
    question, said, sure, files = _LABELS[asked.language]
    lines = [
        f"{question}: {_short(asked.text)}",
        f"{said}: {_short(answer.text)}",
        f"{sure}: {answer.confidence:.0%}",
    ]
    if asked.media:
        lines.append(f"{files}: {len(asked.media)}")
    return "\n".join(lines)


def _short(text: str) -> str:
    folded = " ".join(text.split())
    return folded if len(folded) <= _SUMMARY_CHARACTERS else folded[: _SUMMARY_CHARACTERS - 1] + "…"
