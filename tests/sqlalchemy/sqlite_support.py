"""What the tests of SQLite engines share: an engine with turns, and others who want the lock."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from turnwise import TurnLock
from turnwise.sqlalchemy import interception
from turnwise.sqlalchemy.installing import install


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "item"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


def with_turns(engine, **settings):
    """Install turnwise on an engine, or an async one. Returns the layer that takes turns."""
    install(engine, **settings)
    plain = getattr(engine, "sync_engine", engine)
    return interception.layer_of(plain.dialect, "sqlite_turns")


def make_database(folder, *, journal="wal"):
    path = folder / "app.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA journal_mode = {journal}")
    connection.execute("CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT NOT NULL)")
    connection.close()
    return path


def names(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM item ORDER BY id")]


def insert(name):
    return sa.insert(Item).values(name=name)


def is_free(path):
    """Whether somebody else could have the turn, as soon as it leaves no gap for outsiders."""
    free = []

    def ask():
        with contextlib.suppress(TimeoutError), TurnLock(path).turn(timeout=0.1) as turn:
            free.append(turn.held)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return free == [True]


def sent(connection):
    """The statements that SQLite is sent from here on."""
    statements = []
    raw = connection.connection.driver_connection
    raw.set_trace_callback(statements.append)
    return statements


@contextlib.contextmanager
def outsider(path, seconds=None, *, sql="BEGIN IMMEDIATE"):
    """A writer that knows nothing of turns and holds SQLite's lock, here or for some seconds."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    for statement in sql.split(";"):
        connection.execute(statement).fetchall()

    def leave():
        time.sleep(seconds)
        connection.rollback()

    thread = threading.Thread(target=leave) if seconds else None
    if thread:
        thread.start()
    try:
        yield connection
    finally:
        if thread:
            thread.join()
        connection.close()


@contextlib.contextmanager
def turn_elsewhere(path, seconds=None):
    """Another thread that has the turn, here or for some seconds."""
    has, done = threading.Event(), threading.Event()

    def hold():
        with TurnLock(path).turn(timeout=5):
            has.set()
            done.wait(seconds)

    thread = threading.Thread(target=hold)
    thread.start()
    assert has.wait(5)
    try:
        yield
    finally:
        done.set()
        thread.join()
