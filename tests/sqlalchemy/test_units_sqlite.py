"""Units of work on SQLite files that another process has locked."""

from __future__ import annotations

import asyncio
import gc
import pickle
import sqlite3
import threading
import time

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import (
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    scoped_session,
    sessionmaker,
)
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.pool import NullPool

from turnwise.errors import TransactionNotOwnedError
from turnwise.sqlalchemy import sessions
from turnwise.units import retry, retry_on_deadlock, run
from units_support import QUICK, Account, Neighbour, balances, code_of, make_file


@pytest.fixture
def path(tmp_path):
    return tmp_path / "bank.db"


@pytest.fixture
def engine(path):
    engine = make_file(path)
    yield engine
    engine.dispose()


@pytest.fixture
def neighbour(path, engine):
    neighbour = Neighbour(path)
    yield neighbour
    neighbour.close()


@pytest.fixture
def async_engine(path, engine):
    made = create_async_engine(
        f"sqlite+aiosqlite:///{path}", connect_args={"timeout": 0}, poolclass=NullPool
    )

    @sa.event.listens_for(made.sync_engine, "connect")
    def own_begin(connection, record):
        connection.isolation_level = None

    @sa.event.listens_for(made.sync_engine, "begin")
    def begin(connection):
        connection.exec_driver_sql("BEGIN")

    return made


def move(session, amount=10):
    session.get(Account, 1).balance -= amount
    session.get(Account, 2).balance += amount


def unlock_after(neighbour, calls, number=3):
    """Let the unit fail `number` times, then have the neighbour go on."""
    calls.append(time.monotonic())
    if len(calls) == number:
        neighbour.unlock()


def test_a_unit_that_closes_its_session_is_healed(engine, neighbour):
    calls = []
    neighbour.lock()

    @retry_on_deadlock(**QUICK)
    def transfer():
        unlock_after(neighbour, calls)
        with Session(engine) as session, session.begin():
            move(session)

    transfer()
    assert len(calls) == 3
    assert balances(engine) == [90, 110]


def test_a_session_that_the_unit_leaves_open_is_rolled_back_before_the_next_attempt(
    engine, neighbour
):
    calls, states, kept = [], [], []
    neighbour.lock()

    @retry_on_deadlock(**QUICK)
    def transfer():
        unlock_after(neighbour, calls)
        states.extend(session.in_transaction() for session in kept)
        session = Session(engine)
        kept.append(session)
        move(session)
        session.commit()

    transfer()
    assert states == [False] * 3
    assert balances(engine) == [90, 110]


@pytest.mark.parametrize("how", ["global", "argument", "attribute", "registry"])
def test_a_shared_session_without_a_transaction_is_the_units(engine, neighbour, how):
    """As Flask-SQLAlchemy's `db.session`, of which the view is the first to use it."""
    calls = []
    shared = scoped_session(sessionmaker(engine))
    neighbour.lock()

    def transfer(session=None):
        unlock_after(neighbour, calls)
        session = shared if how == "global" else session.session if how == "attribute" else session
        move(session)
        session.commit()

    class Database:
        session = None

    database = Database()
    database.session = shared
    given = {"global": (), "argument": (shared(),), "attribute": (database,), "registry": (shared,)}
    retry_on_deadlock(**QUICK)(transfer)(*given[how])
    assert len(calls) == 3
    assert balances(engine) == [90, 110]
    shared.remove()


@pytest.mark.parametrize("begun", ["add", "read", "write"])
@pytest.mark.parametrize("how", ["global", "argument", "attribute", "registry"])
def test_a_transaction_of_the_caller_is_never_rolled_back_nor_retried(
    engine, neighbour, how, begun
):
    calls = []
    shared = scoped_session(sessionmaker(engine, autoflush=False))
    new = Account(id=3, balance=7)

    def transfer(session=None):
        calls.append(1)
        session = shared if how == "global" else session.session if how == "attribute" else session
        session.execute(sa.update(Account).values(balance=Account.balance + 1))

    class Database:
        pass

    database = Database()
    database.session = shared
    given = {"global": (), "argument": (shared(),), "attribute": (database,), "registry": (shared,)}
    if begun == "read":
        shared.get(Account, 1)
    elif begun == "write":
        shared.execute(sa.update(Account).values(balance=5))
        neighbour = None
    shared.add(new)
    if neighbour is not None:
        neighbour.lock()
        with pytest.raises(OperationalError) as caught:
            retry_on_deadlock(**QUICK)(transfer)(*given[how])
        neighbour.unlock()
    else:
        with pytest.raises(OperationalError) as caught:
            retry_on_deadlock(**QUICK)(lambda *a: (transfer(*a), fail_in(shared)))(*given[how])
    assert len(calls) == 1
    error = caught.value
    assert isinstance(error, TransactionNotOwnedError)
    assert type(error).__mro__[1] is OperationalError
    assert code_of(error, 5) in (5, 517)
    assert f"{__file__}:" in error.__notes__[0]
    # The caller's work is still there.
    assert new in shared.new
    assert shared().in_transaction()
    if begun != "read":
        shared.commit()
        assert balances(engine) == ([6, 6, 7] if begun == "write" else [100, 100, 7])
    shared.remove()


