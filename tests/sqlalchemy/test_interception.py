"""Layers around a dialect come and go in any order, and leave nothing behind."""

from __future__ import annotations

import gc
import itertools
import threading
import weakref

import pytest
from sqlalchemy import create_engine, text

from turnwise.sqlalchemy import interception

CALLS = (
    "do_begin",
    "do_commit",
    "do_rollback",
    "do_execute",
    "do_executemany",
    "do_execute_no_params",
)


class Marking:
    """A layer that writes down that it was passed, on the way in and out."""

    def __init__(self, name, passed):
        self.name = name
        self.passed = passed

    def go(self, proceed, *arguments):
        self.passed.append(self.name)
        try:
            return proceed(*arguments)
        finally:
            self.passed.append(f"/{self.name}")

    do_begin = do_commit = do_rollback = go
    do_execute = do_executemany = do_execute_no_params = go


class OnlyCommit:
    def __init__(self, name, passed):
        self.passed = passed
        self.name = name

    def do_commit(self, proceed, connection):
        self.passed.append(self.name)
        return proceed(connection)


class Foreign:
    """Another library that wraps `do_execute` in the same way."""

    def __init__(self, dialect, passed):
        self.dialect = dialect
        self.wrapped = dialect.do_execute
        dialect.do_execute = self.run
        self.entry = dialect.__dict__["do_execute"]
        self.passed = passed

    def run(self, *arguments):
        self.passed.append("foreign")
        return self.wrapped(*arguments)


@pytest.fixture
def engine():
    engine = create_engine("sqlite://")
    select(engine)  # What SQLAlchemy remembers on a dialect is there before anything is compared.
    yield engine
    engine.dispose()


@pytest.fixture
def passed():
    return []


def outside(passed):
    return [name for name in passed if not name.startswith("/")]


def select(engine):
    with engine.connect() as connection:
        return connection.execute(text("SELECT :one"), {"one": 1}).scalar_one()


def test_every_function_goes_through_the_layer(engine, passed):
    interception.add(engine.dialect, "guard", Marking("guard", passed))
    seen = {}
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE t (a)")
        seen["no_params"], passed[:] = list(passed), []
        connection.execute(text("INSERT INTO t VALUES (:a)"), {"a": 1})
        seen["one"], passed[:] = list(passed), []
        connection.execute(text("INSERT INTO t VALUES (:a)"), [{"a": 2}, {"a": 3}])
        seen["many"], passed[:] = list(passed), []
        connection.commit()
        seen["commit"], passed[:] = list(passed), []
        connection.execute(text("SELECT 1"), execution_options={"no_parameters": True}).scalar_one()
        connection.rollback()
        seen["rest"] = list(passed)
    once = ["guard", "/guard"]
    assert seen == {
        "no_params": once * 2,  # BEGIN comes before it.
        "one": once,
        "many": once,
        "commit": once,
        "rest": once * 3,
    }


@pytest.mark.parametrize("names", list(itertools.permutations(interception.ORDER, 3)), ids=str)
def test_the_order_is_fixed_whoever_came_first(engine, passed, names):
    for name in names:
        interception.add(engine.dialect, name, Marking(name, passed))
    assert select(engine) == 1
    inwards = [name for name in interception.ORDER if name in names]
    inwards += [f"/{name}" for name in reversed(inwards)]
    assert passed == inwards * 3  # BEGIN, the statement, ROLLBACK


@pytest.mark.parametrize("when", ["never", "before", "between", "after"])
@pytest.mark.parametrize(
    "came", list(itertools.permutations(("journal", "guard", "sorting"))), ids=str
)
@pytest.mark.parametrize(
    "left", list(itertools.permutations(("journal", "guard", "sorting"))), ids=str
)
def test_any_order_of_leaving_restores_the_original(engine, passed, came, left, when):
    dialect = engine.dialect
    original = dict(vars(dialect))
    foreign = Foreign(dialect, passed) if when == "before" else None
    before = dict(vars(dialect))
    for number, name in enumerate(came):
        layer = OnlyCommit if name == "sorting" else Marking
        interception.add(dialect, name, layer(name, passed))
        if when == "between" and number == 0:
            foreign = Foreign(dialect, passed)
    if when == "after":
        foreign = Foreign(dialect, passed)
    for number, name in enumerate(left):
        passed.clear()
        assert select(engine) == 1
        here = set(left[number:]) & {"journal", "guard"}
        assert set(outside(passed)) == here | ({"foreign"} if foreign else set())
        interception.remove(dialect, name)
    passed.clear()
    assert select(engine) == 1
    assert passed == (["foreign"] if foreign else [])
    if when in {"never", "before"}:
        assert vars(dialect) == before
    else:
        assert vars(dialect) == original | {"do_execute": foreign.entry}
    if foreign:
        dialect.do_execute = foreign.wrapped
        passed.clear()
        assert select(engine) == 1
        assert passed == []


