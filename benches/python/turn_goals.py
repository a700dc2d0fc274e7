"""The goals of the bench across processes. A flush is what one takes on the disk of the figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from goal import Goal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from goal import Parts

    Round = dict[str, Any]
    Figures = Callable[[Parts], list[float]]

OURS = ("batch", "dropin")
CELL = "slow/8x8"


def figures(of_round: Callable[[Round], float], what: str, part: str = "turns") -> Figures:
    """A figure of each round; none where a side that it needs was absent."""

    def all_rounds(parts: Parts) -> list[float]:
        found = []
        for one in parts[part][what]:
            try:
                found.append(of_round(one))
            except KeyError:
                return []
        return found

    return all_rounds


def faster(level: str, side: str, peer: str, rate: str = "per_second") -> Figures:
    """Writes per second over the peer's at FULL."""
    return figures(
        lambda one: one[f"{CELL}/{level}"][side][rate] / one[f"{CELL}/full"][peer][rate],
        "closed",
    )


def bad_ends(side: str) -> Figures:
    """Saves that failed, were lost, doubled or left in doubt, in all closed and open loops."""
    kinds = ("failed", "lost", "doubled", "in_doubt")

    def all_rounds(parts: Parts) -> list[float]:
        turns = parts["turns"]
        if side in turns["absent"] and "full" in turns["absent"][side]:
            return []
        found = []
        for closed, part, outsider in zip(
            turns["closed"], turns["part_load"], turns["outsider"], strict=True
        ):
            told = [cell[side] for cell in closed.values() if side in cell]
            told += [one for name, one in part.items() if name.startswith(f"{side}/")]
            told += [one["beside"] for name, one in outsider.items() if f"/{side}/" in name]
            found.append(float(sum(one[kind] for one in told for kind in kinds)))
        return found

    return all_rounds


def unfair(level: str, side: str, disk: str = "slow") -> Figures:
    """By how much Jain's index over processes falls short of 1."""
    return figures(lambda one: 1 - one[f"{disk}/8x8/{level}"][side]["jain"], "closed")


def in_flushes(found: Figures, part: str = "turns") -> Figures:
    """Milliseconds as flushes of the slow disk."""
    return lambda parts: [ms / parts[part]["flush_ms"]["slow"] for ms in found(parts)]


def longest(level: str, side: str) -> Figures:
    """The longest wait of all."""
    return in_flushes(figures(lambda one: one[f"{CELL}/{level}"][side]["wait_ms"]["max"], "closed"))


def part_load(level: str, side: str) -> Figures:
    """The p99 at part of the load over that of the busy handler."""
    return figures(
        lambda one: (
            one[f"{side}/{level}"]["wait_ms"]["p99"] / one["timeout/full"]["wait_ms"]["p99"]
        ),
        "part_load",
    )


def outsider(level: str, side: str, part: str) -> Figures:
    """The outsider's p99."""
    found = figures(
        lambda one: one[f"slow/{side}/{level}"]["outsider"]["wait_ms"]["p99"], "outsider", part
    )
    return in_flushes(found, part)


def outsider_fails(level: str, side: str, part: str) -> Figures:
    """The outsider's failures."""
    return figures(lambda one: one[f"slow/{side}/{level}"]["outsider"]["failed"], "outsider", part)


def outsider_costs(level: str, side: str, part: str) -> Figures:
    """The share of the load that the outsider takes away."""

    def of_round(one: Round) -> float:
        told = one[f"slow/{side}/{level}"]
        return 1 - float(told["beside"]["per_second"] / told["without"]["per_second"])

    return figures(of_round, "outsider", part)


def alone(language: str, level: str, over: str, under: str) -> Figures:
    """One side's time for a save over the other's."""
    return figures(lambda one: one[language][level][over] / one[language][level][under], "alone")


def alone_more(language: str, level: str, over: str, under: str) -> Figures:
    """Microseconds that one side takes more for a save."""
    return figures(
        lambda one: (one[language][level][over] - one[language][level][under]) * 1e6, "alone"
    )


def killed(side: str) -> Figures:
    """The p99 after a kill, on each disk."""
    return lambda parts: [
        told["p99"] for name, told in parts["turns"]["kills"].items() if name.endswith(f"/{side}")
    ]


def queued(side: str, what: str) -> Figures:
    """What queued threads did."""

    def one(parts: Parts) -> list[float]:
        told = parts["turns"]["queued"].get(side)
        return [] if told is None or told[what] is None else [float(told[what])]

    return one


SLOW = "8 x 8, 1 ms disk"
BATCH, DROPIN = "batch", "dropin"
FASTER = (
    ("full", "timeout", "`sqlite3` with a 5 s timeout", 18),
    ("full", "peewee", "peewee's queue", 8),
    ("pipelined", "timeout", "`sqlite3` with a 5 s timeout", 100),
    ("pipelined", "peewee", "peewee's queue", 50),
)


def goal(key: str, what: str, found: Figures, **bounds: Any) -> Goal:  # noqa: ANN401
    """A goal of this part."""
    return Goal(f"turns-{key}", what, "turns", found, **bounds)


