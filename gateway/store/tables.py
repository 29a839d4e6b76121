"""The tables, and which version of them a database has. Records lie in them as `codec` writes them, beside the columns
that queries need. It does not know what the rows mean.
"""

from __future__ import annotations

import sqlite3
import time
from typing import Final

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    func,
    insert,
    select,
)

VERSION: Final = 1
_ID: Final = String(128)
_BUSY_S: Final = 15
_AGAIN_S: Final = 0.02

METADATA: Final = MetaData()

SCHEMA: Final = Table("schema", METADATA, Column("version", Integer, primary_key=True))

TICKETS: Final = Table(
    "tickets",
    METADATA,
    Column("ticket_id", _ID, primary_key=True),
    Column("tenant", _ID, nullable=False),
    Column("request_id", _ID, nullable=False),
    Column("conversation_id", _ID, nullable=False),
    Column("state", String(16), nullable=False),
    Column("created_s", Float, nullable=False),
    Column("updated_s", Float, nullable=False),
    Column("published_s", Float),
    Column("attempts", Integer, nullable=False, default=0),
    Column("question", Text, nullable=False),
    Column("answer", Text),
    UniqueConstraint("tenant", "request_id"),
    Index("tickets_by_state", "state", "published_s"),
    Index("tickets_by_conversation", "tenant", "conversation_id"),
)

ANSWERS: Final = Table(
    "answers",
    METADATA,
    Column("tenant", _ID, primary_key=True),
    Column("request_id", _ID, primary_key=True),
    Column("conversation_id", _ID, nullable=False),
    Column("created_s", Float, nullable=False),
    Column("question", Text, nullable=False),
    Column("answer", Text, nullable=False),
    Index("answers_by_conversation", "tenant", "conversation_id", "created_s"),
)

FEEDBACK: Final = Table(
    "feedback",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("tenant", _ID, nullable=False),
    Column("request_id", _ID, nullable=False),
    Column("rating", Integer, nullable=False),
    Column("comment", Text, nullable=False),
    Column("created_s", Float, nullable=False),
    Index("feedback_by_request", "tenant", "request_id"),
)

HANDOFFS: Final = Table(
    "handoffs",
    METADATA,
    Column("handoff_id", _ID, primary_key=True),
    Column("tenant", _ID, nullable=False),
    Column("request_id", _ID, nullable=False),
    Column("conversation_id", _ID, nullable=False),
    Column("state", String(16), nullable=False),
    Column("agent", _ID, nullable=False, default=""),
    Column("created_s", Float, nullable=False),
    Column("record", Text, nullable=False),
    UniqueConstraint("tenant", "request_id"),
    Index("handoffs_by_state", "tenant", "state", "created_s"),
    Index("handoffs_by_conversation", "tenant", "conversation_id"),
)

REPLIES: Final = Table(
    "replies",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("tenant", _ID, nullable=False),
    Column("handoff_id", _ID, nullable=False),
    Column("agent", _ID, nullable=False),
    Column("at_s", Float, nullable=False),
    Column("text", Text, nullable=False),
    Index("replies_by_handoff", "tenant", "handoff_id", "id"),
)

MEDIA: Final = Table(
    "media",
    METADATA,
    Column("tenant", _ID, primary_key=True),
    Column("object_id", _ID, primary_key=True),
    Column("owner", String(16), primary_key=True),
    Column("request_id", _ID, primary_key=True),
    Column("conversation_id", _ID, nullable=False),
    Column("created_s", Float, nullable=False),
    Column("record", Text, nullable=False),
    Index("media_by_object", "object_id"),
    Index("media_by_conversation", "tenant", "conversation_id"),
    Index("media_by_age", "created_s"),
)

_PREPARING: Final = 0x67617465
"""The advisory lock under which PostgreSQL's tables are made."""


class WrongSchema(RuntimeError):
    """The database was written by a newer version of this software."""


def connect(url: str) -> Engine:
    """An engine for a SQLAlchemy URL. SQLite: many processes may read while one writes, and a writer waits its turn.

    Values stay out of exceptions' texts, and so out of logs: they are what customers wrote.
    """
    engine = create_engine(url, pool_pre_ping=True, hide_parameters=True)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def _pragmas(connection: object, _: object) -> None:
            cursor = connection.cursor()  # type: ignore[attr-defined]
            cursor.execute(f"PRAGMA busy_timeout = {round(_BUSY_S * 1000)}")
            _write_ahead(cursor)
            cursor.execute("PRAGMA synchronous = FULL")
            cursor.close()

    return engine


def _write_ahead(cursor: sqlite3.Cursor) -> None:
    """Turn the write-ahead log on. Of processes that start together on a new file, SQLite refuses some, without waiting."""
    give_up_s = time.monotonic() + _BUSY_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > give_up_s:
                raise
            time.sleep(_AGAIN_S)


def prepare(connection: Connection) -> None:
    """Make the tables of a new database; WrongSchema for one that is newer than this software."""
    if connection.dialect.name == "postgresql":  # whose CREATE TABLE IF NOT EXISTS two may not do at once
        connection.execute(select(func.pg_advisory_xact_lock(_PREPARING)))
    METADATA.create_all(connection)
    found = connection.scalar(select(SCHEMA.c.version))
    if found is None:
        connection.execute(insert(SCHEMA).values(version=VERSION))
    elif found > VERSION:
        raise WrongSchema(f"the database has schema {found}, this software knows up to {VERSION}; update it")
