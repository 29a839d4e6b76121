"""Which rows refer to which media, so that a medium's bytes can go with the last row that needs them.

It knows references and their owners (a ticket, an answer, a hand-off), and no bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Final, Literal

from sqlalchemy import Connection, delete, insert, select

from gateway.records import MediaRef
from gateway.store.codec import decode, encode
from gateway.store.tables import MEDIA

Owner = Literal["ticket", "answer", "handoff"]

_AT_ONCE: Final = 500
"""Parameters of one query; SQLite of old allows 999."""


def remember(connection: Connection, owner: Owner, row: dict[str, Any], media: Iterable[MediaRef]) -> None:
    """Note that a row, with `owner`'s columns, refers to media."""
    references = {
        item.object_id: {
            "tenant": row["tenant"],
            "object_id": item.object_id,
            "owner": owner,
            "request_id": row["request_id"],
            "conversation_id": row["conversation_id"],
            "created_s": row["created_s"],
            "record": encode(MediaRef, item).decode(),
        }
        for item in media
    }
    if references:
        connection.execute(insert(MEDIA), list(references.values()))


def forget(connection: Connection, condition: Any) -> list[tuple[str, MediaRef]]:
    """Drop references; gives (tenant, medium) of those that nothing refers to any more."""
    query = select(MEDIA.c.tenant, MEDIA.c.object_id, MEDIA.c.record).where(condition)
    going = {(row.tenant, row.object_id): row.record for row in connection.execute(query)}
    connection.execute(delete(MEDIA).where(condition))
    for left in referenced(connection, {object_id for _, object_id in going}):
        going.pop(left, None)
    return [(tenant, decode(MediaRef, record)) for (tenant, _), record in going.items()]


def referenced(connection: Connection, ids: Collection[str]) -> set[tuple[str, str]]:
    """(tenant, object id) of those of these objects that any row refers to."""
    found: set[tuple[str, str]] = set()
    wanted = sorted(ids)
    for start in range(0, len(wanted), _AT_ONCE):
        query = select(MEDIA.c.tenant, MEDIA.c.object_id).where(
            MEDIA.c.object_id.in_(wanted[start : start + _AT_ONCE])
        )
        found.update((row.tenant, row.object_id) for row in connection.execute(query))
    return found


def find(connection: Connection, tenant: str, object_id: str) -> MediaRef | None:
    """What a tenant's rows say about an object."""
    query = select(MEDIA.c.record).where(MEDIA.c.tenant == tenant, MEDIA.c.object_id == object_id).limit(1)
    record: str | None = connection.scalar(query)
    return None if record is None else decode(MediaRef, record)
