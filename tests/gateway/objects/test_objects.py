"""What every object store promises: whole media, for their tenant only."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.errors import NotFound
from gateway.objects import Objects
from gateway.records import Media, MediaRef

PICTURE = Media("image", bytes(range(256)) * 40, "image/png", "d" * 64, 640, 480, 0.7, 2)
VIDEO = Media("video", b"\0\0\0\x18ftypmp42" * 9, "video/mp4", "e" * 64, 64, 48)
AWKWARD = ["shop", "银行", "../shop", "a/b", "", ".", "x" * 300, "UPPER", "upper"]


@pytest.mark.parametrize("media", [PICTURE, VIDEO], ids=["picture", "video"])
def test_media_come_back_as_they_were(objects: Objects, media: Media) -> None:
    async def run() -> None:
        ref = await objects.put("shop", media)
        assert await objects.media("shop", ref) == media
        assert await objects.get("shop", ref.object_id) == media.data

    asyncio.run(run())


def test_equal_media_are_two_objects(objects: Objects) -> None:
    async def run() -> None:
        one, two = await objects.put("shop", PICTURE), await objects.put("shop", PICTURE)
        await objects.delete("shop", one.object_id)
        await objects.delete("shop", one.object_id)  # again is no error
        with pytest.raises(NotFound):
            await objects.media("shop", one)
        assert await objects.media("shop", two) == PICTURE

    asyncio.run(run())


def test_a_tenant_reaches_its_own_objects_only_whatever_it_is_called(objects: Objects) -> None:
    async def run() -> None:
        refs = {tenant: await objects.put(tenant, PICTURE) for tenant in AWKWARD}
        for owner, ref in refs.items():
            for tenant in AWKWARD:
                if tenant != owner:
                    with pytest.raises(NotFound):
                        await objects.get(tenant, ref.object_id)
                    await objects.delete(tenant, ref.object_id)
            assert await objects.media(owner, ref) == PICTURE

    asyncio.run(run())


@pytest.mark.parametrize(
    "object_id",
    ["", ".", "..", "a" * 31, "A" * 32, "a" * 32 + "\n", "../" * 9 + "victim", "a/" * 16, "＊" * 32],
)
def test_what_is_no_id_reaches_nothing(objects: Objects, object_id: str) -> None:
    async def run() -> None:
        ref = MediaRef(object_id, "a" * 64, "image", "image/png", "d" * 64, 1, 1, 1.0, 0)
        with pytest.raises(NotFound):
            await objects.get("shop", object_id)
        with pytest.raises(NotFound):
            await objects.media("shop", ref)
        with pytest.raises(NotFound):
            await objects.delete("shop", object_id)

    asyncio.run(run())


def test_other_bytes_than_those_that_were_stored_are_refused(objects: Objects) -> None:
    async def run() -> None:
        ref = await objects.put("shop", PICTURE)
        other = await objects.put("shop", VIDEO)
        mixed = MediaRef(**{**vars(ref), "object_id": other.object_id})
        with pytest.raises(NotFound, match="damaged"):
            await objects.media("shop", mixed)

    asyncio.run(run())


def test_all_that_is_stored_is_listed(objects: Objects) -> None:
    async def run() -> set[str]:
        refs = [await objects.put(tenant, VIDEO) for tenant in ("shop", "bank", "shop")]
        await objects.delete("shop", refs[0].object_id)
        return {ref.object_id for ref in refs[1:]}

    before_s = time.time()
    expected = asyncio.run(run())
    listed = list(objects.stored())
    assert {object_id for _, object_id, _ in listed} == expected
    assert len({tenant for tenant, _, _ in listed}) == 2
    assert not any("shop" in tenant or "bank" in tenant for tenant, _, _ in listed)
    assert all(before_s - 2 <= at_s <= time.time() + 2 for _, _, at_s in listed)


def test_many_at_once(objects: Objects) -> None:
    async def run() -> None:
        media = [Media("image", f"{n}".encode() * 5000, "image/jpeg", f"{n:064x}", 1, 1) for n in range(24)]
        refs = await asyncio.gather(*(objects.put("shop", item) for item in media))
        assert await asyncio.gather(*(objects.media("shop", ref) for ref in refs)) == media

    asyncio.run(run())
