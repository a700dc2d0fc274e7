"""PostgreSQL's errors, provoked: what comes, what it leaves behind, what helps."""

from __future__ import annotations

import pytest

import turnwise
from scenes import MARK, Scene, Stage, check_fate, check_scope, code_of, said
from servers import Database, PostgreSQL, until

REPEATABLE_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ"
SERIALIZABLE = "BEGIN ISOLATION LEVEL SERIALIZABLE"
UPDATE = "UPDATE t SET n = n + 1 WHERE id = {}"
UPDATE_1 = UPDATE.format(1)


def changed_meanwhile(stage):
    stage.one("SELECT n FROM t")
    stage.two(UPDATE_1)
    return stage.fails(UPDATE_1)


def inserted_meanwhile(stage):
    stage.one("SELECT n FROM t")
    stage.two("INSERT INTO t VALUES (4, 40)")
    return stage.fails("INSERT INTO t VALUES (4, 41) ON CONFLICT DO NOTHING")


def skewed(stage, *, is_committed):
    """Each reads what the other writes."""
    stage.one("SELECT sum(n) FROM t")
    stage.two(SERIALIZABLE, "SELECT sum(n) FROM t", UPDATE_1)
    if is_committed:
        stage.two("COMMIT")
        return stage.fails(UPDATE.format(2))
    stage.one(UPDATE.format(2))
    stage.two("COMMIT")
    return stage.fails("COMMIT")


def skewed_at_a_write(stage):
    return skewed(stage, is_committed=True)


def skewed_at_commit(stage):
    return skewed(stage, is_committed=False)


def deadlocked(stage):
    """`two` is patient, so that it is `one` whom the detector finds waiting."""
    stage.two = stage.session(admin=True)
    stage.two("SET deadlock_timeout = '20s'", "BEGIN", UPDATE.format(2))
    stage.one(UPDATE_1)
    other = stage.two.later(UPDATE_1, "COMMIT")
    stage.until_waits(stage.two)
    error = stage.fails(UPDATE.format(2))
    other.done()
    return error


def locked(stage, *settings, statement=UPDATE_1):
    stage.two("BEGIN", UPDATE_1)
    stage.clear = lambda: stage.two("ROLLBACK")
    stage.one(*settings, "SAVEPOINT s")
    return stage.fails(statement)


def lock_timeout(stage):
    return locked(stage, "SET lock_timeout = '50ms'")


def nowait(stage):
    return locked(stage, statement="SELECT n FROM t WHERE id = 1 FOR UPDATE NOWAIT")


def statement_timeout(stage):
    return locked(stage, "SET statement_timeout = '50ms'")


def cancelled(stage):
    return ended(stage, "pg_cancel_backend")


def terminated_while_executing(stage):
    return ended(stage, "pg_terminate_backend")


def ended(stage, function):
    """The error of `one`, whom the administrator ends while it waits."""
    stage.two("BEGIN", UPDATE_1)
    stage.clear = lambda: stage.two("ROLLBACK")
    stage.statement = UPDATE_1
    call = stage.one.later(stage.statement)
    stage.until_waits(stage.one)
    stage.admin(f"SELECT {function}({stage.one.number})")
    return call.error()


def terminated(stage):
    stage.admin(f"SELECT pg_terminate_backend({stage.one.number})")
    assert until(lambda: stage.is_gone(stage.one))
    return stage.fails(UPDATE_1)


def swallowed(stage):
    stage.fails("SELECT 1 / 0")
    return stage.fails("SELECT 1")


def insert_race(stage):
    stage.two(stage.begin, "INSERT INTO t VALUES (4, 40)")
    return raced(stage, "INSERT INTO t VALUES (4, 41)")


def raced(stage, statement):
    """The error of `one`, who waits until `two` commits."""
    stage.statement = statement
    call = stage.one.later(statement)
    stage.until_waits(stage.one)
    stage.two("COMMIT")
    return call.error()


def insert_race_after_reads(stage):
    stage.one("SELECT n FROM t WHERE id = 4")
    stage.two(stage.begin, "SELECT n FROM t WHERE id = 4", "INSERT INTO t VALUES (4, 40)")
    error = raced(stage, "INSERT INTO t VALUES (4, 41)")
    stage.statement = "SELECT n FROM t WHERE id = 4"  # Who begins again sees the other's row.
    return error


def exclusion_race(stage):
    stage.admin(
        "CREATE TABLE x (r INT4RANGE, EXCLUDE USING gist (r WITH &&))", "GRANT ALL ON x TO app"
    )
    stage.two("BEGIN", "INSERT INTO x VALUES ('[1,5]')")
    return raced(stage, "INSERT INTO x VALUES ('[3,9]')")


def violated(column, value):
    """Of the table `c`, with this column."""

    def provoke(stage):
        stage.two(f"CREATE TABLE c (id INT PRIMARY KEY, {column})")
        return stage.fails(f"INSERT INTO c VALUES (1, {value})")

    return provoke


