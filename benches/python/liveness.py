"""The look at a connection's socket beside `pool_pre_ping`: `liveness.py [ROUNDS]`.

Prints microseconds of a checkout and check-in at private servers, the least of many short rounds
(what else the machine does only adds): untouched, with a listener that does nothing, with `check_liveness` and with `pool_pre_ping`. What
`explain_disconnects` and `backstop` add to a statement is measured the same way.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import create_engine, event, text

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import URL, Engine

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "sqlalchemy"))

DRIVERS = {"postgresql": ("psycopg2", "psycopg", "pg8000"), "mariadb": ("pymysql", "mysqldb")}
CHECKOUTS, STATEMENTS = 25, 10
QUERY = text("SELECT 1")


def sides_of(url: URL) -> dict[str, Engine]:
    """Engines with one connection, which differ in what a checkout does."""
    from turnwise.tracking.liveness import check_liveness

    sides = {name: create_engine(url, pool_size=1) for name in ("bare", "listener", "liveness")}
    sides["pre-ping"] = create_engine(url, pool_size=1, pool_pre_ping=True)
    # The connection's reset, a round trip of its own, would hide what is measured.
    for engine in sides.values():
        engine.pool._reset_on_return = None  # noqa: SLF001 - only at creation, and not by every pool
    event.listen(sides["listener"], "checkout", lambda *_: None)
    check_liveness(sides["liveness"])
    return sides


def explained_of(url: URL) -> dict[str, Engine]:
    """The same for what a statement does."""
    from turnwise.tracking.backstop import backstop
    from turnwise.tracking.disconnects import explain_disconnects

    names = ("bare", "backstop", "explained")
    sides = {name: create_engine(url, pool_size=1) for name in names}
    backstop(sides["backstop"], 60)
    explain_disconnects(sides["explained"])
    return sides


def checkout(engine: Engine) -> float:
    """Microseconds of a checkout and a check-in."""
    connect = engine.raw_connection
    started = time.perf_counter()
    for _ in range(CHECKOUTS):
        connect().close()
    return (time.perf_counter() - started) / CHECKOUTS * 1e6


def statement(engine: Engine) -> float:
    """Microseconds of a statement in an open transaction."""
    with engine.connect() as connection:
        connection.execute(QUERY).close()
        started = time.perf_counter()
        for _ in range(STATEMENTS):
            connection.execute(QUERY).close()
        return (time.perf_counter() - started) / STATEMENTS * 1e6


def compare(
    sides: dict[str, Engine], measure: Callable[[Engine], float], rounds: int
) -> dict[str, float]:
    """The least of the rounds, in which another side goes first each time."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            figure = measure(sides[name])
            if number:  # The first round opens connections.
                times[name].append(figure)
    for engine in sides.values():
        engine.dispose()
    return {name: min(values) for name, values in times.items()}


def show(title: str, figures: dict[str, float]) -> None:
    """A line: what each costs, and what it adds."""
    base = figures["bare"]
    parts = [f"{name} {figure:7.2f} (+{figure - base:5.2f})" for name, figure in figures.items()]
    print(f"{title:<32}{'   '.join(parts)}", flush=True)


def main() -> None:
    """Measure on both servers."""
    from servers import MariaDB, PostgreSQL

    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    print("microseconds")
    for kind in (PostgreSQL, MariaDB):
        server = kind()
        try:
            with server.database() as name:
                for driver in DRIVERS[kind.dialect]:
                    url = server.url(driver, name)
                    show(f"{driver}: checkout", compare(sides_of(url), checkout, rounds))
                    show(f"{driver}: statement", compare(explained_of(url), statement, rounds))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
