"""Processes that claim rows: started by the tests, killed by some of them."""

from __future__ import annotations

import json
import sys

from sqlalchemy import create_engine, update
from sqlalchemy.orm import sessionmaker

from contention_models import Job
from turnwise.sqlalchemy.advisory import advisory_lock
from turnwise.sqlalchemy.claims import claim

PATIENT = {"deadline": 60.0, "max_attempts": 100, "initial_delay": 0.01, "max_delay": 0.1}


def say(*words):
    print(*words, flush=True)


def hear():
    sys.stdin.readline()


def work(url, name):
    """Claim and finish what there is."""
    engine = create_engine(url)
    say("ready")
    hear()
    with claim(
        Job, Job.state == "new", session_factory=sessionmaker(engine), limit=10, **PATIENT
    ) as jobs:
        for job in jobs:
            job.state, job.worker, job.runs = "done", name, Job.runs + 1
    say("done")


def work_with_lease(url, name):
    """The same without holding a lock meanwhile; print the numbers."""
    engine = create_engine(url)
    say("ready")
    hear()
    done = []
    jobs = claim(
        Job,
        Job.state == "new",
        session_factory=sessionmaker(engine),
        limit=10,
        lease=Job.leased_until,
        **PATIENT,
    )
    for job in jobs:
        jobs.complete(job, state="done", worker=name, runs=Job.runs + 1)
        done.append(job.id)
    say(json.dumps(done))


def hold(url, number):
    """Claim some rows, change them, and never come back."""
    engine = create_engine(url)
    with claim(
        Job, Job.state == "new", session_factory=sessionmaker(engine), limit=int(number)
    ) as jobs:
        for _ in range(int(number)):
            next(jobs).state = "done"
        jobs.session.flush()
        say(number)
        hear()


def hold_lease(url, number):
    """Lease some rows, and never come back."""
    engine = create_engine(url)
    jobs = claim(
        Job,
        Job.state == "new",
        session_factory=sessionmaker(engine),
        limit=int(number),
        lease=Job.leased_until,
        lease_for=2.0,
    )
    say(next(jobs).id)
    hear()


def hold_lock(url, key, scope):
    """Hold an advisory lock, and never come back."""
    engine = create_engine(url)
    session = sessionmaker(engine)()
    with advisory_lock(session if scope == "session" else engine, key):
        say("held")
        hear()


def count(url, key, times):
    """Add to a row what it read, under the lock."""
    factory = sessionmaker(create_engine(url))
    say("ready")
    hear()
    for _ in range(int(times)):
        with advisory_lock(factory.kw["bind"], key, timeout=60), factory() as session:
            runs = session.get(Job, 1).runs
            session.execute(update(Job).where(Job.id == 1).values(runs=runs + 1))
            session.commit()
    say("done")
