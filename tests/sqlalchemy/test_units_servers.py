"""Units of work that lose against each other on PostgreSQL and MariaDB."""

from __future__ import annotations

import asyncio
import random
import threading
import time

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from proxy import AFTER, BEFORE, Proxy
from turnwise.classification import classify
from turnwise.errors import CommitOutcomeUnknownError, TransactionNotOwnedError
from turnwise.sqlalchemy.installing import install
from turnwise.units import retry, retry_on_deadlock, run
from units_support import QUICK, Account, Base, balances

SYNC = [
    *(("postgresql", driver) for driver in ("psycopg2", "psycopg", "pg8000")),
    *(
        ("mariadb", driver)
        for driver in ("pymysql", "mysqldb", "mysqlconnector", "mariadbconnector")
    ),
]
# What the forms differ in does not depend on the driver.
FORMS = [
    (kind, driver, form)
    for kind, driver in SYNC
    for form in ("decorated", "run", "left_open")
    if form == "decorated" or driver in ("psycopg2", "pymysql")
]
ASYNC = [
    ("postgresql", "asyncpg"),
    ("postgresql", "psycopg_async"),
    ("mariadb", "aiomysql"),
    ("mariadb", "asyncmy"),
]


def prepared(request, kind, driver):
    database = request.getfixturevalue(f"{kind}_database")
    plain = sa.create_engine(database.url("psycopg2" if kind == "postgresql" else "pymysql"))
    Base.metadata.create_all(plain)
    with plain.begin() as connection:
        connection.execute(
            sa.insert(Account), [{"id": 1, "balance": 100}, {"id": 2, "balance": 100}]
        )
    return database, plain


def add(number, amount):
    return sa.update(Account).where(Account.id == number).values(balance=Account.balance + amount)


@pytest.mark.parametrize(("kind", "driver", "form"), FORMS)
def test_two_transactions_in_opposite_order(request, kind, driver, form):
    database, plain = prepared(request, kind, driver)
    engine = sa.create_engine(database.url(driver))
    meeting = threading.Barrier(2)
    calls, verdicts, failures = [], [], []

    def work(session, first, second, attempts):
        attempts.append(1)
        calls.append(1)
        try:
            session.execute(add(first, -10))
            if len(attempts) == 1:
                meeting.wait(20)
            session.execute(add(second, 10))
        except DBAPIError as error:
            verdicts.append(classify(error).class_)
            raise

    @retry_on_deadlock(**QUICK)
    def decorated(first, second, attempts):
        if form == "left_open":
            session = Session(engine)
            work(session, first, second, attempts)
            session.commit()
            session.close()
        else:
            with Session(engine) as session, session.begin():
                work(session, first, second, attempts)

    def thread(first, second):
        attempts = []
        try:
            if form == "run":
                run(
                    lambda session: work(session, first, second, attempts),
                    session_factory=sessionmaker(engine),
                    **QUICK,
                )
            else:
                decorated(first, second, attempts)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=thread, args=order) for order in ((1, 2), (2, 1))]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    assert failures == []
    assert verdicts[0] == "deadlock"
    assert len(calls) == 2 + len(verdicts)
    assert balances(plain) == [100, 100]
    engine.dispose()
    plain.dispose()


@pytest.mark.parametrize(("kind", "driver"), ASYNC)
def test_two_coroutines_in_opposite_order(request, kind, driver):
    database, plain = prepared(request, kind, driver)
    verdicts = []

    async def main():
        engine = create_async_engine(database.url(driver))
        arrived = []
        meeting = asyncio.Event()

        @retry_on_deadlock(**QUICK)
        async def transfer(first, second, attempts):
            attempts.append(1)
            async with AsyncSession(engine) as session, session.begin():
                await session.execute(add(first, -10))
                if len(attempts) == 1:
                    arrived.append(1)
                    if len(arrived) == 2:
                        meeting.set()
                    await asyncio.wait_for(meeting.wait(), 20)
                try:
                    await session.execute(add(second, 20))
                except DBAPIError as error:
                    verdicts.append(classify(error).class_)
                    raise

        await asyncio.gather(transfer(1, 2, []), transfer(2, 1, []))
        await engine.dispose()

    asyncio.run(main())
    assert verdicts[0] == "deadlock"
    assert balances(plain) == [110, 110]
    plain.dispose()


