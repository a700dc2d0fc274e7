"""A connection that its server has ended never leaves the pool, and a living one is never thrown away."""

from __future__ import annotations

import select
import shutil
import socket
import subprocess
import time

import pytest
from sqlalchemy import create_engine, exc
from sqlalchemy.pool import StaticPool

from engines import use
from pool_support import ALL, QUIET, crash, database_of, end, number_of, pause, reports
from proxy import Proxy
from servers import ASYNCHRONOUS, DRIVERS, PostgreSQL, until
from turnwise.tracking import sockets, watching
from turnwise.tracking.liveness import check_liveness, stop_checking_liveness

__all__ = ["reports"]  # A fixture.
pytestmark = QUIET

CODE = {"postgresql": "57P01", "mariadb": "ended"}  # MariaDB says nothing.


def number_from_the_pool(engine):
    with engine.connect() as connection:
        return number_of(connection)


@pytest.mark.parametrize(
    ("driver", "loop_runs"),
    [
        *((driver, False) for driver in ALL),
        *((driver, True) for driver in ALL if driver in ASYNCHRONOUS),
    ],
)
def test_a_connection_that_was_ended_in_the_pool_is_replaced(request, driver, loop_runs, reports):
    def body(engine):
        check_liveness(engine)
        first = number_from_the_pool(engine)
        assert number_from_the_pool(engine) == first
        assert not reports
        pause(engine, 0.1)
        end(database, first)
        if loop_runs:
            pause(engine, 0.05)
        with engine.connect() as connection:
            assert (number := number_of(connection)) != first
            (lease,) = watching.leases()
            assert lease.backend_pid == number or driver == "pg8000"  # It does not tell.
        assert not watching.leases()
        assert reports.codes == ["dead-in-pool"]
        finding = reports[0]
        if not loop_runs:  # Else the driver has read it, and closed the socket.
            assert CODE[DRIVERS[driver]] in finding.detail
            assert 0.05 < finding.age < 20

    with database_of(request, driver) as database:
        use(database.url(driver), body, pool_size=1, max_overflow=0)


@pytest.mark.parametrize("driver", ["psycopg2", "pymysql"])
def test_without_the_check_the_next_statement_fails(request, driver, reports):
    def body(engine):
        check_liveness(engine)
        stop_checking_liveness(engine)
        end(database, number_from_the_pool(engine))
        with pytest.raises(exc.DBAPIError):
            number_from_the_pool(engine)
        assert not reports

    with database_of(request, driver) as database:
        use(database.url(driver), body)


@pytest.mark.once
@pytest.mark.parametrize("driver", ["psycopg2", "psycopg", "pymysql", "mysqldb", "asyncpg"])
def test_a_connection_that_was_cut_on_the_way_is_replaced(request, driver, reports):
    def body(engine):
        check_liveness(engine)
        number_from_the_pool(engine)
        proxy.cut_all()
        pause(engine, 0.1)
        number_from_the_pool(engine)
        assert reports.codes == ["dead-in-pool"]

    with database_of(request, driver) as database, Proxy(database.server) as proxy:
        use(proxy.url(database.url(driver)), body)


@pytest.mark.once
def test_a_crash_of_the_server_ends_all_and_the_socket_says_why(postgresql_database, reports):
    def body(engine):
        check_liveness(engine)
        with engine.connect() as victim, engine.connect() as neighbour:
            numbers = number_of(victim), number_of(neighbour)
        crash(postgresql_database, *numbers)
        with engine.connect() as one, engine.connect() as other:
            assert not {number_of(one), number_of(other)} & {*numbers}
        assert reports.codes == ["dead-in-pool"] * 2
        assert sorted("(57P02)" in finding.detail for finding in reports) == [False, True]

    use(postgresql_database.url("psycopg2"), body)


@pytest.mark.once
@pytest.mark.parametrize("driver", ["psycopg2", "psycopg", "pg8000", "psycopg_async"])
def test_a_pending_notification_stays_for_its_reader(request, driver, reports):
    def body(engine):
        check_liveness(engine)
        with engine.connect() as connection:
            first = number_of(connection)
            connection.exec_driver_sql("LISTEN news")
            connection.commit()
            ready = sockets.ready_of(connection.connection.driver_connection)
        assert not ready(0)
        database.sql("NOTIFY news, 'of today'")
        assert until(lambda: ready(0))
        assert number_from_the_pool(engine) == first
        assert not reports

    with database_of(request, driver) as database:
        use(database.url(driver), body, pool_size=1, max_overflow=0)


def test_the_notification_is_not_consumed(postgresql_database, reports):
    def body(engine):
        check_liveness(engine)
        with engine.connect() as connection:
            connection.exec_driver_sql("LISTEN news")
            connection.commit()
        postgresql_database.sql("NOTIFY news, 'of today'")
        time.sleep(0.1)
        with engine.connect() as connection:
            driver = connection.connection.driver_connection
            assert not driver.notifies
            driver.poll()
            assert [note.payload for note in driver.notifies] == ["of today"]

    use(postgresql_database.url("psycopg2"), body, pool_size=1, max_overflow=0)


