"""What happens to a transaction when an error is provoked on a real server: played, then looked at.

A scene is one line: what is provoked, the code that comes, what has become of the transaction (*fate*),
what may be done again (*scope*) and how (*retry*). The fate is found by going on and by looking from
another connection, the scope by doing it; then turnwise is asked, which must say the same.
"""

from __future__ import annotations

import contextlib
import threading
from typing import NamedTuple

import psycopg
import pymysql

import turnwise
from servers import until
from turnwise.classification import classify

WAIT = 30
MARK = "INSERT INTO mark VALUES ({})"


class Scene(NamedTuple):
    """One row of the table."""

    name: str
    provoke: object  # Plays it; gives the error. Before it, the session `one` has begun and written mark 1.
    code: object
    fate: str
    scope: str
    retry: str
    phase: str = "statement"
    begin: str = "BEGIN"
    conditions: dict = {}  # noqa: RUF012 - Never changed. What classify_code is told besides.


class Session:
    """One connection, each statement its own transaction until it says BEGIN."""

    def __init__(self, database, *, admin: bool = False, port: int | None = None) -> None:
        server = database.server
        self.dialect = server.dialect
        user, password = ("admin", server.password) if admin else ("app", "app")
        where = {"host": server.host, "port": port or server.port, "user": user}
        where |= {"password": password, "autocommit": True}
        if self.dialect == "postgresql":
            self.connection = psycopg.connect(dbname=database.name, **where)
            self.number = self.connection.info.backend_pid
        else:
            self.connection = pymysql.connect(database=database.name, **where)
            self.number = self.connection.thread_id()

    def __call__(self, *statements: str) -> list:
        """Execute them; the rows of the last."""
        cursor = self.connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []

    def fails(self, statement: str):
        """The error of a statement that must fail."""
        try:
            self(statement)
        except (psycopg.Error, pymysql.Error) as error:
            return error
        raise AssertionError(f"{statement} did not fail")

    def later(self, *statements: str) -> Later:
        """Execute them in another thread."""
        return Later(self, statements)

    @property
    def in_transaction(self) -> bool:
        """What the server says; open and aborted both count."""
        if self.dialect == "postgresql":
            return self.connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE
        return self("SELECT @@in_transaction") == [(1,)]

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.connection.close()


class Later:
    """Statements that run in a thread, because they wait."""

    def __init__(self, session: Session, statements) -> None:
        self._session, self._statements, self._error = session, statements, None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._session(*self._statements)
        except Exception as error:
            self._error = error

    def error(self):
        """What it ended with, or None."""
        self._thread.join(WAIT)
        assert not self._thread.is_alive(), "still waiting"
        return self._error

    def is_done(self, seconds: float) -> bool:
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def done(self) -> None:
        assert self.error() is None


def code_of(error):
    """PostgreSQL's SQLSTATE, MariaDB's number."""
    return error.sqlstate if isinstance(error, psycopg.Error) else error.args[0]


