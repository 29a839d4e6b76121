"""A worker in a process of its own, with the scripted assistant: `python -m tests.gateway.faults.process FILE`."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gateway import telemetry
from gateway.objects import Objects
from gateway.queue import Tickets
from gateway.queue.worker import Worker
from gateway.settings import Settings, Telemetry
from gateway.store import Store
from tests.gateway.queue.conftest import Shop
from tests.gateway.queue.scripted import Scripted


@dataclass
class Process:
    """A worker that can be killed."""

    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, shop: Shop, directory: Path, name: str, pause_s: float, instance: str) -> Process:
        given = {
            "kafka": shop.kafka.model_dump() | {"instance": instance},
            "store": f"sqlite:///{directory}/gateway.db",
            "objects": str(directory / "objects"),
            "pause_s": pause_s,
        }
        file, log = directory / f"{name}.json", directory / f"{name}.log"
        file.write_text(json.dumps(given))
        command = [sys.executable, "-m", "tests.gateway.faults.process", str(file)]
        with log.open("ab") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output)
        end = time.monotonic() + 20
        while "working" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        return cls(process, log)

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


async def _work(given: dict[str, Any]) -> None:
    with closing(Store(given["store"])) as store:
        settings = Settings(kafka=given["kafka"])
        objects = Objects(given["objects"])
        tickets = Tickets(settings.kafka, store, objects)
        parts: Any = SimpleNamespace(
            settings=settings,
            store=store,
            objects=objects,
            tickets=tickets,
            assistant=Scripted(given["pause_s"]),
        )
        worker = Worker(parts)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
        print("working", flush=True)
        await worker.run()
        await tickets.close()


if __name__ == "__main__":
    telemetry.setup(Telemetry(), "worker")
    asyncio.run(_work(json.loads(Path(sys.argv[1]).read_text())))
