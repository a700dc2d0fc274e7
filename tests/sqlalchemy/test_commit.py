"""`commit_with_retry` beside the table: refusals, doubts, errors that pass, other kinds of sessions."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import sqlite3
import threading
import time

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

from commit_scenes import Base, File, Item, MariaDBPlace, Note, PostgreSQLPlace, session_for
from proxy import AFTER, BEFORE, Proxy
from servers import Database, MariaDB, PostgreSQL
from turnwise.errors import (
    CommitNotReplayableError,
    CommitOutcomeUnknownError,
    InvalidPolicyError,
    LockTimeoutError,
    TransactionPoisonedError,
    WritesLostError,
)
from turnwise.sqlalchemy.commit import commit_with_retry
from turnwise.sqlalchemy.installing import install, uninstall
from turnwise.units import retry_on_deadlock

FAST = {"initial_delay": 0.001, "max_delay": 0.01}


@pytest.fixture
def file(tmp_path):
    place = File(tmp_path / "app.db")
    place.fill()
    place.reset()
    return place


@pytest.fixture(scope="module")
def postgres_place(postgresql):
    with postgresql.database() as name:
        place = PostgreSQLPlace(Database(postgresql, name))
        place.fill()
        yield place
        place.close()


@pytest.fixture
def postgres(postgres_place):
    postgres_place.reset()
    return postgres_place


@pytest.fixture(scope="module")
def maria_place(mariadb):
    with mariadb.database() as name:
        place = MariaDBPlace(Database(mariadb, name))
        place.fill()
        yield place
        place.close()


@pytest.fixture
def maria(maria_place):
    maria_place.reset()
    return maria_place


@contextlib.contextmanager
def locked(file):
    with contextlib.closing(sqlite3.connect(file.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE guard SET i = 1")
        yield
        other.execute("ROLLBACK")


def notes(place):
    return place.state()["note"]


# Genuine deadlocks.


@pytest.mark.parametrize("name", ["postgres", "maria"])
def test_a_deadlock_is_healed(request, name) -> None:
    place = request.getfixturevalue(name)
    is_postgres = name == "postgres"
    if is_postgres:
        # The one that looks for deadlocks is the one that is ended: ours, once the other waits.
        role = lambda change: place.database.sql(f"ALTER ROLE app {change}", admin=True)  # noqa: E731
        role("SET deadlock_timeout = '900ms'")
        request.addfinalizer(lambda: role("RESET deadlock_timeout"))
    engine = create_engine(place.plain, poolclass=NullPool)
    session, items = session_for(engine)
    first, last = sorted((items["kept"], items["doomed"]), key=lambda one: one.id)
    numbers = first.id, last.id
    first.n, last.n = Item.n + 1, Item.n + 1
    errors, crossing = [], []

    def cross() -> None:
        time.sleep(0.3)
        cursor.execute(f"UPDATE item SET name = 'other' WHERE id = {numbers[0]}")
        cursor.execute("COMMIT")

    def start(conn, cursor, statement, parameters, context, executemany) -> None:
        if statement.startswith("UPDATE") and not crossing:
            crossing.append(threading.Thread(target=cross))
            crossing[0].start()

    event.listen(engine, "before_cursor_execute", start)
    event.listen(engine, "handle_error", lambda context: errors.append(context.original_exception))
    other = place.database.raw(admin=is_postgres)
    with contextlib.closing(other), contextlib.closing(session):
        cursor = other.cursor()
        if is_postgres:
            cursor.execute("SET deadlock_timeout = '60s'")
        cursor.execute("BEGIN")
        cursor.execute(f"UPDATE item SET name = 'other' WHERE id = {numbers[1]}")
        if not is_postgres:
            # InnoDB ends the one that has changed less.
            cursor.execute("INSERT INTO guard SELECT seq FROM seq_1_to_100")
        assert commit_with_retry(session, **FAST)
        crossing[0].join(30)
    assert [getattr(error, "pgcode", None) or error.args[0] for error in errors] == [
        "40P01" if is_postgres else 1213
    ]
    assert place.ask("SELECT name, n FROM item ORDER BY id") == [("other", 11), ("other", 21)]


# What is refused.


def refused(place, session, engine, why):
    with place.fails_at_flush(engine, "note"), pytest.raises(CommitNotReplayableError) as caught:
        commit_with_retry(session, **FAST)
    assert why in caught.value.reason
    assert isinstance(caught.value.__cause__, OperationalError)
    assert notes(place) == []
    return caught.value


def test_work_in_a_begin_block_is_refused(file) -> None:
    engine = file.engine()
    with Session(engine) as session:
        with session.begin():
            session.add(Note(name="new"))
            refused(file, session, engine, "begin()")
        assert not session.in_transaction()


def test_a_session_that_joins_a_connection_is_refused(file) -> None:
    engine = file.engine()
    with engine.connect() as connection:
        session = Session(connection)
        session.add(Note(name="new"))
        refused(file, session, engine, "connection that its caller has opened")


def test_two_phases_are_refused(postgres) -> None:
    engine = postgres.engine()
    with Session(engine, twophase=True) as session:
        session.add(Note(name="new"))
        refused(postgres, session, engine, "two phases")


def test_what_an_earlier_flush_has_written_is_named(postgres) -> None:
    engine = postgres.engine()
    session, items = session_for(engine)
    with session:
        items["kept"].n = 11
        session.delete(items["doomed"])
        session.flush()
        session.add(Note(id=7, name="secret"))
        kept, doomed = items["kept"].id, items["doomed"].id
        error = refused(postgres, session, engine, "other statements")
    assert set(error.lost) == {
        "new Note(id=7)",
        f"changed Item(id={kept})",
        f"deleted Item(id={doomed})",
    }
    assert "secret" not in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.lost, again.reason) == (str(error), error.lost, error.reason)


@pytest.mark.parametrize("kind", ["execution option", "engine", "driver"])
def test_autocommit_leaves_half_and_says_so(file, kind) -> None:
    options = {
        "execution option": {},
        "engine": {"isolation_level": "AUTOCOMMIT"},
        "driver": {"connect_args": {"timeout": 0.01, "isolation_level": None}},
    }[kind]
    engine = create_engine(file.plain, poolclass=NullPool, **options)
    if kind == "execution option":
        engine = engine.execution_options(isolation_level="AUTOCOMMIT")
    with Session(engine) as session:
        session.add(Note(name="half"))
        session.add(Item(name="other", n=1))

        def lock(conn, cursor, statement, parameters, context, executemany) -> None:
            # The first INSERT of two has committed.
            if statement.startswith("INSERT") and not others:
                others.append(sqlite3.connect(file.path, isolation_level=None))
                others[0].execute("BEGIN IMMEDIATE")

        others = []
        event.listen(engine, "after_cursor_execute", lock)
        event.listen(engine, "handle_error", lambda context: others[0].rollback())
        if kind != "driver":
            event.listen(
                engine, "connect", lambda raw, record: raw.execute("PRAGMA busy_timeout = 10")
            )
        with pytest.raises(CommitOutcomeUnknownError, match="AUTOCOMMIT"):
            commit_with_retry(session, **FAST)
        others[0].close()
    rows = len(file.ask("SELECT * FROM note")) + len(file.ask("SELECT * FROM item WHERE n = 1"))
    assert rows == 1


# Errors that pass.


def test_a_permanent_error_leaves_the_session_as_sqlalchemy_does(file) -> None:
    engine = file.engine()
    with Session(engine) as session:
        session.add(Item(id=1, name="kept"))
        with pytest.raises(IntegrityError) as caught:
            commit_with_retry(session, **FAST)
        assert not getattr(caught.value, "__notes__", [])
        with pytest.raises(PendingRollbackError):
            session.commit()
        session.rollback()
        session.commit()


def test_when_attempts_are_spent_the_driver_s_error_says_what_is_lost(file) -> None:
    engine = file.engine()
    began = time.monotonic()
    with locked(file), Session(engine) as session:
        session.add(Note(id=5, name="new"))
        with pytest.raises(OperationalError) as caught:
            commit_with_retry(session, deadline=0.3, **FAST)
        assert "new Note(id=5)" in " ".join(caught.value.__notes__)
        assert "attempts" in caught.value.__notes__[0]
        with pytest.raises(PendingRollbackError):
            session.commit()
        session.rollback()
    assert time.monotonic() - began < 5
    assert notes(file) == []


def test_max_attempts_bounds_work_done_again(postgres) -> None:
    engine = postgres.engine()
    flushes = []
    with Session(engine) as session:
        session.add(Note(name="new"))
        event.listen(session, "after_flush", lambda *_: flushes.append(1))
        with contextlib.ExitStack() as stack:

            def again(context) -> None:
                stack.enter_context(postgres.fails_at_commit(engine))

            event.listen(engine, "handle_error", again)
            stack.enter_context(postgres.fails_at_commit(engine))
            with pytest.raises(DBAPIError) as caught:
                commit_with_retry(session, max_attempts=2, **FAST)
            event.remove(engine, "handle_error", again)
            stack.pop_all()
        assert caught.value.orig.pgcode == "40001"
        assert "gave up after 2 attempts" in caught.value.__notes__[0]
    assert len(flushes) == 2
    assert notes(postgres) == []


def test_an_error_after_commit_is_not_tried_again(file) -> None:
    engine = file.engine()
    with Session(engine) as session:
        session.add(Note(name="new"))

        def fail(session) -> None:
            raise OperationalError("UPDATE", None, sqlite3.OperationalError("database is locked"))

        event.listen(session, "after_commit", fail)
        with pytest.raises(OperationalError) as caught:
            commit_with_retry(session, **FAST)
        assert "is committed" in caught.value.__notes__[0]
    assert notes(file) == ["new"]


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg", "pg8000", "asyncpg"])
def test_a_swallowed_error_does_not_pass_for_a_commit(postgres, driver) -> None:
    url = postgres.database.url(driver)

    def work(session) -> None:
        session.add(Note(name="new"))
        session.flush()
        with contextlib.suppress(DBAPIError):
            session.execute(text("SELECT 1 / 0"))
        with pytest.raises(TransactionPoisonedError):
            commit_with_retry(session, **FAST)
        session.rollback()

    if driver == "asyncpg":

        async def run() -> None:
            engine = create_async_engine(url)
            async with AsyncSession(engine) as session:
                await session.run_sync(work)
            await engine.dispose()

        asyncio.run(run())
    else:
        with Session(create_engine(url, poolclass=NullPool)) as session:
            work(session)
    assert notes(postgres) == []


# Doubt.


@pytest.mark.parametrize("answer", [None, "yes", ZeroDivisionError()], ids=repr)
def test_a_verify_that_does_not_say_leaves_the_doubt(postgres, answer) -> None:
    def verify():
        if isinstance(answer, Exception):
            raise answer
        return answer

    with Proxy(postgres.database.server) as proxy:
        engine = postgres.engine(proxy.url(postgres.plain))
        with Session(engine) as session:
            session.add(Note(name="new"))
            proxy.cut_next_commit(AFTER)
            with pytest.raises(CommitOutcomeUnknownError) as caught:
                commit_with_retry(session, verify=verify, **FAST)
            assert isinstance(caught.value.__cause__, OperationalError)
    postgres.settle()
    assert notes(postgres) == ["new"]


ASYNCHRONOUS = {"psycopg_async", "asyncpg", "aiomysql", "asyncmy"}
DRIVERS = [
    pytest.param(kind.dialect, name, id=name)
    for kind in (PostgreSQL, MariaDB)
    for name in kind.drivers
]


@pytest.mark.parametrize(("dialect", "driver"), DRIVERS)
def test_every_driver_s_loss_at_commit_is_a_doubt(request, dialect, driver) -> None:
    place = request.getfixturevalue({"postgresql": "postgres", "mariadb": "maria"}[dialect])

    def engine_at(url):
        make = create_async_engine if driver in ASYNCHRONOUS else create_engine
        return make(url, poolclass=NullPool)

    def raised(engine):
        async def commit():
            async with AsyncSession(engine) as session:
                session.add(Note(name="new"))
                await commit_with_retry(session, **FAST)

        with pytest.raises(CommitOutcomeUnknownError) as caught:
            if driver in ASYNCHRONOUS:
                asyncio.run(commit())
            else:
                with Session(engine) as session:
                    session.add(Note(name="new"))
                    commit_with_retry(session, **FAST)
        return caught.value

    with Proxy(place.database.server) as proxy:
        engine = engine_at(proxy.url(place.database.url(driver)))
        proxy.cut_next_commit(AFTER)
        assert isinstance(raised(engine).__cause__, DBAPIError)
    place.settle()
    assert notes(place) == ["new"]


def test_a_verified_commit_leaves_a_committed_session(postgres) -> None:
    with Proxy(postgres.database.server) as proxy:
        engine = postgres.engine(proxy.url(postgres.plain))
        with Session(engine) as session:
            note = Note(name="new")
            session.add(note)
            committed = []
            event.listen(session, "after_commit", lambda session: committed.append(True))
            proxy.cut_next_commit(AFTER)
            assert commit_with_retry(session, verify=lambda: True, **FAST)
            assert committed == [True]
            assert note in session
            assert note.name == "new"
            note.name = "renamed"
            session.commit()
    assert notes(postgres) == ["renamed"]


def test_a_connection_lost_before_commit_is_no_doubt(postgres) -> None:
    with Proxy(postgres.database.server) as proxy:
        engine = postgres.engine(proxy.url(postgres.plain))
        with Session(engine) as session:
            session.add_all([Note(name="one"), Item(name="two", n=1)])

            def lose(conn, cursor, statement, parameters, context, executemany) -> None:
                if statement.startswith("INSERT") and not lost:
                    lost.append(proxy.cut_all())

            lost = []
            event.listen(engine, "after_cursor_execute", lose)
            assert commit_with_retry(session, **FAST)
    assert notes(postgres) == ["one"]


def test_ctrl_c_at_commit_is_noted(file) -> None:
    engine = file.engine()
    with Session(engine) as session:
        session.add(Note(name="new"))
        proceed = engine.dialect.do_commit

        def interrupted(connection) -> None:
            proceed(connection)
            raise KeyboardInterrupt

        engine.dialect.do_commit = interrupted
        with pytest.raises(KeyboardInterrupt) as caught:
            commit_with_retry(session, **FAST)
        assert "COMMIT was sent" in caught.value.__notes__[0]


# asyncio.


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg_async"])
def test_asyncio_on_postgresql(postgres, driver) -> None:
    async def run() -> None:
        engine = create_async_engine(
            postgres.database.url(driver), poolclass=NullPool, isolation_level="SERIALIZABLE"
        )
        async with AsyncSession(engine, expire_on_commit=False) as session:
            other, note = Note(name="other"), Note(name="new")
            session.add(other)
            await session.commit()
            session.add(note)
            with postgres.fails_at_commit(engine.sync_engine):
                assert await commit_with_retry(session, **FAST) is True
            # Nothing is expired, which could not be loaded here.
            assert (other.name, note.name) == ("other", "new")
            assert note.id
        await engine.dispose()

    asyncio.run(run())
    assert notes(postgres) == ["new", "other"]


def test_asyncio_on_sqlite_and_scoped(file) -> None:
    async def run() -> None:
        engine = create_async_engine(
            f"sqlite+aiosqlite:///{file.path}", connect_args={"timeout": 0.01}, poolclass=NullPool
        )
        make = sessionmaker(engine, class_=AsyncSession)
        session = async_scoped_session(make, scopefunc=asyncio.current_task)
        session.add(Note(name="new"))
        ticks = []

        async def tick() -> None:
            while True:
                ticks.append(1)
                await asyncio.sleep(0.01)

        with contextlib.closing(sqlite3.connect(file.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            ticking = asyncio.create_task(tick())
            asyncio.get_running_loop().call_later(0.3, other.rollback)
            assert await commit_with_retry(session, **FAST) is True
            ticking.cancel()
        assert len(ticks) > 5, "the event loop was not blocked"
        await session.remove()
        await engine.dispose()

    asyncio.run(run())
    assert notes(file) == ["new"]


def test_a_cancelled_commit_is_a_doubt(postgres) -> None:
    """COMMIT waits for a lock that a deferred trigger asks for, and the task is cancelled there."""
    postgres.ask("""
        CREATE OR REPLACE FUNCTION wait_at_commit() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM pg_advisory_xact_lock(5); RETURN NULL; END'""")
    postgres.ask(
        "CREATE CONSTRAINT TRIGGER wait_at_commit AFTER INSERT ON note"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait_at_commit()"
    )

    async def run() -> None:
        engine = create_async_engine(postgres.database.url("asyncpg"), poolclass=NullPool)
        async with AsyncSession(engine) as session:
            session.add(Note(name="new"))
            committing = asyncio.create_task(commit_with_retry(session, **FAST))
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            while postgres.ask(waiting) == [(0,)]:  # noqa: ASYNC110 - it is the server that is waited for
                await asyncio.sleep(0.01)
            committing.cancel()
            with pytest.raises(CommitOutcomeUnknownError) as caught:
                await committing
            assert isinstance(caught.value.__cause__, asyncio.CancelledError)
            await session.rollback()
        await engine.dispose()

    with contextlib.closing(postgres.database.raw()) as other:
        other.cursor().execute("SELECT pg_advisory_lock(5)")
        try:
            asyncio.run(run())
        finally:
            postgres.ask("DROP TRIGGER wait_at_commit ON note")