def outsider_goals(part: str, where: str) -> Iterator[Goal]:
    """What an outsider meets, and costs."""
    prefix = "turns-outsider" if part == "turns" else "outsider"
    for side, level in ((BATCH, "full"), (BATCH, "pipelined"), (DROPIN, "full")):
        end = f"{side}-{level}"
        beside = f"{where}, an outsider beside {side} at {level.upper()}"
        ours = side == BATCH
        yield Goal(
            f"{prefix}-p99-{end}",
            f"{beside}: p99 of its waits",
            part,
            outsider(level, side, part),
            at_most=10 if ours else None,
            unit="flushes",
        )
        yield Goal(
            f"{prefix}-fails-{end}",
            f"{beside}: its failures",
            part,
            outsider_fails(level, side, part),
            at_most=0,
            unit="",
            worst=True,
        )
        yield Goal(
            f"{prefix}-costs-{end}",
            f"{beside}: share of our writes/s that it costs",
            part,
            outsider_costs(level, side, part),
            at_most=0.10 if ours else None,
            unit="",
        )


TURN_GOALS = (
    *(
        goal(
            f"{level}-{peer}",
            f"{SLOW}, BatchWriter at {level.upper()}: writes/s of {called} at FULL",
            faster(level, BATCH, peer),
            at_least=bound,
        )
        for level, peer, called, bound in FASTER
    ),
    *(
        goal(
            f"{level}-{peer}-to-the-end",
            f"the same, {level.upper()}, until the last answer: writes/s of {called}",
            faster(level, BATCH, peer, "per_second_to_end"),
            at_least=bound,
        )
        for level, peer, called, bound in FASTER
    ),
    goal(
        "dropin-timeout",
        f"{SLOW}, turnwise.sqlite3 at FULL: writes/s of `sqlite3` with a 5 s timeout",
        faster("full", DROPIN, "timeout"),
    ),
    *(
        goal(
            f"failures-{side}",
            f"{label}: saves that failed, were lost, doubled or left in doubt, in all loops",
            bad_ends(side),
            at_most=0,
            unit="",
            worst=True,
        )
        for side, label in ((BATCH, "BatchWriter"), (DROPIN, "turnwise.sqlite3"))
    ),
    *(
        goal(
            f"unfair-{disk}-{side}-{level}",
            f"8 x 8, {called}, {side} at {level.upper()}: Jain's index over processes, less than 1 by",
            unfair(level, side, disk),
            at_most=0.001,
            unit="",
        )
        for disk, called in (("slow", "1 ms disk"), ("real", "real disk"))
        for side, level in ((BATCH, "full"), (BATCH, "pipelined"), (DROPIN, "full"))
    ),
    *(
        goal(
            f"longest-{side}-{level}",
            f"{SLOW}, {side} at {level.upper()}: longest wait",
            longest(level, side),
            at_most=bound,
            unit="flushes",
            worst=True,
        )
        for side, level, bound in (
            (BATCH, "full", 25),
            (BATCH, "pipelined", 10),
            (DROPIN, "full", None),
        )
    ),
    *(
        goal(
            f"part-load-{side}-{level}",
            f"{SLOW}, open loop at 45 %, {side} at {level.upper()}: p99 of `sqlite3` with a 5 s timeout",
            part_load(level, side),
            at_most=bound,
        )
        for side, level, bound in (
            (BATCH, "full", 1 / 8),
            (BATCH, "pipelined", 1 / 12),
            (DROPIN, "full", None),
        )
    ),
    *outsider_goals("turns", "8 x 8, 1 ms disk"),
    *outsider_goals("outsider", "for long, 1 ms disk"),
    *(
        one
        for language in ("rust", "python")
        for one in (
            goal(
                f"alone-{language}-full",
                f"an uncontended write, {language.title()}, FULL: time without the turn lock",
                alone(language, "full", BATCH, "batch_alone"),
                at_most=1.05,
            ),
            goal(
                f"alone-{language}-normal",
                f"an uncontended write, {language.title()}, NORMAL: more than without the turn lock",
                alone_more(language, "normal", BATCH, "batch_alone"),
                at_most=1.0,
                unit="µs",
            ),
        )
    ),
    goal(
        "alone-dropin-full",
        "an uncontended write, turnwise.sqlite3, FULL: time of `sqlite3`",
        alone("python", "full", DROPIN, "timeout"),
        at_most=1.05,
    ),
    goal(
        "alone-dropin-normal",
        "an uncontended write, turnwise.sqlite3, NORMAL: more than `sqlite3`",
        alone_more("python", "normal", DROPIN, "timeout"),
        unit="µs",
    ),
    *(
        one
        for side in OURS
        for one in (
            goal(
                f"queued-wake-ups-{side}",
                f"wake-ups in a second of a queued thread other than the main one, {side}",
                queued(side, "wake_ups_per_second"),
                at_most=0,
                unit="",
            ),
            goal(
                f"queued-calls-{side}",
                f"sleeping and polling system calls of the queued threads in a second, {side}",
                queued(side, "sleeps_and_polls"),
                at_most=0,
                unit="",
            ),
            goal(
                f"killed-{side}",
                f"next commit after SIGKILL of the holder, {side}: p99, the worse of both disks",
                killed(side),
                at_most=10,
                unit="ms",
                worst=True,
            ),
        )
    ),
)
