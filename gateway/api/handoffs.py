"""Conversations that wait for a person: customers ask and follow, agents take over, answer and close."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from fastapi.responses import Response

from gateway.api import reply
from gateway.api.path import IdPath
from gateway.api.schema import AgentIn, HandoffIn, HandoffQuery, ReplyIn
from gateway.api.sse import DOCUMENTED, DONE, EventStream, alive, event
from gateway.api.state import CallerOf, Counted, State, StateOf
from gateway.records import Handoff

router = APIRouter(prefix="/v1/handoffs", tags=["handoffs"])

_POLL_S: Final = 0.5


@router.post("", status_code=201, summary="Ask for a person")
async def ask(wanted: HandoffIn, state: StateOf, caller: Counted) -> dict[str, Any]:
    """For an answer that the tenant has; asking twice gives the same hand-off."""
    store = state.parts.store
    asked = await asyncio.to_thread(store.asked, caller.tenant, wanted.request_id)
    answer = await asyncio.to_thread(store.answer, caller.tenant, wanted.request_id)
    handoff = await state.archive.hand_over(asked, answer, "asked_for_person")
    return reply.handoff(handoff, agent=False)


@router.get("", summary="For agents: who waits")
async def listed(
    wanted: Annotated[HandoffQuery, Query()], service: StateOf, caller: CallerOf
) -> dict[str, Any]:
    """Oldest first."""
    caller.must_be_agent()
    found = await asyncio.to_thread(service.parts.store.handoffs, caller.tenant, wanted.state)
    return {"object": "list", "data": [reply.handoff(handoff, agent=True) for handoff in found]}


@router.get("/{handoff_id}", summary="A hand-off")
async def show(handoff_id: IdPath, state: StateOf, caller: CallerOf) -> dict[str, Any]:
    """Agents see the summary and the media too."""
    handoff = await asyncio.to_thread(state.parts.store.handoff, caller.tenant, handoff_id)
    return reply.handoff(handoff, caller.agent)


@router.post("/{handoff_id}/claim", summary="For agents: take over")
async def claim(handoff_id: IdPath, who: AgentIn, state: StateOf, caller: CallerOf) -> dict[str, Any]:
    """409 when another agent has it."""
    caller.must_be_agent()
    claimed = await asyncio.to_thread(state.parts.store.claim, caller.tenant, handoff_id, who.agent)
    return reply.handoff(claimed, agent=True)


@router.post("/{handoff_id}/replies", summary="For agents: write to the customer")
async def answer(handoff_id: IdPath, said: ReplyIn, state: StateOf, caller: CallerOf) -> dict[str, Any]:
    """409 unless this agent has claimed it."""
    caller.must_be_agent()
    replied = await asyncio.to_thread(
        state.parts.store.reply, caller.tenant, handoff_id, said.agent, said.text
    )
    return reply.handoff(replied, agent=True)


@router.post("/{handoff_id}/close", summary="For agents: done")
async def close(handoff_id: IdPath, who: AgentIn, state: StateOf, caller: CallerOf) -> dict[str, Any]:
    """Closing twice changes nothing."""
    caller.must_be_agent()
    closed = await asyncio.to_thread(state.parts.store.close_handoff, caller.tenant, handoff_id)
    return reply.handoff(closed, agent=True)


@router.get(
    "/{handoff_id}/events",
    summary="For the customer: what agents do",
    response_class=Response,
    responses=DOCUMENTED,
)
async def follow(handoff_id: IdPath, state: StateOf, caller: CallerOf) -> EventStream:
    """Server-sent events named `handoff`, each the whole hand-off; ends when it is closed."""
    first = await asyncio.to_thread(state.parts.store.handoff, caller.tenant, handoff_id)
    return EventStream(alive(_events(state, first)))


async def _events(state: State, handoff: Handoff) -> AsyncGenerator[str]:
    told: dict[str, Any] | None = None
    while True:
        now = reply.handoff(handoff, agent=False)
        if now != told:
            told = now
            yield event(now, "handoff")
        if handoff.state == "closed":
            yield DONE
            return
        if state.draining.is_set():
            return
        await asyncio.sleep(_POLL_S)
        handoff = await asyncio.to_thread(state.parts.store.handoff, handoff.tenant, handoff.handoff_id)
