"""Web addresses: only allowed hosts, only public addresses, and only the address that was checked."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.api.fetch import Fetcher, is_public
from gateway.errors import InvalidInput, TooLarge
from gateway.settings import Http

ALLOWED = Http(allowed_media_hosts=("img.example.com", "*.cdn.example.com"), fetch_timeout_s=1.0)

PRIVATE = [
    "127.0.0.1", "127.8.9.10", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.0.192", "::", "::1", "::ffff:127.0.0.1",
    "::ffff:10.0.0.1", "::127.0.0.1", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:db8::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_a_name_that_leads_to_a_private_address(address: str) -> None:
    asked = []

    async def resolve(host: str) -> Sequence[str]:
        asked.append(host)
        return ["93.184.216.34", address]  # one bad address among good ones

    with pytest.raises(InvalidInput, match="without a public address"):
        asyncio.run(Fetcher(ALLOWED, 1000, resolve=resolve).fetch("https://img.example.com/a.png", "f"))
    assert asked == ["img.example.com"]
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["93.184.216.34", "8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        "http://img.example.com/a.png",
        "https://127.0.0.1/a",
        "https://[::1]/a",
        "https://169.254.169.254/latest/meta-data",
        "https://2130706433/a",
        "https://0x7f000001/a",
        "https://0177.0.0.1/a",
        "https://127.1/a",
        "https://localhost/a",
        "https://example.com/a",
        "https://img.example.com.evil.org/a",
        "https://evilimg.example.com/a",
        "https://cdn.example.com/a",
        "https://img.example.com@127.0.0.1/a",
        "https://user:password@img.example.com/a",
        "https://img.example.com:22/a",
        "https://img.example.com\\@127.0.0.1/a",
        "https://img.example.com%2f@127.0.0.1/",
        "https://ｉｍｇ.example.org/a",
        "https://127。0。0。1/a",
        "file:///etc/passwd",
        "ftp://img.example.com/a",
        "gopher://img.example.com/",
        "//img.example.com/a",
        "https://",
        "https:///a",
        "https://img.example.com\r\nHost: 127.0.0.1/",
        "not a url",
        "javascript:alert(1)",
    ],
)
def test_addresses_that_are_not_even_resolved(url: str) -> None:
    async def resolve(host: str) -> Sequence[str]:
        raise AssertionError(f"{host} was resolved")

    with pytest.raises(InvalidInput) as caught:
        asyncio.run(Fetcher(ALLOWED, 1000, resolve=resolve).fetch(url, "messages.0"))
    assert caught.value.field == "messages.0"


def test_nothing_is_fetched_by_default() -> None:
    with pytest.raises(InvalidInput, match="fetches nothing"):
        asyncio.run(Fetcher(Http(), 1000).fetch("https://img.example.com/a.png", "f"))


class _Pages(BaseHTTPRequestHandler):
    asked: list[tuple[str, str]]

    def do_GET(self) -> None:
        self.asked.append((self.headers["Host"], self.path))
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "https://169.254.169.254/")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):
            if self.path == "/slow":
                for _ in range(30):
                    self.wfile.write(b"x")
                    self.wfile.flush()
                    threading.Event().wait(0.1)
            self.wfile.write(b"y" * (5000 if self.path == "/large" else 0 if self.path == "/empty" else 10))

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "img.example.com")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("img.example.com")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("certificate") / "both.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    return file


@pytest.fixture
def host(certificate: Path) -> Iterator[ThreadingHTTPServer]:
    _Pages.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Pages)
    server.handle_error = lambda request, address: None  # type: ignore[method-assign]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def _fetcher(host: ThreadingHTTPServer, certificate: Path, names: list[str]) -> Fetcher:
    async def resolve(name: str) -> Sequence[str]:
        names.append(name)
        return ["127.0.0.1"]

    trusted = ssl.create_default_context(cafile=str(certificate))
    port = host.server_address[1]
    return Fetcher(ALLOWED, 1000, resolve=resolve, public=lambda _: True, port=port, verify=trusted)


def test_a_file_from_the_address_that_was_checked(host: ThreadingHTTPServer, certificate: Path) -> None:
    names: list[str] = []
    fetcher = _fetcher(host, certificate, names)
    assert asyncio.run(fetcher.fetch("https://img.example.com/a.png?x=1", "f")) == b"y" * 10
    assert names == ["img.example.com"]  # once: nobody can give another address later
    assert _Pages.asked == [("img.example.com", "/a.png?x=1")]


@pytest.mark.parametrize(
    ("path", "error", "said"),
    [
        ("/redirect", InvalidInput, "status 302"),
        ("/large", TooLarge, "at most 1000 bytes"),
        ("/slow", InvalidInput, "did not give the file"),
        ("/empty", InvalidInput, "empty"),
    ],
)
def test_hosts_that_misbehave(
    host: ThreadingHTTPServer, certificate: Path, path: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        asyncio.run(_fetcher(host, certificate, []).fetch(f"https://img.example.com{path}", "f"))
    assert len(_Pages.asked) == 1


def test_a_certificate_of_another_name(host: ThreadingHTTPServer, certificate: Path) -> None:
    with pytest.raises(InvalidInput, match="did not give the file"):
        asyncio.run(_fetcher(host, certificate, []).fetch("https://a.cdn.example.com/a.png", "f"))
    assert _Pages.asked == []
