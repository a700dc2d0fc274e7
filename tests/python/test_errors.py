"""The walk over all error kinds: each has its class, its number, its scene and its line in the docs."""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
import re
import sqlite3
import time

import pytest

import turnwise
from turnwise import BatchWriter, RetryPolicy, TurnLock, TurnwiseError, _native, errors
from writer_support import CREATE, INSERT, in_thread, locked_by_another_process

KINDS = _native.enums()["ErrorKind"]
STATES = _native.error_states()
EACH_KIND = pytest.mark.parametrize("kind", KINDS)


def class_of(kind):
    return getattr(errors, f"{kind}Error")


def other_bases(error_class):
    """The base classes that are Python's."""
    return [base for base in error_class.__bases__ if base is not TurnwiseError]


def test_every_class_has_a_kind_and_every_kind_a_class():
    classes = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, TurnwiseError)
    }
    assert classes == {f"{kind}Error" for kind in KINDS} | {"TurnwiseError"}
    assert set(errors.__all__) == classes | {"WalResetBugWarning"}
    assert turnwise.errors is errors
    assert turnwise.TurnwiseError is errors.TurnwiseError


@EACH_KIND
def test_a_kind_has_a_class_with_its_number_and_state(kind):
    error_class = class_of(kind)
    assert issubclass(error_class, TurnwiseError)
    assert (error_class.kind, error_class.code, error_class.state) == (
        kind,
        KINDS[kind],
        STATES[kind],
    )
    assert error_class.__module__ == "turnwise.errors"
    assert error_class.__doc__.split("\n")[0].endswith(".")
    assert error_class.__doc__ != TurnwiseError.__doc__


def test_the_states_are_three():
    assert STATES.keys() == KINDS.keys()
    assert set(STATES.values()) == {"transient", "permanent", "exhausted"}
    assert len(set(KINDS.values())) == len(KINDS)
    assert (TurnwiseError.kind, TurnwiseError.code, TurnwiseError.state) == ("", 0, "permanent")


def test_what_timed_out_is_a_time_out():
    timed_out = {kind for kind in KINDS if issubclass(class_of(kind), TimeoutError)}
    assert timed_out == {"LockTimeout", "QueueFull", "WriteTimeout"}


def copies(error):
    yield copy.copy(error)
    yield copy.deepcopy(error)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield pickle.loads(pickle.dumps(error, protocol))


@pytest.mark.parametrize("kind", [*KINDS, "Turnwise"])
def test_an_error_survives_the_way_to_another_process(kind):
    given = class_of(kind)("tópic: it went wrong", sqlite_errorcode=2067, attempts=3)
    for error in copies(given):
        assert error is not given
        assert type(error) is type(given)
        assert str(error) == "tópic: it went wrong"
        assert error.args == given.args
        assert (error.sqlite_errorcode, error.attempts) == (2067, 3)
        assert (error.kind, error.code, error.state) == (given.kind, given.code, given.state)
    for error in copies(class_of(kind)()):
        assert (str(error), error.sqlite_errorcode, error.attempts) == ("", None, 0)


