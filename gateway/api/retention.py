"""Deletes what is older than the deployment keeps, with its media. Several gateways may do it at once."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final

from gateway.errors import GatewayError

if TYPE_CHECKING:
    from gateway.parts import Parts

_log = logging.getLogger(__name__)
_EVERY_S: Final = 3600.0
_DAY_S: Final = 86400


async def purge(parts: Parts, now_s: float) -> int:
    """Delete once; gives how many media went."""
    before_s = now_s - parts.settings.database.keep_days * _DAY_S
    gone = await asyncio.to_thread(parts.store.purge, before_s)
    for tenant, ref in gone:
        await parts.objects.delete(tenant, ref.object_id)
    return len(gone)


async def purging(parts: Parts) -> None:
    """Delete every hour, until cancelled."""
    while True:
        try:
            if gone := await purge(parts, time.time()):
                _log.info("deleted %d media that were kept long enough", gone)
        except (GatewayError, OSError) as error:
            _log.warning("nothing was deleted this time: %s", type(error).__name__)
        await asyncio.sleep(_EVERY_S)
