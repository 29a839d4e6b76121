"""What a gateway keeps is deleted in time, and what a failing database left behind too; the job outlives failures."""

from __future__ import annotations

import asyncio
import base64
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway import settings
from gateway.api import retention
from gateway.errors import Unavailable
from tests.gateway.api.conftest import Running

DAY_S = 86400


def body(picture: bytes) -> dict[str, Any]:
    url = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "黑屏怎么办？"}]
    return {"messages": [{"role": "user", "content": content}], "customer_service": {"conversation_id": "c"}}


def parts(gateway: Running, keep_days: int = 90) -> Any:
    configured = settings.Settings(database=settings.Database(keep_days=keep_days))
    return SimpleNamespace(settings=configured, store=gateway.store, objects=gateway.objects)


def stored(gateway: Running) -> int:
    return len(list(gateway.objects.stored()))


@contextmanager
def without_media(database: Path) -> Iterator[None]:
    """Whoever writes which media a row refers to fails, after the media were stored."""
    with closing(sqlite3.connect(database, timeout=15)) as connection:
        connection.execute("ALTER TABLE media RENAME TO hidden")
        yield
        connection.execute("ALTER TABLE hidden RENAME TO media")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/tickets"])
def test_what_a_failing_database_left_behind_is_deleted(
    gateway: Running, picture: bytes, tmp_path: Path, path: str
) -> None:
    http = gateway.http()
    assert http.post("/v1/chat/completions", json=body(picture)).status_code == 200
    with without_media(tmp_path / "gateway.db"):
        failed = http.post(path, json=body(picture))
    assert failed.status_code == 503, failed.text
    assert stored(gateway) == 2  # the second was stored for a row that never came
    assert asyncio.run(retention.sweep(parts(gateway), time.time())) == 0
    assert asyncio.run(retention.sweep(parts(gateway), time.time() + 3700)) == 1
    (message, _) = http.get("/v1/conversations/c").json()["messages"]
    assert stored(gateway) == 1
    ((_, object_id, _),) = gateway.objects.stored()
    assert object_id in str(message)


def test_what_was_kept_long_enough_goes_with_its_media(gateway: Running, picture: bytes) -> None:
    http = gateway.http()
    assert http.post("/v1/chat/completions", json=body(picture)).status_code == 200
    assert asyncio.run(retention.purge(parts(gateway, keep_days=7), time.time() + 6.9 * DAY_S)) == 0
    assert http.get("/v1/conversations/c").status_code == 200
    assert asyncio.run(retention.purge(parts(gateway, keep_days=7), time.time() + 7.1 * DAY_S)) == 1
    assert http.get("/v1/conversations/c").status_code == 404
    assert stored(gateway) == 0


def test_media_whose_rows_went_while_the_object_store_was_away_are_found_later(
    gateway: Running, picture: bytes, tmp_path: Path
) -> None:
    assert gateway.http().post("/v1/chat/completions", json=body(picture)).status_code == 200
    (directory,) = (tmp_path / "objects").iterdir()
    away = directory.rename(tmp_path / "away")
    directory.write_bytes(b"")  # no directory: nothing can be deleted in it
    late_s = time.time() + 100 * DAY_S
    with pytest.raises(Unavailable):
        asyncio.run(retention.purge(parts(gateway), late_s))
    directory.unlink()
    away.rename(directory)
    assert stored(gateway) == 1
    assert asyncio.run(retention.purge(parts(gateway), late_s)) == 0
    assert asyncio.run(retention.sweep(parts(gateway), late_s)) == 1
    assert stored(gateway) == 0


def test_a_failure_of_one_kind_does_not_end_the_job(
    gateway: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "gateway.api.retention")
    looked: list[str] = []

    def failing(error: Exception) -> Callable[..., Any]:
        async def fail(of: Any, now_s: float) -> int:
            looked.append(type(error).__name__)
            raise error

        return fail

    monkeypatch.setattr(retention, "_EVERY_S", 0.01)
    monkeypatch.setattr(retention, "purge", failing(Unavailable("away")))
    monkeypatch.setattr(retention, "sweep", failing(RuntimeError("a mistake of ours")))

    async def run() -> None:
        job = asyncio.create_task(retention.purging(parts(gateway)))
        while len(looked) < 6:
            assert not job.done()
            await asyncio.sleep(0.01)
        job.cancel()
        await asyncio.wait({job})

    asyncio.run(asyncio.wait_for(run(), 10))
    assert looked[:4] == ["Unavailable", "RuntimeError"] * 2
    assert "a mistake of ours" in caplog.text
