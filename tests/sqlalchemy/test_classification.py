"""`classify` on what SQLAlchemy raises over SQLite: phases, sessions, pools."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import DBAPIError, PendingRollbackError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.pool import QueuePool

from turnwise.classification import classify
from turnwise.errors import TransactionNotOwnedError


class Base(DeclarativeBase):
    pass


class Topic(Base):
    __tablename__ = "topic"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(unique=True)
    version: Mapped[int] = mapped_column()
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - SQLAlchemy's name


@pytest.fixture
def path(tmp_path):
    return tmp_path / "app.db"


@pytest.fixture
def engine(path):
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 0})
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO topic VALUES (1, 'first', 1)"))
    yield engine
    engine.dispose()


@contextlib.contextmanager
def locked(path, *statements):
    """Another connection that keeps the transaction open that these statements made."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        for statement in ("BEGIN", *statements):
            other.execute(statement).fetchall()
        yield other


def verdict_of(work, kind=DBAPIError):
    with pytest.raises(kind) as caught:
        work()
    return classify(caught.value)


def test_a_statement(engine):
    with engine.connect() as connection:
        insert = text("INSERT INTO topic VALUES (2, 'first', 1)")
        verdict = verdict_of(lambda: connection.execute(insert))
    assert (verdict.rule, verdict.fate) == ("sqlite.constraint.unique", "intact")
    assert (verdict.constraint.table, verdict.constraint.columns) == ("topic", ("title",))


