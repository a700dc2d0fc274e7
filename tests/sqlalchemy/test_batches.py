"""Batches: what lands, what is reported, and that nothing is lost, counted twice or repeated blindly."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import sqlite3
import threading

import pytest
from sqlalchemy import create_engine, event, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from contention_models import ASYNC, SYNC, Account, Entry, tables, url_of
from proxy import AFTER, BEFORE
from turnwise import errors
from turnwise.sqlalchemy.batch_report import BatchReport
from turnwise.sqlalchemy.batches import batch_commit_with_retry
from turnwise.units import run

SERVERS = ("postgresql", "mariadb")
QUICK = {"initial_delay": 0.01, "deadline": 20.0}


def add(session, number):
    session.add(Account(id=number))


@pytest.fixture
def factory(tmp_path):
    with tables(tmp_path / "app.db") as engine:
        yield sessionmaker(engine)


def stored(factory):
    with factory() as session:
        return list(session.scalars(select(Account.id).order_by(Account.id)))


def test_each_batch_is_a_transaction_and_a_session(factory):
    sessions, shown = [], []

    def note(session, number):
        sessions.append(session)
        add(session, number)

    report = batch_commit_with_retry(
        range(10), note, 4, session_factory=factory, progress=lambda *done: shown.append(done)
    )
    assert tuple(report) == (10, 0)
    assert (report.batches, report.attempts) == (3, 3)
    assert (report.failures, report.in_doubt, report.remaining) == ([], [], [])
    assert len({id(session) for session in sessions}) == 3
    assert shown == [(4, 10), (8, 10), (10, 10)]
    assert stored(factory) == list(range(10))


def test_items_come_in_the_order_of_their_keys(factory):
    seen = []

    def order(items, **settings):
        seen.clear()
        batch_commit_with_retry(
            items, lambda _, item: seen.append(item), 2, session_factory=factory, **settings
        )
        return list(seen)

    assert order([3, 1, 2, 1]) == [1, 1, 2, 3]
    assert order(iter([3, 1, 2, 1])) == [1, 3, 1, 2]  # Within each batch.
    assert order([3, 1, 2], key=None) == [3, 1, 2]
    assert order([3, 1, 2], key=lambda item: -item) == [3, 2, 1]
    assert order([{"id": 2}, {"id": 1}]) == [{"id": 1}, {"id": 2}]
    assert order([{"id": 2}, {"id": 1}], key=Account) == [{"id": 1}, {"id": 2}]
    detached, other = Account(id=7), Account(id=5)
    assert order([detached, other, new := Account()]) == [other, detached, new]
    for unordered in ([object(), object()], [{"name": "a"}], [1, "one"]):
        with pytest.raises(errors.UnsupportedUnitError, match="key="):
            order(unordered)


@pytest.mark.parametrize("flushes", [True, False])
@pytest.mark.parametrize("bad", [{3}, {0, 9}, {4, 5}, set(range(10)), {0, 1, 2, 7}])
def test_poisoned_items_fail_alone(factory, bad, flushes):
    batch_commit_with_retry(bad, add, session_factory=factory)
    report = batch_commit_with_retry(
        range(10),
        lambda session, number: (add(session, number), flushes and session.flush()),
        8,
        session_factory=factory,
    )
    assert tuple(report) == (10 - len(bad), len(bad))
    assert {failure.item for failure in report.failures} == bad
    assert all(failure.index == failure.item for failure in report.failures)
    assert all(isinstance(failure.error, IntegrityError) for failure in report.failures)
    assert {failure.verdict.constraint.kind for failure in report.failures} == {"unique"}
    assert report.remaining == report.in_doubt == []
    assert stored(factory) == list(range(10))


def test_an_error_of_the_application_is_the_item_s_own(factory):
    def fussy(session, number):
        if number == 5:
            raise ValueError("five")
        add(session, number)

    report = batch_commit_with_retry(range(10), fussy, session_factory=factory)
    ((failure),) = report.failures
    assert (failure.item, str(failure.error), failure.verdict.rule) == (
        5,
        "five",
        "default.foreign",
    )
    assert stored(factory) == [0, 1, 2, 3, 4, 6, 7, 8, 9]


def test_an_interruption_leaves_its_report_and_the_rest_can_be_done(factory):
    def interrupted(session, number):
        if number == 7:
            raise KeyboardInterrupt
        add(session, number)

    with pytest.raises(KeyboardInterrupt) as caught:
        batch_commit_with_retry(range(20), interrupted, 5, session_factory=factory)
    report = BatchReport.of(caught.value)
    assert tuple(report) == (5, 0)
    assert report.remaining == list(range(5, 20))
    assert report.in_doubt == []
    again = batch_commit_with_retry(report.remaining, add, 5, session_factory=factory)
    assert again.processed == 15
    assert stored(factory) == list(range(20))


def test_an_iterator_can_be_resumed(factory):
    def items():
        for number in range(100):
            if number == 8:
                raise OSError("the feed broke")
            yield number

    with pytest.raises(OSError, match="feed") as caught:
        batch_commit_with_retry(items(), add, 5, session_factory=factory)
    report = BatchReport.of(caught.value)
    assert (report.processed, report.remaining) == (5, [5, 6, 7])


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_whatever_ends_commit_leaves_it_in_doubt(factory, kind):
    """A listener raises once the driver has committed: nobody may repeat that."""

    class Ended(Session):
        pass

    @event.listens_for(Ended, "after_commit")
    def end(session):
        raise kind

    with pytest.raises(kind) as caught:
        batch_commit_with_retry(
            range(5), add, 2, session_factory=sessionmaker(factory.kw["bind"], class_=Ended)
        )
    report = BatchReport.of(caught.value)
    assert (report.processed, report.failed) == (0, 0)
    assert (report.in_doubt, report.remaining) == ([0, 1], [2, 3, 4])
    assert stored(factory) == [0, 1]


def test_a_commit_inside_of_fn_that_is_in_doubt_is_in_doubt(factory):
    def lose(session, number):
        if number == 3:
            raise errors.CommitOutcomeUnknownError("the answer is lost")
        add(session, number)

    with pytest.raises(errors.CommitOutcomeUnknownError) as caught:
        batch_commit_with_retry(range(6), lose, 2, session_factory=factory)
    report = BatchReport.of(caught.value)
    assert (tuple(report), report.in_doubt, report.remaining) == ((2, 0), [2, 3], [4, 5])


def test_a_commit_that_was_refused_is_not_in_doubt(factory):
    """SQLite cannot commit while another reads, in a rollback journal."""
    impatient = create_engine(factory.kw["bind"].url, connect_args={"timeout": 0})
    with factory() as reader:
        reader.execute(text("BEGIN"))
        reader.scalars(select(Account)).all()
        with pytest.raises(OperationalError, match="locked") as caught:
            batch_commit_with_retry(
                range(4), add, 2, session_factory=sessionmaker(impatient), deadline=0.3
            )
    report = BatchReport.of(caught.value)
    assert (tuple(report), report.in_doubt, report.remaining) == ((0, 0), [], [0, 1, 2, 3])
    assert stored(factory) == []
    impatient.dispose()


def test_fn_that_rolls_back_takes_no_other_item_along(factory):
    add_once(factory, 3)

    def merge(session, number):
        try:
            add(session, number)
            session.flush()
        except IntegrityError:
            session.rollback()

    report = batch_commit_with_retry(range(6), merge, session_factory=factory)
    assert tuple(report) == (6, 0)
    assert stored(factory) == list(range(6))


def add_once(factory, number):
    with factory() as session, session.begin():
        add(session, number)


def test_objects_of_another_session_are_refused_before_anything_is_done(factory):
    batch_commit_with_retry([1, 2], add, session_factory=factory)
    with factory() as session:
        mine = session.get(Account, 2)
        with pytest.raises(errors.UnsupportedUnitError, match="item 1, of Account, belongs"):
            batch_commit_with_retry([Account(id=3), mine], lambda *_: None, session_factory=factory)
        mine.balance = 5
        session.expunge(mine)
    with pytest.raises(errors.UnsupportedUnitError, match="has changes"):
        batch_commit_with_retry([mine], lambda *_: None, session_factory=factory)
    assert stored(factory) == [1, 2]


def test_a_new_object_does_not_keep_the_key_of_a_failed_attempt(factory):
    given = []

    def race(session, entry):
        assert entry.id is None
        session.add(entry)
        session.flush()
        given.append(entry.id)
        if len(given) == 1:
            raise stale()

    batch_commit_with_retry([1], add, session_factory=factory)
    entry = Entry(name="mine")
    report = batch_commit_with_retry([entry], race, session_factory=factory, **QUICK)
    assert (report.processed, report.attempts, len(given)) == (1, 2, 2)
    with factory() as session:
        assert session.scalars(select(Entry.name)).all() == ["mine"]


def test_an_object_that_run_is_given_is_written_by_the_second_attempt(factory):
    entry, attempts = Entry(name="mine"), []

    def put(session):
        session.add(entry)
        session.flush()
        attempts.append(session)
        if len(attempts) == 1:
            raise stale()

    run(put, session_factory=factory, **QUICK)
    with factory() as session:
        assert session.scalars(select(Entry.name)).all() == ["mine"]
    assert len(attempts) == 2


def stale():
    """What SQLAlchemy raises where SQLite has a snapshot that can never write."""
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = 517
    return OperationalError("INSERT", None, error)


def test_settings_are_checked(factory):
    with pytest.raises(TypeError, match="atempts"):
        batch_commit_with_retry([1], add, session_factory=factory, atempts=3)
    with pytest.raises(errors.InvalidPolicyError):
        batch_commit_with_retry([1], add, session_factory=factory, max_attempts=0)
    for wrong in (0, 2.5, "5"):
        with pytest.raises(errors.InvalidSettingError, match="batch_size"):
            batch_commit_with_retry([1], add, wrong, session_factory=factory)
    for wrong in (None, lambda item: None):
        with pytest.raises(TypeError, match="fn is"):
            batch_commit_with_retry([1], wrong, session_factory=factory)
    with factory() as session, pytest.raises(TypeError, match="session_factory"):
        batch_commit_with_retry([1], add, session_factory=session)

    def generator(session, item):
        yield

    with pytest.raises(errors.UnsupportedUnitError, match="generator"):
        batch_commit_with_retry([1], generator, session_factory=factory)


def test_no_item_is_to_blame_for_a_session_that_cannot_be_made(factory):
    made = []

    def failing():
        if made:
            raise RuntimeError("no more sessions")
        made.append(factory())
        return made[0]

    with pytest.raises(RuntimeError, match="no more") as caught:
        batch_commit_with_retry([1, 2, 3, 4], add, 2, session_factory=failing)
    report = BatchReport.of(caught.value)
    assert (tuple(report), report.remaining) == ((2, 0), [3, 4])


async def aadd(session, number):
    session.add(Account(id=number))


def forgetful(session, number):
    return aadd(session, number)


@pytest.mark.parametrize(
    ("fn", "is_async"),
    [(add, True), (aadd, False), (forgetful, False)],
)
def test_what_would_commit_nothing_is_no_success(tmp_path, factory, fn, is_async):
    """A coroutine that nobody awaits writes nothing, neither that of `fn` nor that of COMMIT."""
    if is_async:
        factory = async_sessionmaker(create_async_engine(url_of(tmp_path / "app.db", ASYNC)))

    def each(session):
        return fn(session, 9)

    async def aeach(session):
        return await fn(session, 9)

    async def scenario(call):
        return await call if inspect.isawaitable(call) else call

    with pytest.raises(errors.UnsupportedUnitError, match="async"):
        asyncio.run(
            scenario(run(aeach if fn is aadd else each, session_factory=factory, max_attempts=1))
        )
    with pytest.raises(errors.UnsupportedUnitError, match="async") as caught:
        asyncio.run(scenario(batch_commit_with_retry([1, 2], fn, session_factory=factory)))
    report = BatchReport.of(caught.value)
    assert (tuple(report), report.remaining) == ((0, 0), [1, 2])


def pay(session, number):
    session.execute(update(Account).where(Account.id == number).values(balance=Account.balance + 1))


def balances(engine):
    with engine.connect() as connection:
        return connection.execute(
            select(func.min(Account.balance), func.max(Account.balance))
        ).one()


def accounts(count):
    return insert(Account).values([{"id": number, "balance": 0} for number in range(count)])


def crossing(engine, runs):
    """Run these at once, each with its own idea of the order of ten accounts."""
    factory, failed, reports = sessionmaker(engine), [], []

    def work(items, settings):
        try:
            for _ in range(5):
                report = batch_commit_with_retry(items, pay, session_factory=factory, **settings)
                reports.append(report)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=run) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failed, reports


def test_sorted_batches_cannot_deadlock_and_unsorted_ones_are_repeated(database):
    up, down = list(range(10)), list(range(9, -1, -1))
    with tables(database, accounts(10)) as engine:
        failed, reports = crossing(engine, [(up, {}), (down, {})] * 2)
        assert failed == []
        assert sum(report.attempts for report in reports) == 20
        assert balances(engine) == (20, 20)
        kept = {"key": None, "max_attempts": 50, **QUICK}
        failed, reports = crossing(engine, [(up, kept), (down, kept)] * 2)
        assert failed == []
        assert sum(report.attempts for report in reports) >= 20
        assert balances(engine) == (40, 40)


def test_a_forced_deadlock_is_healed_and_counted_once(database):
    with tables(database, accounts(4)) as engine:
        barrier, first = threading.Barrier(2, timeout=30), iter([True, True])

        def meet(session, number):
            pay(session, number)
            if next(first, False):
                barrier.wait()

        reports = []

        def work(items):
            factory = sessionmaker(engine)
            reports.append(
                batch_commit_with_retry(items, meet, key=None, session_factory=factory, **QUICK)
            )

        threads = [threading.Thread(target=work, args=(items,)) for items in ([1, 2], [2, 1])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [tuple(report) for report in reports] == [(2, 0), (2, 0)]
        assert sum(report.attempts for report in reports) == 3
        with engine.connect() as connection:
            assert connection.scalars(select(Account.balance).order_by(Account.id)).all() == [
                0,
                2,
                2,
                0,
            ]


def test_a_lock_that_stays_taken_is_no_poison(database):
    impatient = {
        "postgresql": "SET lock_timeout = '100ms'",
        "mariadb": "SET innodb_lock_wait_timeout = 0",
    }
    with tables(database, accounts(6)) as engine:
        factory = sessionmaker(engine)

        def hurry(session, number):
            session.execute(text(impatient[database.dialect]))
            pay(session, number)

        with engine.connect() as other:
            other.execute(update(Account).where(Account.id == 3).values(balance=0))
            with pytest.raises(DBAPIError) as caught:
                batch_commit_with_retry(
                    range(6), hurry, 2, session_factory=factory, max_attempts=2, deadline=0.5
                )
            other.rollback()
        report = BatchReport.of(caught.value)
        assert (tuple(report), report.remaining, report.in_doubt) == ((2, 0), [2, 3, 4, 5], [])
        assert any("gave up" in note for note in caught.value.__notes__)
        batch_commit_with_retry(report.remaining, pay, session_factory=factory)
        assert balances(engine) == (1, 1)


def test_a_connection_that_is_lost_before_commit_is_no_poison(database, proxy):
    with tables(database, accounts(6)) as engine:
        cut = create_engine(proxy.url(database.url(SYNC[database.dialect])))
        try:

            def lose(session, number):
                pay(session, number)
                if number == 4:
                    proxy.cut_all()
                    session.execute(select(1))

            with pytest.raises(DBAPIError) as caught:
                batch_commit_with_retry(
                    range(6), lose, 3, session_factory=sessionmaker(cut), **QUICK
                )
            report = BatchReport.of(caught.value)
            assert (tuple(report), report.remaining, report.in_doubt) == ((3, 0), [3, 4, 5], [])
            assert report.attempts == 1 + 3
            assert balances(engine) == (0, 1)
        finally:
            cut.dispose()


@pytest.mark.parametrize("mode", [BEFORE, AFTER])
def test_a_commit_in_doubt_is_reported_and_never_repeated(database, proxy, mode):
    with tables(database, accounts(6)) as engine:
        cut = create_engine(proxy.url(database.url(SYNC[database.dialect])))
        counter = itertools.count()

        def work(session, number):
            if next(counter) == 2:
                proxy.cut_next_commit(mode)
            pay(session, number)

        try:
            with pytest.raises(errors.CommitOutcomeUnknownError) as caught:
                batch_commit_with_retry(range(6), work, 2, session_factory=sessionmaker(cut))
            report = BatchReport.of(caught.value)
            assert (tuple(report), report.in_doubt, report.remaining) == ((2, 0), [2, 3], [4, 5])
            with engine.connect() as connection:
                landed = connection.scalar(select(Account.balance).where(Account.id == 2)) == 1
            assert landed == (mode == AFTER)

            asked = []

            def verify(items):
                asked.append(list(items))
                return mode == AFTER

            proxy.cut_next_commit(mode)
            rest = report.remaining + ([] if landed else report.in_doubt)
            report = batch_commit_with_retry(
                rest, pay, session_factory=sessionmaker(cut), verify=verify, **QUICK
            )
            assert (report.processed, asked) == (len(rest), [sorted(rest)])
            assert balances(engine) == (1, 1)
        finally:
            cut.dispose()


@pytest.mark.parametrize("kind", ["sqlite", *SERVERS])
def test_coroutines(kind, request, tmp_path):
    database = (
        tmp_path / "app.db" if kind == "sqlite" else request.getfixturevalue(f"{kind}_database")
    )
    shown, blocked = [], None

    async def apay(session, number):
        if number == 3:
            raise ValueError
        await session.execute(insert(Account).values(id=number, balance=1))

    async def stuck(session, number):
        await session.execute(insert(Account).values(id=number, balance=1))
        if number == 8:
            blocked.set_result(None)
            await asyncio.sleep(60)

    async def show(done, total):
        shown.append((done, total))

    async def scenario():
        nonlocal blocked
        blocked = asyncio.get_running_loop().create_future()
        engine = create_async_engine(url_of(database, ASYNC))
        factory = async_sessionmaker(engine)
        report = await batch_commit_with_retry(
            range(6), apay, 4, session_factory=factory, progress=show
        )
        assert tuple(report) == (5, 1)
        assert report.failures[0].item == 3
        assert shown[-1] == (6, 6)
        task = asyncio.ensure_future(
            batch_commit_with_retry(range(6, 12), stuck, 2, session_factory=factory)
        )
        await blocked
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        await engine.dispose()
        return BatchReport.of(caught.value)

    with tables(database) as engine:
        report = asyncio.run(scenario())
        assert (tuple(report), report.in_doubt, report.remaining) == ((2, 0), [], [8, 9, 10, 11])
        with engine.connect() as connection:
            assert connection.scalars(select(Account.id).order_by(Account.id)).all() == [
                0,
                1,
                2,
                4,
                5,
                6,
                7,
            ]
