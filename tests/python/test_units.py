"""Units of work that know nothing of SQLAlchemy."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import pickle
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from contextlib import closing
from pathlib import Path

import pytest

from turnwise import Budget, Override, RetryPolicy
from turnwise.attempts import is_exhausted
from turnwise.errors import (
    CommitOutcomeUnknownError,
    InvalidPolicyError,
    LockTimeoutError,
    TransactionNotOwnedError,
    TurnwiseError,
    UnsupportedUnitError,
)
from turnwise.units import retry, retry_on_deadlock, run

ROOT = Path(__file__).resolve().parents[2]
QUICK = {"initial_delay": 0.001, "max_delay": 0.002}


def stale():
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = 517
    return error


class Failing:
    """Fails as often as told, with a new error each time."""

    def __init__(self, times, make=stale):
        self.times, self.make, self.calls, self.errors = times, make, 0, []

    def __call__(self, value="done"):
        self.calls += 1
        if self.calls <= self.times:
            self.errors.append(self.make())
            raise self.errors[-1]
        return value

    async def later(self, value="done"):
        await asyncio.sleep(0)
        return self(value)


@pytest.fixture
def shop(tmp_path):
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=wal")
        connection.execute("CREATE TABLE item (name TEXT)")
        connection.commit()
    return path


HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.readline()
connection.execute("COMMIT")
"""


