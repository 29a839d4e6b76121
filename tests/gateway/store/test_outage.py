"""A database that is locked, newer, partly unreadable or gone: said as such, and without what customers wrote."""

from __future__ import annotations

import logging
import sqlite3
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text, update
from sqlalchemy.exc import ProgrammingError

from gateway.errors import Unavailable
from gateway.records import Feedback
from gateway.store import Store, tables
from tests.gateway.store.conftest import answered, asked, handed

SECRET = "my card is at home"

CALLS: dict[str, Callable[[Store], object]] = {
    "create": lambda store: store.create_ticket(asked("r2", words=SECRET)),
    "save": lambda store: store.save_answer(asked("r2", words=SECRET), answered("r2", SECRET)),
    "reply": lambda store: store.reply("shop", "h", "李", SECRET),
    "feedback": lambda store: store.add_feedback(Feedback("r", "shop", 1, SECRET, 1.0)),
    "purge": lambda store: store.purge(1.0),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_locked_database_is_unavailable_and_no_trace_holds_a_value(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_BUSY_S", 0.1)
    file = tmp_path / "gateway.db"
    store = Store(f"sqlite:///{file}")
    store.save_answer(asked("r"), answered("r"))
    store.open_handoff(handed("h", "r"))
    holder = sqlite3.connect(file, isolation_level=None)
    try:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Unavailable) as caught:
            CALLS[name](store)
        assert SECRET not in "".join(traceback.format_exception(caught.value))
        holder.execute("ROLLBACK")
        CALLS.get("save", CALLS[name])(store)  # and it goes on
    finally:
        holder.close()
        store.close()


def test_a_failing_statement_leaves_no_value_in_a_trace(store: Store, url: str) -> None:
    """The statement reaches the database and fails there: its parameters are in SQLAlchemy's hands."""
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE answers"))
    engine.dispose()
    with pytest.raises((Unavailable, ProgrammingError)) as caught:
        store.save_answer(asked("r2", words=SECRET), answered("r2", SECRET))
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_newer_database_is_not_touched(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/gateway.db"
    Store(url).close()
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(update(tables.SCHEMA).values(version=tables.VERSION + 1))
    engine.dispose()
    with pytest.raises(tables.WrongSchema, match="update it"):
        Store(url)


def test_a_ticket_of_another_version_does_not_stop_the_others(
    store: Store, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    strange = store.create_ticket(asked("r1", words=SECRET))
    plain = store.create_ticket(asked("r2"))
    engine = create_engine(url)
    with engine.begin() as connection:
        found = tables.TICKETS.c.ticket_id == strange.ticket_id
        body = '{"version":9,"record":"Question","data":{"text":"' + SECRET + '"}}'
        connection.execute(update(tables.TICKETS).where(found).values(question=body))
    engine.dispose()
    with caplog.at_level(logging.ERROR):
        assert store.unpublished(10) == [plain]
    assert strange.ticket_id in caplog.text
    assert SECRET not in caplog.text


def test_a_database_that_goes_is_not_ready(tmp_path: Path) -> None:
    file = tmp_path / "gateway.db"
    store = Store(f"sqlite:///{file}")
    assert store.ready()
    store.close()
    file.unlink()
    file.mkdir()
    assert not store.ready()
    with pytest.raises(Unavailable):
        store.ticket("shop", "t")
    with pytest.raises(Unavailable):
        store.feedback(None)
    store.close()
