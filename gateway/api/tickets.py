"""Tickets: questions that are answered later. Accepted means stored; the answer comes by asking again or by events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from gateway.api import options, reply
from gateway.api.body import documented, read_chat
from gateway.api.chat import asker_of, unless_gone
from gateway.api.path import IdPath
from gateway.api.sse import DOCUMENTED, DONE, EventStream, alive, event
from gateway.api.state import CallerOf, Counted, State, StateOf
from gateway.errors import InvalidInput, Unavailable
from gateway.records import Handoff, Ticket

router = APIRouter(prefix="/v1/tickets", tags=["tickets"])

_FINAL: Final = ("answered", "handed_off", "failed")
_POLL_S: Final = 0.25


@router.post("", status_code=202, summary="Accept a question", openapi_extra=documented("ChatIn"))
async def create(request: Request, state: StateOf, caller: Counted) -> Response:
    """The body of a chat completion, JSON or a form; `stream` is not for tickets.

    The same X-Request-Id gives the same ticket, so a request whose reply was lost may be sent again.
    """
    tickets = state.parts.tickets
    if tickets is None:
        raise Unavailable("tickets are off: this deployment has no broker", retry_after_s=60)
    chat, attachments = await read_chat(request, state.parts.settings)
    if chat.stream:
        raise InvalidInput("stream", True, "false; follow /v1/tickets/{ticket_id}/events")
    asker = asker_of(request, caller, chat)
    with state.limits.slot(caller.tenant):
        question = await unless_gone(request, state.intake.question(chat, asker, attachments))
        asked = await state.archive.stored(question)
        ticket = await tickets.submit(asked)
    known = {ref.object_id for ref in ticket.question.media}
    for ref in asked.media:  # the request came before: its ticket has media of its own
        if ref.object_id not in known:
            await state.parts.objects.delete(caller.tenant, ref.object_id)
    headers = {"Location": f"/v1/tickets/{ticket.ticket_id}"}
    if names := options.ignored(chat):
        headers["X-Ignored-Fields"] = ", ".join(names)
    return JSONResponse(reply.ticket(ticket), 202, headers)


@router.get("/{ticket_id}", summary="A ticket, with its answer when there is one")
async def show(ticket_id: IdPath, state: StateOf, caller: CallerOf) -> dict[str, Any]:
    """404 also for a ticket of another tenant."""
    ticket = await asyncio.to_thread(state.parts.store.ticket, caller.tenant, ticket_id)
    return await _shown(state, ticket)


@router.get(
    "/{ticket_id}/events",
    summary="What becomes of a ticket, until it is done",
    response_class=Response,
    responses=DOCUMENTED,
)
async def follow(ticket_id: IdPath, state: StateOf, caller: CallerOf) -> EventStream:
    """Server-sent events named `ticket`, each the whole ticket; then `data: [DONE]`."""
    first = await asyncio.to_thread(state.parts.store.ticket, caller.tenant, ticket_id)
    return EventStream(alive(_events(state, first)))


async def _events(state: State, ticket: Ticket) -> AsyncGenerator[str]:
    told = ""
    while True:
        if ticket.state != told:
            told = ticket.state
            yield event(await _shown(state, ticket), "ticket")
        if ticket.state in _FINAL:
            yield DONE
            return
        if state.draining.is_set():
            return  # the reader comes back, to another gateway
        await asyncio.sleep(_POLL_S)
        ticket = await asyncio.to_thread(state.parts.store.ticket, ticket.tenant, ticket.ticket_id)


async def _shown(state: State, ticket: Ticket) -> dict[str, Any]:
    handoff: Handoff | None = None
    if ticket.answer is not None and ticket.answer.handoff:
        handoff = await state.archive.hand_over(ticket.question, ticket.answer, ticket.answer.handoff)
    return reply.ticket(ticket, handoff)
