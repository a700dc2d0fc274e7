"""Batches that update the same rows in different orders, sorted by key and as they come.

Workers update random rows of one table in batches, each batch a transaction, and run a batch again
until it is committed. What is counted are the batches that the server ended, most of them as
victims of a deadlock; afterwards the table must hold every update of every batch, once.
"""

from __future__ import annotations

import random
import statistics
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from table import short, table

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import URL

    from servers import Server

PAUSE = 0.05
"""Seconds, at most, before a batch is run again; with none two of them may never get by."""
SIDES = ("unsorted", "sorted")
DRIVERS = {"postgresql": "psycopg", "mariadb": "pymysql"}


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int
    workers: int = 4
    batches: int = 50
    """Batches of each worker."""
    size: int = 30
    """Rows of a batch."""
    rows: int = 300
    """Rows of the table."""


def measure(plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Both servers, private ones."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "sqlalchemy"))
    from servers import SERVERS

    servers = {}
    for name in DRIVERS:
        server = SERVERS[name]()
        try:
            servers[name] = beside(plan, server, say)
        finally:
            server.stop()
    settings = {name: getattr(plan, name) for name in ("workers", "batches", "size", "rows")}
    return settings | {"servers": servers}


def beside(plan: Plan, server: Server, say: Callable[[str], None]) -> dict[str, Any]:
    """Both sides on one server; another goes first in each round."""
    driver = DRIVERS[server.dialect]
    rounds = []
    with server.database() as database:
        for number in range(plan.rounds):
            one = {}
            for side in SIDES if number % 2 == 0 else SIDES[::-1]:
                say(f"{server.dialect}, round {number + 1} of {plan.rounds}: {side} batches")
                url = server.url(driver, database)
                one[side] = run(plan, url, number, is_sorted=side == "sorted")
            rounds.append({side: one[side] for side in SIDES})
    version = ".".join(map(str, server.version))
    return {"version": version, "driver": driver, "rounds": rounds}


def run(plan: Plan, url: URL, seed: int, *, is_sorted: bool) -> dict[str, Any]:
    """One side of one round."""
    import sqlalchemy as sa

    from turnwise.sqlalchemy import interception, sorting

    counter = sa.Table(
        "counter",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("count", sa.Integer, nullable=False),
    )
    engine = sa.create_engine(url, pool_size=plan.workers)
    counter.drop(engine, checkfirst=True)
    counter.create(engine)
    with engine.begin() as connection:
        connection.execute(counter.insert(), [{"id": n, "count": 0} for n in range(plan.rows)])
    if is_sorted:
        interception.add(engine.dialect, "sorting", sorting.layer())
    update = counter.update().where(counter.c.id == sa.bindparam("i"))
    update = update.values(count=counter.c.count + 1)
    aborted = [0] * plan.workers
    failed: list[Exception] = []
    gate = threading.Barrier(plan.workers + 1)

    def work(worker: int) -> None:
        draw = random.Random(seed * plan.workers + worker)
        with engine.connect():
            gate.wait()
        try:
            for _ in range(plan.batches):
                sets = [{"i": n} for n in draw.sample(range(plan.rows), plan.size)]
                while not land(sets):
                    aborted[worker] += 1
                    time.sleep(draw.uniform(0, PAUSE))
        except Exception as error:  # noqa: BLE001 - reported by the thread that started it
            failed.append(error)

    def land(sets: list[dict[str, int]]) -> bool:
        try:
            with engine.begin() as connection:
                connection.execute(update, sets)
        except sa.exc.OperationalError:
            return False  # 40P01 and 1213, in these drivers.
        return True

    threads = [threading.Thread(target=work, args=(n,)) for n in range(plan.workers)]
    for thread in threads:
        thread.start()
    gate.wait()
    start = time.monotonic()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - start
    if failed:
        raise failed[0]
    with engine.connect() as connection:
        total = connection.scalar(sa.select(sa.func.sum(counter.c.count)))
    engine.dispose()
    wanted = plan.workers * plan.batches * plan.size
    if total != wanted:
        raise SystemExit(f"the table holds {total} updates of {wanted}")
    return {"seconds": seconds, "aborted": sum(aborted), "committed": plan.workers * plan.batches}


def as_lines(part: dict[str, Any]) -> list[str]:
    """The part of the page."""
    rows = [("server", "batches", "seconds", "of the rounds", "batches aborted", "of the rounds")]
    for name, server in part["servers"].items():
        for side in SIDES:
            seconds = [one[side]["seconds"] for one in server["rounds"]]
            aborted = [one[side]["aborted"] for one in server["rounds"]]
            rows.append(
                (
                    f"{name} {server['version']}, {server['driver']}",
                    side,
                    short(statistics.median(seconds)),
                    f"{short(min(seconds))} to {short(max(seconds))}",
                    short(statistics.median(aborted)),
                    f"{min(aborted)} to {max(aborted)}",
                )
            )
    text = (
        f"{part['workers']} threads, each with {part['batches']} batches of {part['size']} random rows "
        f"of {part['rows']}; a batch that the server ended is run again after 0 to 50 ms, with the same rows. "
        "The sums in the table are right after every round."
    )
    return ["## Batches in the order of their rows", "", text, "", *table(rows), ""]