@pytest.mark.parametrize("how", ["argument", "attribute", "registry", "keyword"])
def test_a_transaction_of_the_caller_among_the_arguments_counts_wherever_it_failed(engine, how):
    """What the unit has already written in it would be written twice."""
    calls = []
    shared = scoped_session(sessionmaker(engine))
    pay(shared)

    class Bank:
        session = None

    bank = Bank()
    bank.session = shared

    def unit(*given, session=None):
        calls.append(1)
        error = sqlite3.OperationalError("database is locked")
        error.sqlite_errorcode = 517
        raise error

    given = {"argument": [shared()], "attribute": [bank], "registry": [shared], "keyword": []}
    named = {"session": shared()} if how == "keyword" else {}
    with pytest.raises(TransactionNotOwnedError):
        retry_on_deadlock(**QUICK)(unit)(*given[how], **named)
    assert len(calls) == 1
    shared.commit()
    assert balances(engine) == [90, 90]
    shared.remove()


def fail_in(session):
    """Have a statement of the session raise what the driver would."""

    def boom(connection, cursor, statement, parameters, context, executemany):
        sa.event.remove(engine, "before_cursor_execute", boom)
        error = sqlite3.OperationalError("database is locked")
        error.sqlite_errorcode = 517
        raise OperationalError(statement, parameters, error)

    engine = session.get_bind()
    sa.event.listen(engine, "before_cursor_execute", boom)
    session.execute(sa.text("SELECT 1"))


def test_a_transaction_of_the_caller_that_the_unit_rolls_back_itself_is_not_retried(
    engine, neighbour
):
    calls = []
    with Session(engine) as session:
        session.add(Account(id=3, balance=7))
        session.flush()
        session.rollback()
        session.add(Account(id=4, balance=7))
        neighbour.lock()

        @retry_on_deadlock(**QUICK)
        def by_hand(session):
            calls.append(1)
            try:
                session.flush()
            except Exception:
                session.rollback()
                raise

        with pytest.raises(TransactionNotOwnedError) as caught:
            by_hand(session)
        assert len(calls) == 1
        assert "was ended in it" in caught.value.__notes__[0]
        neighbour.unlock()
        # Begun and ended before the unit: of no concern.
        session.rollback()
        neighbour.lock()

        @retry_on_deadlock(**QUICK)
        def own(session):
            unlock_after(neighbour, calls, 4)
            session.execute(sa.update(Account).values(balance=5))
            session.commit()

        own(session)
    assert balances(engine) == [5, 5]


def test_a_session_of_the_caller_that_the_unit_does_not_use_is_left_alone(engine, neighbour):
    calls = []
    other = sa.create_engine("sqlite://")
    with Session(other) as mine:
        mine.add(Account(id=9, balance=1))
        neighbour.lock()

        @retry_on_deadlock(**QUICK)
        def transfer():
            unlock_after(neighbour, calls)
            with Session(engine) as session, session.begin():
                move(session)

        transfer()
        assert len(calls) == 3
        assert len(mine.new) == 1
    other.dispose()
    assert balances(engine) == [90, 110]