def test_begin(engine, path):
    # The text tells, where the application sends it; else SQLAlchemy's function.
    with locked(path, "UPDATE topic SET title = 'x'"), engine.connect() as connection:
        verdict = verdict_of(lambda: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        assert (verdict.rule, verdict.fate) == ("sqlite.busy.begin", "none")

    def send(fairy):
        fairy.dbapi_connection.execute("BEGIN IMMEDIATE")

    engine.dialect.do_begin = send
    with locked(path, "UPDATE topic SET title = 'x'"), engine.connect() as connection:
        assert verdict_of(connection.begin).rule == "sqlite.busy.begin"
        assert verdict_of(lambda: connection.execute(text("SELECT 1"))).rule == "sqlite.busy.begin"


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_commit(engine, path, is_wrapped):
    if is_wrapped:
        engine.dialect.do_commit = lambda fairy: fairy.dbapi_connection.commit()
    # A reader holds off COMMIT in a rollback journal.
    with locked(path, "SELECT * FROM topic"), engine.connect() as connection:
        connection.execute(text("UPDATE topic SET title = 'y'"))
        verdict = verdict_of(connection.commit)
        assert (verdict.rule, verdict.fate) == ("sqlite.busy.commit", "intact")
        assert (verdict.scope, verdict.retry) == ("commit", "wait")


def test_the_dialects_functions_alone(engine, path):
    dialect = engine.dialect
    with contextlib.closing(engine.raw_connection()) as fairy:
        fairy.dbapi_connection.execute("UPDATE topic SET title = 'y'")
        with locked(path, "SELECT * FROM topic"):
            verdict = verdict_of(lambda: dialect.do_commit(fairy), sqlite3.OperationalError)
        assert verdict.rule == "sqlite.busy.commit"
        cursor = fairy.cursor()
        odd = "ROLLBACK TO nowhere"
        verdict = verdict_of(lambda: dialect.do_execute(cursor, odd, ()), sqlite3.OperationalError)
        assert (verdict.rule, verdict.is_in_doubt) == ("sqlite.refused", False)


def test_a_class_that_is_also_turnwises_is_followed(engine):
    class BothError(TransactionNotOwnedError, DBAPIError):
        pass

    with engine.connect() as connection, pytest.raises(DBAPIError) as caught:
        connection.execute(text("INSERT INTO topic VALUES (2, 'first', 1)"))
    both = BothError.__new__(BothError)
    vars(both).update(vars(caught.value))
    assert both.__cause__ is None
    assert classify(both).rule == "sqlite.constraint.unique"


def test_commit_of_a_session(engine, path):
    with locked(path, "SELECT * FROM topic"), Session(engine) as session:
        session.add(Topic(id=2, title="second"))
        assert verdict_of(session.commit).scope == "commit"


def test_commit_on_an_event_loop(engine, path):
    async def work():
        asynchronous = create_async_engine(
            f"sqlite+aiosqlite:///{path}", connect_args={"timeout": 0}
        )
        async with asynchronous.connect() as connection:
            await connection.execute(text("UPDATE topic SET title = 'y'"))
            with pytest.raises(DBAPIError) as caught:
                await connection.commit()
        await asynchronous.dispose()
        return classify(caught.value)

    with locked(path, "SELECT * FROM topic"):
        assert asyncio.run(work()).rule == "sqlite.busy.commit"


def test_rollback_and_savepoints(engine):
    with engine.connect() as connection:
        for statement, phase in (
            ("ROLLBACK TO nowhere", "savepoint"),
            ("RELEASE nowhere", "savepoint"),
            ("ROLLBACK", "rollback"),
            ("COMMIT", "commit"),
        ):
            with pytest.raises(DBAPIError) as caught:
                connection.exec_driver_sql(statement)
            assert classify(caught.value) == classify(caught.value, phase=phase)
            symptom = phase != "savepoint"
            assert (classify(caught.value).rule == "sqlite.no_transaction") is symptom

    engine.dialect.do_rollback = lambda fairy: fairy.dbapi_connection.execute("ROLLBACK")
    connection = engine.connect()
    connection.begin()
    assert verdict_of(connection.rollback).rule == "sqlite.no_transaction"
    del engine.dialect.do_rollback
    connection.close()


def test_a_phase_that_is_given_wins(engine, path):
    with locked(path, "SELECT * FROM topic"), engine.connect() as connection:
        connection.execute(text("UPDATE topic SET title = 'y'"))
        with pytest.raises(DBAPIError) as caught:
            connection.commit()
        assert classify(caught.value, phase="statement").rule == "sqlite.busy.statement"
        # Gone from the open transaction, as the driver may say.
        assert classify(caught.value, in_transaction=False).scope != "commit"


def test_a_session_that_waits_for_rollback(engine):
    with Session(engine) as session:
        session.add(Topic(id=2, title="first"))
        assert verdict_of(session.flush).class_ == "constraint"
        verdict = verdict_of(lambda: session.get(Topic, 1), PendingRollbackError)
        assert verdict.rule == "sqlite.constraint.unique"


def test_a_connection_that_waits_for_rollback(engine):
    with engine.connect() as connection:
        connection.begin()
        connection.invalidate()
        verdict = verdict_of(lambda: connection.execute(text("SELECT 1")), PendingRollbackError)
    assert (verdict.class_, verdict.fate, verdict.scope) == ("symptom", "aborted", "never")


def test_stale_data(engine):
    with Session(engine) as session:
        topic = session.get(Topic, 1)
        session.connection().execute(text("UPDATE topic SET version = version + 1"))
        topic.title = "mine"
        verdict = verdict_of(session.flush, StaleDataError)
    assert (verdict.class_, verdict.fate) == ("serialization", "aborted")
    assert (verdict.scope, verdict.retry) == ("transaction", "redo")


def test_an_empty_pool(path):
    engine = create_engine(
        f"sqlite:///{path}", poolclass=QueuePool, pool_size=1, max_overflow=0, pool_timeout=0.01
    )
    with engine.connect():
        verdict = verdict_of(engine.connect, PoolTimeoutError)
    engine.dispose()
    assert (verdict.class_, verdict.fate, verdict.retry) == ("overload", "none", "unavailable")


def test_an_application_error_within_sqlalchemy(engine):
    with engine.connect() as connection:
        missing = text("SELECT :a")
        verdict = verdict_of(lambda: connection.execute(missing), StatementError)
    assert verdict.rule == "default.foreign"


def test_what_a_listener_raises_is_looked_into(engine):
    @event.listens_for(engine, "handle_error")
    def wrap(context):
        raise RuntimeError("wrapped") from context.original_exception

    with engine.connect() as connection:
        verdict = verdict_of(
            lambda: connection.execute(text("INSERT INTO topic VALUES (1, 'x', 1)")), RuntimeError
        )
    assert verdict.rule == "sqlite.constraint.unique"


def test_an_error_behind_one_that_came_at_commit_keeps_its_phase(engine, path):
    def commit(fairy):
        raise RuntimeError("at commit") from earlier.value

    engine.dialect.do_commit = commit
    with engine.connect() as connection:
        connection.begin()
        with pytest.raises(DBAPIError) as earlier:
            connection.execute(text("SELECT * FROM nowhere"))
        verdict = verdict_of(connection.commit, RuntimeError)
    assert (verdict.rule, verdict.fate) == ("sqlite.refused", "intact")
    assert verdict == classify(earlier.value)
