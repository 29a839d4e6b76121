"""Keeps the bytes of media, so that queues and tables carry references only.

It knows ids, digests and tenants. Where the bytes lie is a `Backend`'s. An id is 128 random bits, and a tenant is part
of every name, so one tenant cannot reach the objects of another even if it learns an id.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

from gateway.errors import NotFound
from gateway.records import Media, MediaRef

_ID: Final = re.compile(r"[0-9a-f]{32}")


class Backend(Protocol):
    """Bytes by name. Names have the form TENANT/ID, both safe as file names."""

    def put(self, name: str, data: bytes, mime: str) -> None:
        """Store whole or not at all; Unavailable."""

    def get(self, name: str) -> bytes:
        """NotFound, Unavailable."""

    def delete(self, name: str) -> None:
        """No error when it is gone already; Unavailable."""

    def names(self) -> Iterator[tuple[str, float]]:
        """All names, with the time at which each was stored; Unavailable."""


class Objects:
    """The object store.

    Args:
        url: a directory, or s3://BUCKET/PREFIX.
        s3_endpoint: of an S3-compatible server other than Amazon's.
    """

    def __init__(self, url: str, s3_endpoint: str = "") -> None:
        self._backend = _backend(url, s3_endpoint)

    async def put(self, tenant: str, media: Media) -> MediaRef:
        """Store a medium; Unavailable when that is not possible now."""
        object_id = secrets.token_hex(16)
        await asyncio.to_thread(self._backend.put, _name(tenant, object_id), media.data, media.mime)
        return MediaRef(
            object_id,
            hashlib.sha256(media.data).hexdigest(),
            media.kind,
            media.mime,
            media.digest,
            media.width,
            media.height,
            media.quality,
            media.masked,
        )

    async def get(self, tenant: str, object_id: str) -> bytes:
        """The bytes; NotFound also if they are another tenant's."""
        return await asyncio.to_thread(self._backend.get, _name(tenant, object_id))

    async def media(self, tenant: str, ref: MediaRef) -> Media:
        """A stored medium again; NotFound when it is gone or its bytes are not those that were stored."""
        data = await self.get(tenant, ref.object_id)
        if hashlib.sha256(data).hexdigest() != ref.sha256:
            raise NotFound(f"object {ref.object_id} is damaged: its sha256 is another one")
        return Media(ref.kind, data, ref.mime, ref.digest, ref.width, ref.height, ref.quality, ref.masked)

    async def delete(self, tenant: str, object_id: str) -> None:
        """Delete; no error when it is gone already, Unavailable when that is not possible now."""
        await asyncio.to_thread(self._backend.delete, _name(tenant, object_id))

    def stored(self) -> Iterator[tuple[str, str, float]]:
        """(tenant's name here, object id, time stored) of all objects, for whoever looks for leaked ones; Unavailable."""
        for name, at_s in self._backend.names():
            tenant, _, object_id = name.partition("/")
            yield tenant, object_id, at_s


def _name(tenant: str, object_id: str) -> str:
    # A tenant's name may hold anything; its digest is safe as a directory. An id may come from a queue: no "../" in it.
    if not _ID.fullmatch(object_id):
        raise NotFound("there is no such object")
    return f"{hashlib.sha256(tenant.encode()).hexdigest()[:32]}/{object_id}"


def _backend(url: str, s3_endpoint: str) -> Backend:
    if url.startswith("s3://"):
        from gateway.objects.bucket import Bucket

        return Bucket(url, s3_endpoint)
    from gateway.objects.directory import Directory

    return Directory(Path(url))