def test_an_open_connection_among_the_arguments_is_the_callers(engine, neighbour):
    calls = []

    @retry_on_deadlock(**QUICK)
    def pay(connection):
        unlock_after(neighbour, calls, 4)
        connection.execute(sa.update(Account).values(balance=5))

    neighbour.lock()
    with engine.connect() as connection:
        connection.execute(sa.select(Account.id)).all()
        with pytest.raises(TransactionNotOwnedError):
            pay(connection)
        assert len(calls) == 1
        assert connection.in_transaction()
        connection.rollback()

    @retry_on_deadlock(**QUICK)
    def pay_in_own_transaction(connection):
        unlock_after(neighbour, calls, 4)
        with connection.begin():
            connection.execute(sa.update(Account).values(balance=5))

    with engine.connect() as connection:
        pay_in_own_transaction(connection)
    assert len(calls) == 4
    assert balances(engine) == [5, 5]


@pytest.mark.parametrize(
    "mode", ["conditional_savepoint", "rollback_only", "create_savepoint", "control_fully"]
)
def test_a_session_bound_to_the_callers_connection_is_not_the_units(engine, neighbour, mode):
    calls = []
    with engine.connect() as connection:
        connection.execute(sa.select(Account.id)).all()
        neighbour.lock()
        sessions_made = []

        @retry_on_deadlock(**QUICK)
        def pay():
            calls.append(1)
            session = Session(connection, join_transaction_mode=mode)
            sessions_made.append(session)
            session.execute(sa.update(Account).values(balance=5))

        with pytest.raises(TransactionNotOwnedError):
            pay()
        assert len(calls) == 1
        assert connection.in_transaction()
        neighbour.unlock()
        for session in sessions_made:
            session.close()


def test_what_was_committed_in_a_unit_is_not_done_again(engine, neighbour):
    calls = []

    @retry_on_deadlock(**QUICK)
    def twice():
        calls.append(1)
        with Session(engine) as session, session.begin():
            move(session)
        neighbour.lock()
        with Session(engine) as session, session.begin():
            move(session)

    with pytest.raises(OperationalError) as caught:
        twice()
    neighbour.unlock()
    assert type(caught.value) is OperationalError
    assert caught.value.__notes__ == [
        "turnwise: not retried: a session has committed in the unit of work"
    ]
    assert len(calls) == 1
    assert balances(engine) == [90, 110]


def test_a_savepoint_or_an_empty_commit_does_not_count_as_committed(engine, neighbour):
    calls = []
    neighbour.lock()

    @retry_on_deadlock(**QUICK)
    def transfer():
        unlock_after(neighbour, calls)
        with Session(engine) as session:
            session.begin()
            session.commit()
            with session.begin_nested():
                session.get(Account, 1)
            move(session)
            session.commit()

    transfer()
    assert balances(engine) == [90, 110]


def test_after_a_commit_in_the_outer_unit_the_inner_one_retries_by_itself(engine, neighbour):
    calls, outside = [], []

    @retry_on_deadlock(**QUICK)
    def inner():
        unlock_after(neighbour, calls)
        with Session(engine) as session, session.begin():
            move(session)

    @retry_on_deadlock(**QUICK)
    def outer():
        outside.append(1)
        with Session(engine) as session, session.begin():
            move(session, 1)
        neighbour.lock()
        inner()

    outer()
    assert (len(outside), len(calls)) == (1, 3)
    assert balances(engine) == [89, 111]


def test_a_unit_in_a_unit_leaves_the_retries_to_it_and_its_session_too(engine, neighbour):
    calls, outside, kinds = [], [], []
    neighbour.lock()

    @retry_on_deadlock(**QUICK)
    def inner(session):
        unlock_after(neighbour, calls)
        move(session)
        session.flush()

    @retry_on_deadlock(**QUICK)
    def outer():
        outside.append(1)
        with Session(engine) as session, session.begin():
            session.add(Account(id=2 + len(outside), balance=0))
            try:
                inner(session)
            except OperationalError as error:
                # Untouched: the session is the outer unit's, which retries.
                kinds.append(type(error))
                raise

    outer()
    assert kinds == [OperationalError] * 2
    assert (len(outside), len(calls)) == (3, 3)
    assert balances(engine) == [90, 110, 0]


@pytest.fixture(params=["own_begin", "legacy"])
def journal_engine(request, tmp_path):
    """A file whose COMMIT waits for readers; a driver that begins by itself, or not."""
    path = tmp_path / "journal.db"
    engine = make_file(path, journal="delete")
    if request.param == "legacy":
        engine.dispose()
        engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 0})
    yield engine
    engine.dispose()


@pytest.fixture
def reader(journal_engine):
    """Another process that reads, and lets nobody commit meanwhile."""
    reader = Neighbour(journal_engine.url.database)
    reader.run("BEGIN; SELECT * FROM account")
    yield reader
    reader.close()


