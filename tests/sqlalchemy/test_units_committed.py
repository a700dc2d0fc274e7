"""What a unit of work has committed in some other way than by its session's COMMIT is not done again."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from turnwise import BatchReport, batch_commit_with_retry, claim, retry, run
from turnwise.errors import UnsupportedUnitError
from units_support import QUICK, Account, balances, make_file


class LostError(Exception):
    pass


class OtherLostError(Exception):
    pass


@pytest.fixture
def engine(tmp_path):
    engine = make_file(tmp_path / "bank.db")
    yield engine
    engine.dispose()


def credit(engine):
    with Session(engine) as session, session.begin():
        session.get_one(Account, 1).balance += 1


async def credit_in_task(engine):
    credit(engine)


def fail(unit, kind=LostError):
    with pytest.raises(kind) as caught:
        unit()
    return "\n".join(getattr(caught.value, "__notes__", ()))


def test_of_an_event_loop_that_ran_in_it(engine):
    @retry(on=LostError, **QUICK)
    def unit():
        asyncio.run(credit_in_task(engine))
        raise LostError

    assert "has committed" in fail(unit)
    assert balances(engine) == [101, 100]


@pytest.mark.parametrize("way", ["task", "thread", "gather"])
def test_of_a_child(engine, way):
    @retry(on=LostError, **QUICK)
    async def unit():
        if way == "task":
            await asyncio.create_task(credit_in_task(engine))
        elif way == "thread":
            await asyncio.to_thread(credit, engine)
        else:
            await asyncio.gather(credit_in_task(engine), credit_in_task(engine))
        raise LostError

    assert "has committed" in fail(lambda: asyncio.run(unit()))
    assert balances(engine) == [102 if way == "gather" else 101, 100]


def test_a_sibling_is_another_unit(engine):
    attempts = []

    @retry(on=LostError, **QUICK)
    async def failing(wait):
        await wait.wait()
        attempts.append(wait)
        if len(attempts) == 1:
            raise LostError

    async def committing(wait):
        await unit_of_its_own()
        wait.set()

    @retry
    async def unit_of_its_own():
        credit(engine)

    @retry
    async def outer():
        wait = asyncio.Event()
        await asyncio.gather(failing(wait), committing(wait))

    asyncio.run(outer())
    assert len(attempts) == 2


def test_a_unit_that_has_ended_is_none_of_the_next(engine):
    @retry(on=LostError, **QUICK)
    async def unit(is_last, attempts):
        attempts.append(True)
        await asyncio.sleep(0)
        if is_last and len(attempts) == 1:
            raise LostError

    async def main():
        await unit(is_last=False, attempts=[])
        await asyncio.create_task(credit_in_task(engine))
        attempts = []
        await unit(is_last=True, attempts=attempts)
        return len(attempts)

    assert asyncio.run(main()) == 2


@pytest.mark.parametrize("is_closed", [True, False])
@pytest.mark.parametrize("by_engine", [True, False])
def test_in_autocommit(tmp_path, is_closed, by_engine):
    make_file(tmp_path / "bank.db").dispose()
    engine = sa.create_engine(
        f"sqlite:///{tmp_path}/bank.db", **({"isolation_level": "AUTOCOMMIT"} if by_engine else {})
    )
    opened = []

    @retry(on=LostError, **QUICK)
    def unit():
        session = Session(engine.execution_options(isolation_level="AUTOCOMMIT"))
        opened.append(session)
        session.get_one(Account, 1).balance += 1
        session.flush()
        if is_closed:
            session.close()
        raise LostError

    assert "not retried" in fail(unit)
    opened[0].close()
    assert balances(engine) == [101, 100]
    engine.dispose()


def test_by_a_listener_that_fails_after_commit(engine):
    def audit(session):
        raise LostError

    @retry(on=LostError, **QUICK)
    def unit():
        credit(engine)

    sa.event.listen(Session, "after_commit", audit)
    try:
        assert "has committed" in fail(unit)
    finally:
        sa.event.remove(Session, "after_commit", audit)
    assert balances(engine) == [101, 100]


@pytest.mark.parametrize("in_run", [True, False])
def test_in_one_of_two_databases(tmp_path, in_run):
    """Which of them is first, SQLAlchemy leaves open."""
    engines = [make_file(tmp_path / f"{number}.db", journal="delete") for number in (1, 2)]

    class Both(Session):
        pass

    def work(session):
        for one in engines:
            session.execute(
                sa.update(Account).values(balance=Account.balance + 1).where(Account.id == 1),
                bind_arguments={"bind": one},
            )

    @retry(**QUICK)
    def unit():
        with Both() as session:
            work(session)
            session.commit()

    for reader_of in (1, 2) * 4:
        reader = sqlite3.connect(tmp_path / f"{reader_of}.db", isolation_level=None)
        attempts = []

        def count(session, reader=reader, attempts=attempts):
            attempts.append(session)
            if len(attempts) == 2:
                reader.execute("COMMIT")

        sa.event.listen(Both, "before_commit", count)
        before = [balances(one)[0] for one in engines]
        with contextlib.closing(reader):
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM account").fetchall()
            with contextlib.suppress(OperationalError):
                run(work, session_factory=Both, **QUICK) if in_run else unit()
        sa.event.remove(Both, "before_commit", count)
        after = [balances(one)[0] for one in engines]
        assert all(now - was <= 1 for now, was in zip(after, before, strict=True))
    for one in engines:
        one.dispose()


def test_by_the_function_of_a_batch(engine):
    def function(session, item):
        if item == 3:
            raise LostError
        session.get_one(Account, 1).balance += 1
        session.commit()

    with pytest.raises(LostError) as caught:
        batch_commit_with_retry([1, 2, 3, 4], function, session_factory=sessionmaker(engine))
    report = BatchReport.of(caught.value)
    assert (report.in_doubt, report.remaining) == ([1, 2, 3, 4], [])
    assert balances(engine) == [102, 100]


def test_by_the_function_of_a_batch_that_is_interrupted(engine):
    def function(session, item):
        if item == 2:
            raise KeyboardInterrupt
        session.get_one(Account, 1).balance += 1
        session.commit()

    with pytest.raises(KeyboardInterrupt) as caught:
        batch_commit_with_retry([1, 2], function, session_factory=sessionmaker(engine))
    report = BatchReport.of(caught.value)
    assert (report.in_doubt, report.remaining) == ([1, 2], [])


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_in_the_loop_over_claimed_rows(engine, end):
    seen = []
    sessions = sessionmaker(engine, expire_on_commit=False)
    rows = claim(Account, Account.balance == 100, session_factory=sessions, limit=2)
    with pytest.raises(UnsupportedUnitError, match="was ended in the loop"), rows:
        for row in rows:
            seen.append(row.id)
            assert len(seen) < 9
            row.balance = 0
            getattr(rows.session, end)()
    assert seen == [1]
