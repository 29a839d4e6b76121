"""The same broker, store and topics as the queue's own tests, and worker processes that end with the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.gateway.faults.process import Process
from tests.gateway.queue.broker import Broker
from tests.gateway.queue.conftest import Shop, make_shop, shop

__all__ = ["broker", "make_shop", "shop", "start_worker"]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """One for each test: they stop it."""
    (tmp_path / "broker").mkdir()
    started = Broker(tmp_path / "broker" / "data")
    yield started
    started.stop()


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start(shop: Shop, pause_s: float = 0.0) -> Process:
        started.append(Process.start(shop, tmp_path, f"worker-{len(started)}", pause_s))
        return started[-1]

    yield start
    for process in started:
        process.kill()
