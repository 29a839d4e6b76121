"""Hands bytes to the broker and says when it has them. It knows librdkafka's producer; it does not know what the bytes mean."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping
from typing import Any, Final

import confluent_kafka
from confluent_kafka.admin import AdminClient, NewTopic

from gateway.errors import Unavailable
from gateway.settings import Kafka

_log = logging.getLogger(__name__)
_librdkafka = logging.getLogger("gateway.queue.librdkafka")

_POLL_S: Final = 0.1
_KEEP_TRYING_MS: Final = 30_000


class Producer:
    """One connection to the brokers; safe to use from many tasks of one event loop."""

    def __init__(self, settings: Kafka) -> None:
        self._settings = settings
        self._producer = self._connected()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="kafka-producer", daemon=True)
        self._thread.start()

    async def send(
        self, topic: str, key: str, body: bytes, headers: Mapping[str, str], timeout_s: float = 10.0
    ) -> None:
        """Return when all in-sync replicas have it; Unavailable otherwise, and then it may still arrive later."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()

        def tell(error: Any) -> None:
            if not done.done():
                done.set_result(error)

        def delivered(error: Any, _: Any) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(tell, error)

        producer = self._producer
        try:
            producer.produce(
                topic,
                value=body,
                key=key.encode(),
                headers=[(name, value.encode()) for name, value in headers.items()],
                on_delivery=delivered,
            )
        except BufferError:
            raise Unavailable("the queue of messages that wait for the broker is full") from None
        except confluent_kafka.KafkaException as error:
            self._renew(producer, error.args[0])
            raise Unavailable("the broker does not take messages") from None
        try:
            async with asyncio.timeout(timeout_s):  # wait_for can swallow a cancellation until Python 3.12
                fault = await done
        except TimeoutError:
            raise Unavailable("the broker does not answer") from None
        if fault is not None:
            self._renew(producer, fault)
            raise Unavailable(f"the broker did not take a message: {fault.name()}")

    def create_topics(self, timeout_s: float = 5.0) -> None:
        """Make those that are missing; Unavailable. A broker whose administrator made them says so, which is well."""
        settings = self._settings
        names = (
            settings.requests,
            settings.replies,
            settings.handoff,
            settings.feedback,
            settings.dead_letters,
        )
        admin = AdminClient(connection(settings), logger=_librdkafka)
        try:
            known = admin.list_topics(timeout=timeout_s).topics
            missing = [
                NewTopic(name, settings.partitions, settings.replication)
                for name in names
                if name not in known
            ]
            for name, made in (
                admin.create_topics(missing, request_timeout=timeout_s).items() if missing else ()
            ):
                try:
                    made.result()
                    _log.info("made the topic %s with %d partitions", name, settings.partitions)
                except confluent_kafka.KafkaException as error:
                    if error.args[0].code() != confluent_kafka.KafkaError.TOPIC_ALREADY_EXISTS:
                        raise
        except confluent_kafka.KafkaException as error:
            raise Unavailable(f"the broker does not answer: {error.args[0].name()}") from None

    async def close(self, timeout_s: float = 5.0) -> None:
        """Wait for what is on its way, at most so long."""
        await asyncio.to_thread(self._producer.flush, timeout_s)
        self._ending.set()
        await asyncio.to_thread(self._thread.join)

    def _connected(self) -> Any:
        config = connection(self._settings) | {
            "acks": "all",
            "enable.idempotence": True,
            "delivery.timeout.ms": _KEEP_TRYING_MS,
            "linger.ms": 2,
            "compression.type": "none",
        }
        return confluent_kafka.Producer(config, logger=_librdkafka)

    def _renew(self, failed: Any, error: Any) -> None:
        # An idempotent producer whose sequence the broker has lost refuses everything from then on.
        if error.fatal() and failed is self._producer:
            _log.warning("the producer ended with %s; a new one takes over", error.name())
            self._producer = self._connected()

    def _poll(self) -> None:
        while not self._ending.is_set():
            self._producer.poll(_POLL_S)


def connection(settings: Kafka) -> dict[str, Any]:
    """How producers and consumers reach the brokers."""
    return {
        "bootstrap.servers": settings.bootstrap_servers,
        "client.id": "cs-gateway",
        "reconnect.backoff.max.ms": 2_000,
        "log_level": 4,
        **settings.security,
    }
