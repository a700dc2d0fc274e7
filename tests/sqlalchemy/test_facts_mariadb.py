"""MariaDB's errors, provoked: what comes, what it leaves behind, what helps. MySQL shares most of them."""

from __future__ import annotations

import contextlib

import pytest

import turnwise
from scenes import MARK, Scene, Stage, check_fate, check_scope, code_of, said
from servers import Database, MariaDB, until

UPDATE = "UPDATE t SET n = n + 1 WHERE id = {}"
SNAPSHOT = "SET innodb_snapshot_isolation = ON"
OWN_SERVER = "--innodb-rollback-on-timeout=ON", "--max-connections=10"


def locked(stage, statement, *settings):
    """The error of a statement that meets row 1 locked by `two`."""
    stage.two("BEGIN", UPDATE.format(1))
    stage.clear = lambda: stage.two("ROLLBACK")
    stage.one(*settings)
    return stage.fails(statement)


def lock_timeout(stage):
    return locked(stage, UPDATE.format(1), "SET innodb_lock_wait_timeout = 1")


def nowait(stage):
    return locked(stage, "SELECT n FROM t WHERE id = 1 FOR UPDATE NOWAIT")


def wait_one_second(stage):
    return locked(stage, "SELECT n FROM t WHERE id = 1 FOR UPDATE WAIT 1")


def ddl_timeout(stage):
    stage.two("BEGIN", "SELECT n FROM t")
    stage.clear = lambda: stage.two("ROLLBACK")
    stage.one("SET lock_wait_timeout = 1")
    return stage.fails("ALTER TABLE t ADD COLUMN more INT")


def commit_timeout(stage):
    stage.admin("FLUSH TABLES WITH READ LOCK")
    stage.clear = lambda: stage.admin("UNLOCK TABLES")
    stage.one("SET lock_wait_timeout = 1")
    return stage.fails("COMMIT")


def deadlocked(stage):
    """`two` has changed more, so InnoDB gives up `one`."""
    stage.two("BEGIN", "UPDATE u SET n = n + 1", UPDATE.format(2))
    stage.one(UPDATE.format(1))
    call = stage.two.later(UPDATE.format(1), "COMMIT")
    stage.until_waits(stage.two)
    error = stage.fails(UPDATE.format(2))
    call.done()
    return error


def deadlocked_by_ddl(stage):
    """`two` holds t, because it locks by name, and waits for u, which `one` reads."""
    stage.one("SELECT n FROM u")
    call = stage.two.later("RENAME TABLE t TO v, u TO t, v TO u")
    stage.until_waits(stage.two)
    error = stage.fails("SELECT n FROM t")
    call.done()
    return error


def deadlocked_by_user_locks(stage):
    stage.one("SELECT GET_LOCK('a', 0)")
    stage.two("SELECT GET_LOCK('b', 0)")
    call = stage.two.later("SELECT GET_LOCK('a', 30)", "SELECT RELEASE_ALL_LOCKS()")
    stage.until_waits(stage.two)
    error = stage.fails("SELECT GET_LOCK('b', 30)")

    def clear():
        stage.one("SELECT RELEASE_ALL_LOCKS()")
        call.done()

    stage.clear = clear
    return error


def changed_meanwhile(stage, statement=UPDATE.format(1)):
    stage.one(SNAPSHOT, "SELECT n FROM t")
    stage.two(UPDATE.format(1))
    return stage.fails(statement)


def changed_meanwhile_for_update(stage):
    return changed_meanwhile(stage, "SELECT n FROM t WHERE id = 1 FOR UPDATE")


def changed_while_waiting(stage):
    stage.one(SNAPSHOT, "SELECT n FROM t")
    stage.two("BEGIN", UPDATE.format(1))
    stage.statement = UPDATE.format(1)
    call = stage.one.later(stage.statement)
    stage.until_waits(stage.one)
    stage.two("COMMIT")
    return call.error()


def changed_after_a_timeout(stage):
    stage.one(SNAPSHOT, "SET innodb_lock_wait_timeout = 1", "SELECT n FROM t")
    stage.two("BEGIN", UPDATE.format(1))
    assert code_of(stage.fails(UPDATE.format(1))) == 1205
    stage.two("COMMIT")
    return stage.fails(UPDATE.format(1))


def killed(stage, what="QUERY"):
    stage.two("BEGIN", UPDATE.format(1))
    stage.clear = lambda: stage.two("ROLLBACK")
    stage.statement = UPDATE.format(1)
    call = stage.one.later(stage.statement)
    stage.until_waits(stage.one)
    stage.admin(f"KILL {what} {stage.one.number}")
    return call.error()


def connection_killed(stage):
    return killed(stage, "CONNECTION")


def connection_killed_idle(stage):
    stage.admin(f"KILL CONNECTION {stage.one.number}")
    assert until(lambda: stage.is_gone(stage.one))
    return stage.fails(UPDATE.format(1))


