"""What a decorator costs a call that succeeds: `decorators.py ROUNDS BLOCKS CALLS`.

Prints the raw rounds as JSON. All sides wrap the same function, and take turns in short blocks, of
which the median counts; another side goes first in each round.
"""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

import backoff
import stamina
import tenacity
from oslo_db.api import wrap_db_retry
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from turnwise.sqlalchemy import sessions
from turnwise.units import retry_on_deadlock

if TYPE_CHECKING:
    from collections.abc import Callable

    Side = Callable[[int], Any]


def plain(value: int) -> int:
    """What is wrapped."""
    return value


async def coroutine(value: int) -> int:
    """What is wrapped for asyncio."""
    return value


def wrapped(function: Side) -> dict[str, Side]:
    """The function by itself, and in each of the decorators that can retry it."""
    sides: dict[str, Side] = {
        "bare": function,
        "turnwise": retry_on_deadlock(function),
        "tenacity": tenacity.retry(
            stop=tenacity.stop_after_attempt(3),
            wait=tenacity.wait_random_exponential(0.1, 10),
            retry=tenacity.retry_if_exception_type(OperationalError),
            reraise=True,
        )(function),
        "stamina": stamina.retry(on=OperationalError, attempts=3)(function),
        "backoff": backoff.on_exception(backoff.expo, OperationalError, max_tries=3)(function),
    }
    if function is plain:
        # It never retries a coroutine function.
        sides["oslo.db"] = wrap_db_retry(max_retries=3, retry_on_deadlock=True)(function)
    return sides


def block(side: Side, calls: int) -> float:
    """Nanoseconds for a call."""
    started = time.perf_counter_ns()
    for _ in range(calls):
        side(1)
    return (time.perf_counter_ns() - started) / calls


async def async_block(side: Side, calls: int) -> float:
    """Nanoseconds for an awaited call."""
    started = time.perf_counter_ns()
    for _ in range(calls):
        await side(1)
    return (time.perf_counter_ns() - started) / calls


def measure(function: Side, rounds: int, blocks: int, calls: int) -> list[dict[str, float]]:
    """Nanoseconds for a call of each side, in each round."""
    sides = wrapped(function)
    names = list(sides)
    told = []
    loop = asyncio.new_event_loop()
    for number in range(rounds):
        times: dict[str, list[float]] = {name: [] for name in names}
        order = names[number % len(names) :] + names[: number % len(names)]
        for _ in range(blocks):
            for name in order:
                if function is plain:
                    times[name].append(block(sides[name], calls))
                else:
                    times[name].append(loop.run_until_complete(async_block(sides[name], calls)))
        told.append({name: statistics.median(values) for name, values in times.items()})
    loop.close()
    return told


def main(rounds: int, blocks: int, calls: int) -> None:
    """Measures both kinds, in a process that has loaded SQLAlchemy's sessions."""
    if not sessions.watch():
        raise SystemExit(f"{Session} is not watched: this is not what applications pay")
    # Or those whose calls leave cycles behind would pay for what SQLAlchemy has on the heap.
    gc.collect()
    gc.freeze()
    measures = {
        "a call": {"unit": "ns", "rounds": measure(plain, rounds, blocks, calls)},
        "an awaited call": {"unit": "ns", "rounds": measure(coroutine, rounds, blocks, calls)},
    }
    print(json.dumps({"measures": measures}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
