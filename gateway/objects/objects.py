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
_NAME: Final = re.compile(r"[0-9a-f]{32}/[0-9a-f]{32}")


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

    def tidy(self, before_s: float) -> None:
        """Delete what writers that died before that time left half written; Unavailable."""


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
        """(tenant's name here, object id, time stored) of all objects, for whoever looks for leaked ones; Unavailable.

        What has another form of name is not ours, and is left out.
        """
        for name, at_s in self._backend.names():
            if _NAME.fullmatch(name):
                tenant, _, object_id = name.partition("/")
                yield tenant, object_id, at_s

    async def drop(self, name_here: str, object_id: str) -> None:
        """Delete what `stored` gave; no error when it is gone already, Unavailable when that is not possible now."""
        await asyncio.to_thread(self._backend.delete, f"{name_here}/{object_id}")

    async def tidy(self, before_s: float) -> None:
        """Delete what writers that died before that time left half written; Unavailable."""
        await asyncio.to_thread(self._backend.tidy, before_s)


def name_here(tenant: str) -> str:
    """What the object store calls a tenant: its name may hold anything, a digest is safe as a directory."""
    return hashlib.sha256(tenant.encode()).hexdigest()[:32]


def _name(tenant: str, object_id: str) -> str:
    if not _ID.fullmatch(object_id):  # it may come from a queue: no "../" in it
        raise NotFound("there is no such object")
    return f"{name_here(tenant)}/{object_id}"


def _backend(url: str, s3_endpoint: str) -> Backend:
    if url.startswith("s3://"):
        from gateway.objects.bucket import Bucket

        return Bucket(url, s3_endpoint)
    from gateway.objects.directory import Directory

    return Directory(Path(url))
