"""noida-db as a broker that can be stopped and started again, and a reader of its topics.

It writes to disk a moment after it has acknowledged, so it is stopped with SIGTERM: a real Kafka would survive a kill.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import time
import uuid
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import confluent_kafka
from confluent_kafka.admin import AdminClient

from gateway.settings import Kafka


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@dataclass
class Read:
    """A message that lies in a topic."""

    key: str
    body: bytes
    headers: dict[str, str]


class Mock:
    """librdkafka's own broker, in this process: unlike noida-db it notices when a member of a group is dead."""

    def __init__(self) -> None:
        config = {"bootstrap.servers": "mock", "test.mock.num.brokers": 1, "log_level": 0}
        self._owner = confluent_kafka.Producer(config)
        brokers = self._owner.list_topics(timeout=10).brokers.values()
        self.address = ",".join(f"{one.host}:{one.port}" for one in brokers)

    def settings(self, **changes: Any) -> Kafka:
        kafka = settings(self.address, **{"session_s": 3.0, **changes})
        for topic in (kafka.requests, kafka.replies, kafka.handoff, kafka.feedback, kafka.dead_letters):
            self._owner.list_topics(topic, timeout=10)  # asking makes it
        return kafka

    def read(self, topic: str, wait_s: float = 10.0) -> list[Read]:
        return read(self.address, topic, wait_s)


class Broker:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.address = f"127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        command = [str(files("noida_db").joinpath("noida-db")), "start", "--only", "kafka"]
        command += ["--kafka-port", str(self._port), "--data-dir", str(self._directory)]
        with (self._directory.parent / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        end = time.monotonic() + 20
        while True:
            try:
                AdminClient({"bootstrap.servers": self.address, "log_level": 0}).list_topics(timeout=1)
                return
            except confluent_kafka.KafkaException:
                assert self._process.poll() is None, "the broker ended"
                assert time.monotonic() < end, "the broker did not start"

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(20)
            self._process = None

    def settings(self, **changes: Any) -> Kafka:
        return settings(self.address, **changes)

    def read(self, topic: str, wait_s: float = 10.0) -> list[Read]:
        """All that lies in a topic now."""
        return read(self.address, topic, wait_s)


def settings(address: str, **changes: Any) -> Kafka:
    """Topics and a group of this caller's own, in a hurry."""
    name = f"t{uuid.uuid4().hex[:8]}"
    fields: dict[str, Any] = {
        "bootstrap_servers": address,
        "group": f"{name}.workers",
        **{topic: f"{name}.{topic}" for topic in ("requests", "replies", "handoff", "feedback")},
        "dead_letters": f"{name}.dead",
        "partitions": 3,
        "attempts": 3,
        "backoff_s": 0.05,
        "drain_s": 10.0,
        "session_s": 6.0,
    }
    return Kafka(**(fields | changes))


def read(address: str, topic: str, wait_s: float = 10.0) -> list[Read]:
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": address, "group.id": f"reader-{uuid.uuid4().hex}", "log_level": 0}
    )
    try:
        known = consumer.list_topics(topic, timeout=wait_s).topics[topic]
        found: list[Read] = []
        ends = {}
        for partition in known.partitions:
            one = confluent_kafka.TopicPartition(topic, partition, 0)
            low, high = consumer.get_watermark_offsets(one, timeout=wait_s)
            if high > low:
                ends[partition] = high
        consumer.assign([confluent_kafka.TopicPartition(topic, partition, 0) for partition in ends])
        end = time.monotonic() + wait_s
        while ends:
            assert time.monotonic() < end, f"{topic}: partitions {sorted(ends)} were not read to their ends"
            message = consumer.poll(0.2)
            if message is None or message.error() is not None:
                continue
            headers = {name: value.decode() for name, value in message.headers() or ()}
            found.append(Read((message.key() or b"").decode(), message.value() or b"", headers))
            if message.offset() + 1 >= ends[message.partition()]:
                del ends[message.partition()]
        return found
    finally:
        consumer.close()
