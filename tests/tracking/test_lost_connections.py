"""Connections that their server has ended, and those that belong to another process."""

from __future__ import annotations

import json
import multiprocessing
import os

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import turnwise
from servers import until
from shop import Item
from sightings import codes, only

DRIVERS = ["psycopg2", "psycopg"]
PID = sa.text("SELECT pg_backend_pid()")


@pytest.fixture(params=DRIVERS)
def engine(request, shop):
    engine = sa.create_engine(shop.url(request.param), pool_size=1, max_overflow=0)
    yield engine
    engine.dispose()


def kill(onlooker, pid):
    onlooker.rows("SELECT pg_terminate_backend(%s)", pid)
    gone = "SELECT 1 FROM pg_stat_activity WHERE pid = %s"
    assert until(lambda: not onlooker.rows(gone, pid), 10)


def warmed(engine):
    """The number of the one connection in the pool."""
    with engine.connect() as connection:
        return connection.scalar(PID)


def test_without_turnwise_a_killed_backend_is_handed_out(engine, onlooker):
    kill(onlooker, warmed(engine))
    with Session(engine) as session, pytest.raises(sa.exc.OperationalError):
        session.get(Item, 1)


def test_a_killed_backend_in_the_pool_is_named_and_not_handed_out(engine, onlooker, watch):
    from turnwise.tracking.liveness import check_liveness, stop_checking_liveness

    watch()
    check_liveness(engine)
    pid = warmed(engine)
    assert warmed(engine) == pid
    assert codes() == []
    kill(onlooker, pid)
    with turnwise.owner("request", "GET /next"):
        assert warmed(engine) != pid
    assert codes() == ["dead-in-pool"]
    stop_checking_liveness(engine)


def test_a_backend_that_is_killed_in_a_transaction_is_named(engine, onlooker, watch):
    from turnwise.tracking.disconnects import explain_disconnects, stop_explaining_disconnects

    watch()
    explain_disconnects(engine)
    with turnwise.owner("request", "GET /killed"), Session(engine) as session:
        pid = session.scalar(PID)
        kill(onlooker, pid)
        with pytest.raises(sa.exc.OperationalError):
            session.get(Item, 1)
    finding = only("killed-by-server")
    assert finding.owner_name == "GET /killed"
    assert finding.backend_pid == pid
    stop_explaining_disconnects(engine)


def in_child(engine, send):
    """What a child of a fork that uses its parent's engine tells of itself."""
    with turnwise.owner("job", "child"):
        pid = warmed(engine)  # line: child
    found = [(f.code, f.severity, f.owner_name) for f in turnwise.findings()]
    send(json.dumps({"pid": pid, "found": found}))


def forked(engine):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            in_child(engine, lambda text: os.write(writing, text.encode()))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        text = told.read()
    os.waitpid(child, 0)
    return json.loads(text)


def by_multiprocessing(engine):
    context = multiprocessing.get_context("fork")
    reading, writing = context.Pipe(duplex=False)
    child = context.Process(target=in_child, args=(engine, writing.send))
    child.start()
    assert reading.poll(30)
    told = json.loads(reading.recv())
    child.join(30)
    return told


@pytest.mark.parametrize("fork", [forked, by_multiprocessing])
def test_a_child_with_its_parents_connection(engine, watch, fork):
    pid = warmed(engine)
    # Without turnwise parent and child talk over one socket.
    assert fork(engine)["pid"] == pid
    engine.dispose()
    watch()
    pid = warmed(engine)
    told = fork(engine)
    assert told["pid"] != pid
    assert told["found"] == [["forked-connection", "error", "child"]]
    # The parent's own one was left alone, and the parent has found nothing.
    assert warmed(engine) == pid
    assert codes() == []


@pytest.mark.parametrize("fork", [forked, by_multiprocessing])
def test_a_child_that_disposes_of_its_parents_connections_is_clean(engine, watch, fork):
    watch()
    pid = warmed(engine)
    told = fork(_Disposing(engine))
    assert told["pid"] != pid
    assert told["found"] == []
    assert warmed(engine) == pid


class _Disposing:
    """The engine of a child that does what SQLAlchemy's documentation advises."""

    def __init__(self, engine):
        self._engine = engine

    def connect(self):
        self._engine.dispose(close=False)
        return self._engine.connect()
