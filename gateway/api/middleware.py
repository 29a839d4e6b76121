"""What happens to every request, whatever its route: an id, a limit on its body, security headers, a log line, metrics.

Plain ASGI: nothing here buffers a body or a stream.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from typing import Final

from prometheus_client import Counter, Gauge, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import telemetry
from gateway.api import failures
from gateway.errors import GatewayError, TooLarge

_log = logging.getLogger("gateway.access")

REQUEST_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{7,63}\Z")
"""What a caller may choose; anything else is replaced by an id of ours."""

REQUESTS: Final = Counter("cs_http_requests_total", "Requests", ["route", "method", "status"])
SECONDS: Final = Histogram(
    "cs_http_seconds",
    "From the first byte to the last",
    ["route"],
    buckets=(0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300),
)
RUNNING: Final = Gauge("cs_http_running", "Requests that run now")

_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
"""For every reply that does not say otherwise."""


class _BodyTooLarge(Exception):
    """Ends the reading of a body from within."""


class Edge:
    """The outermost layer. `max_body_bytes`: more is refused with 413, with or without a Content-Length."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(self._app, scope, receive, send, self._max_body_bytes)
        with telemetry.bound(exchange.request_id):
            await exchange.run()


class _Exchange:
    """One request and its reply."""

    def __init__(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        self._app, self._scope, self._receive, self._send = app, scope, receive, send
        self._limit, self._read, self._status = limit, 0, 0
        self._refused = False
        given = Headers(scope=scope).get("x-request-id", "")
        self.request_id = given if REQUEST_ID.match(given) else f"req-{uuid.uuid4().hex}"

    async def run(self) -> None:
        self._scope.setdefault("state", {})["request_id"] = self.request_id
        started_s = time.perf_counter()
        RUNNING.inc()
        try:
            if self._announced() > self._limit:
                await self._refuse()
            else:
                await self._app(self._scope, self._counted, self._marked)
        except _BodyTooLarge:
            await self._refuse()
        except Exception:
            # The traceback names code, not content: no local values are printed.
            _log.exception("internal error")
            if self._status == 0:
                await self._reply(GatewayError("internal error; the request id names it in the log"))
            else:
                raise
        finally:
            RUNNING.dec()
            self._account(time.perf_counter() - started_s)

    def _announced(self) -> int:
        length = Headers(scope=self._scope).get("content-length", "0")
        return int(length) if length.isdecimal() else 0

    async def _counted(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._read += len(message.get("body", b""))
            if self._read > self._limit:
                self._refused = True
                raise _BodyTooLarge
        return message

    async def _marked(self, message: Message) -> None:
        if self._refused and message["type"].startswith("http.response") and self._status == 0:
            raise _BodyTooLarge  # a layer within took the refusal for a fault of its own
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self.request_id
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)

    async def _refuse(self) -> None:
        self._refused = False
        if self._status == 0:
            await self._reply(TooLarge("body", "more bytes", f"at most {self._limit} bytes"), close=True)

    async def _reply(self, error: GatewayError, close: bool = False) -> None:
        response = failures.reply(error)
        if close:
            response.headers["Connection"] = "close"
        await response(self._scope, self._receive, self._marked)

    def _account(self, seconds: float) -> None:
        route = getattr(self._scope.get("route"), "path", "other")
        method = self._scope["method"] if self._scope["method"] in _METHODS else "other"
        REQUESTS.labels(route, method, str(self._status)).inc()
        SECONDS.labels(route).observe(seconds)
        _log.info("%s %s %d %.3f s", method, route, self._status, seconds)


_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