def test_it_survives_dispose_and_is_idempotent(postgresql_database, reports):
    def body(engine):
        check_liveness(engine)
        check_liveness(engine)
        engine.dispose()
        end(postgresql_database, number_from_the_pool(engine))
        number_from_the_pool(engine)
        assert reports.codes == ["dead-in-pool"]
        stop_checking_liveness(engine)
        stop_checking_liveness(engine)
        end(postgresql_database, number_from_the_pool(engine))
        with pytest.raises(exc.OperationalError):
            number_from_the_pool(engine)

    use(postgresql_database.url("psycopg2"), body)


def test_all_engines_at_once_also_those_that_exist(postgresql_database, reports):
    def body(engine):
        first = number_from_the_pool(engine)
        check_liveness()
        try:
            end(postgresql_database, first)
            assert number_from_the_pool(engine) != first
        finally:
            stop_checking_liveness()
        assert reports.codes == ["dead-in-pool"]

    use(postgresql_database.url("psycopg2"), body)


def test_a_pool_without_a_socket_is_left_alone(reports):
    engine = create_engine("sqlite://", poolclass=StaticPool)
    check_liveness(engine)
    for _ in range(2):
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT 1").scalar() == 1
    assert not reports


def test_what_is_no_engine_is_refused():
    with pytest.raises(TypeError, match="an Engine"):
        check_liveness("postgresql://")


class EncryptedPostgreSQL(PostgreSQL):
    """With a certificate of its own."""

    def _initialise(self):
        super()._initialise()
        words = (
            "req -new -x509 -nodes -subj /CN=localhost -days 2 -keyout server.key -out server.crt"
        )
        subprocess.run(
            [shutil.which("openssl"), *words.split()],
            cwd=self.folder / "data",
            check=True,
            capture_output=True,
        )
        for name in ("server.key", "server.crt"):
            (self.folder / "data" / name).chmod(0o600)
            if self._account:
                shutil.chown(
                    self.folder / "data" / name, self._account.pw_uid, self._account.pw_gid
                )


@pytest.fixture(scope="module")
def encrypted():
    server = EncryptedPostgreSQL("-c", "ssl=on")
    yield server
    server.stop()


@pytest.mark.once
@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_what_is_encrypted_is_asked_before_it_is_thrown_away(encrypted, driver, reports):
    def body(engine):
        check_liveness(engine)
        with engine.connect() as connection:
            assert connection.exec_driver_sql(
                "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
            ).scalar()
            first = number_of(connection)
            connection.exec_driver_sql("LISTEN news")
            connection.commit()
            driver_connection = connection.connection.driver_connection
            ready = sockets.ready_of(driver_connection)
        encrypted.sql(name, "NOTIFY news, 'of today'")
        assert until(lambda: ready(0))
        with engine.connect() as connection:
            assert number_of(connection) == first
            assert not reports
            if driver == "psycopg2":
                assert [note.payload for note in driver_connection.notifies] == ["of today"]
        encrypted.sql(name, f"SELECT pg_terminate_backend({first})", admin=True)
        assert until(lambda: any(flags & select.POLLRDHUP for _, flags in ready(0)))
        assert number_from_the_pool(engine) != first
        assert reports.codes == ["dead-in-pool"]

    with encrypted.database() as name:
        url = encrypted.url(driver, name).update_query_dict({"sslmode": "require"})
        use(url, body, pool_size=1, max_overflow=0)


FATAL = b"E\x00\x00\x00\x1dSFATAL\x00VFATAL\x00C57P05\x00Mx\x00\x00"
CRASH = b"N\x00\x00\x00\x13SWARN\x00C57P02\x00\x00"
NOTICE = b"N\x00\x00\x00\x09SNOT\x00"
STATUS = b"S\x00\x00\x00\x08a\x00b\x00"
NOTIFY = b"A\x00\x00\x00\x0c\x00\x00\x00\x01n\x00p\x00"
ARRIVED = {
    "a notice": ("postgresql", NOTICE, (False, "")),
    "a setting, then a notification": ("postgresql", STATUS + NOTIFY, (False, "")),
    "half of a notification": ("postgresql", NOTIFY[:3], (False, "")),
    "the end": ("postgresql", FATAL, (True, "57P05")),
    "a crash": ("postgresql", CRASH, (True, "57P02")),
    "a notice, then the end": ("postgresql", NOTICE + FATAL, (True, "57P05")),
    "somebody else's rows": (
        "postgresql",
        b"D\x00\x00\x00\x06\x00\x00",
        (True, "an unread answer"),
    ),
    "no protocol at all": ("postgresql", b"\x00\x00\x10\x00gss", (None, "")),
    "a record of TLS": ("postgresql", b"\x17\x03\x03\x00\x10abc", (None, "")),
    "the end from MySQL": ("mysql", b"\x10\x00\x00\x00\xff\xbf\x0f#HY000x", (True, "4031")),
    "rows from MySQL": ("mysql", b"\x01\x00\x00\x01\x02", (True, "an unread answer")),
}


@pytest.mark.parametrize(("dialect", "data", "verdict"), ARRIVED.values(), ids=ARRIVED)
def test_what_has_arrived_is_told_apart(dialect, data, verdict):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data)
        poller = select.poll()
        poller.register(ours.fileno(), select.POLLIN | select.POLLRDHUP)
        assert sockets.look(poller.poll(1000), dialect) == verdict
        assert ours.recv(1000) == data
        theirs.close()
        assert sockets.look(poller.poll(1000), dialect).is_dead is True
