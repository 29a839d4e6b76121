"""Media that no row refers to are deleted after an hour, whoever stored them; all others stay."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest

from gateway.api.retention import sweep
from gateway.errors import Unavailable
from gateway.objects import Objects, name_here
from gateway.records import Media, MediaRef
from gateway.store import Store
from tests.gateway.store.conftest import asked

PICTURE = Media("image", bytes(range(256)), "image/png", "d" * 64, 16, 16)
HOUR_S = 3600


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(f"sqlite:///{tmp_path}/gateway.db")
    yield opened
    opened.close()


def swept(objects: Objects, store: Store, now_s: float) -> int:
    parts: Any = SimpleNamespace(objects=objects, store=store)
    return asyncio.run(sweep(parts, now_s))


def put(objects: Objects, tenant: str = "shop") -> MediaRef:
    return asyncio.run(objects.put(tenant, PICTURE))


def stored(objects: Objects) -> set[tuple[str, str]]:
    return {(tenant, object_id) for tenant, object_id, _ in objects.stored()}


def test_media_without_a_row_go_after_an_hour(objects: Objects, store: Store) -> None:
    kept = put(objects)
    put(objects)
    store.create_ticket(asked("r", kept))
    assert swept(objects, store, time.time() + HOUR_S - 60) == 0
    assert len(stored(objects)) == 2
    assert swept(objects, store, time.time() + HOUR_S + 60) == 1
    assert stored(objects) == {(name_here("shop"), kept.object_id)}
    assert swept(objects, store, time.time() + HOUR_S + 60) == 0


def test_a_tenants_row_keeps_its_own_object_only(
    objects: Objects, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tenants' objects of the same id, which chance does not make: a row of the one must not keep the other's."""
    monkeypatch.setattr("secrets.token_hex", lambda size: "ab" * size)
    shop = put(objects, "shop")
    bank = put(objects, "bank")
    monkeypatch.undo()
    assert shop.object_id == bank.object_id
    other = put(objects, "bank")
    store.create_ticket(asked("r", bank, other, tenant="bank"))
    assert swept(objects, store, time.time() + HOUR_S + 60) == 1
    assert stored(objects) == {(name_here("bank"), bank.object_id), (name_here("bank"), other.object_id)}


def test_what_is_not_ours_stays(place: tuple[str, str], store: Store) -> None:
    url, endpoint = place
    leaked = put(Objects(url, endpoint))
    if url.startswith("s3://"):
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        client = boto3.client("s3", endpoint_url=endpoint)
        strangers = {
            f"{prefix}notes.txt",
            f"{prefix}backup/{leaked.object_id}",
            f"other/{'a' * 32}/{'b' * 32}",
        }
        for key in strangers:
            client.put_object(Bucket=bucket, Key=key, Body=b"")
        assert swept(Objects(url, endpoint), store, time.time() + HOUR_S + 60) == 1
        assert {item["Key"] for item in client.list_objects_v2(Bucket=bucket)["Contents"]} == strangers
        client.close()
    else:
        mine = Path(url) / "backup" / "2026" / "notes"
        mine.parent.mkdir(parents=True)
        mine.write_bytes(b"")
        assert swept(Objects(url, endpoint), store, time.time() + HOUR_S + 60) == 1
        assert mine.exists()


def test_halves_of_writers_that_died_go_too(tmp_path: Path, store: Store) -> None:
    objects = Objects(str(tmp_path / "objects"))
    kept = put(objects)
    store.create_ticket(asked("r", kept))
    (whole,) = (file for file in (tmp_path / "objects").rglob("*") if file.is_file())
    old, new = (whole.with_name(f"{'e' * 32}.{name}.part") for name in ("01234567", "89abcdef"))
    for half in (old, new):
        half.write_bytes(b"half")
    os.utime(old, (time.time() - 2 * HOUR_S,) * 2)
    assert swept(objects, store, time.time()) == 0
    assert not old.exists()
    assert new.exists()
    assert whole.exists()


def test_the_media_of_another_database_are_not_deleted(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """A deployment that was pointed at an empty database must not lose what its customers sent."""
    objects = Objects(str(tmp_path / "objects"))
    for _ in range(101):
        put(objects)
    assert swept(objects, store, time.time() + HOUR_S + 60) == 0
    assert len(stored(objects)) == 101
    assert "is this their database" in caplog.text


def test_a_store_that_is_away_deletes_nothing(objects: Objects, store: Store, tmp_path: Path) -> None:
    put(objects)
    store.close()
    (tmp_path / "gateway.db").write_bytes(b"")  # SQLite takes it for a new database, without tables
    for more in ("-wal", "-shm"):
        (tmp_path / f"gateway.db{more}").unlink(missing_ok=True)
    with pytest.raises(Unavailable):
        swept(objects, store, time.time() + HOUR_S + 60)
    assert len(stored(objects)) == 1


def test_more_media_than_one_query_may_ask_for(tmp_path: Path, store: Store) -> None:
    objects = Objects(str(tmp_path / "objects"))
    refs = [put(objects) for _ in range(600)]
    store.create_ticket(asked("r", *refs[1:]))
    assert swept(objects, store, time.time() + HOUR_S + 60) == 1
    assert {object_id for _, object_id in stored(objects)} == {ref.object_id for ref in refs[1:]}