# With the rest of turnwise.


def test_the_unit_of_work_around_it_retries_what_it_cannot(postgres) -> None:
    engine = postgres.engine()
    errors, runs = [], []

    @retry_on_deadlock(**FAST)
    def unit() -> None:
        with Session(engine) as session:
            runs.append(1)
            session.add(Note(name=f"{session.scalar(text('SELECT n FROM item'))}"))
            try:
                commit_with_retry(session, **FAST)
            except Exception as error:
                errors.append(type(error))
                raise

    with postgres.fails_at_commit(engine):
        unit()
    assert len(runs) == 2
    assert errors == [OperationalError], "its own error, so that the unit knows it"
    assert notes(postgres) == ["10"]


def test_an_installed_engine_reports_the_commit_that_does_nothing(postgres) -> None:
    engine = postgres.engine()
    install(engine, strict=True)
    with Session(engine) as session:
        session.add(Note(name="new"))
        with postgres.fails_at_commit(engine):
            assert commit_with_retry(session, **FAST)
        session.scalar(text("SELECT 1"))
        session.add(Note(name="lost"))
        with postgres.fails_at_commit(engine), pytest.raises(CommitNotReplayableError):
            commit_with_retry(session, **FAST)
        with pytest.raises(WritesLostError):
            session.commit()
    uninstall(engine)
    assert notes(postgres) == ["new"]


