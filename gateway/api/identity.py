"""Who calls: API keys to tenants. It knows the header; it does not know what a caller may do with an answer or a ticket."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.errors import Forbidden, Unauthorized
from gateway.settings import Tenant

DEVELOPMENT: Final = "default"
"""The tenant of everybody while none is configured."""


@dataclass(frozen=True)
class Caller:
    """A tenant's application, or one of its agents."""

    tenant: str
    agent: bool

    def must_be_agent(self) -> None:
        """Forbidden for anybody else."""
        if not self.agent:
            raise Forbidden("Authorization: this needs an agent key of the tenant, got an application key")


class Keys:
    """All keys, as digests. Each comparison looks at all of them, so its time says nothing."""

    def __init__(self, tenants: Mapping[str, Tenant]) -> None:
        self.development = not tenants
        self._known: list[tuple[bytes, Caller]] = []
        for name, tenant in tenants.items():
            for agent, keys in ((False, tenant.keys), (True, tenant.agent_keys)):
                self._known += [(_digest(key.get_secret_value()), Caller(name, agent)) for key in keys]

    def caller(self, authorization: str | None) -> Caller:
        """The caller of an Authorization header; Unauthorized."""
        if self.development:
            return Caller(DEVELOPMENT, agent=True)
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Unauthorized("Authorization: got no key, send 'Authorization: Bearer KEY'")
        given, found = _digest(key.strip()), None
        for digest, caller in self._known:
            if hmac.compare_digest(digest, given):
                found = caller
        if found is None:
            raise Unauthorized("Authorization: the key is not known")
        return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
