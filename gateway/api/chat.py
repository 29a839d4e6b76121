"""POST /v1/chat/completions, whole and streamed. It knows the order of the steps; what they do is told elsewhere."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import Counter, Histogram

from gateway.api import failures, options, reply, tools
from gateway.api.body import documented, read_chat
from gateway.api.identity import Caller
from gateway.api.intake import Asker
from gateway.api.schema import ChatIn
from gateway.api.sse import DONE, EventStream, alive, event
from gateway.api.state import Counted, State, StateOf, request_id
from gateway.errors import Conflict, GatewayError, NotFound
from gateway.records import Answer, Delta, Event, Handoff, Media, Question

router = APIRouter(tags=["chat"])
_log = logging.getLogger(__name__)
T = TypeVar("T")

_FIRST_S: Final = 8.0
"""So long an error may still become an HTTP status; then the stream begins."""

FIRST_TEXT: Final = Histogram(
    "cs_first_text_seconds",
    "From a question whose answer is streamed to the first text of the answer",
    buckets=(0.1, 0.25, 0.5, 1, 2, 3, 5, 8, 13, 30, 60),
)
BROKEN: Final = Counter(
    "cs_broken_answers_total", "Streamed answers that ended with an error of ours after status 200"
)


@dataclass(frozen=True)
class Exchange:
    """One question on its way, and how its answer is wanted."""

    state: State
    chat: ChatIn
    question: Question[Media]

    @property
    def model(self) -> str:
        """As the caller called it."""
        return self.chat.model or self.state.parts.settings.triton.model

    def called(self, answer: Answer) -> Answer:
        """The answer, with its tool calls found."""
        if not self.question.tools:
            return answer
        names = {tool.function.name for tool in self.chat.tools or ()}
        parsed = tools.parse(answer.text, names, 1 if self.chat.parallel_tool_calls is False else None)
        if not parsed.calls or answer.finish_reason == "content_filter":
            return answer
        # Asking for a tool is no weak answer, so nobody needs to take over for it.
        unsure = answer.handoff in ("low_confidence", "no_knowledge")
        return replace(
            answer,
            text=parsed.text,
            tool_calls=json.dumps(parsed.calls, ensure_ascii=False),
            finish_reason="tool_calls",
            handoff="" if unsure else answer.handoff,
        )


@router.post(
    "/v1/chat/completions",
    summary="Answer a question, whole or streamed",
    openapi_extra=documented("ChatIn"),
    responses={
        200: {
            "description": "The answer",
            "content": {"application/json": {}, "text/event-stream": {"schema": {"type": "string"}}},
        }
    },
)
async def chat_completions(request: Request, state: StateOf, caller: Counted) -> Response:
    """OpenAI's chat completions. Also multipart/form-data: `request` (this JSON) and files."""
    chat, attachments = await read_chat(request, state.parts.settings)
    asker = asker_of(request, caller, chat)
    await unused(state, caller.tenant, asker.request_id)
    headers = {"X-Ignored-Fields": ", ".join(names)} if (names := options.ignored(chat)) else {}
    if not chat.stream:
        with state.limits.slot(caller.tenant):
            whole = _whole(state, chat, asker, attachments)
            return JSONResponse(await unless_gone(request, whole), headers=headers)
    events = _stream(state, chat, asker, attachments, caller.tenant)
    first = await unless_gone(request, _first(events))
    return EventStream(first, headers)


def asker_of(request: Request, caller: Caller, chat: ChatIn) -> Asker:
    """Who asks. Without a conversation of the caller's, one begins."""
    rid = request_id(request)
    conversation = chat.customer_service.conversation_id or chat.user or f"conv-{rid}"
    return Asker(caller.tenant, rid, conversation, request.headers.get("accept-language", ""))


async def unused(state: State, tenant: str, rid: str) -> None:
    """Conflict when the request id names an answer already: the same id never means two things."""
    try:
        await asyncio.to_thread(state.parts.store.answer, tenant, rid)
    except NotFound:
        return
    raise Conflict("X-Request-Id: this id was used for another answer; send a new one, or none")


