"""Sessions that are watched, beside sessions that are not: `tracker.py FOLDER ROUNDS BLOCKS`.

`listeners` has SQLAlchemy call functions that do nothing at the same places: what a tracker
could cost at least.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy import Engine, event, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import Pool

from null_driver import Connection, null_engine
from turnwise.sqlalchemy import interception
from turnwise.tracking.owners import owner
from turnwise.tracking.watching import unwatch, watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Proceed = Callable[..., object]

BLOCK = 200
SIDES = ("bare", "listeners", "watched", "each_line")
EVENTS = ("checkout", "reset", "checkin", "close", "detach", "invalidate")
OF_SESSION = ("after_transaction_create", "after_begin")
STATEMENT = text("SELECT 1")


def nothing(*arguments: object) -> None:
    """A listener that does nothing."""


class Through:
    """A layer that does nothing."""

    def do_execute(
        self,
        proceed: Proceed,
        cursor: object,
        statement: object,
        parameters: object,
        context: object,
    ) -> object:
        """Execute."""
        return proceed(cursor, statement, parameters, context)

    def do_commit(self, proceed: Proceed, connection: object) -> object:
        """Commit."""
        return proceed(connection)

    do_rollback = do_commit


@contextmanager
def side(name: str, engine: Engine) -> Iterator[None]:
    """What is listened to."""
    if name == "listeners":
        for what in EVENTS:
            event.listen(Pool, what, nothing)
        for what in OF_SESSION:
            event.listen(Session, what, nothing)
        interception.add(engine.dialect, "tracker", Through())
    elif name != "bare":
        watch(sites="statement" if name == "each_line" else "checkout")
    try:
        yield
    finally:
        if name == "listeners":
            for what in EVENTS:
                event.remove(Pool, what, nothing)
            for what in OF_SESSION:
                event.remove(Session, what, nothing)
            interception.remove(engine.dialect, "tracker")
        elif name != "bare":
            unwatch()


def sessions(engine: Engine) -> Callable[[], None]:
    """A session that takes a connection and gives it back."""

    def run() -> None:
        with Session(engine) as session:
            session.connection()

    return run


def statements(engine: Engine) -> Callable[[], None]:
    """One more statement."""
    connection = engine.connect()

    def run() -> None:
        connection.execute(STATEMENT)

    return run


def compare(work: Callable[[Engine], Callable[[], None]], blocks: int) -> dict[str, float]:
    """Seconds of one run, for each side, median of the blocks."""
    times: dict[str, list[float]] = {name: [] for name in SIDES}
    engine = null_engine("postgresql")
    gc.collect()
    gc.disable()
    for block in range(-1, blocks):
        order = SIDES if block % 2 else SIDES[::-1]
        for name in order:
            with side(name, engine), owner("request", "GET /items/{id}"):
                run = work(engine)
                for _ in range(20):
                    run()
                started = time.thread_time()
                for _ in range(BLOCK):
                    run()
                if block >= 0:
                    times[name].append((time.thread_time() - started) / BLOCK)
            del run
            gc.collect()
    gc.enable()
    engine.dispose()
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Measures and prints."""
    rounds, blocks = map(int, sys.argv[2:])
    # Else each of these connections would come back with a transaction open.
    Connection.in_transaction = False
    measures = {
        name: {"unit": "s", "rounds": [compare(work, blocks) for _ in range(rounds)]}
        for name, work in (("session", sessions), ("statement", statements))
    }
    settings = {"blocks": blocks, "runs_in_a_block": BLOCK}
    print(json.dumps({"settings": settings, "measures": measures}))


if __name__ == "__main__":
    main()
