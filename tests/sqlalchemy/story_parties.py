"""The processes of the contention story: workers, a scheduler and a web server on the same rows.

Each can be run by hand (``hand``: as the application had it) or with turnwise. They print what they
were told is done, and the errors that came up to them.
"""

from __future__ import annotations

import collections
import functools
import json
import multiprocessing
import random
import threading
import time

from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from turnwise.sqlalchemy.batches import batch_commit_with_retry
from turnwise.units import retry_on_deadlock, run

USERS, GROUPS = 8, 4
ROLES = ("worker", "worker", "worker", "worker", "scheduler", "requests")
PATIENT = {"max_attempts": 30, "initial_delay": 0.01, "max_delay": 0.5, "deadline": 60.0}


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    points: Mapped[int] = mapped_column(default=0)


class AdGroup(Base):
    __tablename__ = "ad_groups"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    spent: Mapped[int] = mapped_column(default=0)


def add_point(session, number):
    session.get(User, number).points = User.points + 1


def charge(session, group, users):
    """A task: the group spends, then its users get their points, by COMMIT's flush."""
    users = [session.get(User, number) for number in users]
    session.get(AdGroup, group).spent = AdGroup.spent + 1
    session.flush()
    for user in users:
        user.points = User.points + 1


def settle(session, group, users):
    """A request: the same from the other end."""
    for number in users:
        add_point(session, number)
        session.flush()
    session.get(AdGroup, group).spent = AdGroup.spent + 1


def commit_by_hand(session):
    """As it is found in many applications."""
    for attempt in range(3):
        try:
            session.commit()
            return
        except DBAPIError:
            session.rollback()
            if attempt == 2:
                raise
            time.sleep(0.05)


class Party:
    """One thread of one process: does its work until the time is up, and keeps the books."""

    def __init__(self, factory, style, seed, books):
        self.factory, self.style, self.books = factory, style, books
        self.draw = random.Random(seed)
        self.repeating = retry_on_deadlock(**PATIENT)(self.own_session)

    def own_session(self, work, group, users):
        self.books["attempts"] += 1
        with self.factory() as session:
            work(session, group, users)
            session.commit()

    def by_hand(self, work, group, users):
        with self.factory() as session:
            work(session, group, users)
            if work is charge:
                commit_by_hand(session)
            else:
                session.commit()

    def once(self, work):
        group, users = self.draw.randrange(GROUPS), self.draw.sample(range(USERS), 3)
        if self.style == "hand":
            self.by_hand(work, group, users)
        elif work is charge:
            self.repeating(work, group, users)
        else:
            run(
                lambda session: (self.count(), work(session, group, users)),
                session_factory=self.factory,
                **PATIENT,
            )
        self.books["users"] += len(users)
        self.books["groups"] += 1

    def count(self):
        self.books["attempts"] += 1

    def sweep(self):
        """The scheduler: everybody gets a point, in batches."""
        everybody = self.draw.sample(range(USERS), USERS)
        if self.style == "hand":
            with self.factory() as session:
                for user in everybody:
                    add_point(session, user)
                    session.flush()
                session.commit()
            self.books["users"] += USERS
            return
        report = batch_commit_with_retry(
            everybody, add_point, 5, session_factory=self.factory, **PATIENT
        )
        self.books["attempts"] += report.attempts
        self.books["users"] += report.processed
        assert report.failed == 0

    def go(self, step, until):
        while time.monotonic() < until:
            try:
                step()
                self.books["done"] += 1
            except Exception as error:
                self.books[f"surfaced {type(error).__name__}"] += 1


def work(url, style, role, seconds, seed, barrier, books):
    """One process."""
    engine = create_engine(url, pool_size=10)
    engine.connect().close()
    barrier.wait()
    until = time.monotonic() + seconds
    kept = [collections.Counter() for _ in range(3 if role == "requests" else 1)]
    threads = []
    for number, book in enumerate(kept):
        party = Party(sessionmaker(engine), style, f"{seed} {number}", book)
        step = {
            "worker": functools.partial(party.once, charge),
            "requests": functools.partial(party.once, settle),
            "scheduler": party.sweep,
        }[role]
        threads.append(threading.Thread(target=party.go, args=(step, until)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    books.put(sum(kept, collections.Counter()))


def main(url, style, seconds, seed):
    """All processes, forked from this one so that they start soon."""
    context = multiprocessing.get_context("fork")
    barrier, books = context.Barrier(len(ROLES)), context.Queue()
    processes = [
        context.Process(
            target=work, args=(url, style, role, float(seconds), f"{seed} {n}", barrier, books)
        )
        for n, role in enumerate(ROLES)
    ]
    for process in processes:
        process.start()
    found = sum((books.get() for _ in processes), collections.Counter())
    for process in processes:
        process.join()
    print(json.dumps(found))