def with_session_commit(engine, keep):
    with Session(engine) as session:
        pay(session)
        session.commit()


def with_session_begin(engine, keep):
    with Session(engine) as session, session.begin():
        pay(session)


def left_open(engine, keep):
    session = keep.setdefault("session", Session(engine))
    pay(session)
    session.commit()


def with_connect(engine, keep):
    with engine.connect() as connection:
        pay(connection)
        connection.commit()


def with_one_connection(engine, keep):
    connection = keep.setdefault("connection", engine.connect())
    with connection.begin():
        pay(connection)


def pay(session):
    session.execute(sa.update(Account).values(balance=Account.balance - 10))


@pytest.mark.parametrize(
    "transfer",
    [with_session_commit, with_session_begin, left_open, with_connect, with_one_connection],
)
def test_busy_at_commit_leaves_nothing_that_a_later_attempt_would_commit_too(
    journal_engine, reader, transfer
):
    calls, failures, keep = [], [], {}

    @retry_on_deadlock(**QUICK)
    def unit():
        unlock_after(reader, calls)
        try:
            transfer(journal_engine, keep)
        except OperationalError as error:
            failures.append((error.statement, code_of(error, 5)))
            raise

    unit()
    for kept in keep.values():
        kept.close()
    assert failures == [(None, 5)] * 2
    assert balances(journal_engine) == [90, 90]


def test_a_commit_of_the_callers_connection_is_not_retried(journal_engine, reader):
    calls = []
    with journal_engine.connect() as connection:
        pay(connection)

        @retry_on_deadlock(**QUICK)
        def finish(connection):
            calls.append(1)
            pay(connection)
            connection.commit()

        with pytest.raises(TransactionNotOwnedError):
            finish(connection)
        assert len(calls) == 1
        reader.unlock()
        connection.rollback()
    assert balances(journal_engine) == [100, 100]


def test_run_at_a_busy_commit(journal_engine, reader):
    calls = []

    def work(session):
        unlock_after(reader, calls)
        pay(session)

    run(work, session_factory=sessionmaker(journal_engine), **QUICK)
    assert balances(journal_engine) == [90, 90]


@pytest.mark.parametrize("unit_kind", ["function", "run"])
def test_busy_at_commit_in_asyncio(journal_engine, reader, unit_kind):
    calls = []
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{journal_engine.url.database}",
        connect_args={"timeout": 0},
        pool_size=1,
        max_overflow=0,
    )

    async def work(session):
        unlock_after(reader, calls)
        await session.run_sync(pay)

    @retry_on_deadlock(**QUICK)
    async def unit():
        async with AsyncSession(engine) as session:
            await work(session)
            await session.commit()

    async def main():
        if unit_kind == "function":
            await unit()
        else:
            await run(work, session_factory=async_sessionmaker(engine), **QUICK)
        await engine.dispose()

    asyncio.run(main())
    assert len(calls) == 3
    assert balances(journal_engine) == [90, 90]


def test_busy_at_begin(path, neighbour):
    engine = sa.create_engine(
        f"sqlite:///{path}", connect_args={"timeout": 0, "isolation_level": None}
    )

    @sa.event.listens_for(engine, "begin")
    def begin(connection):
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    calls = []
    neighbour.lock()

    @retry_on_deadlock(**QUICK)
    def transfer():
        unlock_after(neighbour, calls)
        with Session(engine) as session, session.begin():
            move(session)

    transfer()
    assert len(calls) == 3
    assert balances(engine) == [90, 110]
    engine.dispose()


def test_a_stale_snapshot_is_read_anew(engine, neighbour):
    seen, codes = [], []

    @retry_on_deadlock(**QUICK)
    def double(name):
        with Session(engine) as session:
            account = session.get(Account, 1)
            seen.append(account.balance)
            if len(seen) == 1:
                neighbour.run("UPDATE account SET balance = 30 WHERE id = 1")
            account.balance *= 2
            try:
                session.commit()
            except OperationalError as error:
                codes.append(code_of(error, 517))
                raise

    double("x")
    assert (seen, codes) == ([100, 30], [517])
    assert balances(engine) == [60, 100]


