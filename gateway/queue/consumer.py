"""Takes messages from the broker, as many at once as allowed, and commits what is finished.

It knows librdkafka's consumer; it does not know what a message means. While it holds as many as allowed for long, its
partitions are paused, and it goes on polling, so that the broker does not take it for dead however long an answer takes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import confluent_kafka

from gateway.queue.metrics import HELD, LAG
from gateway.queue.offsets import Offsets, Partition
from gateway.queue.producer import connection
from gateway.settings import Kafka

_log = logging.getLogger(__name__)
_librdkafka = logging.getLogger("gateway.queue.librdkafka")

_POLL_S: Final = 0.1
_PATIENCE_S: Final = 2.0
"""librdkafka needs up to a second to begin again after a pause, so a consumer that is full waits a little first. Not long: a
group cannot share its partitions anew while a member does not poll."""


@dataclass(frozen=True)
class Message:
    """What a consumer got. `headers` that are no text are left out."""

    partition: Partition
    offset: int
    key: str
    body: bytes | None = field(repr=False)
    headers: dict[str, str]


Handler = Callable[[Message], Awaitable[None]]
"""Returns when a message is finished and may be committed; cancelled, or raising, it is given back."""


class Consumer:
    """One member of the consumer group.

    Args:
        settings: the section `kafka`.
        handle: works on one message; those with the same key one after the other.
    """

    def __init__(self, settings: Kafka, handle: Handler) -> None:
        self._settings, self._handle = settings, handle
        self._offsets = Offsets()
        self._running: dict[asyncio.Task[None], Message] = {}
        self._last: dict[str, asyncio.Task[None]] = {}
        self._paused: frozenset[Partition] = frozenset()
        self._revoked: list[Partition] = []
        self._stopping = False
        self._full_s = 0.0
        self._polled_s = time.monotonic()
        # librdkafka's calls block; one thread makes them all, so no two are ever made at once.
        self._thread = ThreadPoolExecutor(1, "kafka-consumer")
        self._consumer: Any = confluent_kafka.Consumer(
            connection(settings)
            | {
                "group.id": settings.group,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "earliest",
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": int(settings.session_s * 1000),
                "heartbeat.interval.ms": int(settings.session_s * 200),
                # After a pause the client asks anew; a broker with nothing to give holds that back for so long.
                "fetch.wait.max.ms": 100,
                "allow.auto.create.topics": False,
                "topic.metadata.refresh.interval.ms": 5_000,
            }
            | ({"group.instance.id": settings.instance} if settings.instance else {}),
            logger=_librdkafka,
        )

    @property
    def silent_s(self) -> float:
        """Since the broker's client was last asked; much more than a second means that something hangs."""
        return time.monotonic() - self._polled_s

    @property
    def held(self) -> int:
        """Messages taken and not finished."""
        return len(self._running)

    def stop(self) -> None:
        """Take no more; `run` ends when what was taken is finished, or after `drain_s`."""
        self._stopping = True

    async def run(self) -> None:
        """Take and handle messages until `stop`."""
        await self._call(self._subscribe)
        try:
            while not self._stopping:
                await self._step()
            await self._drain()
        finally:
            await self._give_back()
            self._thread.shutdown(wait=False)

    async def _step(self) -> None:
        full = self._stopping or self.held >= self._settings.concurrency
        if not full:
            self._full_s = 0.0
        elif self._full_s == 0.0:
            self._full_s = time.monotonic()
        if full and self._running and not self._paused and time.monotonic() - self._full_s < _PATIENCE_S:
            await asyncio.wait(list(self._running), timeout=_POLL_S, return_when=asyncio.FIRST_COMPLETED)
            await self._commit()
            return
        message = await self._call(self._poll, full)
        self._polled_s = time.monotonic()
        self._forget_revoked()
        if message is not None:
            self._take(message)
        await self._commit()

    async def _drain(self) -> None:
        end = time.monotonic() + self._settings.drain_s
        _log.info("told to end: finishing %d tickets", self.held)
        while self._running and time.monotonic() < end:
            await self._step()

    async def _give_back(self) -> None:
        left = list(self._running)
        if left:
            _log.warning("giving back %d tickets that are not finished", len(left))
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._commit()
        await self._call(self._consumer.close)

    def _take(self, message: Message) -> None:
        self._offsets.take(message.partition, message.offset)
        before = self._last.get(message.key)
        task = asyncio.get_running_loop().create_task(self._one(message, before), name="ticket")
        self._running[task] = message
        self._last[message.key] = task
        HELD.set(self.held)
        task.add_done_callback(self._finished)

    async def _one(self, message: Message, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        await self._handle(message)

    def _finished(self, task: asyncio.Task[None]) -> None:
        message = self._running.pop(task)
        HELD.set(self.held)
        if self._last.get(message.key) is task:
            del self._last[message.key]
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            # Handlers answer for their own errors. What they let through is read again by whoever comes next.
            _log.error("a message was given back", exc_info=error)
            self._stopping = True
            return
        self._offsets.done(message.partition, message.offset)

    def _forget_revoked(self) -> None:
        while self._revoked:
            partition = self._revoked.pop()
            self._offsets.drop(partition)
            LAG.labels(str(partition[1])).set(0)
            # Its next owner begins where we have committed; two that answer one ticket would waste an answer.
            for task, message in list(self._running.items()):
                if message.partition == partition:
                    task.cancel()

    async def _commit(self) -> None:
        ripe = self._offsets.ripe()
        if ripe and await self._call(self._committed, ripe):
            for partition, position in ripe.items():
                self._offsets.committed(partition, position)

    async def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    # What follows runs in the consumer's thread.

    def _subscribe(self) -> None:
        self._consumer.subscribe(
            [self._settings.requests], on_revoke=self._on_revoke, on_lost=self._on_revoke
        )

    def _on_revoke(self, _: Any, partitions: list[Any]) -> None:
        self._revoked += [(one.topic, one.partition) for one in partitions]
        self._paused = frozenset()

    def _poll(self, full: bool) -> Message | None:
        self._pause(full)
        raw = self._consumer.poll(_POLL_S)
        if raw is None:
            return None
        if (error := raw.error()) is not None:
            _log.warning("the broker says %s", error.name())
            return None
        partition = (raw.topic(), raw.partition())
        self._measure(raw)
        return Message(partition, raw.offset(), _text(raw.key()) or "", raw.value(), _headers(raw.headers()))

    def _pause(self, full: bool) -> None:
        wanted = (
            frozenset((one.topic, one.partition) for one in self._consumer.assignment())
            if full
            else frozenset()
        )
        if wanted == self._paused:
            return
        change = [confluent_kafka.TopicPartition(*one) for one in wanted or self._paused]
        try:
            (self._consumer.pause if wanted else self._consumer.resume)(change)
        except confluent_kafka.KafkaException as error:
            _log.warning("could not pause or resume: %s", error.args[0].name())
            return
        self._paused = wanted

    def _measure(self, raw: Any) -> None:
        partition = confluent_kafka.TopicPartition(raw.topic(), raw.partition())
        _, high = self._consumer.get_watermark_offsets(partition, cached=True)
        if high >= 0:
            LAG.labels(str(raw.partition())).set(max(0, high - raw.offset() - 1))

    def _committed(self, ripe: dict[Partition, int]) -> bool:
        offsets = [confluent_kafka.TopicPartition(*one, position) for one, position in ripe.items()]
        try:
            done = self._consumer.commit(offsets=offsets, asynchronous=False)
        except confluent_kafka.KafkaException as error:
            # The broker is away, or gave the partitions to somebody: what is read again is recognised.
            _log.warning("could not commit: %s", error.args[0].name())
            return False
        return all(one.error is None for one in done)


def _text(raw: bytes | None) -> str | None:
    try:
        return None if raw is None else raw.decode()
    except UnicodeDecodeError:
        return None


def _headers(raw: list[tuple[str, bytes | None]] | None) -> dict[str, str]:
    return {name: text for name, value in raw or () if (text := _text(value)) is not None}
