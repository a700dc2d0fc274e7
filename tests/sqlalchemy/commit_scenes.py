"""What the table of commits is made of: kinds of work, ways to fail, and the truth afterwards."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from sqlalchemy import ForeignKey, String, create_engine, event, text, update
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    relationship,
)
from sqlalchemy.pool import NullPool

from proxy import AFTER, BEFORE

if TYPE_CHECKING:
    from servers import Database

WAIT = 20


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))
    n: Mapped[int] = mapped_column()


class Counted(Base):
    __tablename__ = "counted"
    id: Mapped[int] = mapped_column(primary_key=True)
    n: Mapped[int] = mapped_column()
    version: Mapped[int] = mapped_column()
    __mapper_args__: ClassVar = {"version_id_col": version}


class Note(Base):
    __tablename__ = "note"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))
    remarks: Mapped[list[Remark]] = relationship(back_populates="note")


class Remark(Base):
    __tablename__ = "remark"
    id: Mapped[int] = mapped_column(primary_key=True)
    note_id: Mapped[int] = mapped_column(ForeignKey("note.id"))
    stamp: Mapped[str] = mapped_column(String(20), server_default=text("'fresh'"))
    note: Mapped[Note] = relationship(back_populates="remarks")


class Far(DeclarativeBase):
    pass


class FarNote(Far):
    __tablename__ = "note"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))


AT_FIRST = {"item": {("kept", 10), ("doomed", 20)}, "counted": {(10, 1)}, "note": [], "remark": []}


# Each is given a session whose objects were loaded in an earlier transaction.
def new(session, items) -> None:
    session.add(Note(name="new"))


def dirty(session, items) -> None:
    items["kept"].name = "changed"
    items["kept"].n = Item.n + 1


def deleted(session, items) -> None:
    session.delete(items["doomed"])


def generated_keys(session, items) -> None:
    session.add(Note(name="new", remarks=[Remark(), Remark()]))


def version_counter(session, items) -> None:
    items["counted"].n = 11


def read(session, items) -> None:
    session.scalar(text("SELECT n FROM item WHERE name = 'kept'"))
    session.add(Note(name="new"))


def bulk_dml(session, items) -> None:
    session.execute(update(Item).where(Item.name == "kept").values(n=Item.n + 1))
    session.add(Note(name="new"))


def raw_sql(session, items) -> None:
    session.execute(text("UPDATE item SET n = n + 1 WHERE name = 'kept'"))
    session.add(Note(name="new"))


def earlier_flush(session, items) -> None:
    items["kept"].n += 1
    session.flush()
    session.add(Note(name="new"))


def two_binds(session, items) -> None:
    session.add_all([Note(name="new"), FarNote(name="far")])


def savepoint(session, items) -> None:
    session.begin_nested()
    session.add(Note(name="new"))


class Work(NamedTuple):
    """What is done, the table that its flush waits for, and what it leaves."""

    do: object
    table: str
    after: dict
    alone: bool  # Nothing else is in the transaction: it can be put back.
    writes_first: bool = False  # The flush is not the transaction's first write.


NEW = {"note": ["new"]}
RAISED = {**NEW, "item": {("kept", 11), ("doomed", 20)}}
WORKS = {
    "new": Work(new, "note", NEW, True),
    "dirty": Work(dirty, "item", {"item": {("changed", 11), ("doomed", 20)}}, True),
    "deleted": Work(deleted, "item", {"item": {("kept", 10)}}, True),
    "generated keys": Work(
        generated_keys, "remark", {**NEW, "remark": [("new", "fresh"), ("new", "fresh")]}, True
    ),
    "version counter": Work(version_counter, "counted", {"counted": {(11, 2)}}, True),
    "read": Work(read, "note", NEW, False),
    "bulk DML": Work(bulk_dml, "note", RAISED, False, True),
    "raw SQL": Work(raw_sql, "note", RAISED, False, True),
    "earlier flush": Work(earlier_flush, "note", RAISED, False, True),
    "two binds": Work(two_binds, "note", {**NEW, "far": ["far"]}, False),
    "savepoint": Work(savepoint, "note", NEW, False),
}


class Place:
    """A database with the tables, an engine for the work, and a way to look past both."""

    dialect: str

    def __init__(self, *, is_far=False) -> None:
        self.is_far = is_far

    def fill(self) -> None:
        engine = create_engine(self.plain, poolclass=NullPool)
        for base in (Base, Far) if self.is_far else (Base,):
            base.metadata.create_all(engine)
        if not self.is_far:
            self.ask("CREATE TABLE guard (i INT)")

    def reset(self) -> None:
        """Put the first rows back."""
        if self.is_far:
            self.ask("DELETE FROM note")
            return
        for table in ("remark", "note", "item", "counted", "guard"):
            self.ask(f"DELETE FROM {table}")
        self.ask("INSERT INTO item (name, n) VALUES ('kept', 10), ('doomed', 20)")
        self.ask("INSERT INTO counted (n, version) VALUES (10, 1)")

    def state(self) -> dict:
        """What is in the database, seen from a connection of its own."""
        if self.is_far:
            return {"far": sorted(name for (name,) in self.ask("SELECT name FROM note"))}
        return {
            "item": set(self.ask("SELECT name, n FROM item")),
            "counted": set(self.ask("SELECT n, version FROM counted")),
            "note": sorted(name for (name,) in self.ask("SELECT name FROM note")),
            "remark": sorted(
                self.ask(
                    "SELECT note.name, stamp FROM remark LEFT JOIN note ON note.id = remark.note_id"
                )
            ),
        }


class File(Place):
    """A SQLite file; nobody waits for long."""

    dialect = "sqlite"

    def __init__(self, path, journal="wal", **more) -> None:
        super().__init__(**more)
        self.path, self.plain = path, f"sqlite:///{path}"
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute(f"PRAGMA journal_mode = {journal}")

    def ask(self, sql):
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            return connection.execute(sql).fetchall()

    def close(self) -> None:
        pass

    def engine(self):
        return create_engine(self.plain, poolclass=NullPool, connect_args={"timeout": 0.01})

    @contextlib.contextmanager
    def fails_at_flush(self, engine, table):
        """Another connection writes, until the first failure."""
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            other.execute("UPDATE guard SET i = 1")
            with until_it_fails(engine, lambda: other.execute("COMMIT")):
                yield

    @contextlib.contextmanager
    def fails_at_commit(self, engine):
        """Another connection reads, without WAL, until the first failure."""
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as other:

            def begin() -> None:
                other.execute("BEGIN")
                other.execute("SELECT count(*) FROM item").fetchall()

            with (
                before_commit(engine, begin),
                until_it_fails(engine, lambda: other.execute("COMMIT")),
            ):
                yield


class ServerPlace(Place):
    """A database of a server, and a proxy before it."""

    driver: str

    def __init__(self, database: Database, **more) -> None:
        super().__init__(**more)
        self.database, self.plain = database, database.url(self.driver)
        self._watcher = database.raw()

    def ask(self, sql):
        cursor = self._watcher.cursor()
        cursor.execute(sql)
        return list(cursor.fetchall()) if cursor.description else []

    def close(self) -> None:
        self._watcher.close()

    def sessions(self) -> int:
        return len(self.ask(SESSIONS[self.dialect]))

    def settle(self) -> None:
        """Wait until the server has ended what lost its client."""
        deadline = time.monotonic() + WAIT
        while self.sessions():
            assert time.monotonic() < deadline
            time.sleep(0.01)


SESSIONS = {
    "postgresql": "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()",
    "mariadb": "SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID() AND db = DATABASE()",
}


class PostgreSQLPlace(ServerPlace):
    dialect, driver = "postgresql", "psycopg2"

    def engine(self, url=None, poolclass=NullPool):
        return create_engine(
            url or self.plain,
            poolclass=poolclass,
            connect_args={"options": "-c lock_timeout=50ms"},
            isolation_level="SERIALIZABLE",
        )

    def fill(self) -> None:
        super().fill()
        if not self.is_far:
            self.watch(*Base.metadata.tables)

    def watch(self, *tables) -> None:
        """Let COMMIT read, after changes of these tables, so that a conflict can be found there."""
        self.watched = (*getattr(self, "watched", ()), *tables)
        self.ask("""
            CREATE OR REPLACE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS
                'BEGIN PERFORM count(*) FROM guard; RETURN NULL; END'""")
        for table in tables:
            self.ask(
                f"CREATE CONSTRAINT TRIGGER look AFTER INSERT OR UPDATE OR DELETE ON {table}"
                " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION look()"
            )

    @contextlib.contextmanager
    def fails_at_flush(self, engine, table):
        """Another connection has the table locked, until the first failure (55P03)."""
        with contextlib.closing(self.database.raw()) as other:
            other.autocommit = False
            other.cursor().execute(f"LOCK TABLE {table} IN SHARE MODE")
            with until_it_fails(engine, other.rollback):
                yield

    @contextlib.contextmanager
    def fails_at_commit(self, engine):
        """Another transaction reads what ours has written, and writes what ours reads at COMMIT (40001)."""

        def conflict() -> None:
            with contextlib.closing(self.database.raw()) as other:
                other.autocommit = False
                cursor = other.cursor()
                cursor.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
                for table in self.watched:
                    cursor.execute(f"SELECT count(*) FROM {table}")
                cursor.execute("INSERT INTO guard VALUES (1)")
                other.commit()

        with before_commit(engine, conflict):
            yield


class MariaDBPlace(ServerPlace):
    dialect, driver = "mariadb", "pymysql"

    def engine(self, url=None):
        at_once = "SET lock_wait_timeout = 0, innodb_lock_wait_timeout = 0"
        return create_engine(
            url or self.plain, poolclass=NullPool, connect_args={"init_command": at_once}
        )

    @contextlib.contextmanager
    def fails_at_flush(self, engine, table):
        """Another connection has the table locked, until the first failure (1205)."""
        with contextlib.closing(self.database.raw()) as other:
            cursor = other.cursor()
            cursor.execute(f"LOCK TABLES {table} READ")
            with until_it_fails(engine, lambda: cursor.execute("UNLOCK TABLES")):
                yield

    @contextlib.contextmanager
    def fails_at_commit(self, engine):
        """An administrator forbids all commits, until the first failure (1205)."""
        with contextlib.closing(self.database.raw(admin=True)) as other:
            cursor = other.cursor()

            def lock() -> None:
                cursor.execute("FLUSH TABLES WITH READ LOCK")

            unlock = until_it_fails(engine, lambda: cursor.execute("UNLOCK TABLES"))
            with before_commit(engine, lock), unlock:
                yield


@contextlib.contextmanager
def before_commit(engine, act):
    """Act before the first COMMIT."""
    waiting = [act]

    def commit(connection) -> None:
        if waiting:
            waiting.pop()()

    def release(connection, name, context) -> None:
        # Python's sqlite3 begins with the SAVEPOINT, so that its RELEASE is the COMMIT.
        if connection.dialect.name == "sqlite":
            commit(connection)

    event.listen(engine, "commit", commit)
    event.listen(engine, "release_savepoint", release)
    yield
    event.remove(engine, "commit", commit)
    event.remove(engine, "release_savepoint", release)
    assert not waiting, "no COMMIT was sent"


@contextlib.contextmanager
def until_it_fails(engine, act):
    """Act at the first error, and see that there was one."""
    waiting = [act]

    def fail(context) -> None:
        if waiting:
            waiting.pop()()

    event.listen(engine, "handle_error", fail)
    yield
    event.remove(engine, "handle_error", fail)
    assert not waiting, "nothing has failed"


def session_for(engine, far=None, **options):
    """A session that has loaded everything in an earlier transaction."""
    binds = {} if far is None else {Far: far}
    session = Session(engine, binds=binds, expire_on_commit=False, **options)
    items = {item.name: item for item in session.query(Item)}
    items["counted"] = session.query(Counted).one()
    session.commit()
    return session, items


CUTS = {"cut before COMMIT": BEFORE, "cut after COMMIT": AFTER}