@pytest.fixture
def holder(shop):
    """Another process that holds the write lock until it is told."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(shop)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"locked\n"
        yield process
        process.stdin.close()


def test_a_unit_with_a_connection_of_its_own_outlasts_another_process(shop, holder):
    calls = []

    @retry_on_deadlock(**QUICK)
    def save(name):
        calls.append(time.monotonic())
        with closing(sqlite3.connect(shop, timeout=0)) as connection, connection:
            connection.execute("INSERT INTO item VALUES (?)", (name,))
            return name

    threading.Timer(0.15, holder.stdin.write, (b"\n",)).start()
    threading.Timer(0.16, holder.stdin.flush).start()
    assert save("tea") == "tea"
    # Waits for a lock are bounded by the deadline, not by the attempts.
    assert len(calls) > 4
    with closing(sqlite3.connect(shop)) as connection:
        assert connection.execute("SELECT name FROM item").fetchall() == [("tea",)]


def test_the_deadline_counts_from_the_first_call_and_the_error_is_the_drivers(shop, holder):
    @retry_on_deadlock(deadline=0.3, **QUICK)
    def save():
        with closing(sqlite3.connect(shop, timeout=0)) as connection, connection:
            connection.execute("INSERT INTO item VALUES ('tea')")

    began = time.monotonic()
    with pytest.raises(sqlite3.OperationalError, match="^database is locked") as caught:
        save()
    assert 0.25 < time.monotonic() - began < 5
    assert type(caught.value) is sqlite3.OperationalError
    assert caught.value.__notes__[0].startswith("turnwise: gave up after ")
    assert is_exhausted(caught.value)


def test_the_time_of_the_first_attempt_is_part_of_the_deadline():
    calls = []

    @retry_on_deadlock(deadline=0.1, **QUICK)
    def slow():
        calls.append(1)
        time.sleep(0.15)
        raise stale()

    with pytest.raises(sqlite3.OperationalError):
        slow()
    assert len(calls) == 1


def test_a_connection_with_an_open_transaction_is_the_callers(shop):
    with closing(sqlite3.connect(shop, timeout=0)) as connection:
        connection.execute("INSERT INTO item VALUES ('of the caller')")
        calls = []

        @retry_on_deadlock(**QUICK)
        def save(conn):
            calls.append(conn)
            raise stale()

        with pytest.raises(TransactionNotOwnedError, match="database is locked") as caught:
            save(connection)
        assert isinstance(caught.value, sqlite3.OperationalError)
        assert caught.value.sqlite_errorcode == 517
        assert len(calls) == 1
        assert connection.in_transaction
        connection.commit()
        with pytest.raises(sqlite3.OperationalError) as caught:
            save(connection)
        assert type(caught.value) is sqlite3.OperationalError
        assert len(calls) == 4


@pytest.mark.parametrize(
    "decorate", [retry_on_deadlock, retry, retry(**QUICK)], ids=["bare", "retry", "called"]
)
def test_with_and_without_parentheses(decorate):
    failing = Failing(1)
    unit = decorate(failing)
    assert unit(value=7) == 7
    assert failing.calls == 2
    coroutine = Failing(1)
    assert asyncio.run(decorate(coroutine.later)(8)) == 8
    assert coroutine.calls == 2


def test_exhausted_it_raises_the_last_error_itself_without_the_earlier_ones():
    failing = Failing(9)
    unit = retry_on_deadlock(max_attempts=3, **QUICK)(failing)
    with pytest.raises(sqlite3.OperationalError) as caught:
        unit()
    assert failing.calls == 3
    assert caught.value is failing.errors[-1]
    assert caught.value.__context__ is None
    assert "gave up after 3 attempts" in caught.value.__notes__[0]
    lines = traceback.format_exception(caught.value)
    assert sum("During handling" in line for line in lines) == 0
    assert sum("in __call__" in line for line in lines) == 1


def test_what_a_retry_does_not_help_passes_through_untouched():
    def wrong():
        return KeyError("no such item")

    failing = Failing(9, wrong)
    with pytest.raises(KeyError) as caught:
        retry(failing)()
    assert failing.calls == 1
    assert not hasattr(caught.value, "__notes__")


def test_only_retry_takes_a_lost_connection_and_neither_a_commit_in_doubt():
    lost = Override(
        dialect="sqlite",
        code=26,
        class_="connection_lost",
        fate="lost_before_commit",
        scope="connection",
        retry="unavailable",
    )
    doubt = Override(
        dialect="sqlite",
        code=11,
        class_="commit_unknown",
        fate="unknown",
        scope="resolve",
        retry="none",
    )

    def broken(code):
        def make():
            error = sqlite3.DatabaseError("broken")
            error.sqlite_errorcode = code
            return error

        return make

    for decorate, code, calls in ((retry, 26, 2), (retry_on_deadlock, 26, 1), (retry, 11, 1)):
        failing = Failing(1, broken(code))
        unit = decorate(overrides=[lost, doubt], **QUICK)(failing)
        if calls == 2:
            assert unit() == "done"
        else:
            with pytest.raises(sqlite3.DatabaseError) as caught:
                unit()
            noted = getattr(caught.value, "__notes__", [""])[0]
            assert ("unknown whether COMMIT" in noted) == (code == 11)
        assert failing.calls == calls
    failing = Failing(1, broken(11))
    with pytest.raises(sqlite3.DatabaseError):
        retry(on=sqlite3.DatabaseError, overrides=[doubt], **QUICK)(failing)()
    assert failing.calls == 1


@pytest.mark.parametrize(
    "on", [KeyError, (KeyError, ValueError), lambda error: error.args == ("x",)]
)
def test_more_errors_can_be_named(on):
    failing = Failing(2, lambda: KeyError("x"))
    assert retry(on=on, **QUICK)(failing)() == "done"
    other = Failing(1, lambda: IndexError("y"))
    with pytest.raises(IndexError):
        retry(on=on, **QUICK)(other)()
    assert other.calls == 1


@pytest.mark.parametrize(
    "cancellation", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError]
)
def test_cancellation_is_never_retried(cancellation):
    failing = Failing(1, cancellation)
    with pytest.raises(cancellation):
        retry(on=lambda error: True)(failing)()
    assert failing.calls == 1


def test_cancelling_a_task_ends_its_wait_for_the_next_attempt():
    failing = Failing(99)

    async def main():
        task = asyncio.ensure_future(
            retry_on_deadlock(initial_delay=60, max_delay=60, jitter="none", deadline=600)(
                failing.later
            )()
        )
        await asyncio.sleep(0.05)
        assert failing.calls == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    began = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began < 10


def test_a_nested_unit_leaves_the_retries_to_the_outermost():
    failing = Failing(2)
    outside = []
    inner = retry_on_deadlock(**QUICK)(failing)

    @retry_on_deadlock(**QUICK)
    def outer():
        outside.append(1)
        return inner()

    assert outer() == "done"
    assert (failing.calls, len(outside)) == (3, 3)
    exhausting = Failing(99)
    inner_too = retry_on_deadlock(**QUICK)(exhausting)
    with pytest.raises(sqlite3.OperationalError):
        retry_on_deadlock(**QUICK)(inner_too)()
    assert exhausting.calls == 3


def test_a_nested_coroutine_joins_and_another_task_and_thread_do_not():
    def count(make_outer):
        failing = Failing(99)
        inner = retry_on_deadlock(max_attempts=3, **QUICK)(failing.later)
        with pytest.raises(sqlite3.OperationalError) as caught:
            asyncio.run(retry_on_deadlock(max_attempts=2, **QUICK)(make_outer(inner))())
        return failing.calls, caught.value.__notes__

    def awaiting(inner):
        async def outer():
            await asyncio.sleep(0)
            return await inner()

        return outer

    def in_a_task(inner):
        async def outer():
            return await asyncio.ensure_future(inner())

        return outer

    def in_a_thread(inner):
        async def outer():
            return await asyncio.to_thread(lambda: asyncio.run(inner()))

        return outer

    calls, notes = count(awaiting)
    assert (calls, "after 2 attempts" in notes[0]) == (2, True)
    # The other unit has given up: its error is not retried a second time.
    for other in (in_a_task, in_a_thread):
        calls, notes = count(other)
        assert (calls, len(notes), "after 3 attempts" in notes[0]) == (3, 1, True)


def test_recursion_joins_the_first_call():
    calls = []

    @retry_on_deadlock(**QUICK)
    def count_down(number):
        calls.append(number)
        if number == 0:
            if len(calls) < 8:
                raise stale()
            return "done"
        return count_down(number - 1)

    assert count_down(3) == "done"
    assert calls == [3, 2, 1, 0, 3, 2, 1, 0]


def test_a_wrapped_exhausted_error_is_not_retried_in_another_thread():
    failing = Failing(99)
    inner = retry_on_deadlock(max_attempts=2, **QUICK)(failing)
    failures = []

    def call():
        try:
            inner()
        except sqlite3.OperationalError as error:
            failures.append(error)

    @retry_on_deadlock(**QUICK)
    def outer():
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        raise RuntimeError("of the application") from failures[-1]

    with pytest.raises(RuntimeError):
        outer()
    assert failing.calls == 2


def test_an_error_that_turnwise_has_waited_for_already_is_not_waited_for_again():
    failing = Failing(1, lambda: LockTimeoutError("locked", sqlite_errorcode=5))
    with pytest.raises(LockTimeoutError):
        retry_on_deadlock(failing)()
    assert failing.calls == 1


def test_methods_classmethods_and_staticmethods():
    class Shop:
        calls = 0

        @retry_on_deadlock(**QUICK)
        def sell(self, price, *, tax=2):
            Shop.calls += 1
            if Shop.calls % 2:
                raise stale()
            return self, price + tax

        @classmethod
        @retry_on_deadlock(**QUICK)
        def open(cls, name):
            Shop.calls += 1
            if Shop.calls % 2:
                raise stale()
            return cls, name

        @staticmethod
        @retry_on_deadlock(**QUICK)
        def add(a, b):
            Shop.calls += 1
            if Shop.calls % 2:
                raise stale()
            return a + b

    shop = Shop()
    assert shop.sell(3) == (shop, 5)
    assert shop.sell(price=3, tax=0) == (shop, 3)
    assert Shop.open("x") == (Shop, "x")
    assert Shop.add(1, b=2) == 3
    assert retry_on_deadlock(shop.sell)(4) == (shop, 6)
    for wrong in (classmethod, staticmethod):
        with pytest.raises(UnsupportedUnitError, match=f"@{wrong.__name__} above"):
            retry_on_deadlock(wrong(lambda: None))


def everything(a, b=[], /, c=3, *args, d, e="e", **kwargs):  # noqa: B006
    return a, b, c, args, d, e, kwargs


def no_parameter():
    return ()


def only_rest(*args, **kwargs):
    return args, kwargs


def keywords(*, x, y=2):
    return x, y


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        (everything, (1,), {"d": 4}),
        (everything, (1, 2, 3, 4, 5), {"d": 4, "e": 5, "f": 6}),
        (everything, (1,), {"c": 9, "d": 4, "a": "another a"}),
        (no_parameter, (), {}),
        (only_rest, (1, 2), {"a": 3}),
        (keywords, (), {"x": 1}),
        (functools.partial(everything, 1), (2,), {"d": 3}),
        (max, (1, 2), {}),
        (lambda attempt, function: (attempt, function), (1, 2), {}),
    ],
)
def test_a_unit_takes_what_its_function_takes(function, args, kwargs):
    unit = retry_on_deadlock(function)
    assert unit(*args, **kwargs) == function(*args, **kwargs)
    if isinstance(function, type(everything)):
        assert inspect.signature(unit) == inspect.signature(function)
        assert unit.__defaults__ == function.__defaults__
        assert unit.__kwdefaults__ == function.__kwdefaults__


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        (everything, (), {"d": 1}),
        (everything, (1,), {}),
        (no_parameter, (1,), {}),
        (keywords, (1,), {}),
        (keywords, (), {"x": 1, "z": 2}),
    ],
)
def test_a_unit_refuses_what_its_function_refuses_once(function, args, kwargs):
    with pytest.raises(TypeError) as expected:
        function(*args, **kwargs)
    with pytest.raises(TypeError) as caught:
        retry(on=TypeError, initial_delay=60.0, max_delay=60.0)(function)(*args, **kwargs)
    assert str(expected.value).split("()")[1] == str(caught.value).split("()")[1]


def test_every_attempt_gets_the_same_arguments():
    seen = []

    @retry_on_deadlock(**QUICK)
    def unit(a, b=2, /, *rest, c, d=4, **more):
        seen.append((a, b, rest, c, d, more))
        if len(seen) < 3:
            raise stale()

    unit(1, 5, 6, c=3, e=7)
    assert seen == [(1, 5, (6,), 3, 4, {"e": 7})] * 3


def test_metadata_and_kind_stay():
    @retry_on_deadlock
    def unit(a: int, b: str = "x") -> str:
        """What it does."""

    assert (unit.__name__, unit.__doc__, unit.__module__) == ("unit", "What it does.", __name__)
    assert str(inspect.signature(unit)) == "(a: 'int', b: 'str' = 'x') -> 'str'"

    @retry_on_deadlock
    async def coroutine():
        pass

    assert inspect.iscoroutinefunction(coroutine)
    assert not inspect.iscoroutinefunction(unit)
    assert pickle.loads(pickle.dumps(picklable)) is picklable


@retry_on_deadlock
def picklable():
    pass


def test_generators_and_other_things_are_refused_at_once():
    def generator():
        yield

    async def stream():
        yield

    class Callable:
        def __call__(self):
            yield

    for wrong in (generator, stream, functools.partial(generator), Callable(), Callable, 7, None):
        if wrong is None:
            continue
        for use in (retry_on_deadlock(), retry(), lambda unit: run(unit, session_factory=int)):
            with pytest.raises(UnsupportedUnitError):
                use(wrong)
    assert issubclass(UnsupportedUnitError, TypeError)


def test_settings_are_checked_at_decoration():
    for wrong, kind in (
        ({"tries": 1}, TypeError),
        ({"max_attempts": 0}, InvalidPolicyError),
        ({"policy": RetryPolicy(), "deadline": 1}, TypeError),
    ):
        for use in (retry_on_deadlock, retry):
            with pytest.raises(kind):
                use(**wrong)
    with pytest.raises(TypeError):
        retry_on_deadlock(on=KeyError)
    for not_errors in ([KeyError], (3,), "KeyError", 3):
        with pytest.raises(TypeError, match="on is an exception type"):
            retry(on=not_errors)
    with pytest.raises(UnsupportedUnitError, match="max_attempts=3"):
        retry_on_deadlock(3)
    with pytest.raises(TypeError, match="session_factory is a sessionmaker .* not object"):
        run(print, session_factory=object())


def test_a_budget_ends_the_retries_of_all_who_share_it():
    failing = Failing(99)
    budget = Budget(capacity=5)
    unit = retry_on_deadlock(max_attempts=9, budget=budget, **QUICK)(failing)
    for calls in (2, 3):
        with pytest.raises(sqlite3.OperationalError):
            unit()
        assert failing.calls == calls


def test_mutable_arguments_are_the_same_objects_unless_copies_are_wanted():
    def unit(basket, fixed, *, seen):
        basket.append(len(basket))
        seen["n"] = seen.get("n", 0) + 1
        fixed.calls += 1
        if fixed.calls < 3:
            raise stale()
        return basket, seen

    class Fixed:
        calls = 0

    basket, seen = [], {}
    assert retry_on_deadlock(**QUICK)(unit)(basket, Fixed(), seen=seen) == ([0, 1, 2], {"n": 3})
    basket, seen = [[]], {}
    before = copy.deepcopy(basket)
    assert retry_on_deadlock(copy_arguments=True, **QUICK)(unit)(basket, Fixed(), seen=seen) == (
        [[], 1],
        {"n": 1},
    )
    assert (basket, seen) == (before, {})


def test_an_argument_that_cannot_be_looked_at_does_not_hide_the_error():
    class Proxy:
        @property
        def __class__(self):
            raise RuntimeError("working outside of request context")

        @property
        def __dict__(self):
            raise RuntimeError("working outside of request context")

    failing = Failing(1)
    assert retry_on_deadlock(**QUICK)(lambda proxy: failing())(Proxy()) == "done"


def test_concurrent_calls_of_one_unit_do_not_know_of_each_other():
    @retry_on_deadlock(max_attempts=3, **QUICK)
    def unit(calls, failures):
        calls.append(1)
        if len(calls) <= failures:
            raise stale()
        return len(calls)

    results = {}

    def work(number):
        try:
            results[number] = unit([], number % 4)
        except sqlite3.OperationalError:
            results[number] = "gave up"

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = {0: 1, 1: 2, 2: 3, 3: "gave up"}
    assert results == {number: expected[number % 4] for number in range(16)}


def test_run_opens_commits_and_closes(shop, holder):
    opened = []

    def connect():
        opened.append(sqlite3.connect(shop, timeout=0))
        return opened[-1]

    threading.Timer(0.1, holder.stdin.write, (b"\n",)).start()
    threading.Timer(0.11, holder.stdin.flush).start()
    assert (
        run(
            lambda connection: connection.execute("INSERT INTO item VALUES ('tea')").rowcount,
            session_factory=connect,
            **QUICK,
        )
        == 1
    )
    assert len(opened) > 2
    for connection in opened:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("SELECT 1")
    with closing(sqlite3.connect(shop)) as connection:
        assert connection.execute("SELECT count(*) FROM item").fetchall() == [(1,)]


class Session:
    """Stands for the session of a server whose COMMIT is cut off: only the bookkeeping is tested."""

    def __init__(self, log, failure=None):
        self.log, self.failure = log, failure

    def commit(self):
        self.log.append("commit")
        if self.failure is not None:
            raise self.failure

    def close(self):
        self.log.append("close")


def cut_off():
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = 10
    return error


IN_DOUBT = [
    Override(
        dialect="sqlite",
        code=10,
        class_="commit_unknown",
        fate="unknown",
        scope="resolve",
        retry="none",
    )
]


@pytest.mark.parametrize("answer", [True, False, None])
def test_run_asks_whether_a_commit_in_doubt_took_effect(answer):
    log, failures = [], [cut_off(), None]

    def factory():
        return Session(log, failures.pop(0))

    def work(session):
        log.append("work")
        return len(failures)

    verify = None if answer is None else lambda: answer
    if answer is None:
        with pytest.raises(CommitOutcomeUnknownError) as caught:
            run(work, session_factory=factory, overrides=IN_DOUBT, **QUICK)
        assert caught.value.__cause__.sqlite_errorcode == 10
        assert log == ["work", "commit", "close"]
    else:
        result = run(work, session_factory=factory, verify=verify, overrides=IN_DOUBT, **QUICK)
        assert log == ["work", "commit", "close"] * (1 if answer else 2)
        assert result == (1 if answer else 0)


def test_run_gives_up_on_commits_that_never_take_effect_with_the_drivers_error():
    log = []
    with pytest.raises(sqlite3.OperationalError) as caught:
        run(
            lambda session: None,
            session_factory=lambda: Session(log, cut_off()),
            verify=lambda: False,
            overrides=IN_DOUBT,
            **QUICK,
        )
    assert log == ["commit", "close"] * 3
    assert "gave up after 3 attempts" in caught.value.__notes__[0]


def test_a_verify_that_fails_leaves_the_outcome_unknown():
    def verify():
        raise ConnectionError("no answer")

    with pytest.raises(CommitOutcomeUnknownError) as caught:
        run(
            lambda session: None,
            session_factory=lambda: Session([], cut_off()),
            verify=verify,
            overrides=IN_DOUBT,
        )
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)


@pytest.mark.parametrize("cancellation", [KeyboardInterrupt, asyncio.CancelledError])
def test_a_cancelled_commit_is_neither_retried_nor_hidden(cancellation):
    log = []
    with pytest.raises(cancellation) as caught:
        run(lambda session: None, session_factory=lambda: Session(log, cancellation()))
    assert log == ["commit", "close"]
    assert "unknown whether" in caught.value.__notes__[0]
    with pytest.raises(cancellation) as caught:
        run(Failing(1, cancellation), session_factory=lambda: Session(log))
    assert not hasattr(caught.value, "__notes__")


def test_run_of_a_coroutine_function():
    log, failures = [], [cut_off(), None]

    class AsyncSession(Session):
        async def commit(self):
            super().commit()

        async def close(self):
            await asyncio.sleep(0)
            super().close()

    async def verify():
        await asyncio.sleep(0)
        return False

    async def work(session):
        await asyncio.sleep(0)
        return "done"

    coroutine = run(
        work,
        session_factory=lambda: AsyncSession(log, failures.pop(0)),
        verify=verify,
        overrides=IN_DOUBT,
        **QUICK,
    )
    assert inspect.iscoroutine(coroutine)
    assert asyncio.run(coroutine) == "done"
    assert log == ["commit", "close"] * 2


def test_run_refuses_a_session_that_is_in_a_transaction(shop):
    with closing(sqlite3.connect(shop)) as connection:
        connection.execute("INSERT INTO item VALUES ('tea')")
        with pytest.raises(TransactionNotOwnedError):
            run(lambda session: None, session_factory=lambda: connection)
        assert connection.in_transaction


def test_run_in_a_unit_joins_it():
    log = []
    failing = Failing(2)

    @retry_on_deadlock(**QUICK)
    def outer():
        log.append("outer")
        return run(lambda session: failing(), session_factory=lambda: Session(log), **QUICK)

    assert outer() == "done"
    assert log == ["outer", "close", "outer", "close", "outer", "commit", "close"]


TYPED = """
from __future__ import annotations
from typing import TYPE_CHECKING
from typing_extensions import assert_type
from turnwise.units import retry, retry_on_deadlock, run
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

