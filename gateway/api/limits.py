"""How much a tenant may ask: requests per minute, and requests at once.

The first is counted in Redis where there is one, for all gateways together; else, and while Redis is away, here. The
second is this process's own.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.errors import RateLimited
from gateway.settings import Tenant

_log = logging.getLogger(__name__)

_TIMEOUT_S: Final = 0.3
_REST_S: Final = 5.0

# A token bucket by Redis's own clock. Gives 0, or the milliseconds until there is a token.
_BUCKET: Final = """
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local size, per_ms = tonumber(ARGV[1]), tonumber(ARGV[2])
local was = redis.call('HMGET', KEYS[1], 'tokens', 'at_ms')
local tokens = math.min(size, (tonumber(was[1]) or size) + math.max(0, now_ms - (tonumber(was[2]) or now_ms)) * per_ms)
local wait_ms = 0
if tokens >= 1 then tokens = tokens - 1 else wait_ms = math.ceil((1 - tokens) / per_ms) end
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens), 'at_ms', tostring(now_ms))
redis.call('PEXPIRE', KEYS[1], 120000)
return wait_ms
"""


class Limits:
    """Counts by tenant. A tenant that is not configured (the development mode) has no limits."""

    def __init__(self, tenants: Mapping[str, Tenant], redis_url: str = "") -> None:
        self._tenants = tenants
        self._running: Counter[str] = Counter()
        self._buckets = {name: _Bucket(tenant.requests_per_minute) for name, tenant in tenants.items()}
        self._redis: Any = None
        self._away_until_s = 0.0
        if redis_url and tenants:
            self._redis = Redis.from_url(
                redis_url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S
            )

    async def close(self) -> None:
        """Close the connection to Redis."""
        if self._redis is not None:
            await self._redis.aclose()

    async def take(self, tenant: str) -> None:
        """Count one request; RateLimited."""
        known = self._tenants.get(tenant)
        if known is None:
            return
        wait_s = await self._wait_s(tenant, known.requests_per_minute)
        if wait_s > 0:
            raise RateLimited(
                f"requests per minute: got more than allowed, allowed: {known.requests_per_minute}", wait_s
            )

    @contextmanager
    def slot(self, tenant: str) -> Iterator[None]:
        """Be one of the requests that run; RateLimited when there are too many."""
        known = self._tenants.get(tenant)
        if known is not None and self._running[tenant] >= known.max_concurrent:
            raise RateLimited(
                f"requests at once: got more than allowed, allowed: {known.max_concurrent}", retry_after_s=1.0
            )
        self._running[tenant] += 1
        try:
            yield
        finally:
            self._running[tenant] -= 1

    async def _wait_s(self, tenant: str, per_minute: int) -> float:
        if self._redis is not None and time.monotonic() >= self._away_until_s:
            try:
                wait_ms = await self._redis.eval(
                    _BUCKET, 1, f"cs:rate:{tenant}", per_minute, per_minute / 60_000
                )
            except (RedisError, OSError):
                self._away_until_s = time.monotonic() + _REST_S
                _log.warning("redis is away: rates are counted in this process")
            else:
                return float(wait_ms) / 1000
        return self._buckets[tenant].take()


class _Bucket:
    """Refills evenly, holds a minute's worth."""

    def __init__(self, per_minute: int) -> None:
        self._size, self._per_s = float(per_minute), per_minute / 60
        self._tokens, self._at_s = self._size, time.monotonic()

    def take(self) -> float:
        """0, or the seconds until there is a token."""
        now_s = time.monotonic()
        self._tokens = min(self._size, self._tokens + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return math.ceil((1 - self._tokens) / self._per_s * 1000) / 1000
