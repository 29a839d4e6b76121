"""Fetches media from https addresses of allowed hosts, and from nothing else.

A name is resolved once; every address must be public, and the connection goes to the address that was checked, so a name
that changes its mind meanwhile (DNS rebinding) changes nothing. No redirects, no proxies, no cookies, no other port.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import httpx

from gateway.errors import InvalidInput, TooLarge
from gateway.settings import Http

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str], Awaitable[Sequence[str]]]

# Not the internet, though Python 3.11 calls parts of them global.
_SPECIAL: Final = (ipaddress.IPv4Network("192.0.0.0/24"), ipaddress.IPv4Network("192.88.99.0/24"))
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


def is_public(address: Address) -> bool:
    """Whether an address belongs to the internet, whatever it is wrapped in."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if int(address) >> 32 == 0:  # ::a.b.c.d of old
            return False
    if any(address in network for network in _SPECIAL):
        return False
    return address.is_global and not (
        address.is_multicast
        or address.is_private
        or address.is_reserved
        or address.is_loopback
        or address.is_link_local
        or address.is_unspecified
    )


async def resolve(host: str) -> Sequence[str]:
    """All addresses of a name."""
    found = await asyncio.get_running_loop().getaddrinfo(host, 443, proto=6)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Fetcher:
    """Gets the bytes behind a URL.

    Args:
        http: allowed hosts ("img.example.com", "*.example.com") and the time limit.
        max_bytes: of one file.
        resolve, public, port, verify: what a test replaces.
    """

    def __init__(
        self,
        http: Http,
        max_bytes: int,
        *,
        resolve: Resolve = resolve,
        public: Callable[[Address], bool] = is_public,
        port: int = 443,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        self._allowed = tuple(host.lower().rstrip(".") for host in http.allowed_media_hosts)
        self._timeout_s = http.fetch_timeout_s
        self._max_bytes = max_bytes
        self._resolve, self._public, self._port, self._verify = resolve, public, port, verify

    async def fetch(self, url: str, field: str) -> bytes:
        """The bytes; InvalidInput (not allowed, not there), TooLarge."""
        target = self._checked(url, field)
        try:
            async with asyncio.timeout(self._timeout_s):
                address = await self._address(target.host, field)
                return await self._get(target, address, field)
        except (TimeoutError, httpx.HTTPError, OSError):
            raise InvalidInput(
                field, "an address that did not give the file", "a reachable https URL, or a data URI"
            ) from None

    def _checked(self, url: str, field: str) -> httpx.URL:
        if not self._allowed:
            raise InvalidInput(field, "a web address", "a data URI; this deployment fetches nothing")
        try:
            target = httpx.URL(url)
            host, userinfo, port = target.host.lower().rstrip("."), target.userinfo, target.port
        except (httpx.InvalidURL, ValueError, UnicodeError, TypeError):
            raise InvalidInput(field, "a malformed URL", "https://HOST/PATH, or a data URI") from None
        if target.scheme != "https" or userinfo or port not in (None, 443) or not host:
            raise InvalidInput(
                field, "a URL of another form", "https://HOST/PATH without user, password and port"
            )
        if not any(
            host == known or (known.startswith("*.") and host.endswith(known[1:])) for known in self._allowed
        ):
            raise InvalidInput(field, "a host that is not on the list", "hosts that the deployment allows")
        return target

    async def _address(self, host: str, field: str) -> Address:
        """The one address to connect to. One bad address among good ones spoils the name."""
        found = [ipaddress.ip_address(text.partition("%")[0]) for text in await self._resolve(host)]
        if not found or not all(self._public(address) for address in found):
            raise InvalidInput(field, "a host without a public address", "a host on the internet")
        return found[0]

    async def _get(self, target: httpx.URL, address: Address, field: str) -> bytes:
        # The address goes into the URL, the name into Host and the certificate check.
        host = target.host
        direct = target.copy_with(host=str(address), port=self._port)
        async with httpx.AsyncClient(
            verify=self._verify, trust_env=False, follow_redirects=False, timeout=self._timeout_s
        ) as client:
            request = client.build_request(
                "GET",
                direct,
                headers={"Host": host, "Accept": "image/*, video/*", "Accept-Encoding": "identity"},
                extensions={"sni_hostname": host},
            )
            response = await client.send(request, stream=True)
            try:
                return await self._read(response, field)
            finally:
                await response.aclose()

    async def _read(self, response: httpx.Response, field: str) -> bytes:
        if response.status_code != 200:
            raise InvalidInput(
                field, f"status {response.status_code} from the host", "200; redirects are not followed"
            )
        data = bytearray()
        async for piece in response.aiter_raw():
            data += piece
            if len(data) > self._max_bytes:
                raise TooLarge(field, "a larger file", f"at most {self._max_bytes} bytes")
        if not data:
            raise InvalidInput(field, "an empty file", "a picture or video")
        return bytes(data)
