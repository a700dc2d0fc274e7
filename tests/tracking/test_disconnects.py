"""Whoever meets a lost connection is told which limit ended it, and for how long it had been idle."""

from __future__ import annotations

import re
import threading

import pytest
from sqlalchemy import exc, text

from engines import use
from pool_support import COMMON, QUIET, crash, database_of, end, number_of, pause, reports
from proxy import Proxy
from servers import DRIVERS
from turnwise import drivers
from turnwise.drivers import Reading
from turnwise.tracking.disconnects import (
    Idle,
    explain,
    explain_disconnects,
    stop_explaining_disconnects,
)

__all__ = ["reports"]  # A fixture.
pytestmark = QUIET

POSTGRESQL = [driver for driver in COMMON if DRIVERS[driver] == "postgresql"]
MARIADB = [driver for driver in COMMON if DRIVERS[driver] == "mariadb"]


def set_for(database, **settings):
    """Limits of a PostgreSQL database, for connections that are opened from now on."""
    for name, value in settings.items():
        database.sql(f"ALTER DATABASE {database.name} SET {name} = '{value}'", admin=True)


def note_of(error):
    (note,) = error.orig.__notes__
    return note


def idle_in(note):
    return float(re.search(r"for ([\d.]+) s", note)[1])


def failing(engine, connection):
    with pytest.raises(exc.DBAPIError) as caught:
        number_of(connection)
    connection.invalidate()
    return note_of(caught.value)


@pytest.mark.parametrize("driver", [*POSTGRESQL, "pg8000"])
def test_idle_in_a_transaction_for_too_long(request, driver, reports):
    def body(engine):
        explain_disconnects(engine)
        with engine.connect() as connection:
            number_of(connection)
            pause(engine, 0.5)
            note = failing(engine, connection)
        assert (
            "PostgreSQL ended the connection by its idle_in_transaction_session_timeout of 0.2 s"
            in note
        )
        assert "idle in a transaction for" in note
        assert 0.45 < idle_in(note) < 10
        (finding,) = reports
        assert (finding.code, f"turnwise: {finding.detail}") == ("killed-by-server", note)
        assert 0.45 < finding.age < 10

    with database_of(request, driver) as database:
        set_for(database, idle_in_transaction_session_timeout="200ms", idle_session_timeout="1h")
        use(database.url(driver), body, pool_size=1)


@pytest.mark.parametrize("driver", POSTGRESQL)
def test_idle_in_the_pool_for_too_long(request, driver, reports):
    def body(engine):
        explain_disconnects(engine)
        with engine.connect() as connection:
            number_of(connection)
        pause(engine, 0.5)
        with engine.connect() as connection:
            note = failing(engine, connection)
        assert "by its idle_session_timeout of 0.2 s" in note
        assert "had been idle for" in note
        assert 0.45 < idle_in(note) < 10
        assert reports.codes == ["killed-by-server"]

    with database_of(request, driver) as database:
        set_for(database, idle_session_timeout="200ms", idle_in_transaction_session_timeout="100ms")
        use(database.url(driver), body, pool_size=1)


@pytest.mark.once
@pytest.mark.parametrize("driver", MARIADB)
@pytest.mark.parametrize(
    ("limit", "words"),
    [("idle_transaction_timeout", "idle in a transaction"), ("wait_timeout", "idle")],
)
def test_limits_of_mariadb(request, driver, limit, words, reports):
    def body(engine):
        explain_disconnects(engine)
        with engine.connect() as connection:
            if words == "idle":
                number_of(connection)
                connection.commit()
            else:
                connection.execute(text("INSERT INTO t VALUES (1)"))
            pause(engine, 1.6)
            note = failing(engine, connection)
        assert f"MariaDB ended the connection by its {limit} of 1 s" in note
        assert f"had been {words} for" in note
        assert 1.5 < idle_in(note) < 10
        assert reports.codes == ["killed-by-server"]

    with database_of(request, driver) as database:
        database.sql("CREATE TABLE t (a INT)")
        argument = {"init_command": f"SET SESSION {limit} = 1"}
        use(database.url(driver), body, pool_size=1, connect_args=argument)


@pytest.mark.parametrize("driver", COMMON)
def test_ended_by_an_administrator(request, driver, reports):
    def body(engine):
        explain_disconnects(engine)
        with engine.connect() as connection:
            end(database, number_of(connection))
            note = failing(engine, connection)
        assert "idle in a transaction for" in note
        if driver == "psycopg":  # The others hide what the server has said.
            assert "pg_terminate_backend, or the server was shut down (57P01)" in note
        else:
            assert "somebody ended it, the server crashed, or the network" in note
            assert ("wait_timeout 28800 s" in note) == (DRIVERS[driver] == "mariadb")
        assert reports.codes == ["killed-by-server"]

    with database_of(request, driver) as database:
        use(database.url(driver), body)


