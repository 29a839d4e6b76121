"""Transactions, on SQLite or PostgreSQL. It knows SQL dialects and failures, and no table but the schema's version.

Whatever means "not now" (locked, away, out of connections) becomes Unavailable. No exception's text holds a value.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, literal, make_url, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import InterfaceError, OperationalError, TimeoutError

from gateway.errors import Unavailable
from gateway.store import tables

_AWAY = (OperationalError, InterfaceError, TimeoutError)


class Database:
    """One database with its tables made.

    Args:
        url: SQLAlchemy's; the directory of an SQLite file is made.
    """

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite" and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        self._engine = tables.connect(url)
        with self.write() as connection:
            tables.prepare(connection)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def ready(self) -> bool:
        """Whether the database answers."""
        try:
            with self.read() as connection:
                connection.execute(select(tables.SCHEMA.c.version))
        except Unavailable:
            return False
        return True

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection to look with; Unavailable."""
        try:
            with self._engine.connect() as connection:
                yield connection
        except _AWAY as error:
            raise Unavailable("the database does not answer") from error

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction; Unavailable. SQLite's takes the write lock at its beginning: one that takes it later may fail
        half-way.
        """
        try:
            if self._engine.dialect.name != "sqlite":
                with self._engine.begin() as connection:
                    yield connection
                return
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                try:
                    yield connection
                except BaseException:
                    connection.exec_driver_sql("ROLLBACK")
                    raise
                connection.exec_driver_sql("COMMIT")
        except _AWAY as error:
            raise Unavailable("the database does not answer") from error


def insert_new(connection: Connection, table: Table, row: dict[str, Any]) -> bool:
    """Insert a row; False when there is one with the same key. Waits for a transaction that is inserting the same."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    # Not by rowcount: psycopg's is -1 here.
    new = dialect.insert(table).values(row).on_conflict_do_nothing().returning(literal(1))
    return connection.execute(new).first() is not None