def test_exhausted_it_is_the_drivers_own_error(engine, neighbour):
    neighbour.lock()

    @retry_on_deadlock(deadline=0.2, **QUICK)
    def transfer():
        with Session(engine) as session, session.begin():
            move(session)

    began = time.monotonic()
    with pytest.raises(OperationalError) as caught:
        transfer()
    assert time.monotonic() - began < 5
    assert type(caught.value) is OperationalError
    assert caught.value.__notes__[0].endswith("(contention)")
    neighbour.unlock()
    assert balances(engine) == [100, 100]


class Own(DeclarativeBase):
    pass


class Versioned(Own):
    __tablename__ = "versioned"
    id: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[int]
    version: Mapped[int] = mapped_column()
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012


@pytest.mark.parametrize("decorate", [retry_on_deadlock, retry(on=StaleDataError, **QUICK)])
def test_a_version_counter_that_was_overtaken_is_read_anew(tmp_path, decorate):
    # Python's sqlite3 begins a transaction at the first write: what was read before may change.
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'versions.db'}")
    Own.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add(Versioned(id=1, value=1))
    calls = []

    @decorate
    def double():
        calls.append(1)
        with Session(engine) as session, session.begin():
            row = session.get(Versioned, 1)
            if len(calls) == 1:
                with engine.begin() as other:
                    other.execute(sa.update(Versioned).values(value=10, version=9))
            row.value *= 2

    double()
    assert len(calls) == 2
    with Session(engine) as session:
        assert session.get(Versioned, 1).value == 20
    engine.dispose()


def test_the_error_in_a_foreign_transaction_pickles_and_keeps_what_it_had(engine, neighbour):
    with Session(engine) as session:
        session.get(Account, 1)
        neighbour.lock()
        with pytest.raises(OperationalError) as caught:
            retry_on_deadlock(
                lambda session: session.execute(sa.update(Account).values(balance=1))
            )(session)
        neighbour.unlock()
    error = caught.value
    again = pickle.loads(pickle.dumps(error))
    for one in (error, again):
        assert isinstance(one, TransactionNotOwnedError)
        assert isinstance(one, OperationalError)
        assert "UPDATE account" in one.statement
        assert code_of(one, 5) == 5
        assert str(one).startswith("(sqlite3.OperationalError) database is locked")
        assert "not retried" in one.__notes__[0]
    assert error.__cause__ is error.orig


def test_run_opens_a_session_for_each_attempt(engine, neighbour):
    calls, made = [], []
    neighbour.lock()
    maker = sessionmaker(engine)

    def factory():
        made.append(maker())
        return made[-1]

    def transfer(session):
        unlock_after(neighbour, calls)
        move(session)
        return session

    assert run(transfer, session_factory=factory, **QUICK) is made[2]
    assert len(made) == 3
    assert not any(session.in_transaction() for session in made)
    assert balances(engine) == [90, 110]
    with Session(engine) as mine:
        mine.get(Account, 1)
        with pytest.raises(TransactionNotOwnedError):
            run(transfer, session_factory=lambda: mine)


def test_sessions_of_other_threads_are_left_alone(engine, neighbour):
    kept, ready, over = [], threading.Event(), threading.Event()
    calls = []
    neighbour.lock()

    def other():
        with Session(engine) as session:
            session.add(Account(id=9, balance=1))
            kept.append(session)
            ready.set()
            over.wait(20)
            session.rollback()

    thread = threading.Thread(target=other)

    @retry_on_deadlock(**QUICK)
    def transfer():
        if not calls:
            thread.start()
            assert ready.wait(10)
        unlock_after(neighbour, calls)
        with Session(engine) as session, session.begin():
            move(session)

    transfer()
    assert kept[0].in_transaction()
    assert len(kept[0].new) == 1
    over.set()
    thread.join()
    assert balances(engine) == [90, 110]


def test_asyncio(engine, async_engine, neighbour):
    calls, kept = [], []
    neighbour.lock()

    @retry_on_deadlock(**QUICK)
    async def transfer(leave_open):
        unlock_after(neighbour, calls)
        session = AsyncSession(async_engine)
        kept.append(session)
        try:
            await session.run_sync(move)
            await session.commit()
        finally:
            if not leave_open:
                await session.close()

    async def main():
        await transfer(False)
        calls.clear()
        neighbour.lock()
        await transfer(True)
        assert [session.in_transaction() for session in kept] == [False] * 6
        for session in kept:
            await session.close()

    asyncio.run(main())
    assert balances(engine) == [80, 120]


