"""The tables that several tests and their child processes share, and how a child is started."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from datetime import datetime  # noqa: TC003 - SQLAlchemy reads the annotations
from pathlib import Path

from sqlalchemy import ForeignKey, String, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

HERE = Path(__file__).resolve().parent
SYNC = {"postgresql": "psycopg2", "mariadb": "pymysql"}
ASYNC = {"postgresql": "asyncpg", "mariadb": "aiomysql"}


class Base(DeclarativeBase):
    pass


class Queue(Base):
    __tablename__ = "queue"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class Job(Base):
    __tablename__ = "job"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = mapped_column(String(10), default="new", index=True)
    worker: Mapped[str | None] = mapped_column(String(40))
    runs: Mapped[int] = mapped_column(default=0)
    leased_until: Mapped[datetime | None]
    queue_id: Mapped[int | None] = mapped_column(ForeignKey("queue.id"))
    queue: Mapped[Queue | None] = relationship(lazy="joined")


class Account(Base):
    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    balance: Mapped[int] = mapped_column(default=0)


class Entry(Base):
    __tablename__ = "entry"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(10))


def url_of(database, drivers=SYNC):
    """Of a server's database or of a SQLite file, as text."""
    if isinstance(database, Path):
        return f"sqlite+aiosqlite:///{database}" if drivers is ASYNC else f"sqlite:///{database}"
    return database.url(drivers[database.dialect]).render_as_string(hide_password=False)


@contextlib.contextmanager
def tables(database, *rows):
    """An engine for the database, with the tables and these rows."""
    engine = create_engine(url_of(database))
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        for row in rows:
            connection.execute(row)
    yield engine
    engine.dispose()


class Child:
    """A process that runs one function of a module of this folder."""

    def __init__(self, module, function, *arguments) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"import {module} as m, sys; m.{function}(*sys.argv[1:])"]
            + [str(argument) for argument in arguments],
            cwd=HERE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self):
        """The next line that it prints."""
        text = self.process.stdout.readline()
        assert text, f"the child ended with {self.process.wait(10)}"
        return text.strip()

    def go(self):
        """Let it go on: it reads a line."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self):
        self.process.kill()
        self.process.wait(10)

    def end(self, timeout=60):
        """What else it prints, when it has ended well."""
        rest, _ = self.process.communicate(timeout=timeout)
        assert self.process.returncode == 0, rest
        return rest.split("\n")[:-1]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.kill()
        self.process.stdin.close()
        self.process.stdout.close()
