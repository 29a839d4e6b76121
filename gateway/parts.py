"""Everything that a gateway or a worker consists of, made from the settings, and ended in order.

It knows every part's constructor and nothing about what they do.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from gateway.assistant.assistant import Assistant
from gateway.assistant.model import Model
from gateway.cache import AnswerCache
from gateway.confidence import Calibration
from gateway.guard import Guard
from gateway.guard.ocr import Ocr
from gateway.knowledge import embedder
from gateway.knowledge.library import Library
from gateway.objects import Objects
from gateway.policy import Policy
from gateway.queue import Tickets
from gateway.scene import Scene, scenes
from gateway.settings import Settings
from gateway.store import Store


@dataclass(frozen=True)
class Parts:
    """What the HTTP API and the worker work with. `tickets` is None without a broker."""

    settings: Settings
    guard: Guard
    model: Model
    assistant: Assistant
    store: Store
    objects: Objects
    cache: AnswerCache
    library: Library
    policy: Policy
    scenes: Mapping[str, Scene]
    tickets: Tickets | None


@asynccontextmanager
async def open_parts(settings: Settings) -> AsyncIterator[Parts]:
    """Make all parts; nothing is asked of another process yet, so this works before Triton, Redis or Kafka are there."""
    async with AsyncExitStack() as stack:
        triton = settings.triton
        ocr = Ocr(triton.url, triton.ocr_model, triton.timeout_s) if settings.media.mask else None
        if ocr is not None:
            stack.push_async_callback(ocr.close)
        guard = Guard(settings.media, ocr)
        model = Model(triton.url, triton.model, triton.timeout_s)
        stack.push_async_callback(model.close)
        store = Store(settings.database.url.get_secret_value())
        stack.callback(store.close)
        objects = Objects(settings.objects.url, settings.objects.s3_endpoint)
        cache = AnswerCache(
            settings.cache.url.get_secret_value(), settings.cache.ttl_s, settings.cache.wait_s
        )
        stack.push_async_callback(cache.close)
        library = Library(settings.knowledge.database, embedder.load(settings.knowledge.embedder))
        stack.callback(library.close)
        policy, known = Policy.load(settings.profile), scenes(settings.profile)
        assistant = Assistant(
            model,
            library,
            policy,
            Calibration.load(settings.profile),
            cache,
            known,
            store.attended,
            settings.knowledge.passages,
            settings.knowledge.min_score,
        )
        tickets = Tickets(settings.kafka, store, objects) if settings.kafka.bootstrap_servers else None
        if tickets is not None:
            stack.push_async_callback(tickets.close)
        yield Parts(settings, guard, model, assistant, store, objects, cache, library, policy, known, tickets)
