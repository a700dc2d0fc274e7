"""Celery's workers: whose connection it is, what they inherit by fork, what tasks leave open."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from celery import Celery, signals
from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded

from servers import Database, MissingServerError, PostgreSQL, until

HERE = Path(__file__).resolve().parent
SECONDS = 60
TASKS = "celery_application."


@pytest.fixture(scope="module")
def database():
    """A fresh database on a private PostgreSQL."""
    try:
        server = PostgreSQL()
    except MissingServerError as error:
        pytest.fail(str(error), pytrace=False)
    with server.database() as name:
        yield Database(server, name)
    server.stop()


class Worker:
    """A worker that runs, and what to ask of it."""

    def __init__(self, database, redis, folder, *options, **environment) -> None:
        self.database, self.folder = database, folder
        broker = redis.url(redis.fresh())
        self.app = Celery(broker=broker, backend=broker)
        path = os.pathsep.join([str(HERE), *filter(None, sys.path)])
        url = database.url("psycopg2").render_as_string(hide_password=False)
        settings = {"BROKER": broker, "DATABASE": url, "APPLICATION_FOLDER": str(folder)}
        self._log = (folder / "log").open("w+")
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "celery", "-A", "celery_application", "worker"),
                *("--without-gossip", "--without-mingle", "--without-heartbeat", *options),
            ],
            cwd=folder,
            env={**os.environ, **settings, **environment, "PYTHONPATH": path},
            stdout=self._log,
            stderr=self._log,
        )
        assert until(
            lambda: (folder / "parent").exists() or self._process.poll() is not None, SECONDS
        ), self.log()

    def __call__(self, task, *arguments):
        """Run a task; its id and its result."""
        result = self.app.send_task(TASKS + task, arguments)
        try:
            return result.id, result.get(timeout=SECONDS)
        except TimeoutError:
            raise AssertionError(self.log()) from None

    def note(self, name):
        assert until((self.folder / name).exists, SECONDS), self.log()
        return (self.folder / name).read_text().split()

    def log(self):
        self._log.flush()
        return (self.folder / "log").read_text()

    def stop(self) -> None:
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._log.close()
        self.app.close()

    def backends(self):
        """The server's processes for this database."""
        rows = self.database.sql(
            "SELECT pid FROM pg_stat_activity WHERE application_name = '' AND datname = "
            f"'{self.database.name}' AND pid <> pg_backend_pid()",
            admin=True,
        )
        return {pid for (pid,) in rows}