class Stage:
    """A database with a few rows, `one` to whom it happens, `two` in its way, and one who looks."""

    SETUP = (
        "CREATE TABLE mark (i INT PRIMARY KEY)",
        "CREATE TABLE t (id INT PRIMARY KEY, n INT NOT NULL)",
        "CREATE TABLE u (id INT PRIMARY KEY, n INT NOT NULL)",
        "INSERT INTO t VALUES (1, 10), (2, 20), (3, 30)",
        "INSERT INTO u VALUES (1, 10), (2, 20), (3, 30)",
    )

    def __init__(self, database) -> None:
        self.database, self._sessions = database, []
        self.admin = self.session(admin=True)
        self.one, self.two = self.session(), self.session()
        self.one(*self.SETUP)
        self.begin = "BEGIN"
        self.statement = None  # The last one of `one`, which failed.
        self.before = ()  # What `one` executes before it when it tries the whole again.
        self.clear = lambda: None  # Takes away what was in the way.

    def session(self, **options) -> Session:
        self._sessions.append(Session(self.database, **options))
        return self._sessions[-1]

    def close(self) -> None:
        self.free()
        for session in self._sessions:
            session.close()

    def free(self) -> None:
        """Take away what was in the way, once."""
        clear, self.clear = self.clear, lambda: None
        clear()

    def fails(self, statement: str):
        """The error of `one`, who executes this."""
        self.statement = statement
        return self.one.fails(statement)

    def waits(self, session: Session) -> bool:
        """Whether the server has it wait for a lock."""
        if session.dialect == "postgresql":
            question = (
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type IN ('Lock', 'IPC')"
            )
            return self.admin(f"{question} AND pid = {session.number}") == [(1,)]
        # For row locks the server counts only how many wait, and here nobody else does.
        if self.admin("SHOW STATUS LIKE 'Innodb_row_lock_current_waits'")[0][1] != "0":
            return True
        question = "SELECT state FROM information_schema.processlist WHERE id = {}"
        ((state,),) = self.admin(question.format(session.number))
        return state == "User lock" or state.startswith("Waiting for")

    def until_waits(self, session: Session) -> None:
        assert until(lambda: self.waits(session), 10), "never had to wait"

    def marks(self) -> set[int]:
        """What others see of the transaction of `one`."""
        return {i for (i,) in self.admin("SELECT i FROM mark")}

    def is_gone(self, session: Session) -> bool:
        """Whether the server has ended it."""
        table = ("pg_stat_activity", "pid")
        if session.dialect != "postgresql":
            table = ("information_schema.processlist", "id")
        return self.admin("SELECT 1 FROM {} WHERE {} = {}".format(*table, session.number)) == []

    def fate(self) -> str:
        """What has become of the transaction of `one`, which wrote mark 1 before the error."""
        self.free()
        if 1 in self.marks():
            return "implicitly_committed"
        try:
            self.one(MARK.format(2))
        except (psycopg.Error, pymysql.Error) as error:
            if self.one.dialect == "postgresql" and code_of(error) == "25P02":
                self.one("COMMIT")  # Which PostgreSQL answers with a silent ROLLBACK.
                assert self.marks() == set()
                return "aborted"
            assert until(lambda: self.is_gone(self.one))
            assert self.marks() == set()
            return "lost_before_commit"
        if 2 in self.marks():
            assert self.marks() == {2}
            return "rolled_back"
        self.one("COMMIT")
        if self.marks() == {1, 2}:
            return "intact"
        raise AssertionError(f"COMMIT left {self.marks()}")

    def heal(self, scope: str):
        """Do what the scope says, and see everything stored; of `never` the code that comes again."""
        self.free()
        if scope == "connection":
            self.one.close()
            self.one = self.session()
        if scope == "statement":
            self.one(self.statement)
        elif scope == "savepoint":
            self.one("ROLLBACK TO SAVEPOINT s", self.statement)
        else:
            self.one("ROLLBACK", self.begin, MARK.format(1), *self.before)
            if scope == "never":
                return code_of(self.one.fails(self.statement))
            if self.statement != "COMMIT":
                self.one(self.statement)
        self.one("COMMIT")
        assert 1 in self.marks()
        return None


@contextlib.contextmanager
def played(scene: Scene, database):
    """The stage after the scene, and its error."""
    stage = Stage(database)
    try:
        stage.begin = scene.begin
        stage.one(scene.begin, MARK.format(1))
        error = scene.provoke(stage)
        assert code_of(error) == scene.code, error
        yield stage, error
    finally:
        stage.close()


def verdict_of(dialect: str, scene: Scene, **observed):
    """What turnwise's table says."""
    known = {**scene.conditions, **observed}
    return turnwise.classify_code(dialect, scene.code, phase=scene.phase, **known)


def said(verdict) -> tuple[str, str, str]:
    return verdict.fate, verdict.scope, verdict.retry


def check_fate(scene: Scene, database) -> None:
    """What became of the transaction is what the scene says, and turnwise: by code, state, error."""
    with played(scene, database) as (stage, error):
        is_lost = scene.fate == "lost_before_commit"
        state = {} if is_lost else {"in_transaction": stage.one.in_transaction}
        assert stage.fate() == scene.fate
    wanted = scene.fate, scene.scope, scene.retry
    for observed in ({}, state):
        verdict = verdict_of(database.dialect, scene, message=str(error), **observed)
        assert said(verdict) == wanted
    if not scene.conditions:  # Which an error does not hold.
        assert said(classify(error, phase=scene.phase)) == wanted


def check_scope(scene: Scene, database) -> None:
    """What the scene says may be done again, helps."""
    with played(scene, database) as (stage, _):
        again = stage.heal(scene.scope)
        assert again == (scene.code if scene.scope == "never" else None)
