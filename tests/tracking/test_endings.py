"""Leases that nobody ends, or that end otherwise than by their user: by time, garbage collector, pool."""

from __future__ import annotations

import gc
import threading
import warnings

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import turnwise
from engines import use
from servers import until
from shop import Item
from sightings import IDLE_IN_TRANSACTION, alarms, came_back, codes, is_at, line_of, only

POSTGRESQL = ["psycopg2", "psycopg", "asyncpg"]
DRIVERS = [*POSTGRESQL, "pymysql"]


@pytest.fixture(params=DRIVERS)
def url(request):
    shop = request.getfixturevalue("mariadb_shop" if request.param == "pymysql" else "shop")
    return shop.url(request.param)


def found(code, seconds=10):
    return until(lambda: code in codes(), seconds)


def idle(engine):
    with (
        turnwise.owner("request", "GET /right"),
        Session(engine) as right,
        turnwise.owner("request", "GET /wrong"),
        Session(engine) as wrong,
    ):
        right.get(Item, 1)
        right.commit()
        right.connection()
        wrong.get(Item, 1)  # line: idle
        assert found("idle-in-transaction")


def test_postgresql_knows_that_but_not_who(engine, onlooker):
    with Session(engine) as session:
        session.get(Item, 1)
        assert onlooker.states() == [IDLE_IN_TRANSACTION]


def test_a_transaction_that_waits_for_nothing_is_named(url, watch):
    watch(idle_in_transaction=0.1)
    use(url, idle)
    # The other request is as old, and its transaction has ended.
    assert alarms() == ["idle-in-transaction"]
    finding = only("idle-in-transaction")
    assert (finding.severity, finding.exact) == ("warning", False)
    assert (finding.owner_name, finding.phase) == ("GET /wrong", "running")
    assert finding.state == "idle_in_tx"
    assert finding.age >= 0.1
    assert finding.backend_pid > 0
    assert is_at(finding.opened, line_of(__file__, "idle"))
    assert came_back("idle-in-transaction").age >= finding.age


def test_tasks_may_wait_longer(engine, watch):
    watch(idle_in_transaction=0.05, task_idle_in_transaction=60)
    with Session(engine) as of_task, Session(engine) as of_request:
        with turnwise.owner("task", "recount"):
            of_task.get(Item, 1)
        with turnwise.owner("request", "GET /"):
            of_request.get(Item, 1)
            assert found("idle-in-transaction")
    assert alarms() == ["idle-in-transaction"]
    assert only("idle-in-transaction").owner_name == "GET /"


def test_the_locks_of_a_write_are_named(engine, onlooker, watch):
    rename = sa.update(Item).where(Item.id == 1).values(name="tea")
    watch(lock_held=0.1)
    with (
        turnwise.owner("request", "GET /read"),
        Session(engine) as reader,
        turnwise.owner("request", "PUT /right"),
        Session(engine) as right,
        turnwise.owner("request", "PUT /wrong"),
        Session(engine) as wrong,
    ):
        reader.get(Item, 1)
        right.execute(rename)
        right.rollback()
        right.get(Item, 1)
        wrong.execute(rename)  # line: locks
        pid = wrong.connection().connection.dbapi_connection.info.backend_pid
        waiter = threading.Thread(target=rename_alone, args=(engine, rename))
        waiter.start()
        blockers = (
            "SELECT pg_blocking_pids(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        )
        assert until(lambda: onlooker.rows(blockers) == [([pid],)], 10)
        assert found("lock-held")
    waiter.join(30)
    assert alarms() == ["lock-held"]
    finding = only("lock-held")
    assert (finding.severity, finding.exact) == ("warning", False)
    assert (finding.owner_name, finding.backend_pid) == ("PUT /wrong", pid)
    assert finding.age >= 0.1
    assert is_at(finding.opened, line_of(__file__, "locks"))


def rename_alone(engine, rename):
    with Session(engine) as session:
        session.execute(rename)


def test_what_outlives_its_owner_is_named(url, watch):
    def outlive(engine):
        with turnwise.owner("job", "right"), Session(engine) as session:
            session.get(Item, 1)
        left = Session(engine)
        with turnwise.owner("job", "wrong"):
            left.get(Item, 1)  # line: left open
        assert found("held-past-owner")
        left.close()

    watch(grace=0.05)
    use(url, outlive)
    assert alarms() == ["held-past-owner"]
    finding = only("held-past-owner")
    assert (finding.severity, finding.exact) == ("error", True)
    assert (finding.owner_kind, finding.owner_name, finding.phase) == ("job", "wrong", "ended")
    assert finding.age >= 0.05
    assert is_at(finding.opened, line_of(__file__, "left open"))
    assert came_back("held-past-owner").owner_name == "wrong"


def drop(engine):
    session = Session(engine)
    session.get(Item, 1)  # line: dropped
    del session
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sa.exc.SAWarning)  # Of asynchronous drivers.
        gc.collect()


def test_without_turnwise_a_dropped_session_goes_back_without_a_word(engine, caplog):
    drop(engine)
    assert engine.pool.checkedout() == 0
    assert caplog.messages == []


def test_what_the_garbage_collector_gives_back_is_named(url, watch):
    def scene(engine):
        with turnwise.owner("request", "GET /dropped"):
            drop(engine)

    watch()
    use(url, scene)
    assert codes() == ["gc-returned"]
    finding = only("gc-returned")
    assert (finding.severity, finding.exact) == ("error", True)
    assert finding.owner_name == "GET /dropped"
    assert is_at(finding.opened, line_of(__file__, "dropped"))


def raw(engine):
    connection = engine.raw_connection()  # line: raw
    connection.cursor().execute("SELECT 1")
    connection.close()


def begun_as_text(engine):
    with engine.connect() as connection:  # line: begun as text
        connection.exec_driver_sql("BEGIN")


DIRTY = [
    pytest.param(raw, "raw", {"pool_reset_on_return": None}, id="no reset"),
    # In this mode psycopg2's rollback sends nothing.
    pytest.param(
        begun_as_text, "begun as text", {"isolation_level": "AUTOCOMMIT"}, id="autocommit"
    ),
]


@pytest.mark.parametrize(("scene", "line", "options"), DIRTY)
@pytest.mark.parametrize("watched", [False, True])
def test_a_connection_that_comes_back_with_a_transaction(
    shop, onlooker, watch, scene, line, options, watched
):
    if watched:
        watch()
    engine = sa.create_engine(shop.url("psycopg2"), **options)
    try:
        with turnwise.owner("request", "GET /raw"):
            scene(engine)
        seen = onlooker.states()
    finally:
        engine.dispose()
    if not watched:
        assert seen == [IDLE_IN_TRANSACTION]
        return
    assert codes() == ["dirty-return"]
    finding = only("dirty-return")
    assert (finding.severity, finding.exact) == ("warning", True)
    assert finding.owner_name == "GET /raw"
    assert is_at(finding.opened, line_of(__file__, line))


def test_a_pool_that_resets_has_clean_connections(engine, onlooker, watch):
    watch()
    with turnwise.owner("request", "GET /raw"):
        raw(engine)
    assert onlooker.states() == []
    assert codes() == []