def idle_too_long(stage):
    stage.one("SET wait_timeout = 1")
    assert until(lambda: stage.is_gone(stage.one))
    return stage.fails(UPDATE.format(1))


def statement_timeout(stage):
    return locked(stage, UPDATE.format(1), "SET max_statement_time = 0.1")


def server_read_only(stage):
    stage.clear = lambda: stage.admin("SET GLOBAL read_only = OFF")
    stage.admin("SET GLOBAL read_only = ON")


def server_read_only_at_a_statement(stage):
    server_read_only(stage)
    return stage.fails(UPDATE.format(1))


def server_read_only_at_commit(stage):
    server_read_only(stage)
    return stage.fails("COMMIT")


def savepoint_vanished(stage):
    stage.before = ("SAVEPOINT s",)
    stage.one(*stage.before)
    assert code_of(deadlocked(stage)) == 1213
    return stage.fails("ROLLBACK TO SAVEPOINT s")


def violated(column, value):
    """Of the table `c`, with this column."""

    def provoke(stage):
        stage.two(f"CREATE TABLE c (id INT PRIMARY KEY, {column})", "INSERT INTO c VALUES (7, 1)")
        return stage.fails(f"INSERT INTO c {value}")

    return provoke


def still_referred_to(stage):
    stage.two("CREATE TABLE c (v INT, FOREIGN KEY (v) REFERENCES t (id))", "INSERT INTO c VALUES (1)")
    return stage.fails("DELETE FROM t WHERE id = 1")


REDO = ("rolled_back", "transaction", "redo")
WAIT = ("intact", "statement", "wait")
NEVER = ("intact", "never", "none")
CANCELLED = ("intact", "statement", "none")
LOST = ("lost_before_commit", "connection", "unavailable")
USER_LOCK = {"is_user_lock": True}
SCENES = [
    Scene("row lock", lock_timeout, 1205, *WAIT),
    Scene("NOWAIT", nowait, 1205, *WAIT),
    Scene("WAIT 1", wait_one_second, 1205, *WAIT),
    Scene("metadata lock", ddl_timeout, 1205, "implicitly_committed", "never", "none", conditions={"is_ddl": True}),
    Scene("COMMIT", commit_timeout, 1205, *REDO, phase="commit"),
    Scene("deadlock", deadlocked, 1213, *REDO),
    Scene("deadlock by DDL", deadlocked_by_ddl, 1213, *REDO),
    Scene("deadlock by GET_LOCK", deadlocked_by_user_locks, 1213, *CANCELLED, conditions=USER_LOCK),
    Scene("snapshot", changed_meanwhile, 1020, *REDO),
    Scene("snapshot, FOR UPDATE", changed_meanwhile_for_update, 1020, *REDO),
    Scene("snapshot, waiting", changed_while_waiting, 1020, *REDO),
    Scene("snapshot, second try", changed_after_a_timeout, 1020, *REDO),
    Scene("KILL QUERY", killed, 1317, *CANCELLED),
    Scene("max_statement_time", statement_timeout, 1969, *CANCELLED),
    Scene("read_only", server_read_only_at_a_statement, 1290, "intact", "connection", "unavailable"),
    Scene("read_only, COMMIT", server_read_only_at_commit, 1290, "rolled_back", "connection", "unavailable", "commit"),
    Scene("savepoint gone", savepoint_vanished, 1305, *REDO, phase="savepoint"),
    Scene("KILL, executing", connection_killed, 2013, *LOST),
    Scene("KILL, idle", connection_killed_idle, 2013, *LOST),
    Scene("wait_timeout", idle_too_long, 2006, *LOST),
    Scene("unique", violated("v INT", "VALUES (7, 2)"), 1062, *NEVER),
    Scene("foreign key", violated("v INT, FOREIGN KEY (v) REFERENCES t (id)", "VALUES (1, 9)"), 1452, *NEVER),
    Scene("still referred to", still_referred_to, 1451, *NEVER),
    Scene("NULL", violated("v INT NOT NULL", "VALUES (1, NULL)"), 1048, *NEVER),
    Scene("no default", violated("v INT NOT NULL", "(id) VALUES (1)"), 1364, *NEVER),
    Scene("check", violated("v INT CHECK (v > 0)", "VALUES (1, 0)"), 4025, *NEVER),
    Scene("too long", violated("v VARCHAR(2)", "VALUES (1, 'abc')"), 1406, *NEVER),
]


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_what_it_leaves_behind(mariadb_database, scene) -> None:
    check_fate(scene, mariadb_database)


@pytest.mark.parametrize(
    "scene", [s for s in SCENES if s.fate != "implicitly_committed"], ids=lambda scene: scene.name
)
def test_what_helps(mariadb_database, scene) -> None:
    check_scope(scene, mariadb_database)