@pytest.mark.parametrize("how", ["argument", "sync_argument", "registry"])
def test_asyncio_in_the_callers_transaction(engine, async_engine, neighbour, how):
    calls = []

    async def main():
        scoped = async_scoped_session(
            async_sessionmaker(async_engine), scopefunc=asyncio.current_task
        )
        session = scoped()
        await session.get(Account, 1)
        neighbour.lock()

        async def pay(given):
            calls.append(1)
            await session.execute(sa.update(Account).values(balance=5))

        given = {"argument": session, "sync_argument": session.sync_session, "registry": scoped}
        with pytest.raises(TransactionNotOwnedError):
            await retry_on_deadlock(**QUICK)(pay)(given[how])
        assert session.in_transaction()
        neighbour.unlock()
        await scoped.remove()

    asyncio.run(main())
    assert len(calls) == 1


def test_a_unit_below_run_sync_joins_the_coroutine_that_awaits_it(engine, async_engine, neighbour):
    calls, outside, kinds = [], [], []
    neighbour.lock()

    @retry_on_deadlock(**QUICK)
    def inner(session):
        unlock_after(neighbour, calls)
        move(session)
        session.flush()

    @retry_on_deadlock(**QUICK)
    async def outer():
        outside.append(1)
        async with AsyncSession(async_engine) as session, session.begin():
            try:
                await session.run_sync(inner)
            except OperationalError as error:
                kinds.append(type(error))
                raise

    asyncio.run(outer())
    assert kinds == [OperationalError] * 2
    assert (len(outside), len(calls)) == (3, 3)
    assert balances(engine) == [90, 110]


def test_a_unit_below_run_sync_sleeps_in_the_loop(engine, async_engine, neighbour):
    calls, ticks = [], []
    neighbour.lock()

    @retry_on_deadlock(initial_delay=0.2, max_delay=0.2, jitter="none")
    def pay(session):
        unlock_after(neighbour, calls, 2)
        move(session)
        session.commit()

    async def tick():
        while True:
            ticks.append(time.monotonic())
            await asyncio.sleep(0.01)

    async def main():
        ticking = asyncio.ensure_future(tick())
        async with AsyncSession(async_engine) as session:
            await session.run_sync(pay)
        ticking.cancel()

    asyncio.run(main())
    assert sum(calls[0] < tick < calls[1] for tick in ticks) > 3
    assert balances(engine) == [90, 110]


def test_sessions_of_other_tasks_are_left_alone(engine, async_engine, neighbour):
    calls = []

    async def other(ready, over):
        async with AsyncSession(async_engine) as session:
            session.add(Account(id=9, balance=1))
            assert session.in_transaction()
            ready.set()
            await over.wait()
            assert session.in_transaction()
            assert len(session.new) == 1

    async def main():
        ready, over = asyncio.Event(), asyncio.Event()
        tasks = []

        @retry_on_deadlock(**QUICK)
        async def transfer():
            if not tasks:
                tasks.append(asyncio.ensure_future(other(ready, over)))
                await ready.wait()
                neighbour.lock()
            unlock_after(neighbour, calls)
            async with AsyncSession(async_engine) as session, session.begin():
                await session.run_sync(move)

        await transfer()
        over.set()
        await tasks[0]

    asyncio.run(main())
    assert balances(engine) == [90, 110]


def test_run_of_a_coroutine_function(engine, async_engine, neighbour):
    calls = []
    neighbour.lock()

    async def transfer(session):
        unlock_after(neighbour, calls)
        await session.run_sync(move)
        return "done"

    assert (
        asyncio.run(run(transfer, session_factory=async_sessionmaker(async_engine), **QUICK))
        == "done"
    )
    assert balances(engine) == [90, 110]


def test_a_cancelled_unit_is_not_run_again(engine, async_engine, neighbour):
    calls = []

    @retry_on_deadlock(**QUICK)
    async def transfer():
        calls.append(1)
        async with AsyncSession(async_engine) as session, session.begin():
            await session.run_sync(move)
            await asyncio.sleep(60)

    async def main():
        task = asyncio.ensure_future(transfer())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert len(calls) == 1
    assert balances(engine) == [100, 100]