class Session:
    def commit(self) -> None: ...

@retry_on_deadlock
def bare(name: str, *, times: int = 1) -> bytes:
    return name.encode() * times

@retry(on=KeyError, max_attempts=5, deadline=1.5)
async def later(name: str) -> int:
    return len(name)

class Shop:
    @retry_on_deadlock(max_attempts=2, copy_arguments=True)
    def sell(self, price: int) -> float:
        return price / 2

    @classmethod
    @retry
    def open(cls, name: str) -> Shop:
        return cls()

assert_type(bare("x", times=2), bytes)
assert_type(Shop().sell(2), float)
assert_type(Shop.open("x"), Shop)
assert_type(run(lambda session: 7, session_factory=Session), int)

async def main() -> None:
    assert_type(await later("x"), int)

    async def work(session: Session) -> str:
        return "x"

    assert_type(await run(work, session_factory=Session), str)

bare(7)  # type: ignore[arg-type]
bare("x", time=1)  # type: ignore[call-arg]
retry_on_deadlock(tries=3)  # type: ignore[call-overload]
Shop().sell("x")  # type: ignore[arg-type]
"""


def test_type_checkers_see_the_parameters_and_the_result(tmp_path):
    path = tmp_path / "typed.py"
    path.write_text(TYPED, encoding="utf-8")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--python-version",
            "3.10",
            "--cache-dir",
            str(ROOT / ".mypy_cache"),
            "--follow-imports",
            "silent",
            str(path),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"MYPYPATH": str(ROOT / "python"), "PATH": "/usr/bin"},
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_error_in_a_foreign_transaction_is_everything_that_the_drivers_was():
    from turnwise.ownership import not_owned

    class DriverError(Exception):
        def __init__(self, message, code):
            super().__init__(message, code)
            self.orig = self
            self.detail = {"a": 1}

    try:
        try:
            raise ValueError("cause")
        except ValueError as cause:
            raise DriverError("deadlock", 1213) from cause
    except DriverError as error:
        owner = not_owned(error, "because")
        original = error
    assert isinstance(owner, DriverError)
    assert isinstance(owner, TransactionNotOwnedError)
    assert isinstance(owner, TurnwiseError)
    assert (owner.args, owner.orig, owner.detail) == (original.args, original, {"a": 1})
    assert owner.__cause__ is original.__cause__
    assert owner.__traceback__ is original.__traceback__
    assert owner.__notes__ == ["turnwise: not retried: because"]
    assert not hasattr(original, "__notes__")
    assert type(owner) is type(not_owned(DriverError("x", 1), "again"))
    locked = stale()
    again = pickle.loads(pickle.dumps(not_owned(locked, "because")))
    assert (type(again).__mro__[1], again.args, again.sqlite_errorcode) == (
        sqlite3.OperationalError,
        locked.args,
        517,
    )
    assert again.kind == "TransactionNotOwned"
