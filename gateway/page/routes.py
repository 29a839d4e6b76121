"""Where the page lies: `/`, `/agent`, and their modules and styles under `/static`.

The policy below is what the page was written for: no inline script, no inline style, nothing from another host.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

STATIC: Final = Path(__file__).parent / "static"

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_HEADERS: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def routes() -> list[BaseRoute]:
    """What the application adds to its own routes."""
    return [
        Route("/", _file("index.html"), name="page"),
        Route("/agent", _file("agent.html"), name="agent"),
        Mount("/static", _Revalidated(directory=STATIC), name="static"),
    ]


def _file(name: str) -> Callable[[Request], Awaitable[Response]]:
    async def serve(request: Request) -> Response:
        return FileResponse(STATIC / name, headers=_HEADERS)

    return serve


class _Revalidated(StaticFiles):
    """Names carry no version, so a browser asks each time, and is told "not modified" most times."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """As the base class, with headers that say how to keep it."""
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response
