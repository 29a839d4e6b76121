"""The client before a server that shows a certificate and asks for one, from the shell as from Python."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from qwen3vl_client import TLS, Client
from qwen3vl_client.cli import main
from qwen3vl_client.errors import Unreachable

from tests.certificates import Authority
from tests.fake_triton import FakeTriton


class SecureTriton(FakeTriton):
    """Speaks mutual TLS on its second port."""

    def __init__(self, authority: Authority) -> None:
        super().__init__()
        own = authority.sign("model.shop.example")
        credentials = grpc.ssl_server_credentials(
            [(own.key, own.certificate)], authority.pem, require_client_auth=True
        )
        self.url = f"127.0.0.1:{self._server.add_secure_port('127.0.0.1:0', credentials)}"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("shop")


@pytest.fixture(scope="module")
def triton(authority: Authority) -> Iterator[SecureTriton]:
    with SecureTriton(authority) as server:
        yield server


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> dict[str, str]:
    own = authority.sign("till.shop.example")
    contents = {"ca": authority.pem, "cert": own.certificate, "key": own.key}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return {name: str(tmp_path / name) for name in contents}


def ask(url: str, *words: str) -> int:
    return main(["ask", "Hi", "--server", url, "--retries", "0", "--connect-timeout", "5", *words])


def test_the_shell_shows_its_certificate(triton: SecureTriton, files: dict[str, str], capsys: Any) -> None:
    assert ask(triton.url, "--ca", files["ca"], "--cert", files["cert"], "--key", files["key"]) == 0
    assert capsys.readouterr().out == "Hello\n"


def test_without_a_certificate_nobody_answers(
    triton: SecureTriton, files: dict[str, str], capsys: Any
) -> None:
    assert ask(triton.url, "--ca", files["ca"]) == 4
    assert "Unreachable" in capsys.readouterr().err


def test_bytes_do_as_well_as_files(triton: SecureTriton, authority: Authority) -> None:
    own, stranger = authority.sign("till.shop.example"), Authority("stranger").sign("till.shop.example")
    with Client(triton.url, tls=TLS(authority.pem, own.key, own.certificate)) as client:
        assert client.chat("Hi").text == "Hello"
    with Client(triton.url, retries=0, tls=TLS(authority.pem, stranger.key, stranger.certificate)) as client:
        with pytest.raises(Unreachable):
            client.chat("Hi")


@pytest.mark.parametrize("given", ["cert", "key"])
def test_certificate_and_key_belong_together(given: str, files: dict[str, str], capsys: Any) -> None:
    assert ask("localhost:1", f"--{given}", files[given]) == 2
    assert f"got --{given} alone; allowed: both or none" in capsys.readouterr().err


def test_a_missing_key_file_is_named(files: dict[str, str], capsys: Any) -> None:
    assert ask("localhost:1", "--cert", files["cert"], "--key", "no.pem") == 2
    assert "no.pem" in capsys.readouterr().err
