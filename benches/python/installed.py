"""An engine with `turnwise.install` beside a bare one: `installed.py FOLDER ROUNDS BLOCKS`.

Prints the raw rounds as JSON: seconds for one ORM insert in a transaction of its own, and for one
more statement in an open transaction, on a driver that does nothing, in a SQLite file and on a
loopback PostgreSQL. Both sides run in blocks that take turns. The part that goals are about is what
is added on the driver that does nothing, over the time of the real insert.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from null_driver import null_engine

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Engine

    Work = Callable[[Engine], Callable[[int], None]]

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "sqlalchemy"))

BLOCK = 50
SIDES = ("bare", "installed")


class Base(DeclarativeBase):
    """The tables."""


class Item(Base):
    """A row of a common size."""

    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str]
    amount: Mapped[int]


QUERY = select(Item.id).where(Item.id == 0)


def inserting(engine: Engine) -> Callable[[int], None]:
    """One row, as a request writes it."""

    def run(number: int) -> None:
        with Session(engine) as session:
            session.add(Item(id=number, name="an item", amount=number))
            session.commit()

    return run


def reading(engine: Engine) -> Callable[[int], None]:
    """One more statement."""
    connection = engine.connect()

    def run(number: int) -> None:
        connection.execute(QUERY).close()

    return run


def compare(make: Callable[[], Engine], work: Work, blocks: int) -> dict[str, float]:
    """Seconds of one run, median of the blocks, for both sides."""
    from turnwise.sqlalchemy.installing import install, uninstall

    engines = {"bare": make(), "installed": install(make())}
    runs = {name: work(engine) for name, engine in engines.items()}
    times: dict[str, list[float]] = {name: [] for name in SIDES}
    number = 0
    gc.collect()
    gc.disable()
    for block in range(-2, blocks):  # The first ones warm up.
        for name in SIDES[:: 1 if block % 2 else -1]:
            started = time.perf_counter()
            for _ in range(BLOCK):
                number += 1
                runs[name](number)
            if block >= 0:
                times[name].append((time.perf_counter() - started) / BLOCK)
        gc.collect()
    gc.enable()
    uninstall(engines["installed"])
    for engine in engines.values():
        engine.dispose()
    return {name: statistics.median(values) for name, values in times.items()}


def in_file(folder: str) -> Callable[[], Engine]:
    """Engines on files of their own, in WAL mode."""
    counter = iter(range(1_000_000))

    def make() -> Engine:
        path = os.path.join(folder, f"installed-{next(counter)}.db")
        engine = create_engine(f"sqlite:///{path}")
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        Base.metadata.create_all(engine)
        return engine

    return make


def on_server(stack: ExitStack) -> Callable[[], Engine]:
    """Engines on databases of their own, of one private PostgreSQL."""
    from servers import PostgreSQL

    server = PostgreSQL("-c", "fsync=on")
    stack.callback(server.stop)

    def make() -> Engine:
        name = stack.enter_context(server.database())
        engine = create_engine(server.url("psycopg2", name))
        Base.metadata.create_all(engine)
        return engine

    return make


def main() -> None:
    """Measures and prints."""
    folder, rounds, blocks = sys.argv[1], *map(int, sys.argv[2:])
    warnings.simplefilter("ignore", RuntimeWarning)
    measures: dict[str, list[dict[str, float]]] = {}
    with ExitStack() as stack:
        server, file = on_server(stack), in_file(folder)
        for _ in range(rounds):
            for name, make, work in (
                ("null_sqlite_insert", lambda: null_engine("sqlite"), inserting),
                ("null_sqlite_statement", lambda: null_engine("sqlite"), reading),
                ("null_postgresql_insert", lambda: null_engine("postgresql"), inserting),
                ("null_postgresql_statement", lambda: null_engine("postgresql"), reading),
                ("sqlite_insert", file, inserting),
                ("postgresql_insert", server, inserting),
            ):
                measures.setdefault(name, []).append(compare(make, work, blocks))
    print(
        json.dumps(
            {
                "settings": {"blocks": blocks, "runs_in_a_block": BLOCK},
                "measures": {
                    name: {"unit": "s", "rounds": values} for name, values in measures.items()
                },
            }
        )
    )


if __name__ == "__main__":
    main()
