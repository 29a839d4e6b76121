"""A bucket that is missing, or whose server is away, is unavailable: soon, and without telling keys."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from gateway.errors import NotFound, Unavailable
from gateway.objects import Objects
from gateway.records import Media

PICTURE = Media("image", b"bytes", "image/png", "d" * 64, 1, 1)

pytestmark = pytest.mark.usefixtures("keys")


def test_a_missing_bucket_is_unavailable_and_a_missing_object_is_not_found(s3_endpoint: str) -> None:
    objects = Objects("s3://nobody-made-this/prefix", s3_endpoint)
    with pytest.raises(Unavailable):
        asyncio.run(objects.put("shop", PICTURE))
    with pytest.raises(Unavailable):
        asyncio.run(objects.get("shop", "a" * 32))
    with pytest.raises(Unavailable):
        list(objects.stored())


def test_a_server_that_is_away_is_unavailable_within_seconds() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        objects = Objects("s3://media", f"http://127.0.0.1:{free.getsockname()[1]}")
    start_s = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        asyncio.run(objects.put("shop", PICTURE))
    assert time.monotonic() - start_s < 8
    assert "test" not in str(caught.value)


def test_two_prefixes_of_one_bucket_do_not_meet(place: tuple[str, str]) -> None:
    url, endpoint = place
    if not url.startswith("s3://"):
        url, endpoint = f"{url}/x", ""
    base = url.rstrip("/")
    one, two = Objects(f"{base}/one", endpoint), Objects(f"{base}/two", endpoint)

    async def run() -> None:
        ref = await one.put("shop", PICTURE)
        with pytest.raises(NotFound):
            await two.get("shop", ref.object_id)
        assert [object_id for _, object_id, _ in one.stored()] == [ref.object_id]
        assert list(two.stored()) == []

    asyncio.run(run())


def test_more_objects_than_one_page_are_all_listed(s3_endpoint: str) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=s3_endpoint)
    client.create_bucket(Bucket="many")
    for number in range(1005):
        client.put_object(Bucket="many", Key=f"{'a' * 32}/{number:032x}", Body=b"")
    client.close()
    assert len(list(Objects("s3://many", s3_endpoint).stored())) == 1005
