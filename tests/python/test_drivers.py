"""How each driver's exceptions are read: the shapes that they have, made by hand.

That the drivers raise them so is shown on real servers by tests/sqlalchemy/.
"""

from __future__ import annotations

import types

import pytest

from turnwise.drivers import read


def error(module, *args, base=Exception, cause=None, **attributes):
    made = type("Error", (base,), {"__module__": module})(*args)
    for name, value in attributes.items():
        setattr(made, name, value)
    made.__cause__ = cause
    return made


def diag(**fields):
    names = ("constraint_name", "table_name", "column_name", "message_detail")
    return types.SimpleNamespace(**{name: fields.get(name) for name in names})


ASYNCPG = error(
    "asyncpg.exceptions",
    "duplicate key",
    sqlstate="23505",
    constraint_name="uq",
    table_name="t",
    column_name=None,
    detail='Key (team, "Name")=(1, a) already exists.',
)


@pytest.mark.parametrize(
    "exception",
    [
        error(
            "psycopg2.errors",
            "duplicate key",
            pgcode="23505",
            diag=diag(
                constraint_name="uq",
                table_name="t",
                message_detail='Key (team, "Name")=(1, a) already exists.',
            ),
        ),
        ASYNCPG,
        error(
            "sqlalchemy.dialects.postgresql.asyncpg",
            "<class 'E'>: duplicate key",
            sqlstate="23505",
            pgcode="23505",
            cause=ASYNCPG,
        ),
        error(
            "pg8000.dbapi",
            {
                "S": "ERROR",
                "C": "23505",
                "M": "duplicate key",
                "n": "uq",
                "t": "t",
                "D": 'Key (team, "Name")=(1, a) already exists.',
            },
        ),
    ],
    ids=["psycopg", "asyncpg", "adapted", "pg8000"],
)
def test_postgresql(exception):
    reading = read(exception)
    assert (reading.dialect, reading.code) == ("postgresql", "23505")
    assert (reading.constraint, reading.table) == ("uq", "t")
    assert reading.columns == ("team", "Name")


@pytest.mark.parametrize(
    "detail",
    [
        "Key (lower(email))=(secret (a)=(b) ) already exists.",
        "Failing row contains (1, secret).",
        "secret",
        None,
    ],
)
def test_no_value_becomes_a_column(detail):
    exception = error("psycopg.errors", "x", sqlstate="23505", diag=diag(message_detail=detail))
    assert read(exception).columns == ()


@pytest.mark.parametrize(
    ("message", "code", "is_lost", "phase"),
    [
        ("server closed the connection unexpectedly\n\tThis probably means", None, True, None),
        ("the connection is closed", None, True, None),
        ("connection already closed", None, True, None),
        ("network error", None, True, None),
        ("SSL SYSCALL error: EOF detected", None, True, None),
        ("failed to resolve host 'x'", "08001", False, "connect"),
        ("Can't create a connection to host x and port 1", "08001", False, "connect"),
        ("couldn't get a connection after 30.00 sec", "53300", False, "connect"),
        ("can't adapt type 'object'", None, False, None),
        # Nobody's server speaks so; what is not recognised is not lost.
        ("Verbindung wurde unerwartet geschlossen", None, False, None),
    ],
)
def test_postgresql_without_a_code(message, code, is_lost, phase):
    reading = read(error("psycopg", message, sqlstate=None))
    assert (reading.code, reading.is_lost, reading.phase) == (code, is_lost, phase)


@pytest.mark.parametrize(
    ("exception", "dialect", "code", "sqlstate", "is_lost"),
    [
        (error("pymysql.err", 1205, "Lock wait"), "mysql", 1205, None, False),
        (error("pymysql.err", 1205, "x", sqlstate="HY000"), "mysql", 1205, "HY000", False),
        (error("MySQLdb", 1213, "Deadlock"), "mysql", 1213, None, False),
        (error("asyncmy.errors", 2013, "Lost"), "mysql", 2013, None, False),
        (
            error("mysql.connector.errors", 1205, "1205 (HY000): x", "HY000", errno=1205, msg="x"),
            *("mysql", 1205, None, False),
        ),
        (error("mariadb", "Lock wait", errno=1205, sqlstate="HY000"), "mariadb", 1205, "HY000", False),
        (error("pymysql.err", 0, ""), "mysql", None, None, True),
        (error("pymysql.err", "Already closed"), "mysql", None, None, True),
        (error("mysql.connector.errors", -1, "MySQL Connection not available", errno=-1), "mysql", None, None, True),
        (error("pymysql.err", "no number"), "mysql", None, None, False),
        # What only MariaDB says.
        (error("pymysql.err", 1020, "Record has changed"), "mariadb", 1020, None, False),
        (error("pymysql.err", 1064, "… your MariaDB server version …"), "mariadb", 1064, None, False),
        (error("MySQLdb", 4025, "CONSTRAINT `ck` failed for `a`.`b`"), "mariadb", 4025, None, False),
        (error("MySQLdb", 4025, "Something else"), "mysql", 4025, None, False),
    ],
)  # fmt: skip
def test_mysql_and_mariadb(exception, dialect, code, sqlstate, is_lost):
    reading = read(exception)
    assert (reading.dialect, reading.code) == (dialect, code)
    assert (reading.sqlstate, reading.is_lost) == (sqlstate, is_lost)


def test_sqlite():
    assert read(error("sqlite3", "x", sqlite_errorcode=517)).code == 517
    assert read(error("sqlite3", "database is locked"))[:2] == ("sqlite", None)


def test_a_subclass_of_the_applications_own_counts():
    parent = type(error("psycopg2.errors", "x", pgcode="40001"))
    mine = error("app.errors", "x", base=parent, pgcode="40001")
    assert read(mine).code == "40001"


@pytest.mark.parametrize("state", ["4000", "40p01", "", None, 40001])
def test_what_is_no_sqlstate_is_no_code(state):
    assert read(error("psycopg", "x", sqlstate=state)).code is None


def raised_in(module, exception):
    """The exception as it comes out of a module of that name."""
    namespace = {"__name__": module, "exception": exception}
    exec("def fail():\n raise exception", namespace)
    with pytest.raises(type(exception)) as caught:
        namespace["fail"]()
    return caught.value


def test_an_error_of_the_operating_system_is_a_drivers_where_it_comes_out_of_one():
    refused = raised_in("asyncpg.connect_utils", ConnectionRefusedError(111, "refused"))
    assert read(refused)[:2] == ("postgresql", "08001")
    assert read(refused).phase == "connect"
    reset = raised_in("pg8000.core", ConnectionResetError(104, "reset"))
    assert (read(reset).dialect, read(reset).is_lost) == ("postgresql", True)
    # asyncpg's command_timeout cancels a statement, and loses no connection.
    assert read(raised_in("asyncpg.connection", TimeoutError())) is None
    assert read(raised_in("sqlite3.dbapi2", OSError(5, "x"))) is None
    assert read(raised_in("requests", ConnectionResetError(104, "reset"))) is None