class Scene:
    """Files and writers in which errors happen."""

    def __init__(self, folder, stack):
        self.folder = folder
        self.stack = stack

    def open(self, **settings):
        writer = self.stack.enter_context(BatchWriter(self.folder / "topics.db", **settings))
        writer.execute("CREATE TABLE IF NOT EXISTS topic (id INTEGER PRIMARY KEY, title UNIQUE)")
        return writer

    def locked(self, **settings):
        writer = self.open(**settings)
        self.stack.enter_context(locked_by_another_process(writer.path))
        return writer

    def run(self, sql, *parameters):
        self.open().execute(sql, *parameters)

    def garbage(self):
        (self.folder / "garbage").write_bytes(b"no database " * 500)
        BatchWriter(self.folder / "garbage")

    def corrupt(self):
        path = self.folder / "topics.db"
        self.open().close()
        content = bytearray(path.read_bytes())
        content[100:4096] = b"\xff" * 3996
        path.write_bytes(content)
        self.open()

    def deleted(self):
        writer = self.open()
        os.unlink(writer.path)
        writer.execute(INSERT, ("x",))

    def full_queue(self):
        writer = self.locked(max_queue_rows=1)
        writer.submit(INSERT, ("first",), timeout=1)
        writer.execute(INSERT, ("x",), timeout=0.05)

    def late_behind_a_transaction(self):
        writer = self.open()
        with writer.transaction():
            in_thread(lambda: writer.execute(INSERT, ("x",), timeout=0.05))()

    def closed(self):
        writer = self.open()
        writer.close()
        writer.execute(INSERT, ("x",))

    def reentered(self):
        writer = self.open()
        with writer.transaction():
            writer.execute(INSERT, ("x",))

    def held(self):
        with self.open(hold_limit=0.05).transaction() as tx:
            time.sleep(0.5)
            tx.execute(INSERT, ("x",))

    def ended(self):
        with self.open().transaction() as tx:
            pass
        tx.execute(INSERT, ("x",))

    def turn_twice(self):
        lock = TurnLock(self.open().path)
        with lock.turn(), lock.turn():
            pass

    def unsynced(self):
        writer = self.open(durability="pipelined")
        with turnwise.testing.faults(writer) as disk:
            disk.strike("flush", "ioerr")
            writer.execute(INSERT, ("x",))

    def rolled_back(self):
        with self.open().transaction() as tx:
            tx.execute(INSERT, ("x",))
            with pytest.raises(errors.ConstraintError):
                tx.execute(INSERT.replace("INSERT", "INSERT OR ROLLBACK"), ("x",))
            tx.execute(INSERT, ("y",))


SCENES = {
    "InvalidPolicy": lambda scene: RetryPolicy(max_attempts=0),
    "InvalidSetting": lambda scene: scene.open(max_batch=0),
    "UnsupportedParameter": lambda scene: scene.run(INSERT, (object(),)),
    "ParameterOutOfRange": lambda scene: scene.run(INSERT, (1 << 70,)),
    "ParameterMismatch": lambda scene: scene.run(INSERT, (1, 2)),
    "StatementNotAllowed": lambda scene: scene.run("COMMIT"),
    "NotOneStatement": lambda scene: scene.run("-- nothing"),
    "Statement": lambda scene: scene.run("INSRT INTO topic"),
    "NoSuchTable": lambda scene: scene.run("DELETE FROM nowhere"),
    "UnitTooLarge": lambda scene: scene.open(max_queue_rows=1).executemany(INSERT, [(1,), (2,)]),
    "CannotOpen": lambda scene: BatchWriter(scene.folder / "missing" / "topics.db"),
    "NotADatabase": Scene.garbage,
    "IsADirectory": lambda scene: BatchWriter(scene.folder),
    "Corrupt": Scene.corrupt,
    "SettingsConflict": lambda scene: scene.open() and scene.open(max_batch=7),
    "FileReplaced": Scene.deleted,
    "LockTimeout": lambda scene: scene.locked().execute(INSERT, ("x",), timeout=0.05),
    "QueueFull": Scene.full_queue,
    "WriteTimeout": Scene.late_behind_a_transaction,
    "WriterClosed": Scene.closed,
    "WriterReentered": Scene.reentered,
    "HoldLimitExceeded": Scene.held,
    "TransactionClosed": Scene.ended,
    "RolledBack": Scene.rolled_back,
    "Constraint": lambda scene: scene.run("INSERT INTO topic (id) VALUES (1), (1)"),
    "TurnReentered": Scene.turn_twice,
    "FlushFailed": Scene.unsynced,
    "TooBig": lambda scene: scene.run("INSERT INTO topic (title) VALUES (zeroblob(2000000000))"),
}

# Those that need more than a writer: where they happen.
ELSEWHERE = {
    "ReadOnly": "test_permissions.py",
    "DiskFull": "full_disk_scenes.py",
    "CommitOutcomeUnknown": "test_commit_in_doubt.py",
    # Never raised: the kind of an event.
    "TurnUnavailable": "test_turns_files.py",
    # What the session tracker raises.
    "Finding": None,
    # What the SQLAlchemy layer raises.
    "UnsupportedUnit": None,
    "UnsupportedServer": None,
    "TransactionNotOwned": None,
    "CommitNotReplayable": None,
    "ReplayDiverged": None,
    "TransactionPoisoned": None,
    "WritesLost": None,
    # These take a broken disk, a full memory or a signal, or nobody raises them yet.
    "AttemptsExhausted": None,
    "BudgetSpent": None,
    "Interrupted": None,
    "Io": None,
    "OutOfMemory": None,
    "WriteCancelled": None,
    # Not on Linux, and not unless turnwise is at fault.
    "UnsupportedPlatform": None,
    "Internal": None,
}


