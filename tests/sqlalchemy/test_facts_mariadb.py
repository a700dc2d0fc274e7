"""MariaDB's errors, provoked: what comes, what it leaves behind, what helps. MySQL shares most of them."""

from __future__ import annotations

import pymysql
import pytest
from pymysql.constants import SERVER_STATUS

import turnwise
from scenes import MARK, Scene, Stage, check_fate, check_scope, code_of, said
from servers import Database, MariaDB, until

UPDATE = "UPDATE t SET n = n + 1 WHERE id = {}"
UPDATE_1 = UPDATE.format(1)
SNAPSHOT = "SET innodb_snapshot_isolation = ON"
OWN_SERVER = "--innodb-rollback-on-timeout=ON", "--max-connections=10"


def locked(stage, statement, *settings):
    """The error of a statement that meets row 1 locked by `two`."""
    stage.two("BEGIN", UPDATE_1)
    stage.clear = lambda: stage.two("ROLLBACK")
    stage.one(*settings)
    return stage.fails(statement)


def lock_timeout(stage):
    return locked(stage, UPDATE_1, "SET innodb_lock_wait_timeout = 1")


def lock_timeout_after_a_read(stage):
    stage.one("SELECT n FROM u")
    return lock_timeout(stage)


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
    stage.one(UPDATE_1)
    call = stage.two.later(UPDATE_1, "COMMIT")
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


def changed_meanwhile(stage, statement=UPDATE_1):
    stage.one(SNAPSHOT, "SELECT n FROM t")
    stage.two(UPDATE_1)
    return stage.fails(statement)


def changed_meanwhile_for_update(stage):
    return changed_meanwhile(stage, "SELECT n FROM t WHERE id = 1 FOR UPDATE")


def changed_while_waiting(stage):
    stage.one(SNAPSHOT, "SELECT n FROM t")
    stage.two("BEGIN", UPDATE_1)
    stage.statement = UPDATE_1
    call = stage.one.later(stage.statement)
    stage.until_waits(stage.one)
    stage.two("COMMIT")
    return call.error()


def changed_after_a_timeout(stage):
    stage.one(SNAPSHOT, "SET innodb_lock_wait_timeout = 1", "SELECT n FROM t")
    stage.two("BEGIN", UPDATE_1)
    assert code_of(stage.fails(UPDATE_1)) == 1205
    stage.two("COMMIT")
    return stage.fails(UPDATE_1)


def killed(stage, what="QUERY"):
    stage.two("BEGIN", UPDATE_1)
    stage.clear = lambda: stage.two("ROLLBACK")
    stage.statement = UPDATE_1
    call = stage.one.later(stage.statement)
    stage.until_waits(stage.one)
    stage.admin(f"KILL {what} {stage.one.number}")
    return call.error()


def connection_killed(stage):
    return killed(stage, "CONNECTION")


def connection_killed_idle(stage):
    stage.admin(f"KILL CONNECTION {stage.one.number}")
    assert until(lambda: stage.is_gone(stage.one))
    return stage.fails(UPDATE_1)


def idle_too_long(stage):
    stage.one("SET wait_timeout = 1")
    assert until(lambda: stage.is_gone(stage.one))
    return stage.fails(UPDATE_1)


def statement_timeout(stage):
    return locked(stage, UPDATE_1, "SET max_statement_time = 0.1")


def server_read_only(stage):
    stage.clear = lambda: stage.admin("SET GLOBAL read_only = OFF")
    stage.admin("SET GLOBAL read_only = ON")


def server_read_only_at_a_statement(stage):
    server_read_only(stage)
    return stage.fails(UPDATE_1)


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
    stage.two(
        "CREATE TABLE c (v INT, FOREIGN KEY (v) REFERENCES t (id))", "INSERT INTO c VALUES (1)"
    )
    return stage.fails("DELETE FROM t WHERE id = 1")


def refused(statement):
    return lambda stage: stage.fails(statement)


