"""An object store of each kind: a directory, and a bucket of a server that speaks S3's protocol."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from gateway.objects import Objects


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """An S3 server for the session."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials as boto3 reads them, and none of this machine's."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")


@pytest.fixture(params=["directory", "s3", "s3-with-prefix"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """(url, s3_endpoint) of an empty store."""
    if request.param == "directory":
        return str(tmp_path / "not" / "made"), ""
    request.getfixturevalue("keys")
    endpoint: str = request.getfixturevalue("s3_endpoint")
    bucket = f"media-{secrets.token_hex(6)}"
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket=bucket)
    client.close()
    return f"s3://{bucket}" + ("/a/b/" if request.param == "s3-with-prefix" else ""), endpoint


@pytest.fixture
def objects(place: tuple[str, str]) -> Objects:
    return Objects(*place)