def violated_at_commit(column, value):
    def provoke(stage):
        stage.two(f"CREATE TABLE c (id INT PRIMARY KEY, {column} DEFERRABLE INITIALLY DEFERRED)")
        stage.before = ("INSERT INTO c VALUES (1, 1)", f"INSERT INTO c VALUES (2, {value})")
        stage.one(*stage.before)
        return stage.fails("COMMIT")

    return provoke


def duplicate(stage):
    return stage.fails("INSERT INTO t VALUES (1, 11)")


def idle_too_long(stage):
    stage.one("SET idle_in_transaction_session_timeout = '50ms'")
    assert until(lambda: stage.is_gone(stage.one))
    return stage.fails(UPDATE_1)


def declared_read_only(stage):
    stage.before = ("SET TRANSACTION READ ONLY",)
    stage.one(*stage.before)
    return stage.fails(UPDATE_1)


def plan_changed(stage):
    prepare = "PREPARE p AS SELECT * FROM t WHERE id = 1"
    stage.one("ROLLBACK", prepare, "EXECUTE p")
    stage.two("ALTER TABLE t ADD COLUMN more INT")
    stage.one("BEGIN", MARK.format(1))
    stage.before = ("DEALLOCATE p", prepare)
    return stage.fails("EXECUTE p")


def plan_lost(stage):
    stage.before = ("PREPARE p AS SELECT 1",)
    return stage.fails("EXECUTE p")


def plan_there_already(stage):
    stage.one("PREPARE p AS SELECT 1")
    stage.before = ("DEALLOCATE p",)
    return stage.fails("PREPARE p AS SELECT 2")


def grants_at_once(stage):
    stage.two("BEGIN", "GRANT SELECT ON t TO PUBLIC")
    return raced(stage, "GRANT INSERT ON t TO PUBLIC")


UPDATED = "tuple concurrently updated"
REDO = ("aborted", "transaction", "redo")
NEVER = ("aborted", "never", "none")
LOST = ("lost_before_commit", "connection", "unavailable")
ROLLED_BACK = ("rolled_back", "never", "none", "commit")
SCENES = [
    Scene("changed meanwhile", changed_meanwhile, "40001", *REDO, begin=REPEATABLE_READ),
    Scene("inserted meanwhile", inserted_meanwhile, "40001", *REDO, begin=REPEATABLE_READ),
    Scene("skewed at a write", skewed_at_a_write, "40001", *REDO, begin=SERIALIZABLE),
    Scene(
        "skewed",
        skewed_at_commit,
        "40001",
        "rolled_back",
        "transaction",
        "redo",
        "commit",
        SERIALIZABLE,
    ),
    Scene("insert race, both read", insert_race_after_reads, "40001", *REDO, begin=SERIALIZABLE),
    Scene("deadlocked", deadlocked, "40P01", *REDO),
    Scene("lock_timeout", lock_timeout, "55P03", "aborted", "savepoint", "wait"),
    Scene("NOWAIT", nowait, "55P03", "aborted", "savepoint", "wait"),
    Scene("statement_timeout", statement_timeout, "57014", "aborted", "transaction", "none"),
    Scene("cancelled", cancelled, "57014", "aborted", "transaction", "none"),
    Scene("an error swallowed", swallowed, "25P02", "aborted", "transaction", "none"),
    Scene("insert race", insert_race, "23505", *NEVER),
    Scene("insert race, RR", insert_race, "23505", *NEVER, begin=REPEATABLE_READ),
    Scene("exclusion race", exclusion_race, "23P01", *NEVER),
    Scene("unique", duplicate, "23505", *NEVER),
    Scene("not null", violated("v INT NOT NULL", "NULL"), "23502", *NEVER),
    Scene("foreign key", violated("v INT REFERENCES t", "9"), "23503", *NEVER),
    Scene("check", violated("v INT CHECK (v > 0)", "0"), "23514", *NEVER),
    Scene(
        "exclusion", violated("v INT, EXCLUDE USING btree (v WITH =)", "1), (2, 1"), "23P01", *NEVER
    ),
    Scene(
        "deferred foreign key", violated_at_commit("v INT REFERENCES t", "9"), "23503", *ROLLED_BACK
    ),
    Scene("deferred unique", violated_at_commit("v INT UNIQUE", "1"), "23505", *ROLLED_BACK),
    Scene("terminated", terminated, "57P01", *LOST),
    Scene("terminated, executing", terminated_while_executing, "57P01", *LOST),
    Scene("idle too long", idle_too_long, "25P03", "lost_before_commit", "connection", "redo"),
    Scene("read only", declared_read_only, "25006", *NEVER, conditions={"is_read_only": True}),
    Scene("plan changed", plan_changed, "0A000", *REDO),
    Scene("plan lost", plan_lost, "26000", *REDO),
    Scene("plan there already", plan_there_already, "42P05", *REDO),
    Scene("grants at once", grants_at_once, "XX000", *REDO, conditions={"message": UPDATED}),
]


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_what_it_leaves_behind(postgresql_database, scene) -> None:
    check_fate(scene, postgresql_database)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_what_helps(postgresql_database, scene) -> None:
    check_scope(scene, postgresql_database)


