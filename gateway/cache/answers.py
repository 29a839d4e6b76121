"""The answer cache: a question that was answered before is answered at once, and equal questions at the same time cost one
inference, over all processes.

It knows Redis and keys. What makes two questions equal is `key`'s. If Redis is away there is no cache, and no error.

The first to ask leads: it holds a lock that it renews while the answer is made. The others wait for the answer; when the
lock goes without an answer (the leader failed or died), one of them leads.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable
from types import TracebackType
from typing import Any, Final, TypeVar

import redis.asyncio as redis
from prometheus_client import Counter
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from gateway.cache.key import key as key_of
from gateway.records import Answer, Media, Question, Versions
from gateway.store.codec import NotDecodable, decode, encode

_log = logging.getLogger(__name__)

_LOCK_MS: Final = 5000
_RENEW_S: Final = 1.5
_POLL_S: Final = 0.03
_POLL_LONGEST_S: Final = 0.25
"""Looks become rarer while a question waits: a hundred that wait must not keep the gateway busy."""
_TIMEOUT_S: Final = 0.5
_DECLINED: Final = b"-"
_DECLINED_MS: Final = 2000
_AWAY_S: Final = 1.0
"""How long Redis is left alone after it failed."""

# The answer, or 1 for the lock, or 0 when another holds it.
_LOOK: Final = (
    "local found=redis.call('get',KEYS[1]) if found then return found end "
    "if redis.call('set',KEYS[2],ARGV[1],'NX','PX',ARGV[2]) then return 1 end return 0"
)
# Only the holder of a lock may renew or release it.
_RENEW: Final = (
    "if redis.call('get',KEYS[1])==ARGV[1] then return redis.call('pexpire',KEYS[1],ARGV[2]) end return 0"
)
_RELEASE: Final = "if redis.call('get',KEYS[1])==ARGV[1] then return redis.call('del',KEYS[1]) end return 0"
_FORGET: Final = _RELEASE  # what cannot be read goes, unless somebody has written anew

COUNTED: Final = Counter("gateway_answer_cache", "Questions by what the answer cache did", ["outcome"])
for _outcome in ("hit", "waited", "miss", "alone", "away", "error"):
    COUNTED.labels(_outcome)  # there from the start: an increase is seen only from a number to a larger one

T = TypeVar("T")


class AnswerCache:
    """One Redis or Valkey.

    Args:
        url: "redis://...", or "" for no cache.
        ttl_s: how long an answer is kept.
        wait_s: longest that a question waits for an equal one; then it asks the model itself.
    """

    def __init__(self, url: str, ttl_s: int, wait_s: float) -> None:
        self._ttl_s, self._wait_s = ttl_s, wait_s
        self._away_until_s = 0.0
        self._redis: Any = None
        if url:
            self._redis = redis.Redis.from_url(
                url,
                socket_timeout=_TIMEOUT_S,
                socket_connect_timeout=_TIMEOUT_S,
                retry=Retry(NoBackoff(), 0),
                health_check_interval=15,
            )

    async def close(self) -> None:
        """Close the connections."""
        if self._redis is not None:
            await self._redis.aclose()

    async def key(self, question: Question[Media], versions: Versions) -> str | None:
        """The question's key; None if its answer must not be kept, or there is no cache."""
        return None if self._redis is None else key_of(question, versions)

    async def get_or_lead(self, key: str) -> Answer | Lead:
        """The answer, maybe after waiting for it; or a Lead: then it is the caller's to make it."""
        # The braces keep both in one slot of a cluster.
        name, lock, token = f"answer:{{{key}}}", f"answer-lock:{{{key}}}", secrets.token_hex(8)
        give_up_s = time.monotonic() + self._wait_s
        outcome, pause_s = "hit", _POLL_S
        while True:
            found = await self._try(self._redis.eval(_LOOK, 2, name, lock, token, _LOCK_MS))
            if found == 1:
                COUNTED.labels("miss").inc()
                return Lead(self, name, lock, token)
            if isinstance(found, bytes) and found != _DECLINED:
                if (answer := _read(found)) is not None:
                    COUNTED.labels(outcome).inc()
                    return answer
                await self._try(self._redis.eval(_FORGET, 1, name, found))
                continue
            if found != 0:
                COUNTED.labels("away" if found is None else "alone").inc()
                return Lead(self, "", "", "")
            if time.monotonic() + pause_s > give_up_s:
                COUNTED.labels("alone").inc()
                return Lead(self, "", "", "")
            await asyncio.sleep(pause_s)
            outcome, pause_s = "waited", min(pause_s * 1.5, _POLL_LONGEST_S)

    async def store(self, name: str, answer: Answer) -> None:
        """Keep an answer."""
        await self._try(self._redis.set(name, encode(Answer, answer), ex=self._ttl_s))

    async def decline(self, name: str) -> None:
        """Let those who wait ask the model themselves."""
        await self._try(self._redis.set(name, _DECLINED, px=_DECLINED_MS))

    async def renew(self, lock: str, token: str) -> None:
        """Hold a lock on."""
        await self._try(self._redis.eval(_RENEW, 1, lock, token, _LOCK_MS))

    async def release(self, lock: str, token: str) -> None:
        """Give a lock back."""
        await self._try(self._redis.eval(_RELEASE, 1, lock, token))

    def _is_away(self) -> bool:
        return time.monotonic() < self._away_until_s

    async def _try(self, command: Awaitable[T]) -> T | None:
        """A command's result; None when Redis is away, which is told once."""
        if self._is_away():
            getattr(command, "close", lambda: None)()
            return None
        try:
            return await command
        except (RedisError, OSError, asyncio.TimeoutError) as error:
            if self._away_until_s == 0.0:
                _log.warning("the answer cache is away, going on without it: %s", type(error).__name__)
            self._away_until_s = time.monotonic() + _AWAY_S
            COUNTED.labels("error").inc()
            # Other idle connections are as dead: each would be another failure when the server is back.
            await self._redis.connection_pool.disconnect(inuse_connections=False)
            return None
        finally:
            if self._away_until_s and not self._is_away():
                self._away_until_s = 0.0


class Lead:
    """Whoever makes the answer. An async context manager; leaving it lets the others go on."""

    def __init__(self, cache: AnswerCache, name: str, lock: str, token: str) -> None:
        self._cache, self._name, self._lock, self._token = cache, name, lock, token
        self._renewing: asyncio.Task[None] | None = None

    async def keep(self, answer: Answer) -> None:
        """Keep the answer, for those who wait and those who come."""
        if self._name:
            await self._cache.store(self._name, answer)

    async def decline(self) -> None:
        """There is an answer, and it must not be kept: whoever waits for it makes one of its own, all at once."""
        if self._name:
            await self._cache.decline(self._name)

    async def __aenter__(self) -> Lead:
        if self._lock:
            self._renewing = asyncio.create_task(self._renew())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            await self._cache.release(self._lock, self._token)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(_RENEW_S)
            await self._cache.renew(self._lock, self._token)


def _read(data: bytes) -> Answer | None:
    try:
        return decode(Answer, data)
    except NotDecodable:  # of another version of this software
        return None
