"""Deletes what is older than the deployment keeps, with its media, and media that no row refers to. Several gateways may do
it at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from itertools import islice
from typing import TYPE_CHECKING, Final

from gateway.errors import GatewayError
from gateway.objects import name_here

if TYPE_CHECKING:
    from gateway.parts import Parts

_log = logging.getLogger(__name__)
_EVERY_S: Final = 3600.0
_DAY_S: Final = 86400
_LEAKED_S: Final = 3600.0
"""Media are stored before the row that refers to them. One that has none after so long will not have one."""
_AT_ONCE: Final = 500
_FEW: Final = 100
"""More leaked media than these and than half of all do not come from failures: the database is another one's."""


async def purge(parts: Parts, now_s: float) -> int:
    """Delete once what is old; gives how many media went."""
    before_s = now_s - parts.settings.database.keep_days * _DAY_S
    gone = await asyncio.to_thread(parts.store.purge, before_s)
    for tenant, ref in gone:
        await parts.objects.delete(tenant, ref.object_id)
    return len(gone)


async def sweep(parts: Parts, now_s: float) -> int:
    """Delete once the media that no row refers to; gives how many.

    They are left behind when the database fails after a medium was stored, or the object store after a row was deleted.
    """
    before_s = now_s - _LEAKED_S
    await parts.objects.tidy(before_s)
    stored, seen = parts.objects.stored(), 0
    leaked: list[tuple[str, str]] = []
    while batch := await asyncio.to_thread(lambda: list(islice(stored, _AT_ONCE))):
        seen += len(batch)
        old = [(tenant, object_id) for tenant, object_id, at_s in batch if at_s < before_s]
        rows = await asyncio.to_thread(parts.store.referenced, {object_id for _, object_id in old})
        named = {(name_here(tenant), object_id) for tenant, object_id in rows}
        leaked += [one for one in old if one not in named]
    if len(leaked) > max(_FEW, seen / 2):
        _log.error(
            "%d of %d stored media belong to no row: is this their database? None was deleted",
            len(leaked),
            seen,
        )
        return 0
    for tenant, object_id in leaked:
        await parts.objects.drop(tenant, object_id)
    return len(leaked)


async def purging(parts: Parts) -> None:
    """Delete every hour, until cancelled."""
    while True:
        for delete, why in ((purge, "that were kept long enough"), (sweep, "that no row refers to")):
            try:
                if gone := await delete(parts, time.time()):
                    _log.info("deleted %d media %s", gone, why)
            except (GatewayError, OSError) as error:
                _log.warning("media %s were not deleted this time: %s", why, type(error).__name__)
            except Exception:
                _log.exception("media %s were not deleted; this goes on", why)
        await asyncio.sleep(_EVERY_S)
