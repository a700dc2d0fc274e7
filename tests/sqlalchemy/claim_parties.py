"""Processes that claim rows: started by the tests, killed by some of them."""

from __future__ import annotations

import json
import multiprocessing
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


def forked(function, *arguments):
    """What processes give that run the function at once, each with one set of arguments."""
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(len(arguments)), context.Queue()
    processes = [
        context.Process(target=function, args=(barrier, results, *given)) for given in arguments
    ]
    for process in processes:
        process.start()
    found = [results.get() for _ in processes]
    for process in processes:
        process.join()
    return found


def share(url, worker):
    """Four workers share the rows; print who says to have done which."""
    say(json.dumps(forked(globals()[worker], *((url, name) for name in "abcd"))))


def work(barrier, results, url, name):
    """Claim and finish what there is."""
    engine = create_engine(url)
    barrier.wait()
    with claim(
        Job, Job.state == "new", session_factory=sessionmaker(engine), limit=10, **PATIENT
    ) as jobs:
        for job in jobs:
            job.state, job.worker, job.runs = "done", name, Job.runs + 1
    results.put([])


def work_with_lease(barrier, results, url, name):
    """The same without holding a lock meanwhile."""
    engine = create_engine(url)
    barrier.wait()
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
        done.append((name, job.id))
    results.put(done)


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
    """Two processes add to a row what they read, under the lock."""
    say(json.dumps(forked(add, *[(url, key, int(times))] * 2)))


def add(barrier, results, url, key, times):
    factory = sessionmaker(create_engine(url))
    barrier.wait()
    for _ in range(times):
        with advisory_lock(factory.kw["bind"], key, timeout=60), factory() as session:
            runs = session.get(Job, 1).runs
            session.execute(update(Job).where(Job.id == 1).values(runs=runs + 1))
            session.commit()
    results.put(times)