def test_an_installed_sqlite_engine_waits_at_commit_by_itself(tmp_path) -> None:
    place = File(tmp_path / "app.db")
    place.fill()
    place.reset()
    engine = place.engine()
    install(engine, timeout=5)
    with Session(engine) as session:
        session.execute(text("UPDATE item SET n = n + 1"))
        session.add(Note(name="new"))
        assert commit_with_retry(session, **FAST)
    uninstall(engine)
    assert notes(place) == ["new"]


def test_a_lock_that_an_installed_engine_has_waited_for_is_not_waited_for_again(file) -> None:
    engine = file.engine()
    install(engine, timeout=0.3)
    began = time.monotonic()
    with locked(file), Session(engine) as session:
        session.add(Note(id=5, name="new"))
        with pytest.raises(OperationalError) as caught:
            commit_with_retry(session, deadline=20, **FAST)
        assert isinstance(caught.value.orig, LockTimeoutError)
        assert "new Note(id=5)" in caught.value.__notes__[-1]
    assert time.monotonic() - began < 10
    uninstall(engine)


def test_scoped_sessions_and_flask_sqlalchemy(tmp_path, file) -> None:
    session = scoped_session(sessionmaker(file.engine()))
    session.add(Note(name="scoped"))
    with file.fails_at_flush(session.get_bind(), "note"):
        assert commit_with_retry(session, **FAST) is True
    session.remove()

    from flask import Flask
    from flask_sqlalchemy import SQLAlchemy

    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = file.plain
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"connect_args": {"timeout": 0.01}}
    db = SQLAlchemy(app, model_class=Base)
    with app.app_context():
        db.session.add(Note(name="flask"))
        with file.fails_at_flush(db.engine, "note"):
            assert commit_with_retry(db.session, **FAST) is True
        db.session.remove()
        db.engine.dispose()
    assert notes(file) == ["flask", "scoped"]