def test_a_session_that_another_thread_has_begun_meanwhile_is_not_the_units(engine, neighbour):
    calls = []
    with Session(engine) as session:

        @retry_on_deadlock(**QUICK)
        def unit():
            calls.append(1)
            thread = threading.Thread(target=lambda: session.add(Account(id=9, balance=1)))
            thread.start()
            thread.join()
            neighbour.lock()
            session.flush()

        with pytest.raises(TransactionNotOwnedError) as caught:
            unit()
        neighbour.unlock()
    assert len(calls) == 1
    assert "another thread or task" in caught.value.__notes__[0]


def test_a_session_that_cannot_roll_back_loses_its_connection(engine, neighbour):
    calls, made = [], []
    neighbour.lock()

    class Broken(Session):
        def rollback(self):
            raise OperationalError("ROLLBACK", {}, sqlite3.OperationalError("gone"))

    @retry_on_deadlock(**QUICK)
    def unit():
        unlock_after(neighbour, calls)
        made.append(Broken(engine, autoflush=False))
        pay(made[-1])
        made[-1].commit()

    unit()
    assert not any(session.in_transaction() for session in made)
    assert balances(engine) == [90, 90]


@pytest.mark.parametrize("begun", [False, True])
def test_flask_sqlalchemy(tmp_path, begun):
    """`db.session` is a global: a view owns its transaction unless something before it used it."""
    from flask import Flask
    from flask_sqlalchemy import SQLAlchemy

    path = tmp_path / "flask.db"
    make_file(path).dispose()
    neighbour = Neighbour(path)
    app = Flask("shop")
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{path}"
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"connect_args": {"timeout": 0}}
    db = SQLAlchemy(app)
    calls, failures = [], []

    @app.before_request
    def who_is_it():
        if begun:
            db.session.get(Account, 1)

    @app.post("/pay")
    @retry_on_deadlock(**QUICK)
    def view():
        unlock_after(neighbour, calls)
        pay(db.session)
        db.session.commit()
        return "paid"

    @app.errorhandler(OperationalError)
    def failed(error):
        failures.append(error)
        return "busy", 503

    neighbour.lock()
    answer = app.test_client().post("/pay")
    if begun:
        assert (answer.status_code, len(calls)) == (503, 1)
        assert isinstance(failures[0], TransactionNotOwnedError)
        neighbour.unlock()
    else:
        assert (answer.status_code, len(calls)) == (200, 3)
    with app.app_context():
        assert balances(db.engine) == ([100, 100] if begun else [90, 90])
        db.engine.dispose()
    neighbour.close()


def test_nothing_is_kept_of_sessions_that_have_ended(engine):
    retry_on_deadlock(lambda: None)
    gc.collect()
    before = len(sessions._here.transactions)
    for _ in range(8):
        with Session(engine) as session:
            session.get(Account, 1)
        session = Session(engine)
        session.get(Account, 1)
        del session
        gc.collect()
    assert len(sessions._here.transactions) == before


LATE = """
import sqlite3, sys
from turnwise.units import retry_on_deadlock
assert "sqlalchemy" not in sys.modules
calls = []

def fail(session):
    import sqlalchemy as sa
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = 517
    raise sa.exc.OperationalError("UPDATE", {}, error)

class Box:
    session = None

@retry_on_deadlock(initial_delay=0.001)
def unit(box):
    calls.append(1)
    box.session = make()
    box.session.begin()
    if len(calls) < 3:
        fail(box.session)
    return True

kept = []
def make():
    from sqlalchemy.orm import Session
    kept.append(Session())
    return kept[-1]

assert unit(Box())
assert [session.in_transaction() for session in kept] == [False, False, True]
calls.clear()
mine = make()
mine.begin()

@retry_on_deadlock(initial_delay=0.001)
def given(session):
    calls.append(1)
    fail(session)

try:
    given(mine)
except Exception as error:
    print(type(error).__name__, len(calls), mine.in_transaction())
"""


LATE_CALLER = """
import sqlite3
from turnwise.units import retry_on_deadlock
calls = []

@retry_on_deadlock(initial_delay=0.001)
def unit(session):
    calls.append(1)
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = 517
    raise error

from sqlalchemy.orm import Session
session = Session()
session.begin()
try:
    unit(session)
except Exception as error:
    print(type(error).__name__, len(calls), session.in_transaction())
"""


@pytest.mark.parametrize("script", ["LATE", "LATE_CALLER"])
def test_sqlalchemy_may_be_loaded_after_the_decorator_was_used(script):
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-c", globals()[script]], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("TransactionNotOwnedError 1 True\n", 0), done.stderr
