"""Watching itself: switched on and off, its settings, what it says, its hooks and its signal."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import Pool

import turnwise
from sightings import is_at, line_of
from turnwise.errors import FindingError, InvalidSettingError
from turnwise.tracking import reporting_socket

OF_POOL = ("checkout", "reset", "checkin", "close", "detach", "invalidate", "connect")
OF_SESSION = ("after_transaction_create", "after_begin")


@pytest.fixture
def engine(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path}/shop.db")
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT)"))
    yield engine
    engine.dispose()


def listeners(target, names):
    events = {name: getattr(target.dispatch, name) for name in names}
    if isinstance(target, type):
        events = {name: event._clslevel.get(target, ()) for name, event in events.items()}
    return {name: len(event) for name, event in events.items()}


def traces(engine):
    """Everything that watching may leave behind."""
    return {
        "pool": listeners(Pool, OF_POOL),
        "engine": listeners(engine.pool, OF_POOL),
        "session": listeners(Session, OF_SESSION),
        "dialect": {key: value for key, value in vars(engine.dialect).items() if "do_" in key},
        "layers": "_turnwise_layers" in vars(engine.dialect),
        "connect": Pool.connect,
        "threads": {thread.name for thread in threading.enumerate()},
        "signal": signal.getsignal(signal.SIGUSR1),
        "socket": reporting_socket.path(),
    }


def ask(engine):
    with Session(engine) as session:
        return session.scalar(sa.text("SELECT 1"))


def eventually(true, seconds=10):
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "never"
        time.sleep(0.01)


@pytest.mark.parametrize("alone", [False, True])
def test_nothing_is_left_behind(engine, alone) -> None:
    with Session(engine) as session:
        session.connection()
    before = traces(engine)
    for _ in range(3):
        turnwise.watch(engine if alone else None, dump_signal=signal.SIGUSR1, serve=True)
        ask(engine)
        assert turnwise.is_watching()
        assert traces(engine) != before
        turnwise.unwatch()
        assert not turnwise.is_watching()
        eventually(lambda: traces(engine) == before)
    assert turnwise.leases() == ()


def test_one_engine_alone(engine, tmp_path) -> None:
    other = sa.create_engine(f"sqlite:///{tmp_path}/other.db")
    turnwise.watch(engine)
    try:
        with Session(engine) as one, Session(other) as two:
            one.execute(sa.text("SELECT 1"))
            two.execute(sa.text("SELECT 2"))
            assert [lease.statement for lease in turnwise.leases()] == ["SELECT ?"]
        turnwise.watch(other)
        with Session(engine) as one, Session(other) as two:
            one.connection(), two.connection()
            assert len(turnwise.leases()) == 2
        turnwise.unwatch(other)
        with Session(engine) as one, Session(other) as two:
            one.connection(), two.connection()
            assert len(turnwise.leases()) == 1
    finally:
        turnwise.unwatch()
        other.dispose()


def test_what_was_open_before_is_seen_from_its_next_checkout(engine, watch) -> None:
    session = Session(engine)
    session.connection()
    watch()
    session.execute(sa.text("SELECT 1"))
    assert turnwise.leases() == ()
    session.rollback()
    session.execute(sa.text("SELECT 1"))
    assert len(turnwise.leases()) == 1
    session.close()
    assert turnwise.leases() == ()


def test_a_pool_that_is_made_anew_is_watched(engine, watch) -> None:
    watch()
    ask(engine)
    engine.dispose()
    with Session(engine) as session:
        session.connection()
        assert len(turnwise.leases()) == 1


def test_the_table_and_its_json(engine, watch) -> None:
    watch(sites="statement")
    with turnwise.owner("job", "nightly", id="7") as job, Session(engine) as session:
        session.execute(sa.text("INSERT INTO item VALUES (1, 'chair')"))  # line: insert
        (lease,) = turnwise.leases()
        assert (lease.owner_kind, lease.owner_name, lease.owner_id) == ("job", "nightly", "7")
        assert (lease.owner_number, lease.phase) == (job.number, "running")
        assert (lease.state, lease.wrote, lease.statements) == ("idle_in_tx", True, 1)
        assert lease.statement == "INSERT INTO item VALUES (?, ?)"
        assert is_at(lease.opened, line_of(__file__, "insert"))
        assert lease.last == lease.opened
        assert lease.thread == threading.get_ident()
        (read,) = json.loads(turnwise.leases().json())
        assert (read["lease"], read["statement"]) == (lease.number, lease.statement)
        head, row = str(turnwise.leases()).splitlines()
        assert head.split()[:4] == ["LEASE", "OWNER", "PHASE", "STATE"]
        assert "job nightly" in row
        assert "chair" not in row + turnwise.leases().json()
    assert str(turnwise.leases()).count("\n") == 0
    assert json.loads(turnwise.leases().json()) == []


def test_an_asynchronous_engine(tmp_path, watch) -> None:
    watch()

    async def ask() -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/shop.db")
        async with turnwise.owner("request", "GET /"), AsyncSession(engine) as session:
            await session.execute(sa.text("SELECT 1"))  # line: async
            (lease,) = turnwise.leases()
            assert (lease.owner_name, lease.state) == ("GET /", "idle_in_tx")
            assert is_at(lease.opened, line_of(__file__, "async"))
        await engine.dispose()

    asyncio.run(ask())
    assert turnwise.findings() == ()


def late(engine):
    """A statement after the response."""
    with turnwise.owner("request", "GET /") as request, Session(engine) as session:
        session.execute(sa.text("SELECT 1"))
        request.phase = "responded"
        session.execute(sa.text("SELECT 2"))


@pytest.mark.parametrize("of_engine", [False, True])
def test_what_commits_itself_is_no_transaction(tmp_path, watch, of_engine) -> None:
    watch()
    settings = {"isolation_level": "AUTOCOMMIT"} if of_engine else {}
    engine = sa.create_engine(f"sqlite:///{tmp_path}/shop.db", **settings)
    with turnwise.owner("request", "GET /") as request, engine.connect() as connection:
        if not of_engine:
            connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(sa.text("CREATE TABLE item (id INTEGER)"))
        assert [lease.state for lease in turnwise.leases()] == ["checked_out"]
        request.phase = "responded"
        connection.execute(sa.text("INSERT INTO item VALUES (1)"))
    assert turnwise.findings() == ()
    with engine.connect() as connection:
        if of_engine:
            connection.execution_options(isolation_level="SERIALIZABLE")
        connection.execute(sa.text("SELECT 1"))
        assert [lease.state for lease in turnwise.leases()] == ["idle_in_tx"]
    engine.dispose()


def test_hooks_hear_everything_and_break_nothing(engine, watch, caplog) -> None:
    watch(log=True)
    heard = []

    def hook(finding):
        heard.append(finding.code)
        raise ValueError("a hook that fails")

    subscription = turnwise.on_finding(hook)
    with caplog.at_level(logging.INFO, "turnwise.findings"):
        for _ in range(3):
            late(engine)
    assert heard == ["session-after-response"] * 3
    told = [record for record in caplog.records if "session-after-response" in record.message]
    assert [record.levelname for record in told] == ["WARNING"], "one a minute"
    subscription.cancel()
    late(engine)
    assert len(heard) == 3
    assert len(turnwise.findings()) == 4
    turnwise.clear_findings()
    assert turnwise.findings() == ()


def test_strict_raises_before_the_statement_is_sent(engine, watch) -> None:
    watch(strict=True)
    with turnwise.owner("request", "GET /") as request, Session(engine) as session:
        session.execute(sa.text("INSERT INTO item VALUES (1, 'chair')"))
        request.phase = "responded"
        with pytest.raises(FindingError) as caught:
            session.execute(sa.text("INSERT INTO item VALUES (2, 'table')"))
        session.rollback()
    assert caught.value.finding.code == "session-after-response"
    assert "table" not in str(caught.value)
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM item")) == 0
    watch(strict=lambda finding: finding.code == "commit-after-response")
    late(engine)
    assert [finding.code for finding in turnwise.findings()] == ["session-after-response"]


def test_a_code_that_is_ignored_is_not_heard_nor_raised(engine, watch) -> None:
    watch(strict=True, ignore=["session-after-response"])
    heard = []
    subscription = turnwise.on_finding(heard.append)
    late(engine)
    subscription.cancel()
    assert heard == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"idle_in_transaction": -1}, "idle_in_transaction is a number of seconds"),
        ({"lock_held": float("nan")}, "lock_held is a number of seconds"),
        ({"sites": "all"}, "sites is"),
        ({"ignore": ["idle"]}, "no finding has the code 'idle'"),
    ],
)
def test_settings_that_make_no_sense(settings, words) -> None:
    with pytest.raises(InvalidSettingError, match=words):
        turnwise.watch(**settings)
    assert not turnwise.is_watching()
    with pytest.raises(TypeError, match="unknown"):
        turnwise.watch(unknown=1)


def test_a_signal_prints_the_table_and_goes_on_to_who_had_it_before(tmp_path) -> None:
    script = tmp_path / "party.py"
    script.write_text(
        "import os, signal, sqlalchemy as sa, turnwise\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('mine', flush=True))\n"
        f"engine = sa.create_engine('sqlite:///{tmp_path}/shop.db')\n"
        "turnwise.watch(dump_signal=signal.SIGUSR1)\n"
        "with turnwise.owner('job', 'nightly'), engine.connect() as connection:\n"
        "    connection.execute(sa.text('SELECT 1'))\n"
        "    os.kill(os.getpid(), signal.SIGUSR1)\n"
        "turnwise.unwatch()\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "mine\nmine\n"
    assert done.stderr.count("job nightly") == 1


def test_a_child_of_fork_has_leases_of_its_own(engine, watch) -> None:
    watch(task_idle_in_transaction=0.01)
    with Session(engine) as session:
        session.connection()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            before = len(turnwise.leases())
            with engine.connect() as connection:
                connection.execute(sa.text("SELECT 1"))
                inside = len(turnwise.leases())
                time.sleep(1)
            codes = {finding.code for finding in turnwise.findings()}
            os.write(writer, json.dumps([before, inside, "idle-in-transaction" in codes]).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            assert json.loads(pipe.read()) == [0, 1, True], "its own leases, and a watchdog"
        os.waitpid(child, 0)
        assert len(turnwise.leases()) == 1
