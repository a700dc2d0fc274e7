"""What the tests of units of work share: a table, a file, a process that holds its lock."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

QUICK = {"initial_delay": 0.001, "max_delay": 0.005}


def code_of(error, before_311):
    """SQLite's code of a DBAPIError; Python's `sqlite3` has told it since 3.11."""
    return error.orig.sqlite_errorcode if sys.version_info >= (3, 11) else before_311


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)
    balance: Mapped[int]


HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for line in sys.stdin:
    for statement in line.strip().split(";"):
        connection.execute(statement).fetchall()
    print("done", flush=True)
"""


class Neighbour:
    """Another process that uses the file: it runs what it is told, and says when it has."""

    def __init__(self, path):
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, statements):
        self.process.stdin.write(statements + "\n")
        self.process.stdin.flush()

    def run(self, statements):
        self.tell(statements)
        assert self.process.stdout.readline() == "done\n"

    def lock(self):
        self.run("BEGIN IMMEDIATE")

    def unlock(self):
        self.run("COMMIT")

    def close(self):
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()


def make_file(path, *, journal="wal"):
    """A file with two accounts, and an engine that does not wait for locks by itself."""
    engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 0})

    @sa.event.listens_for(engine, "connect")
    def own_begin(connection, record):
        connection.isolation_level = None

    @sa.event.listens_for(engine, "begin")
    def begin(connection):
        connection.exec_driver_sql("BEGIN")

    with contextlib.closing(engine.raw_connection()) as raw:
        raw.cursor().execute(f"PRAGMA journal_mode={journal}")
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(
            sa.insert(Account), [{"id": 1, "balance": 100}, {"id": 2, "balance": 100}]
        )
    return engine


def balances(engine):
    with engine.connect() as connection:
        return connection.scalars(sa.select(Account.balance).order_by(Account.id)).all()
