"""`python -m gateway serve`: the HTTP server. On SIGTERM it is no longer ready, finishes what it has begun, and ends."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

import uvicorn
from fastapi import FastAPI

from gateway import telemetry
from gateway.api.app import create_app, draining
from gateway.parts import open_parts
from gateway.settings import Settings

_log = logging.getLogger(__name__)
_STREAMS_END_S: Final = 130
"""Longer than an answer may take."""


class Server(uvicorn.Server):
    """Told to end, it first says "not ready" for a while, so that nobody sends it more; then it takes no more."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, unready_s: float) -> None:
        super().__init__(config)
        self._draining, self._unready_s = draining(app), unready_s
        self._ending: asyncio.TimerHandle | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT, through the loop: `asyncio.Event` is not for signal handlers."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains; the second ends at once."""
        if self._draining.is_set():
            self.should_exit = self.force_exit = True
            return
        _log.info("told to end: not ready any more, finishing what has begun")
        self._draining.set()
        self._ending = asyncio.get_running_loop().call_later(self._unready_s, self._take_no_more)

    def _take_no_more(self) -> None:
        self.should_exit = True


async def serve(settings: Settings, unready_s: float, ready_file: Path | None) -> int:
    """Serve until told to end."""
    async with open_parts(settings) as parts:
        app = create_app(parts)
        telemetry.instrument(app)
        if parts.tickets is not None:
            parts.tickets.start()  # tickets that another process could not publish
        config = uvicorn.Config(
            app,
            host=settings.http.host,
            port=settings.http.port,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=_STREAMS_END_S,
            h11_max_incomplete_event_size=64 << 10,
        )
        server = Server(config, app, unready_s)
        running = asyncio.ensure_future(server.serve())
        while not server.started and not running.done():
            await asyncio.sleep(0.02)
        if ready_file is not None and server.started:
            host, port = server.servers[0].sockets[0].getsockname()[:2]
            part = ready_file.with_suffix(".part")
            part.write_text(json.dumps({"pid": os.getpid(), "url": f"http://{host}:{port}"}))
            part.replace(ready_file)
        await running
        return 0 if server.started else 1


def main(arguments: list[str]) -> int:
    """The command. 0: ended as told; 1: could not start."""
    parser = argparse.ArgumentParser(prog="python -m gateway serve", description=__doc__)
    parser.add_argument("--host", help="instead of http.host")
    parser.add_argument("--port", type=int, help="instead of http.port; 0: a free one")
    parser.add_argument("--ready-file", type=Path, help="written with pid and url when it listens")
    parser.add_argument(
        "--unready-s", type=float, default=3.0, help="between 'not ready' and taking no more (default 3)"
    )
    given = parser.parse_args(arguments)
    settings = Settings()
    changes = {name: value for name in ("host", "port") if (value := getattr(given, name)) is not None}
    if changes:
        settings = settings.model_copy(update={"http": settings.http.model_copy(update=changes)})
    telemetry.setup(settings.telemetry, "gateway")
    try:
        return asyncio.run(serve(settings, given.unready_s, given.ready_file))
    except SystemExit as ended:  # uvicorn's way to say that it could not listen
        return int(ended.code or 0) if isinstance(ended.code, int) else 1
    finally:
        telemetry.flush()