def test_what_was_left_and_put_back_by_somebody_else_is_not_wrapped_again(engine, passed):
    dialect = engine.dialect
    original = dict(vars(dialect))
    interception.add(dialect, "guard", Marking("guard", passed))
    foreign = Foreign(dialect, passed)
    interception.remove(dialect, "guard")
    dialect.do_execute = foreign.wrapped
    interception.add(dialect, "guard", Marking("guard", passed))
    interception.remove(dialect, "guard")
    assert vars(dialect) == original
    dialect.do_execute = foreign.wrapped
    assert select(engine) == 1


def test_a_layer_that_came_back_inside_a_foreign_wrapper_is_passed_once(engine, passed):
    dialect = engine.dialect
    interception.add(dialect, "guard", Marking("guard", passed))
    Foreign(dialect, passed)
    interception.remove(dialect, "guard")
    interception.add(dialect, "guard", Marking("guard", passed))
    with engine.connect() as connection:
        passed.clear()
        connection.execute(text("SELECT 1"))
    assert passed[passed.index("foreign") - 1] == "guard"
    assert passed.count("foreign") == 1


def test_the_same_name_replaces_and_unknown_names_are_refused(engine, passed):
    first, second = Marking("first", passed), Marking("second", passed)
    interception.add(engine.dialect, "guard", first)
    interception.add(engine.dialect, "guard", second)
    assert interception.layer_of(engine.dialect, "guard") is second
    select(engine)
    assert set(outside(passed)) == {"second"}
    with pytest.raises(ValueError, match="tracker, disconnects, journal, guard"):
        interception.add(engine.dialect, "guards", first)
    interception.remove(engine.dialect, "journal")
    interception.remove(engine.dialect, "guard")
    interception.remove(engine.dialect, "guard")
    assert interception.layer_of(engine.dialect, "guard") is None


def test_errors_and_results_pass_as_they_are(engine):
    class Layer:
        def do_execute(self, proceed, cursor, statement, parameters, context):
            return proceed(cursor, statement, parameters, context)

    interception.add(engine.dialect, "guard", Layer())
    error = KeyError("mine")

    def raising(*arguments):
        raise error

    class Raising:
        def execute(self, statement, parameters):
            raise error

    with pytest.raises(KeyError) as caught:
        engine.dialect.do_execute(Raising(), "SELECT 1", ())
    assert caught.value is error


def test_another_engine_s_dialect_is_not_touched(engine, passed):
    other = create_engine("sqlite://")
    interception.add(engine.dialect, "guard", Marking("guard", passed))
    assert select(other) == 1
    assert passed == []
    option_engine = engine.execution_options(stream_results=True)
    assert select(option_engine) == 1
    assert "guard" in passed
    other.dispose()


def test_a_dialect_with_layers_is_collected(passed):
    engine = create_engine("sqlite://")
    interception.add(engine.dialect, "guard", Marking("guard", passed))
    select(engine)
    engine.dispose()
    gone = weakref.ref(engine.dialect)
    del engine
    gc.collect()
    assert gone() is None


def test_layers_come_and_go_while_statements_run(engine, passed):
    """A statement goes through the layers of one moment: each on the way in and out."""
    dialect = engine.dialect
    stop = threading.Event()
    wrong = []

    class Cursor:
        def execute(self, statement, parameters):
            pass

    def running():
        cursor = Cursor()
        while not stop.is_set():
            trail = []
            dialect.do_execute(cursor, "SELECT 1", trail, None)
            names = [name for name in trail if not name.startswith("/")]
            ends = [name[1:] for name in trail if name.startswith("/")]
            order = [name for name in interception.ORDER if name in names]
            if names != order or ends != order[::-1]:
                wrong.append(trail)

    class Trailing:
        def __init__(self, name):
            self.name = name

        def do_execute(self, proceed, cursor, statement, parameters, context):
            parameters.append(self.name)
            proceed(cursor, statement, parameters, context)
            parameters.append(f"/{self.name}")

    threads = [threading.Thread(target=running) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(300):
            for name in ("guard", "journal", "sorting"):
                interception.add(dialect, name, Trailing(name))
            for name in ("journal", "guard", "sorting"):
                interception.remove(dialect, name)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