@pytest.fixture(scope="module", params=["prefork", "threads", "solo"])
def any_worker(request, database, redis, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    worker = Worker(database, redis, folder, "-P", request.param, "-c", "1")
    yield worker
    worker.stop()


@pytest.fixture
def prefork(database, redis, tmp_path):
    worker = Worker(database, redis, tmp_path, "-P", "prefork", "-c", "1")
    yield worker
    worker.stop()


def test_a_worker_process_uses_nothing_that_it_has_inherited(prefork) -> None:
    parent, held, *idle = map(int, prefork.note("parent"))
    inherited = {held, *idle}
    assert inherited <= prefork.backends()
    process, backend = prefork("backend")[1]
    assert process != parent
    assert backend not in inherited
    child, replaced, text = prefork("use_inherited")[1]
    assert child == process
    assert f"was in use in process {parent} when it forked process {child}" in text
    assert replaced not in inherited
    # The child's end does not say good-bye on its parent's behalf either.
    assert inherited <= prefork.backends()
    prefork.stop()
    assert prefork.note("used") == [str(parent), "True"], prefork.log()


def test_each_run_of_a_task_is_an_owner(any_worker) -> None:
    for _ in range(2):
        task, (owner, _) = any_worker("who")
        assert owner == ["task", TASKS + "who", task, "running", None]
    with pytest.raises(ValueError):
        any_worker("fail")
    task, owner = any_worker("try_again")
    assert owner == ["task", TASKS + "try_again", task, "running", None]
    task, (before, within, after) = any_worker("outer")
    assert before == after == ["task", TASKS + "outer", task, "running", None]
    assert within[:2] == ["task", TASKS + "inner"]
    assert within[2] != task
    assert within[3:] == ["running", TASKS + "outer"]
    assert any_worker("who")[1][0][4] is None


def test_a_session_that_a_task_leaves_open_is_named_with_its_line(any_worker) -> None:
    before = any_worker("found", "session-left-open")[1]
    any_worker("close_in_time")
    any_worker("leave_to_the_application")
    assert any_worker("found", "session-left-open")[1] == before
    task, _ = any_worker("leave_open")
    detail, *owner = any_worker("found", "session-left-open")[1].pop()
    source = (HERE / "celery_application.py").read_text().splitlines()
    line = next(at for at, text in enumerate(source, 1) if "the line that begins" in text)
    assert detail.endswith(f"celery_application.py:{line}")
    assert owner == ["task", TASKS + "leave_open", task]
    # It is the application's to close.
    assert any_worker("left_in_transaction")[1][-1] is True
    # A nested task answers for its own, once.
    any_worker("outer")
    found = any_worker("found", "session-left-open")[1]
    assert len(found) == len(before) + 2
    assert found[-1][2] == TASKS + "inner_leaves_open"


def test_sessions_can_be_closed_at_the_end_of_a_task(database, redis, tmp_path) -> None:
    worker = Worker(database, redis, tmp_path, "-P", "prefork", "-c", "1", CLOSE="1")
    try:
        worker("leave_open")
        assert worker("left_in_transaction")[1] == [False]
        assert len(worker("found", "session-left-open")[1]) == 1
    finally:
        worker.stop()


def test_tasks_that_exceed_their_time_leave_nothing(prefork) -> None:
    prefork.database.sql("CREATE TABLE story (n int)")
    with pytest.raises(SoftTimeLimitExceeded):
        prefork("interrupted")
    assert prefork("found", "session-left-open")[1] == []
    with pytest.raises(TimeLimitExceeded):
        prefork("killed")
    process, backend = map(int, prefork.note("killed"))
    assert until(lambda: backend not in prefork.backends())
    assert prefork.database.sql("SELECT * FROM story") == []
    # A new process took its place.
    _, (owner, successor) = prefork("who")
    assert successor != process
    assert owner[4] is None


def receivers():
    return [
        list(signal.receivers)
        for signal in (signals.task_prerun, signals.task_postrun, signals.worker_process_init)
    ]


def test_setup_twice_is_setup_once_and_teardown_leaves_nothing(tmp_path) -> None:
    import sqlalchemy as sa
    from sqlalchemy.pool import Pool

    import turnwise.celery
    from turnwise.tracking import forks, watching

    before = receivers()
    app, engine = Celery("once"), sa.create_engine(f"sqlite:///{tmp_path}/once.db")
    turnwise.celery.setup(app, engine)
    once = [len(those) for those in receivers()]
    turnwise.celery.setup(app, engine)
    assert [len(those) for those in receivers()] == once
    assert watching.is_watching()
    assert sa.event.contains(Pool, "connect", forks._connect)
    with pytest.raises(TypeError):
        turnwise.celery.setup(app, engine, unknown=1)
    with pytest.raises(TypeError):
        turnwise.celery.setup(app, object())
    with pytest.raises(TypeError):
        turnwise.celery.setup(app, engine, close_sessions=1)
    for _ in range(2):
        turnwise.celery.teardown(app)
        assert receivers() == before
        assert not watching.is_watching()
        assert not sa.event.contains(Pool, "connect", forks._connect)


def test_tasks_of_another_application_are_left_alone(tmp_path) -> None:
    import turnwise.celery
    from turnwise.tracking import owners

    mine, other = Celery("mine", set_as_current=False), Celery("other", set_as_current=False)
    turnwise.celery.setup(mine)
    try:

        def current():
            return owners.current()

        seen = [
            app.task(current, name=f"{app.main}.current").apply().get() for app in (mine, other)
        ]
    finally:
        turnwise.celery.teardown(mine)
    assert seen[0].name == "mine.current"
    assert seen[0].phase == "ended"
    assert seen[1] is None
    assert owners.current() is None