@pytest.mark.once
def test_killed_on_mariadb_while_it_ran(mariadb_database, reports):
    """Then, and only then, MariaDB says so."""

    def body(engine):
        explain_disconnects(engine)
        with engine.connect() as connection:
            number = number_of(connection)
            killer = threading.Timer(0.3, end, (mariadb_database, number))
            killer.start()
            with pytest.raises(exc.DBAPIError) as caught:
                connection.exec_driver_sql("SELECT SLEEP(5)")
            killer.join()
            connection.invalidate()
        assert "MariaDB" in note_of(caught.value)
        assert reports.codes == ["killed-by-server"]

    use(mariadb_database.url("pymysql"), body)


@pytest.mark.once
def test_cut_on_the_way(postgresql_database, reports):
    def body(engine):
        explain_disconnects(engine)
        with engine.connect() as connection:
            number_of(connection)
            proxy.cut_all()
            note = failing(engine, connection)
        assert "its limits do not explain it (idle_session_timeout 3600 s)" in note
        assert "the network or a pooler between cut it" in note

    set_for(postgresql_database, idle_session_timeout="1h")
    with Proxy(postgresql_database.server) as proxy:
        use(proxy.url(postgresql_database.url("psycopg2")), body)


@pytest.mark.once
def test_a_crash_of_the_server_ends_all(postgresql_database, reports):
    """SIGKILL of one process makes PostgreSQL end all others; no driver tells the reason."""

    def body(engine):
        explain_disconnects(engine)
        with engine.connect() as victim, engine.connect() as neighbour:
            crash(postgresql_database, number_of(victim), number_of(neighbour))
            assert "the server crashed" in failing(engine, neighbour)
            assert "the server crashed" in failing(engine, victim)
        assert reports.codes == ["killed-by-server"] * 2

    use(postgresql_database.url("psycopg2"), body)


def test_a_cancelled_statement_is_no_disconnect(postgresql_database, reports):
    def body(engine):
        explain_disconnects(engine)
        with engine.connect() as connection:
            with pytest.raises(exc.OperationalError) as caught:
                connection.exec_driver_sql("SELECT pg_sleep(5)")
            assert "statement_timeout is 0.2 s" in note_of(caught.value)
            connection.rollback()
            number_of(connection)
        assert not reports

    set_for(postgresql_database, statement_timeout="200ms")
    use(postgresql_database.url("psycopg2"), body)


def test_other_errors_have_no_note_and_limits_can_be_left_out(postgresql_database, reports):
    def body(engine):
        explain_disconnects(engine, limits=False)
        with engine.connect() as connection:
            with pytest.raises(exc.ProgrammingError) as caught:
                connection.exec_driver_sql("SELECT nonsense")
            assert not hasattr(caught.value.orig, "__notes__")
            connection.rollback()
            number_of(connection)
            pause(engine, 0.4)
            note = failing(engine, connection)
        assert "is gone; it had been idle in a transaction for" in note
        assert "limits" not in note

    set_for(postgresql_database, idle_in_transaction_session_timeout="200ms")
    use(postgresql_database.url("psycopg2"), body)


def test_afterwards_the_engine_is_as_it_was(postgresql_database, reports):
    def body(engine):
        before = dict(vars(engine.dialect))
        explain_disconnects(engine)
        explain_disconnects(engine)
        stop_explaining_disconnects(engine)
        stop_explaining_disconnects(engine)
        assert {**vars(engine.dialect), "dispatch": None} == {**before, "dispatch": None}
        with engine.connect() as connection:
            end(postgresql_database, number_of(connection))
            with pytest.raises(exc.OperationalError) as caught:
                number_of(connection)
            assert not hasattr(caught.value.orig, "__notes__")
        assert not reports

    use(postgresql_database.url("psycopg2"), body)


LIMITS = {"idle_in_transaction_session_timeout": 5.0, "idle_session_timeout": 1.0}
SENTENCES = {
    "the smaller limit that was reached": (
        Reading("mysql", 2013), {"wait_timeout": 9.0, "idle_transaction_timeout": 2.0}, Idle(10, True),
        "by its idle_transaction_timeout of 2 s",
    ),
    "none that was not reached": (
        Reading("postgresql", is_lost=True), LIMITS, Idle(3, True), "do not explain it",
    ),
    "the code, not the limits": (
        Reading("postgresql", "57P01"), LIMITS, Idle(9, True), "pg_terminate_backend",
    ),
    "PostgreSQL 17": (
        Reading("postgresql", "25P04"), {"transaction_timeout": 3.0}, None,
        "by its transaction_timeout of 3 s (25P04)",
    ),
    "PgBouncer": (
        Reading("postgresql", "08P01", message="FATAL: idle transaction timeout"), {}, None,
        "PgBouncer ended the connection by its idle_transaction_timeout",
    ),
    "MariaDB's KILL": (Reading("mariadb", 1927), {}, None, "KILL (1927)"),
    "MySQL's words": (Reading("mysql", 4031), {"wait_timeout": 8.0}, Idle(9, False), "of 8 s (4031)"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("reading", "limits", "idle", "words"), SENTENCES.values(), ids=SENTENCES.keys()
)
def test_the_sentence(reading, limits, idle, words):
    assert words in explain(
        reading, limits, idle, server="PostgreSQL" if reading.dialect == "postgresql" else "MariaDB"
    )


def test_what_a_connection_speaks():
    assert drivers.dialect_of(object()) is None
