"""A process whose threads write one file through ORM sessions: `sqlite_load.py PATH LABEL THREADS ROWS ON`."""

from __future__ import annotations

import sys
import threading

import sqlalchemy as sa
from sqlalchemy.orm import Session

from sqlite_support import Item, with_turns


def main(path, label, threads, rows, on):
    # As short as it goes: what waits longer than this for a lock fails.
    engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 0.02})
    if on == "on":
        with_turns(engine, timeout=60)
    failed = []

    def write(number):
        for row in range(int(rows)):
            try:
                with Session(engine) as session:
                    session.add(Item(name=f"{label}-{number}-{row}"))
                    session.flush()
                    session.add(Item(name=f"{label}-{number}-{row}-more"))
                    session.commit()
            except sa.exc.OperationalError as error:
                failed.append(type(error.orig).__name__)

    workers = [threading.Thread(target=write, args=(n,)) for n in range(int(threads))]
    print("ready", flush=True)
    sys.stdin.readline()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(len(failed), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