@pytest.fixture
def stage(postgresql_database):
    stage = Stage(postgresql_database)
    stage.one("BEGIN", MARK.format(1))
    yield stage
    stage.close()


@pytest.mark.parametrize("begin", [REPEATABLE_READ, SERIALIZABLE])
def test_a_savepoint_keeps_the_snapshot(stage, begin) -> None:
    stage.one("ROLLBACK", begin, "SELECT n FROM t", "SAVEPOINT s")
    stage.two(UPDATE_1)
    for _ in range(3):
        assert code_of(stage.fails(UPDATE_1)) == "40001"
        stage.one("ROLLBACK TO SAVEPOINT s")


def test_a_savepoint_heals_a_deadlock_if_it_is_older_than_the_lock(stage) -> None:
    stage.one("SAVEPOINT s")
    assert code_of(deadlocked(stage)) == "40P01"
    stage.one("ROLLBACK TO SAVEPOINT s", UPDATE_1, UPDATE.format(2), "COMMIT")
    assert stage.marks() == {1}


def test_a_savepoint_after_the_lock_keeps_the_deadlock(stage) -> None:
    other = stage.session(admin=True)
    other("SET deadlock_timeout = '20s'", "BEGIN", UPDATE.format(2))
    stage.one(UPDATE_1, "SAVEPOINT s")
    waiting = other.later(UPDATE_1, "COMMIT")
    stage.until_waits(other)
    for _ in range(2):
        assert code_of(stage.fails(UPDATE.format(2))) == "40P01"
        stage.one("ROLLBACK TO SAVEPOINT s")
        assert stage.waits(other)
    stage.one("ROLLBACK")
    waiting.done()


def test_the_other_one_goes_on_before_the_rollback(stage) -> None:
    assert code_of(deadlocked(stage)) == "40P01"  # Which sees `two` commit.
    assert code_of(stage.fails("SELECT 1")) == "25P02"


def test_without_a_savepoint_the_transaction_is_to_be_repeated(stage) -> None:
    assert code_of(lock_timeout(stage)) == "55P03"
    stage.free()
    assert code_of(stage.fails(UPDATE_1)) == "25P02"
    stage.heal("transaction")


def test_a_session_that_may_only_read(stage) -> None:
    """As all of a standby's."""
    database = f"ALTER DATABASE {stage.database.name}"
    stage.admin(f"{database} SET default_transaction_read_only = on")
    late = stage.session()
    late("BEGIN")
    assert code_of(late.fails(UPDATE_1)) == "25006"
    assert code_of(late.fails("SELECT 1")) == "25P02"
    verdict = turnwise.classify_code("postgresql", "25006")
    assert said(verdict) == ("aborted", "connection", "unavailable")
    stage.admin(f"{database} RESET default_transaction_read_only")
    stage.session()(UPDATE_1)


@pytest.fixture
def waiting_for_a_standby():
    """A server whose COMMIT waits for a standby that never answers."""
    settings = ("synchronous_standby_names=nobody", "synchronous_commit=local")
    server = PostgreSQL(*(word for setting in settings for word in ("-c", setting)))
    try:
        with server.database() as name:
            stage = Stage(Database(server, name))
            stage.one("BEGIN", "SET LOCAL synchronous_commit = on", MARK.format(1))
            yield stage
            stage.close()
    finally:
        server.stop()


def test_a_commit_that_was_terminated_while_it_waited_for_a_standby_is_committed(
    waiting_for_a_standby,
) -> None:
    stage = waiting_for_a_standby
    commit = stage.one.later("COMMIT")
    stage.until_waits(stage.one)
    assert stage.marks() == set()
    stage.admin(f"SELECT pg_terminate_backend({stage.one.number})")
    error = commit.error()
    assert until(lambda: stage.is_gone(stage.one))
    assert stage.marks() == {1}
    verdict = turnwise.classify_code(
        "postgresql", code_of(error), phase="commit", message=str(error), is_lost=True
    )
    assert said(verdict) == ("unknown", "resolve", "none")


def test_a_commit_on_a_session_that_was_terminated_before_is_not_committed(stage) -> None:
    stage.admin(f"SELECT pg_terminate_backend({stage.one.number})")
    assert until(lambda: stage.is_gone(stage.one))
    error = stage.fails("COMMIT")
    assert (code_of(error), stage.marks()) == ("57P01", set())
    assert said(turnwise.classify_code("postgresql", "57P01", phase="commit"))[0] == "unknown"
