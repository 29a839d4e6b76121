"""The application: every route, every layer around them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from gateway import page
from gateway.api import (
    backlog,
    catalogue,
    chat,
    conversations,
    docs,
    failures,
    feedback,
    handoffs,
    health,
    predict,
    retention,
    tickets,
)
from gateway.api.fetch import Fetcher
from gateway.api.middleware import Edge
from gateway.api.state import State

if TYPE_CHECKING:
    from gateway.parts import Parts


def create_app(parts: Parts, fetcher: Fetcher | None = None) -> FastAPI:
    """The application over open parts. `fetcher`: instead of the one that the settings ask for."""
    state = State.of(parts, fetcher)
    http = parts.settings.http

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        tasks = {
            asyncio.create_task(retention.purging(parts), name="retention"),
            asyncio.create_task(backlog.measuring(parts.store), name="backlog"),
        }
        yield
        state.draining.set()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await state.archive.close()
        await state.limits.close()

    app = FastAPI(
        title="Customer service",
        version="1",
        description="Ask about pictures and recordings; answers cite the company's articles.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.gateway = state
    failures.install(app)
    docs.install(app)
    for module in (chat, tickets, feedback, conversations, handoffs, catalogue, health, predict, docs):
        app.include_router(module.router)
    app.router.routes.extend(page.routes())
    if http.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(http.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "X-Request-Id"],
            expose_headers=["X-Request-Id", "X-Ignored-Fields", "Retry-After"],
        )
    app.add_middleware(Edge, max_body_bytes=http.max_body_bytes)
    return app


def draining(app: FastAPI) -> asyncio.Event:
    """Set it when the process is to end: readiness says no, and streams without an end of their own end."""
    state: State = app.state.gateway
    return state.draining