async def answered(exchange: Exchange) -> tuple[Answer, Handoff | None]:
    """The whole answer, kept."""
    answer: Answer | None = None
    async with aclosing(exchange.state.parts.assistant.answer(exchange.question)) as events:
        async for one in events:
            if isinstance(one, Answer):
                answer = exchange.called(one)
    if answer is None:
        raise GatewayError("the assistant gave no answer")
    return answer, await exchange.state.archive.keep(exchange.question, answer)


async def _whole(state: State, chat: ChatIn, asker: Asker, attachments: Any) -> dict[str, Any]:
    exchange = Exchange(state, chat, await state.intake.question(chat, asker, attachments))
    answer, handoff = await answered(exchange)
    return reply.completion(exchange.model, exchange.question, answer, handoff)


async def _stream(
    state: State, chat: ChatIn, asker: Asker, attachments: Any, tenant: str
) -> AsyncGenerator[str]:
    started_s = time.perf_counter()
    with state.limits.slot(tenant):
        exchange = Exchange(state, chat, await state.intake.question(chat, asker, attachments))
        asking = aclosing(state.parts.assistant.answer(exchange.question))
        async with asking as events, aclosing(_chunks(exchange, events, started_s)) as chunks:
            async for text in chunks:
                yield text


async def _chunks(exchange: Exchange, events: AsyncGenerator[Event], started_s: float) -> AsyncGenerator[str]:
    asked, include_usage = (
        exchange.question,
        bool(exchange.chat.stream_options and exchange.chat.stream_options.include_usage),
    )
    head = {
        "id": f"chatcmpl-{asked.request_id}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": exchange.model,
    }

    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return event({**head, "choices": [choice], **({"usage": None} if include_usage else {}), **more})

    held, shown, begun = tools.Holdback() if asked.tools else None, "", False
    async for one in events:
        if not begun:
            begun = True
            yield chunk({"role": "assistant", "content": ""})
        if isinstance(one, Delta):
            text = held.push(one.text) if held else one.text
            if text:
                if not shown:
                    FIRST_TEXT.observe(time.perf_counter() - started_s)
                shown += text
                yield chunk({"content": text})
            continue
        answer = exchange.called(one)
        handoff = await exchange.state.archive.keep(asked, answer)
        if rest := answer.text[len(shown) :]:
            if not shown:
                FIRST_TEXT.observe(time.perf_counter() - started_s)
            yield chunk({"content": rest})
        for at, call in enumerate(json.loads(answer.tool_calls) if answer.tool_calls else ()):
            yield chunk({"tool_calls": [{"index": at, **call}]})
        yield chunk({}, answer.finish_reason, customer_service=reply.service(asked, answer, handoff))
        if include_usage:
            yield event({**head, "choices": [], "usage": reply.usage(answer.usage)})
        yield DONE
        return
    raise GatewayError("the assistant gave no answer")


async def _first(events: AsyncGenerator[str]) -> AsyncGenerator[str]:
    """The events, begun: what goes wrong before the first is raised here, and so becomes a status of its own."""
    kept = alive(events)
    coming = asyncio.ensure_future(anext(kept))
    try:
        await asyncio.wait({coming}, timeout=_FIRST_S)
    except asyncio.CancelledError:
        coming.cancel()
        await asyncio.wait({coming})
        await kept.aclose()
        raise
    if coming.done():
        coming.result()
    return _told(coming, kept)


async def _told(coming: asyncio.Future[str], kept: AsyncGenerator[str]) -> AsyncGenerator[str]:
    try:
        yield await coming
        async for text in kept:
            yield text
    except GatewayError as error:
        BROKEN.inc(error.status >= 500)
        yield event({"error": {**failures.body(error)["error"], "status": error.status}})
    except Exception:
        _log.exception("an answer broke off")
        BROKEN.inc()
        fault = GatewayError("internal error; the request id names it in the log")
        yield event({"error": {**failures.body(fault)["error"], "status": fault.status}})
    finally:
        if not coming.done():
            coming.cancel()
            await asyncio.wait({coming})
        await kept.aclose()


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result, or ClientGone: when the client closes the connection, the work is cancelled."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, leaving}, return_when="FIRST_COMPLETED")
        if not working.done():
            raise failures.ClientGone
        return working.result()
    finally:
        leaving.cancel()
        if not working.done():
            working.cancel()
        await asyncio.wait({working, leaving})


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
