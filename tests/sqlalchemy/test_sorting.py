"""Batches whose parameter sets are sorted by key, and those that are left alone."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
import uuid

import pytest
import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from servers import ASYNCHRONOUS, DRIVERS
from turnwise.sqlalchemy import interception, sorting


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "account"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    balance: Mapped[int] = mapped_column(default=0)
    version: Mapped[int] = mapped_column(default=1)

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - read by SQLAlchemy


class Person(Base):
    __tablename__ = "person"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(40), unique=True)
    boss: Mapped[int | None] = mapped_column(sa.ForeignKey("person.id"))
    since: Mapped[dt.datetime | None]
    note: Mapped[str | None] = mapped_column(sa.String(40))


class Seat(Base):
    __tablename__ = "seat"

    row: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    place: Mapped[str] = mapped_column(sa.String(5), primary_key=True)
    taken: Mapped[int] = mapped_column(default=0)


ACCOUNT, PERSON, SEAT = Account.__table__, Person.__table__, Seat.__table__


class Spy:
    """The layer, and what the driver gets through it."""

    def __init__(self):
        self.layer = sorting.layer()
        self.batches = []

    def do_executemany(self, proceed, cursor, statement, parameters, context=None):
        given = parameters

        def run(cursor, statement, parameters, context):
            self.batches.append((parameters, parameters != given))
            return proceed(cursor, statement, parameters, context)

        return self.layer.do_executemany(run, cursor, statement, parameters, context)

    def was_sorted(self):
        ((_, sorted_),) = self.batches
        self.batches.clear()
        return sorted_


def spy_on(engine):
    plain = getattr(engine, "sync_engine", engine)
    spy = Spy()
    interception.add(plain.dialect, "sorting", spy)
    return spy


@pytest.fixture
def engine():
    engine = sa.create_engine("sqlite://")
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


by_id = bindparam("i")
upsert = sqlite.insert(ACCOUNT)
upsert = upsert.on_conflict_do_update(
    index_elements=["id"], set_={"balance": ACCOUNT.c.balance + upsert.excluded.balance}
)
SORTED = {
    "update": (
        ACCOUNT.update().where(ACCOUNT.c.id == by_id),
        [{"i": 2, "balance": 1}, {"i": 1, "balance": 2}],
    ),
    "update with an expression": (
        ACCOUNT.update()
        .where(by_id == ACCOUNT.c.id)
        .values(balance=ACCOUNT.c.balance + bindparam("d")),
        [{"i": 2, "d": 1}, {"i": 1, "d": 2}],
    ),
    "update by more than the key": (
        ACCOUNT.update()
        .where(ACCOUNT.c.id == by_id, ACCOUNT.c.balance > 0)
        .values(balance=bindparam("b")),
        [{"i": 2, "b": 1}, {"i": 1, "b": 2}],
    ),
    "delete": (ACCOUNT.delete().where(ACCOUNT.c.id == by_id), [{"i": 2}, {"i": 1}]),
    "delete by what is no key": (
        ACCOUNT.delete().where(ACCOUNT.c.balance == by_id),
        [{"i": 2}, {"i": 1}],
    ),
    "upsert": (upsert, [{"id": 2, "balance": 1}, {"id": 1, "balance": 1}]),
    "a key of two columns": (
        SEAT.update().where(SEAT.c.place == bindparam("p"), SEAT.c.row == bindparam("r")),
        [{"r": 1, "p": "b", "taken": 1}, {"r": 1, "p": "a", "taken": 2}],
    ),
}


@pytest.mark.parametrize("name", SORTED)
def test_what_is_sorted(engine, name):
    statement, sets = SORTED[name]
    spy = spy_on(engine)
    with engine.begin() as connection:
        connection.execute(statement, sets)
    assert spy.was_sorted()
    with engine.begin() as connection:
        connection.execute(statement, sets[::-1])
    assert not spy.was_sorted(), "it had the order already"


class Odd(Base):
    __tablename__ = "odd"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(40))

    __table_args__ = (sa.Index("odd_name", sa.func.lower(name), unique=True),)


ODD = Odd.__table__
person_upsert = sqlite.insert(PERSON).on_conflict_do_nothing(index_elements=["id"])
by_name = bindparam("n")
ALONE = {
    "insert": (ACCOUNT.insert(), [{"id": 2}, {"id": 1}]),
    "a generated key": (
        sqlite.insert(ODD).on_conflict_do_nothing(),
        [{"name": "b"}, {"name": "a"}],
    ),
    "an upsert beside another unique column": (
        person_upsert,
        [{"id": 2, "name": "b"}, {"id": 1, "name": "a"}],
    ),
    "a unique column is set": (
        PERSON.update().where(PERSON.c.id == by_id).values(name=by_name),
        [{"i": 2, "n": "b"}, {"i": 1, "n": "a"}],
    ),
    "a column of a unique index on an expression is set": (
        ODD.update().where(ODD.c.id == by_id).values(name=by_name),
        [{"i": 2, "n": "b"}, {"i": 1, "n": "a"}],
    ),
    "the key is set": (
        ACCOUNT.update().where(ACCOUNT.c.id == by_id).values(id=by_name),
        [{"i": 2, "n": 5}, {"i": 1, "n": 6}],
    ),
    "what is looked for is set": (
        ACCOUNT.update().where(ACCOUNT.c.balance == by_id).values(balance=by_name),
        [{"i": 2, "n": 1}, {"i": 1, "n": 2}],
    ),
    "rows that refer to each other are deleted": (
        PERSON.delete().where(PERSON.c.id == by_id),
        [{"i": 2}, {"i": 1}],
    ),
    "another row decides": (
        ACCOUNT.update()
        .where(ACCOUNT.c.id == by_id)
        .values(balance=sa.select(sa.func.max(ACCOUNT.c.balance)).scalar_subquery()),
        [{"i": 2}, {"i": 1}],
    ),
    "a function that may count": (
        ACCOUNT.update().where(ACCOUNT.c.id == by_id).values(balance=sa.func.total_changes()),
        [{"i": 2}, {"i": 1}],
    ),
    "no key": (
        ACCOUNT.update().where(ACCOUNT.c.id > by_id).values(balance=by_name),
        [{"i": 2, "n": 1}, {"i": 1, "n": 2}],
    ),
    "either of two keys": (
        ACCOUNT.delete().where(sa.or_(ACCOUNT.c.id == by_id, ACCOUNT.c.balance == by_id)),
        [{"i": 2}, {"i": 1}],
    ),
    "text": (sa.text("UPDATE account SET balance = 1 WHERE id = :i"), [{"i": 2}, {"i": 1}]),
    "values of several types": (
        ACCOUNT.delete().where(ACCOUNT.c.id == by_id),
        [{"i": 2}, {"i": 1.5}],
    ),
    "nothing": (ACCOUNT.delete().where(ACCOUNT.c.id == by_id), [{"i": 2}, {"i": None}]),
    "names that a collation may take for equal": (
        PERSON.update().where(PERSON.c.name == by_name).values(note=bindparam("o")),
        [{"n": "b", "o": ""}, {"n": "a", "o": "1"}, {"n": "A", "o": "2"}],
    ),
    "names beyond ASCII": (
        PERSON.update().where(PERSON.c.name == by_name).values(note=bindparam("o")),
        [{"n": "ß", "o": "1"}, {"n": "a", "o": "2"}],
    ),
    "times, which a server may round": (
        PERSON.update().where(PERSON.c.since == by_name).values(note=bindparam("o")),
        [{"n": dt.datetime(2026, 1, day), "o": ""} for day in (2, 1)],
    ),
}


@pytest.mark.parametrize("name", ALONE)
def test_what_is_left_alone(engine, name):
    statement, sets = ALONE[name]
    spy = spy_on(engine)
    with engine.connect() as connection:
        connection.execute(statement, sets)
    assert not spy.was_sorted()


def test_autocommit_and_whoever_says_so_are_left_alone(engine):
    statement, sets = SORTED["delete"]
    spy = spy_on(engine)
    with engine.connect() as connection:
        connection.execute(statement, sets, execution_options={"turnwise_unsorted": True})
        assert not spy.was_sorted()
        connection.rollback()
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(statement, sets)
        assert not spy.was_sorted()
    autocommit = sa.create_engine("sqlite://", isolation_level="AUTOCOMMIT")
    Base.metadata.create_all(autocommit)
    spy = spy_on(autocommit)
    with autocommit.connect() as connection:
        connection.execute(statement, sets)
        assert not spy.was_sorted()
    autocommit.dispose()


def test_sets_of_one_key_keep_their_order(engine):
    spy = spy_on(engine)
    with Session(engine) as session:
        session.add_all([Account(id=1), Account(id=2)])
        session.flush()
        spy.batches.clear()
        session.connection().execute(
            ACCOUNT.update().where(ACCOUNT.c.id == by_id),
            [
                {"i": 2, "balance": 1},
                {"i": 1, "balance": 5},
                {"i": 2, "balance": 7},
                {"i": 1, "balance": 6},
            ],
        )
        assert spy.was_sorted()
        session.expire_all()
        assert [a.balance for a in session.scalars(sa.select(Account).order_by(Account.id))] == [
            6,
            7,
        ]


def test_uuids_and_days_are_sorted():
    ids = sorted((uuid.uuid4() for _ in range(5)), reverse=True)
    plan = tuple
    assert list(sorting._by_key([(one,) for one in ids], plan)) == [(one,) for one in ids[::-1]]
    days = [dt.date(2026, 1, day) for day in (3, 2, 1)]
    assert list(sorting._by_key([(day,) for day in days], plan)) == [(day,) for day in days[::-1]]
    padded = [(b"b\0",), (b"a",)]
    assert sorting._by_key(padded, plan) is padded


def test_the_units_of_work_of_the_orm_notice_nothing(engine):
    spy = spy_on(engine)
    with Session(engine) as session:
        session.add_all([Account(id=number) for number in range(3)])
        session.add_all([Seat(row=1, place=place) for place in "abc"])
        session.commit()
        spy.batches.clear()
        sets = [{"row": 1, "place": place, "taken": ord(place)} for place in "cab"]
        session.execute(sa.update(Seat), sets)
        assert spy.was_sorted()
        session.commit()
        seats = session.scalars(sa.select(Seat).order_by(Seat.place)).all()
        assert "".join(chr(seat.taken) for seat in seats) == "abc"
        for account in session.scalars(sa.select(Account).order_by(Account.id.desc())):
            account.balance += 10
        session.delete(seats[2])
        session.delete(seats[0])
        session.commit()
        accounts = session.scalars(sa.select(Account)).all()
        assert [(account.balance, account.version) for account in accounts] == [(10, 2)] * 3
        assert session.scalars(sa.select(Seat.place)).all() == ["b"]


def check(connection, dialect, spy):
    connection.execute(ACCOUNT.insert(), [{"id": n, "balance": 0} for n in range(5)])
    spy.batches.clear()
    done = connection.execute(
        ACCOUNT.update().where(ACCOUNT.c.id == by_id).values(balance=bindparam("b")),
        [{"i": n, "b": n * 10} for n in (4, 2, 99, 3)],
    )
    assert spy.was_sorted()
    if connection.dialect.supports_sane_multi_rowcount:
        assert done.rowcount == 3
    insert = postgresql.insert(ACCOUNT) if dialect == "postgresql" else mysql.insert(ACCOUNT)
    if dialect == "postgresql":
        insert = insert.on_conflict_do_update(
            index_elements=["id"], set_={"balance": insert.excluded.balance}
        )
    else:
        insert = insert.on_duplicate_key_update(balance=insert.inserted.balance)
    connection.execute(insert, [{"id": n, "balance": n} for n in (7, 1)])
    assert spy.was_sorted()
    connection.execute(ACCOUNT.delete().where(ACCOUNT.c.id == by_id), [{"i": 3}, {"i": 0}])
    assert spy.was_sorted()
    rows = connection.execute(sa.select(ACCOUNT.c.id, ACCOUNT.c.balance).order_by(ACCOUNT.c.id))
    assert [tuple(row) for row in rows] == [(1, 1), (2, 20), (4, 40), (7, 7)]


@pytest.mark.parametrize("driver", [driver for driver in DRIVERS if driver not in ASYNCHRONOUS])
def test_every_driver_gets_its_sets_sorted(request, driver):
    database = request.getfixturevalue(f"{DRIVERS[driver]}_database")
    engine = sa.create_engine(database.url(driver))
    spy = spy_on(engine)
    ACCOUNT.create(engine)
    with engine.begin() as connection:
        check(connection, database.dialect, spy)
    engine.dispose()


@pytest.mark.parametrize("driver", sorted(ASYNCHRONOUS))
def test_every_driver_of_asyncio_gets_its_sets_sorted(request, driver):
    database = request.getfixturevalue(f"{DRIVERS[driver]}_database")

    async def main():
        engine = create_async_engine(database.url(driver))
        spy = spy_on(engine)
        async with engine.begin() as connection:
            await connection.run_sync(ACCOUNT.create)
            await connection.run_sync(check, database.dialect, spy)
        await engine.dispose()

    asyncio.run(main())


@pytest.mark.parametrize("is_sorted", [True, False])
def test_batches_in_opposite_orders_deadlock_unless_they_are_sorted(database, is_sorted):
    engine = sa.create_engine(database.url(database.server.drivers[0]))
    ACCOUNT.create(engine)
    with engine.begin() as connection:
        connection.execute(ACCOUNT.insert(), [{"id": n, "balance": 0} for n in range(40)])
    if is_sorted:
        interception.add(engine.dialect, "sorting", sorting.layer())
    update = ACCOUNT.update().where(ACCOUNT.c.id == by_id)
    update = update.values(balance=ACCOUNT.c.balance + 1)
    rounds, failed, gate = 15, [], threading.Barrier(2)

    def write(order):
        for _ in range(rounds):
            gate.wait(30)
            try:
                with engine.begin() as connection:
                    connection.execute(update, [{"i": n} for n in order])
            except sa.exc.DBAPIError as error:
                failed.append(error)

    threads = [
        threading.Thread(target=write, args=(order,)) for order in (range(40), range(39, -1, -1))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with engine.connect() as connection:
        total = connection.scalar(sa.select(sa.func.sum(ACCOUNT.c.balance)))
    engine.dispose()
    assert total == 40 * (2 * rounds - len(failed))
    assert (not failed) == is_sorted, f"{len(failed)} deadlocks"