COMMITTED = ("implicitly_committed", "never", "none")
REDO = ("rolled_back", "transaction", "redo")
WAIT = ("intact", "statement", "wait")
NEVER = ("intact", "never", "none")
CANCELLED = ("intact", "statement", "none")
LOST = ("lost_before_commit", "connection", "unavailable")
DDL = {"is_ddl": True}
USER_LOCK = {"is_user_lock": True}
SCENES = [
    Scene("row lock", lock_timeout, 1205, *WAIT),
    Scene(
        "row lock, read before",
        lock_timeout_after_a_read,
        1205,
        "intact",
        "transaction",
        "wait",
        conditions={"has_read": True},
    ),
    Scene("NOWAIT", nowait, 1205, *WAIT),
    Scene("WAIT 1", wait_one_second, 1205, *WAIT),
    Scene(
        "metadata lock",
        ddl_timeout,
        1205,
        *COMMITTED,
        conditions=DDL,
    ),
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
    Scene(
        "read_only", server_read_only_at_a_statement, 1290, "intact", "connection", "unavailable"
    ),
    Scene(
        "read_only, COMMIT",
        server_read_only_at_commit,
        1290,
        "rolled_back",
        "connection",
        "unavailable",
        "commit",
    ),
    Scene("savepoint gone", savepoint_vanished, 1305, *REDO, phase="savepoint"),
    Scene("KILL, executing", connection_killed, 2013, *LOST),
    Scene("KILL, idle", connection_killed_idle, 2013, *LOST),
    Scene("wait_timeout", idle_too_long, 2006, *LOST),
    Scene("unknown column", refused("SELECT nothing FROM t"), 1054, *NEVER),
    Scene("unknown table", refused("SELECT n FROM nowhere"), 1146, *NEVER),
    Scene("no such syntax", refused("SELCT 1"), 1064, *NEVER),
    Scene(
        "table there already", refused("CREATE TABLE t (i INT)"), 1050, *COMMITTED, conditions=DDL
    ),
    Scene("unique", violated("v INT", "VALUES (7, 2)"), 1062, *NEVER),
    Scene(
        "foreign key",
        violated("v INT, FOREIGN KEY (v) REFERENCES t (id)", "VALUES (1, 9)"),
        1452,
        *NEVER,
    ),
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


@pytest.fixture
def stage(mariadb_database):
    stage = Stage(mariadb_database)
    stage.one("BEGIN", MARK.format(1))
    yield stage
    stage.close()


def test_after_a_lock_timeout_all_locks_are_kept(stage) -> None:
    stage.one(UPDATE.format(2))
    assert code_of(lock_timeout(stage)) == 1205
    third = stage.session()
    assert code_of(third.fails("SELECT n FROM t WHERE id = 2 FOR UPDATE NOWAIT")) == 1205


@pytest.mark.parametrize("provoke", [commit_timeout, server_read_only_at_commit])
def test_a_second_commit_says_ok_and_stores_nothing(stage, provoke) -> None:
    provoke(stage)
    stage.free()
    stage.one("COMMIT")
    assert stage.marks() == set()


@pytest.mark.parametrize("provoke", [deadlocked, changed_meanwhile])
def test_who_swallows_the_error_commits_the_second_half(stage, provoke) -> None:
    stage.one("ROLLBACK", "SET autocommit = OFF", MARK.format(1))
    provoke(stage)
    stage.one(MARK.format(2), "COMMIT")
    assert stage.marks() == {2}


def test_a_lost_snapshot_takes_the_savepoints_with_it(stage) -> None:
    stage.one("SAVEPOINT s")
    assert code_of(changed_meanwhile(stage)) == 1020
    assert code_of(stage.fails("ROLLBACK TO SAVEPOINT s")) == 1305


def test_the_state_that_the_driver_holds_is_older_than_the_error(stage) -> None:
    in_transaction = SERVER_STATUS.SERVER_STATUS_IN_TRANS
    assert code_of(deadlocked(stage)) == 1213
    assert stage.one.connection.server_status & in_transaction
    stage.one("DO 0")
    assert not stage.one.connection.server_status & in_transaction


def test_a_transaction_declared_read_only_goes_on_after_a_refused_write(stage) -> None:
    stage.one("ROLLBACK", "START TRANSACTION READ ONLY", "SELECT n FROM t")
    stage.two(UPDATE_1)
    assert code_of(stage.fails(UPDATE_1)) == 1792
    assert stage.one.in_transaction
    assert stage.one("SELECT n FROM t WHERE id = 1") == [(10,)]
    assert said(turnwise.classify_code("mariadb", 1792)) == NEVER


@pytest.mark.parametrize(
    ("earlier", "statement", "codes"),
    [
        ((), "INSERT INTO c VALUES (1), (1)", {1030, 1180}),
        (("INSERT INTO c VALUES (1)",), "INSERT INTO c VALUES (1)", {1062}),
    ],
)
def test_without_checks_a_duplicate_undoes_what_the_server_says_is_open(
    stage, earlier, statement, codes
) -> None:
    stage.two("CREATE TABLE c (id INT PRIMARY KEY)")
    stage.one("ROLLBACK", "SET unique_checks = 0, foreign_key_checks = 0", "BEGIN", MARK.format(1))
    stage.one(*earlier)
    code = code_of(stage.fails(statement))
    assert code in codes
    assert stage.one.in_transaction
    stage.one("COMMIT")
    assert stage.marks() == set()
    assert turnwise.classify_code("mariadb", 1030).fate == "aborted"


@pytest.fixture(scope="module")
def own_server():
    """A server that rolls back on a lock timeout, and has few connections."""
    server = MariaDB(*OWN_SERVER)
    yield server
    server.stop()


@pytest.fixture
def own_database(own_server):
    with own_server.database() as name:
        yield Database(own_server, name)


@pytest.mark.parametrize("check", [check_fate, check_scope])
def test_a_server_may_roll_back_on_a_lock_timeout(own_database, check) -> None:
    conditions = {"rolls_back_on_timeout": True}
    check(Scene("own", lock_timeout, 1205, *REDO, conditions=conditions), own_database)


def test_a_server_may_have_no_connection_free(own_database) -> None:
    sessions = []
    try:
        with pytest.raises(pymysql.OperationalError) as caught:
            sessions += [own_database.raw() for _ in range(11)]
    finally:
        for session in sessions:
            session.close()
    assert code_of(caught.value) == 1040
    verdict = turnwise.classify_code("mariadb", 1040, phase="connect")
    assert said(verdict) == ("none", "connection", "unavailable")
