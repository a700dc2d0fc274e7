"""A Celery application whose engine has been used before its workers are forked."""

from __future__ import annotations

import os
import threading
import time

import sqlalchemy as sa
from celery import Celery, signals
from sqlalchemy.orm import sessionmaker

from turnwise.celery import setup
from turnwise.tracking import owners, watching

FOLDER = os.environ["APPLICATION_FOLDER"]

app = Celery("celery_application", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
app.conf.worker_prefetch_multiplier = 1
engine = sa.create_engine(os.environ["DATABASE"], pool_pre_ping=True)
Sessions = sessionmaker(engine)
setup(app, engine, close_sessions="CLOSE" in os.environ)

BACKEND = sa.text("SELECT pg_backend_pid()")
left, once = [], threading.local()

# One connection is in use while the workers are forked, and two are idle.
with engine.connect() as one, engine.connect() as two:
    idle = {one.scalar(BACKEND), two.scalar(BACKEND)}
held = Sessions()
held_backend = held.scalar(BACKEND)
if held_backend in idle:
    idle.discard(held_backend)


def note(name, text) -> None:
    with open(f"{FOLDER}/{name}", "w", encoding="utf-8") as file:
        file.write(str(text))


@signals.worker_ready.connect
def ready(**details) -> None:
    note("parent", f"{os.getpid()} {held_backend} {' '.join(map(str, idle))}")


@signals.worker_shutting_down.connect
def use_what_is_held(**details) -> None:
    backends = {held.scalar(BACKEND)}
    with engine.connect() as one:
        backends.add(one.scalar(BACKEND))
    note("used", f"{os.getpid()} {backends <= {held_backend, *idle}}")


def owner_now():
    owner = owners.current()
    parent = owner and owner.parent
    return owner and [owner.kind, owner.name, owner.id, owner.phase, parent and parent.name]


@app.task
def who():
    """The owner and the process."""
    return [owner_now(), os.getpid()]


@app.task
def backend():
    """The process, and what serves it."""
    with Sessions() as session:
        return [os.getpid(), session.scalar(BACKEND)]


@app.task
def use_inherited():
    """What becomes of a session that was open when the worker was forked."""
    try:
        held.scalar(BACKEND)
    except sa.exc.StatementError as error:
        text = str(error)
        held.rollback()
        number = held.scalar(BACKEND)
        held.close()
        return [os.getpid(), number, text]
    return None


@app.task
def leave_open():
    session = Sessions()
    session.scalar(BACKEND)  # the line that begins
    left.append(session)


@app.task
def left_in_transaction():
    return [session.in_transaction() for session in left]


@app.task
def close_in_time():
    with Sessions() as session:
        session.scalar(BACKEND)
    idle_one = Sessions()
    idle_one.begin()  # Holds no connection and has nothing to write.
    left.append(idle_one)


@signals.task_postrun.connect
def remove(task, **details) -> None:
    """What many applications do at the end of a task; connected later than `setup`."""
    if task.name == leave_to_the_application.name:
        left.pop().close()


@app.task
def leave_to_the_application():
    session = Sessions()
    session.scalar(BACKEND)
    left.append(session)


@app.task
def inner():
    return owner_now()


@app.task
def inner_leaves_open():
    leave_open.run()


@app.task
def outer():
    """Owners before, in and after a nested task."""
    before = owner_now()
    within = inner.apply().get(disable_sync_subtasks=False)
    inner_leaves_open.apply()
    return [before, within, owner_now()]


@app.task
def fail():
    raise ValueError


@app.task(bind=True, max_retries=1)
def try_again(self):
    if self.request.retries == 0:
        raise self.retry(countdown=0)
    return owner_now()


@app.task(time_limit=2)
def killed():
    with Sessions() as session:
        note("killed", f"{os.getpid()} {session.scalar(BACKEND)}")
        session.execute(sa.text("INSERT INTO story VALUES (1)"))
        time.sleep(60)


@app.task(soft_time_limit=2)
def interrupted():
    with Sessions() as session:
        session.scalar(BACKEND)
        time.sleep(60)


@app.task
def found(code):
    """What was found in this process."""
    return [
        [one.detail, one.owner_kind, one.owner_name, one.owner_id]
        for one in watching.findings()
        if one.code == code
    ]