def test_every_kind_has_its_scene(repository):
    assert SCENES.keys().isdisjoint(ELSEWHERE)
    assert SCENES.keys() | ELSEWHERE.keys() == KINDS.keys()
    for kind, place in ELSEWHERE.items():
        if place is not None:
            assert kind in (repository / "tests" / "python" / place).read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", SCENES)
def test_the_native_side_raises_the_class_of_the_kind(tmp_path, kind):
    with contextlib.ExitStack() as stack, pytest.raises(TurnwiseError) as caught:
        SCENES[kind](Scene(tmp_path, stack))
    assert type(caught.value) is class_of(kind), caught.value
    assert len(str(caught.value)) > 10
    assert (caught.value.attempts > 0) == (kind == "LockTimeout")
    for error in copies(caught.value):
        assert (str(error), error.sqlite_errorcode) == (
            str(caught.value),
            caught.value.sqlite_errorcode,
        )


# What `sqlite3` itself makes of the same: existing `except` clauses go on working.
SAME = {
    "ParameterMismatch": (INSERT, (1, 2)),
    "Statement": ("INSRT INTO topic", ()),
    "NoSuchTable": ("DELETE FROM nowhere", ()),
    "Constraint": ("INSERT INTO topic (id, title) VALUES (1, 'a'), (1, 'b')", ()),
    "TooBig": ("INSERT INTO topic (title) VALUES (zeroblob(2000000000))", ()),
}


@pytest.mark.parametrize("kind", SAME)
def test_an_error_is_what_the_standard_library_raises(tmp_path, kind):
    sql, parameters = SAME[kind]
    with contextlib.closing(sqlite3.connect(tmp_path / "theirs.db")) as connection:
        connection.execute(CREATE)
        with pytest.raises(sqlite3.Error) as theirs:
            connection.execute(sql, parameters)
    with BatchWriter(tmp_path / "ours.db") as writer:
        writer.execute(CREATE)
        with pytest.raises(type(theirs.value)) as ours:
            writer.execute(sql, parameters)
    assert type(ours.value) is class_of(kind)
    if hasattr(theirs.value, "sqlite_errorcode"):
        assert ours.value.sqlite_errorcode == theirs.value.sqlite_errorcode


def test_the_lock_and_the_file_are_told_as_by_the_standard_library(tmp_path):
    (tmp_path / "garbage").write_bytes(b"no database " * 500)
    with (
        contextlib.closing(sqlite3.connect(tmp_path / "garbage")) as connection,
        pytest.raises(sqlite3.DatabaseError) as theirs,
    ):
        connection.execute("SELECT * FROM sqlite_master")
    assert issubclass(errors.NotADatabaseError, type(theirs.value))
    with pytest.raises(sqlite3.OperationalError) as theirs:
        sqlite3.connect(tmp_path / "missing" / "topics.db")
    assert issubclass(errors.CannotOpenError, type(theirs.value))
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db", timeout=0)) as connection:
        connection.execute(CREATE)
        with (
            locked_by_another_process(tmp_path / "a.db"),
            pytest.raises(sqlite3.OperationalError) as theirs,
        ):
            connection.execute(INSERT, ("x",))
    assert issubclass(errors.LockTimeoutError, type(theirs.value))


def name_of(base):
    return base.__name__ if base.__module__ == "builtins" else f"{base.__module__}.{base.__name__}"


@EACH_KIND
def test_the_documentation_names_every_error_and_what_else_it_is(repository, kind):
    page = (repository / "docs" / "errors.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in page.splitlines()
        if line.startswith("|")
    ]
    found = [row for row in rows if row[0] == f"`{kind}Error`"]
    assert len(found) == 1, f"docs/errors.md: one row of the table for `{kind}Error`"
    _, also, meaning = found[0]
    named = set(re.findall(r"`([^`]+)`", also))
    assert named == {name_of(base) for base in other_bases(class_of(kind))}
    assert meaning
