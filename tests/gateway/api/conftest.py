"""A gateway on a free port: real store, objects, articles, guard and limits; only the assistant is scripted."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
from openai import OpenAI
from PIL import Image

from gateway import settings
from gateway.api import create_app
from gateway.api.fetch import Fetcher
from gateway.knowledge.library import Library
from gateway.objects import Objects
from gateway.records import Handoff, MediaRef, Question, Ticket
from gateway.scene import scenes
from gateway.store import Store
from tests.gateway.api.plain_guard import PlainGuard
from tests.gateway.api.scripted import Scripted

TENANTS = {
    name: {
        "keys": [f"{name}-key"],
        "agent_keys": [f"{name}-agent"],
        "requests_per_minute": 100_000,
        "max_concurrent": 200,
    }
    for name in ("acme", "globex")
}


class Queue:
    """Where tickets go, and what was published; the broker's own tests are elsewhere."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.published: list[Any] = []

    async def submit(self, question: Question[MediaRef]) -> Ticket:
        return self._store.create_ticket(question)

    async def publish(self, record: Handoff) -> None:
        self.published.append(record)


class Model:
    up = True

    async def ready(self) -> bool:
        return self.up


@dataclass
class Running:
    """A gateway that listens."""

    url: str
    assistant: Scripted
    store: Store
    objects: Objects
    queue: Queue
    model: Model
    app: Any
    clients: list[Any] = field(default_factory=list)

    def http(self, key: str = "acme-key", **options: Any) -> httpx.Client:
        client = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=30,
            trust_env=False,
            **options,
        )
        self.clients.append(client)
        return client

    def openai(self, key: str = "acme-key") -> OpenAI:
        client = OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=30)
        self.clients.append(client)
        return client


@contextmanager
def running(directory: Path, fetcher: Fetcher | None = None, **changes: Any) -> Iterator[Running]:
    configured = settings.Settings(**{"tenants": TENANTS, "media": {"mask": False}, **changes})
    store = Store(f"sqlite:///{directory}/gateway.db")
    objects, library = Objects(str(directory / "objects")), Library(directory / "knowledge.db")
    assistant, queue, model = Scripted(), Queue(store), Model()
    parts: Any = SimpleNamespace(
        settings=configured,
        guard=PlainGuard(),
        model=model,
        assistant=assistant,
        store=store,
        objects=objects,
        library=library,
        scenes=scenes(),
        tickets=queue,
    )
    app = create_app(parts, fetcher)
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="gateway")
    thread.start()
    end = time.monotonic() + 20
    while not server.started:
        assert thread.is_alive(), "the gateway did not start"
        assert time.monotonic() < end, "the gateway takes too long to start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    gateway = Running(f"http://127.0.0.1:{port}", assistant, store, objects, queue, model, app)
    try:
        yield gateway
    finally:
        for client in gateway.clients:
            client.close()
        server.should_exit = True
        thread.join(20)
        library.close()
        store.close()
        assert not thread.is_alive(), "the gateway did not end"


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path) as listening:
        yield listening


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Any]:
    def begin(**changes: Any) -> Any:
        return running(tmp_path, **changes)

    return begin


@pytest.fixture(scope="session")
def picture() -> bytes:
    """A screen that is black but for a line, as a PNG."""
    image = Image.new("RGB", (160, 120), (8, 8, 10))
    for x in range(30, 130):
        image.putpixel((x, 60), (230, 230, 230))
    with io.BytesIO() as file:
        image.save(file, "PNG")
        return file.getvalue()


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 5.0) -> None:
    """Until it is so; an assertion that says what it was otherwise."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.01)