def test_it_leaves_nothing_behind(file) -> None:
    engine = file.engine()
    with engine.connect() as connection, Session(connection) as session:
        before = set(vars(connection))
        session.add(Note(name="new"))
        commit_with_retry(session)
        connection.commit()
        assert set(vars(connection)) - before <= {"_transaction"}
        assert not list(session.dispatch.after_begin)


def test_settings_are_checked() -> None:
    with pytest.raises(TypeError, match="a session is needed, not NoneType"):
        commit_with_retry(None)
    with Session() as session:
        with pytest.raises(TypeError):
            commit_with_retry(session, attempts=3)
        with pytest.raises(TypeError):
            commit_with_retry(session, 3)
        with pytest.raises(InvalidPolicyError):
            commit_with_retry(session, max_attempts=0)


def test_nothing_to_commit_is_committed() -> None:
    with Session() as session:
        assert commit_with_retry(session) is True


def test_cut_before_and_no_session_state(postgres) -> None:
    with Proxy(postgres.database.server) as proxy:
        engine = postgres.engine(proxy.url(postgres.plain))
        with Session(engine) as session:
            session.add(Note(name="new"))
            proxy.cut_next_commit(BEFORE)
            assert commit_with_retry(session, verify=lambda: postgres.settle() or False, **FAST)
    assert notes(postgres) == ["new"]