def snapshot(connection, kind):
    """Give the transaction one view of the data, so that it fails when others change it."""
    if kind == "postgresql":
        connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
    else:
        connection.execute(sa.text("SET innodb_snapshot_isolation=1"))


@pytest.mark.parametrize(
    ("kind", "driver", "code"),
    [
        ("postgresql", "psycopg2", "40001"),
        ("postgresql", "psycopg", "40001"),
        ("mariadb", "pymysql", 1020),
        ("mariadb", "mysqldb", 1020),
    ],
)
def test_a_row_that_another_transaction_has_changed(request, kind, driver, code):
    database, plain = prepared(request, kind, driver)
    engine = sa.create_engine(database.url(driver))
    seen, verdicts = [], []

    @retry_on_deadlock(**QUICK)
    def double():
        with Session(engine) as session, session.begin():
            snapshot(session, kind)
            balance = session.scalar(sa.select(Account.balance).where(Account.id == 1))
            seen.append(balance)
            if len(seen) == 1:
                with plain.begin() as other:
                    other.execute(add(1, 1))
            try:
                session.execute(
                    sa.update(Account).where(Account.id == 1).values(balance=balance * 2)
                )
            except DBAPIError as error:
                verdict = classify(error)
                verdicts.append(
                    (verdict.class_, verdict.sqlstate if kind == "postgresql" else verdict.code)
                )
                raise

    double()
    assert seen == [100, 101]
    assert verdicts == [("serialization", code)]
    assert balances(plain) == [202, 100]
    engine.dispose()
    plain.dispose()


