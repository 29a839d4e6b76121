"""A store on each kind of database."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, func, select, text

from gateway.records import Answer, Handoff, MediaRef, Message, Question
from gateway.store import Store, tables
from tests.gateway.conftest import answer
from tests.gateway.store import postgres


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server for the session."""
    if needed := postgres.missing():
        pytest.skip(needed)
    with postgres.running() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/made/gateway.db"
    server: str = request.getfixturevalue("postgres_url")
    name = f"test_{secrets.token_hex(6)}"
    engine = create_engine(server + "postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return server + name


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = Store(url)
    yield opened
    opened.close()


def ref(object_id: str) -> MediaRef:
    return MediaRef(object_id, "a" * 64, "image", "image/jpeg", "d" * 64, 640, 480, 0.8, 0)


def asked(
    request_id: str = "request-1",
    *media: MediaRef,
    words: str = "黑屏怎么办？",
    tenant: str = "shop",
    conversation_id: str = "",
) -> Question[MediaRef]:
    messages = (Message[MediaRef]("user", (*media, words)),)
    return Question(request_id, tenant, "after_sales", "zh", messages, conversation_id)


def answered(request_id: str = "request-1", words: str = "长按电源键十秒。") -> Answer:
    return answer(words, request_id=request_id)


def handed(
    handoff_id: str = "handoff-1",
    request_id: str = "request-1",
    *media: MediaRef,
    tenant: str = "shop",
    conversation_id: str = "",
    created_s: float = 1000.0,
) -> Handoff:
    return Handoff(
        handoff_id,
        tenant,
        request_id,
        conversation_id,
        "low_confidence",
        "客户问题: 黑屏",
        "open",
        created_s,
        media,
    )


def rows(url: str) -> dict[str, int]:
    """How many rows each table has."""
    engine = create_engine(url)
    with engine.connect() as connection:
        counted = {
            table.name: connection.scalar(select(func.count()).select_from(table)) or 0
            for table in tables.METADATA.sorted_tables
        }
    engine.dispose()
    return counted
