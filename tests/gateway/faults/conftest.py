"""The same broker, store and topics as the queue's own tests, and worker processes that end with the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gateway.objects import Objects
from gateway.store import Store
from tests.gateway.faults.process import Process
from tests.gateway.queue.broker import Broker, Mock
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
def mock() -> Mock:
    return Mock()


@pytest.fixture
def mock_shop(mock: Mock, tmp_path: Path) -> Iterator[Callable[..., Shop]]:
    with closing(Store(f"sqlite:///{tmp_path}/gateway.db")) as store:
        yield lambda **changes: Shop(mock.settings(**changes), store, Objects(str(tmp_path / "objects")))


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start(shop: Shop, pause_s: float = 0.0, instance: str = "") -> Process:
        started.append(Process.start(shop, tmp_path, f"worker-{len(started)}", pause_s, instance))
        return started[-1]

    yield start
    for process in started:
        process.kill()
