"""`python -m gateway worker`: answers tickets from Kafka. Run as many as you need; they share the work.

On SIGTERM it takes no more tickets, finishes those that it has, and gives back what is not finished in time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway import telemetry
from gateway.errors import Unavailable
from gateway.queue.consumer import Consumer, Message
from gateway.queue.desk import Desk
from gateway.queue.health import probed
from gateway.settings import Settings

if TYPE_CHECKING:
    from gateway.parts import Parts

_log = logging.getLogger(__name__)

_HANGS_S: Final = 30.0


class Worker:
    """One member of the group of workers. `parts.tickets` must be there."""

    def __init__(self, parts: Parts) -> None:
        if parts.tickets is None:
            raise ValueError("kafka.bootstrap_servers: got '', allowed: HOST:PORT of a broker")
        self._tickets = parts.tickets
        self._desk = Desk(parts, parts.tickets)
        self._consumer = Consumer(parts.settings.kafka, self._handle)

    @property
    def alive(self) -> bool:
        """Whether it still asks the broker for work."""
        return self._consumer.silent_s < _HANGS_S

    def stop(self) -> None:
        """Take no more; `run` ends when what was taken is finished or given back."""
        self._consumer.stop()

    async def run(self) -> None:
        """Answer tickets until `stop`."""
        try:
            await self._tickets.create_topics()  # one that appears later is noticed late
        except Unavailable as error:
            _log.warning("topics: %s", error)
        self._tickets.start()
        await self._consumer.run()

    async def _handle(self, message: Message) -> None:
        topic, partition = message.partition
        origin = {"topic": topic, "partition": str(partition), "offset": str(message.offset)}
        await self._desk.handle(message.body, message.headers, origin)


async def work(settings: Settings, ready_file: Path | None) -> int:
    """Work until told to end."""
    from gateway.parts import open_parts  # which makes the producer of `gateway.queue`

    async with open_parts(settings) as parts:
        worker, loop = Worker(parts), asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, worker.stop)
        kafka = settings.kafka
        with probed(kafka.worker_host, kafka.worker_port, lambda: worker.alive) as port:
            _log.info("working; /healthz and /metrics on port %d", port)
            if ready_file is not None:
                part = ready_file.with_suffix(".part")
                part.write_text(json.dumps({"pid": os.getpid(), "url": f"http://{kafka.worker_host}:{port}"}))
                part.replace(ready_file)
            await worker.run()
    telemetry.flush()
    _log.info("ended")
    return 0


def main(arguments: list[str]) -> int:
    """The command. 0: ended as told; 2: wrong settings."""
    parser = argparse.ArgumentParser(prog="python -m gateway worker", description=__doc__)
    parser.add_argument("--port", type=int, help="of /healthz and /metrics; 0: a free one")
    parser.add_argument("--ready-file", type=Path, help="written with pid and url when it works")
    given = parser.parse_args(arguments)
    settings = Settings()
    if given.port is not None:
        kafka = settings.kafka.model_copy(update={"worker_port": given.port})
        settings = settings.model_copy(update={"kafka": kafka})
    if not settings.kafka.bootstrap_servers:
        print(
            "worker: kafka.bootstrap_servers: got '', allowed: HOST:PORT of a broker, "
            "in GATEWAY_KAFKA__BOOTSTRAP_SERVERS or the file that GATEWAY_CONFIG names",
            file=sys.stderr,
        )
        return 2
    telemetry.setup(settings.telemetry, "worker")
    return asyncio.run(work(settings, given.ready_file))
