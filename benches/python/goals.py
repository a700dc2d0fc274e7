"""The goals, in one table, and what the rounds come to beside them.

A figure is a ratio, taken within each round, and the median of the rounds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from goal import Goal
from turn_goals import TURN_GOALS

if TYPE_CHECKING:
    from collections.abc import Callable

    from goal import Parts


def rust(measure: str) -> Callable[[Parts], list[float]]:
    """The rate or time of turnwise over that of bare rusqlite, in each round."""

    def figures(parts: Parts) -> list[float]:
        rounds = parts["rust"]["measures"][measure]["rounds"]
        return [one["turnwise"] / one["rusqlite"] for one in rounds]

    return figures


def story(size: str, peer: str) -> Callable[[Parts], list[float]]:
    """How many times as long as turnwise the peer took, in each round."""

    def figures(parts: Parts) -> list[float]:
        rounds = parts["story"]["sizes"][size]["rounds"]
        return [one[peer]["seconds"] / one["turnwise"]["seconds"] for one in rounds]

    return figures


def alone(measure: str, over: str, under: str) -> Callable[[Parts], list[float]]:
    """One side's time over the other's, in each round."""

    def figures(parts: Parts) -> list[float]:
        rounds = parts["alone"]["measures"][measure]["rounds"]
        return [one[over] / one[under] for one in rounds]

    return figures


def loop(name: str) -> Callable[[Parts], list[float]]:
    """The longest that a step of the event loop was blocked, in each round."""

    def figures(parts: Parts) -> list[float]:
        return [one["blocked_ms"]["max"] for one in parts["loop"]["measures"][name]]

    return figures


def decorated(kind: str) -> Callable[[Parts], list[float]]:
    """The nanoseconds that our decorator adds to a call, in each round."""

    def figures(parts: Parts) -> list[float]:
        rounds = parts["decorators"]["measures"][kind]["rounds"]
        return [one["turnwise"] - one["bare"] for one in rounds]

    return figures


def fastest(kind: str) -> Callable[[Parts], list[float]]:
    """How many times as much the fastest peer adds, in each round."""

    def figures(parts: Parts) -> list[float]:
        rounds = parts["decorators"]["measures"][kind]["rounds"]
        return [
            min(time - one["bare"] for name, time in one.items() if name not in ("bare", OURS))
            / (one[OURS] - one["bare"])
            for one in rounds
        ]

    return figures


def added(database: str) -> Callable[[Parts], list[float]]:
    """What `install` adds to an ORM insert, over the time of one in the database, in each round."""

    def figures(parts: Parts) -> list[float]:
        measures = parts["installed"]["measures"]
        nothing, real = measures[f"null_{database}_insert"], measures[f"{database}_insert"]
        return [
            (null["installed"] - null["bare"]) / one["bare"]
            for null, one in zip(nothing["rounds"], real["rounds"], strict=True)
        ]

    return figures


def watched(measure: str) -> Callable[[Parts], list[float]]:
    """What watching adds, in each round, in microseconds."""

    def figures(parts: Parts) -> list[float]:
        rounds = parts["tracker"]["measures"][measure]["rounds"]
        return [(one["watched"] - one["bare"]) * 1e6 for one in rounds]

    return figures


def scan(parts: Parts) -> list[float]:
    """How long the watchdog looks, in each round, in microseconds."""
    rounds = parts["tracker"]["measures"]["scan of 4,096 leases"]["rounds"]
    return [one["turnwise"] * 1e6 for one in rounds]


ROWS = 10_000
OURS, THEIRS = "turnwise", "sqlite3"
SHARE = "share of the rows/s of bare rusqlite"

GOALS = (
    Goal(
        "watched-session",
        "what `watch` adds to a session that takes a connection and gives it back",
        "tracker",
        watched("session"),
        at_most=3,
        unit="µs",
    ),
    Goal(
        "watched-statement",
        "what `watch` adds to a statement",
        "tracker",
        watched("statement"),
        at_most=0.5,
        unit="µs",
    ),
    Goal(
        "watched-scan",
        "a look at 4,096 leases, without the GIL",
        "tracker",
        scan,
        at_most=10,
        unit="µs",
    ),
    Goal(
        "installed-sqlite",
        "what `install` adds on a driver that does nothing, over an ORM insert into a SQLite file",
        "installed",
        added("sqlite"),
        at_most=0.03,
    ),
    Goal(
        "installed-postgresql",
        "what `install` adds on a driver that does nothing, over an ORM insert into PostgreSQL",
        "installed",
        added("postgresql"),
        at_most=0.01,
    ),
    Goal(
        "waiting-full",
        f"58 waiting threads, FULL: {SHARE} in transactions of 58 rows",
        "rust",
        rust("waiting_full"),
        at_least=0.35,
    ),
    Goal(
        "waiting-normal",
        f"58 waiting threads, NORMAL: {SHARE} in transactions of 58 rows",
        "rust",
        rust("waiting_normal"),
        at_least=0.20,
    ),
    Goal(
        "pipelined-full",
        f"pipelined submits, FULL: {SHARE} in one transaction",
        "rust",
        rust("pipelined_full"),
        at_least=0.60,
    ),
    Goal(
        "pipelined-normal",
        f"pipelined submits, NORMAL: {SHARE} in one transaction",
        "rust",
        rust("pipelined_normal"),
        at_least=0.60,
    ),
    Goal(
        "uncontended-rust-full",
        "an uncontended write, FULL: time of BEGIN, INSERT, COMMIT in bare rusqlite",
        "rust",
        rust("uncontended_full"),
        at_most=1.10,
    ),
    Goal(
        "uncontended-rust-normal",
        "an uncontended write, NORMAL: time of BEGIN, INSERT, COMMIT in bare rusqlite",
        "rust",
        rust("uncontended_normal"),
        at_most=1.10,
    ),
    Goal(
        "story-timeout",
        "the story: time of `sqlite3` with a 5 s timeout",
        "story",
        story("story", "stdlib_timeout"),
        at_least=400,
    ),
    Goal(
        "story-peewee",
        "the story: time of peewee's SqliteQueueDatabase",
        "story",
        story("story", "peewee"),
        at_least=6,
    ),
    Goal(
        "ten-timeout",
        "ten times the story: time of `sqlite3` with a 5 s timeout",
        "story",
        story("ten_stories", "stdlib_timeout"),
    ),
    Goal(
        "ten-peewee",
        "ten times the story: time of peewee's SqliteQueueDatabase",
        "story",
        story("ten_stories", "peewee"),
    ),
    Goal(
        "uncontended-python-full",
        "an uncontended write from Python, FULL: time of `sqlite3`",
        "alone",
        alone("uncontended_full", OURS, THEIRS),
        at_most=1.3,
    ),
    Goal(
        "uncontended-python-normal",
        "an uncontended write from Python, NORMAL: time of `sqlite3`",
        "alone",
        alone("uncontended_normal", OURS, THEIRS),
    ),
    Goal(
        "executemany",
        f"a list of {ROWS} tuples: speed of `sqlite3`'s executemany",
        "alone",
        alone(f"executemany_{ROWS}", THEIRS, OURS),
        at_least=1.0,
    ),
    Goal(
        "executemany-288",
        "a list of 288 tuples: speed of `sqlite3`'s executemany",
        "alone",
        alone("executemany_288", THEIRS, OURS),
    ),
    *(
        Goal(
            f"loop-{hog}",
            f"asyncio, 200 coroutines write, {beside}: longest time that a step was blocked",
            "loop",
            loop(f"{hog}_writing"),
            at_most=1.0,
            unit="ms",
            worst=True,
        )
        for hog, beside in (
            ("none", "no other thread"),
            ("writer", "a thread keeps the writer busy"),
            ("python", "a thread keeps the GIL busy"),
        )
    ),
    *(
        Goal(
            f"loop-{hog}-baseline",
            f"asyncio, the same without a write, {beside}",
            "loop",
            loop(f"{hog}_baseline"),
            unit="ms",
            worst=True,
        )
        for hog, beside in (
            ("none", "no other thread"),
            ("writer", "a thread keeps the writer busy"),
            ("python", "a thread keeps the GIL busy"),
        )
    ),
    *(
        goal
        for kind, bound, key in (("a call", 100, "sync"), ("an awaited call", 150, "async"))
        for goal in (
            Goal(
                f"decorator-{key}",
                f"what `retry_on_deadlock` adds to {kind} that succeeds",
                "decorators",
                decorated(kind),
                at_most=bound,
                unit="ns",
            ),
            Goal(
                f"decorator-{key}-peers",
                f"what the fastest peer adds to {kind}, in ours",
                "decorators",
                fastest(kind),
                at_least=1.0,
            ),
        )
    ),
    *TURN_GOALS,
)


def judge(parts: Parts) -> list[dict[str, Any]]:
    """Every goal whose part was measured."""
    return [goal.judge(parts) for goal in GOALS if goal.part in parts]