def elsewhere(work):
    """Run in another thread, whose commits are not this unit's."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)


def test_a_serialization_failure_at_commit(request):
    database, plain = prepared(request, "postgresql", "psycopg2")
    engine = sa.create_engine(database.url("psycopg2"), isolation_level="SERIALIZABLE")
    calls, failures = [], []

    def add_total(session, number):
        session.execute(add(number, session.scalar(sa.select(sa.func.sum(Account.balance)))))

    def other():
        with Session(engine) as session, session.begin():
            add_total(session, 2)

    @retry_on_deadlock(**QUICK)
    def note():
        calls.append(1)
        with Session(engine) as session:
            add_total(session, 1)
            if len(calls) == 1:
                elsewhere(other)
            try:
                session.commit()
            except DBAPIError as error:
                failures.append((error.statement, classify(error).sqlstate))
                raise

    note()
    assert failures == [(None, "40001")]
    # As if one had run after the other: 200 to the second account, then 400 to the first.
    assert balances(plain) == [500, 300]
    engine.dispose()
    plain.dispose()


@pytest.mark.parametrize(
    ("kind", "driver", "setting"),
    [
        ("postgresql", "psycopg2", "SET lock_timeout = '100ms'"),
        ("mariadb", "pymysql", "SET innodb_lock_wait_timeout = 1"),
    ],
)
def test_a_lock_that_was_waited_for_too_long(request, kind, driver, setting):
    database, plain = prepared(request, kind, driver)
    engine = sa.create_engine(database.url(driver))
    verdicts = []
    with plain.connect() as other:
        other.execute(add(1, 1))

        @retry_on_deadlock(**QUICK)
        def pay():
            with Session(engine) as session, session.begin():
                session.execute(sa.text(setting))
                session.execute(add(2, 5))
                try:
                    session.execute(add(1, 5))
                except DBAPIError as error:
                    verdicts.append(classify(error).class_)
                    other.commit()
                    raise

        pay()
    assert verdicts == ["contention"]
    assert balances(plain) == [106, 105]
    engine.dispose()
    plain.dispose()


@pytest.mark.parametrize(("kind", "driver"), [("postgresql", "psycopg2"), ("mariadb", "pymysql")])
def test_a_deadlock_in_the_callers_transaction_is_its_own_affair(request, kind, driver):
    database, plain = prepared(request, kind, driver)
    engine = sa.create_engine(database.url(driver))
    held, calls = threading.Event(), []

    def against():
        with plain.connect() as other:
            # MariaDB has the transaction that has written less give way.
            other.execute(
                sa.insert(Account), [{"id": number, "balance": 0} for number in range(9, 40)]
            )
            other.execute(add(2, 1))
            held.set()
            other.execute(add(1, 1))
            other.commit()

    @retry_on_deadlock(**QUICK)
    def inner(session):
        calls.append(1)
        session.execute(add(2, 1))

    thread = threading.Thread(target=against)
    with Session(engine) as session:
        session.execute(add(1, 1))
        thread.start()
        assert held.wait(20)
        # PostgreSQL has the one give way that closes the circle.
        time.sleep(0.3)
        with pytest.raises(DBAPIError) as caught:
            inner(session)
        assert isinstance(caught.value, TransactionNotOwnedError)
        assert classify(caught.value).class_ == "deadlock"
        assert __file__ in caught.value.__notes__[0]
    thread.join(30)
    assert len(calls) == 1
    assert balances(plain)[:2] == [101, 101]
    engine.dispose()
    plain.dispose()


STORM = 6


@pytest.mark.parametrize(("kind", "driver"), [("postgresql", "psycopg2"), ("mariadb", "pymysql")])
def test_many_transfers_at_once_keep_the_sum(request, kind, driver):
    database, plain = prepared(request, kind, driver)
    with plain.begin() as connection:
        connection.execute(
            sa.insert(Account), [{"id": number, "balance": 100} for number in range(3, 7)]
        )
    engine = sa.create_engine(database.url(driver), pool_size=STORM)
    failures, losses = [], []

    @retry_on_deadlock(max_attempts=None, deadline=60, **QUICK)
    def transfer(first, second):
        try:
            with Session(engine) as session, session.begin():
                session.execute(add(first, -1))
                session.execute(add(second, 1))
        except DBAPIError as error:
            losses.append(classify(error).class_)
            raise

    def worker(seed):
        dice = random.Random(seed)
        try:
            for _ in range(30):
                transfer(*dice.sample(range(1, 7), 2))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=worker, args=(seed,)) for seed in range(STORM)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(90)
    assert failures == []
    assert set(losses) <= {"deadlock"}
    expected = dict.fromkeys(range(1, 7), 100)
    for seed in range(STORM):
        dice = random.Random(seed)
        for _ in range(30):
            first, second = dice.sample(range(1, 7), 2)
            expected[first] -= 1
            expected[second] += 1
    assert balances(plain) == [expected[number] for number in range(1, 7)]
    engine.dispose()
    plain.dispose()


def test_run_of_a_coroutine_function_on_postgresql(request):
    database, plain = prepared(request, "postgresql", "asyncpg")
    seen = []

    async def double(session):
        await session.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        seen.append(await session.scalar(sa.select(Account.balance).where(Account.id == 1)))
        if len(seen) == 1:
            with plain.begin() as other:
                other.execute(add(1, 1))
        await session.execute(
            sa.update(Account).where(Account.id == 1).values(balance=seen[-1] * 2)
        )

    async def main():
        engine = create_async_engine(database.url("asyncpg"))
        await run(double, session_factory=async_sessionmaker(engine), **QUICK)
        await engine.dispose()

    asyncio.run(main())
    assert seen == [100, 101]
    assert balances(plain) == [202, 100]
    plain.dispose()


@pytest.mark.parametrize(("kind", "driver"), [("postgresql", "psycopg2"), ("mariadb", "pymysql")])
@pytest.mark.parametrize("mode", [AFTER, BEFORE])
@pytest.mark.parametrize("asks", [True, False])
def test_a_connection_that_is_cut_at_commit(request, kind, driver, mode, asks):
    """Applied once where somebody can tell, and never twice; whatever became of the COMMIT."""
    database, plain = prepared(request, kind, driver)
    calls = []

    def pay(session):
        calls.append(1)
        session.execute(add(1, -10))
        if len(calls) == 1:
            proxy.cut_next_commit(mode)

    def is_done():
        # It commits, which must not count as the unit's own.
        return run(
            lambda session: session.get(Account, 1).balance == 90,
            session_factory=sessionmaker(plain),
        )

    with Proxy(database.server) as proxy:
        engine = sa.create_engine(proxy.url(database.url(driver)))
        if asks:
            run(pay, session_factory=sessionmaker(engine), verify=is_done, **QUICK)
            assert len(calls) == (1 if mode == AFTER else 2)
            assert balances(plain) == [90, 100]
        else:
            with pytest.raises(CommitOutcomeUnknownError) as caught:
                run(pay, session_factory=sessionmaker(engine), **QUICK)
            assert isinstance(caught.value.__cause__, DBAPIError)
            assert len(calls) == 1
            assert balances(plain) == [90 if mode == AFTER else 100, 100]
        engine.dispose()
    plain.dispose()


@pytest.mark.parametrize(("kind", "driver"), [("postgresql", "psycopg2"), ("mariadb", "pymysql")])
def test_a_lost_connection_is_for_retry_alone_and_at_commit_for_nobody(request, kind, driver):
    database, plain = prepared(request, kind, driver)
    with Proxy(database.server) as proxy:
        engine = sa.create_engine(proxy.url(database.url(driver)))

        def unit(calls, moment):
            calls.append(1)
            with Session(engine) as session:
                session.execute(add(1, -10))
                if len(calls) == 1:
                    proxy.cut_all() if moment == "statement" else proxy.cut_next_commit(AFTER)
                session.execute(add(2, 10)) if moment == "statement" else None
                session.commit()

        healed, refused, in_doubt = [], [], []
        retry(**QUICK)(unit)(healed, "statement")
        with pytest.raises(DBAPIError) as caught:
            retry_on_deadlock(**QUICK)(unit)(refused, "statement")
        assert not hasattr(caught.value, "__notes__")
        with pytest.raises(DBAPIError) as caught:
            retry(**QUICK)(unit)(in_doubt, "commit")
        assert caught.value.__notes__ == [
            "turnwise: not retried: it is unknown whether COMMIT took effect"
        ]
        assert (len(healed), len(refused), len(in_doubt)) == (2, 1, 1)
        engine.dispose()
    assert balances(plain) == [80, 110]
    plain.dispose()


@pytest.mark.parametrize("installed", [False, True])
@pytest.mark.parametrize(
    ("kind", "driver", "how"),
    [
        ("mariadb", "pymysql", "two phases"),  # XA COMMIT
        ("mariadb", "pymysql", "statement"),
        ("postgresql", "psycopg2", "statement"),
    ],
)
def test_a_commit_by_another_name_is_not_repeated_either(request, kind, driver, how, installed):
    database, plain = prepared(request, kind, driver)
    calls = []
    with Proxy(database.server) as proxy:
        engine = sa.create_engine(proxy.url(database.url(driver)))
        if installed:
            install(engine)

        @retry(**QUICK)
        def unit():
            calls.append(1)
            with Session(engine, twophase=how == "two phases") as session:
                session.execute(add(1, -10))
                if len(calls) == 1:
                    proxy.cut_next_commit(AFTER)
                if how == "statement":
                    session.execute(sa.text("/* by hand */ COMMIT"))
                else:
                    session.commit()

        with pytest.raises(DBAPIError) as caught:
            unit()
        assert classify(caught.value).is_in_doubt
        engine.dispose()
    assert len(calls) == 1
    assert balances(plain) == [90, 100]
    plain.dispose()
