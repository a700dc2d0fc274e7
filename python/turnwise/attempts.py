"""One retry loop's bookkeeping: what an error means, how long to wait, who is told.

``Attempts`` is made when the first attempt has failed, so that success costs nothing. It neither
calls nor sleeps: a loop asks ``after(error)``, sleeps and tries again, or notes on the error why it
gives up. What it tells goes to the logger and the hooks of ``turnwise.events``, with the name of
the unit of work in place of a file. An event holds neither SQL text nor parameters.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from turnwise import _native, events
from turnwise.classification import classify
from turnwise.errors import TurnwiseError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from turnwise._native import Budget, Override, RetryPolicy, Verdict

_EXHAUSTED = "_turnwise_exhausted"


class Settings(TypedDict, total=False):
    """The keywords of everything that retries. Durations are in seconds.

    ``max_attempts`` (default 3, ``None`` for no limit), ``initial_delay`` (0.1), ``backoff_factor``
    (2), ``max_delay`` (10), ``jitter`` (``"full"``) and ``deadline`` (30) are those of
    ``RetryPolicy``; ``policy`` is one instead of them. ``budget`` bounds the retries of all who
    share it, ``overrides`` are rules of the application's own, the first that fits.
    """

    max_attempts: int | None
    initial_delay: float
    backoff_factor: float
    max_delay: float
    jitter: str
    deadline: float
    policy: RetryPolicy | None
    budget: Budget | None
    overrides: Sequence[Override]


class Plan(NamedTuple):
    """How to retry: settings that were checked."""

    policy: RetryPolicy
    budget: Budget | None
    overrides: tuple[Override, ...]

    def attempts(self, name: str, *, started_at_ns: int) -> Attempts:
        """The attempts of a unit of work of this name, whose first one began then."""
        return Attempts(
            self.policy,
            budget=self.budget,
            overrides=self.overrides,
            name=name,
            started_at_ns=started_at_ns,
        )


def plan(settings: Settings) -> Plan:
    """Check the settings of a retrying function.

    Raises:
        TypeError: An unknown keyword, a value of another type, or ``policy`` beside one of its own
            settings.
        InvalidPolicyError: A setting is out of range.
    """
    known = Settings.__annotations__
    for name in settings:
        if name not in known:
            raise TypeError(f"there is no setting {name!r}: {', '.join(known)} are known")
    rest: dict[str, object] = dict(settings)
    policy, budget = settings.get("policy"), settings.get("budget")
    overrides = checked_overrides(settings.get("overrides", ()))
    for name in ("policy", "budget", "overrides"):
        rest.pop(name, None)
    _check("policy", policy, _native.RetryPolicy)
    _check("budget", budget, _native.Budget)
    if policy is None:
        policy = _native.RetryPolicy(**rest)  # type: ignore[arg-type] # it checks them itself
    elif rest:
        raise TypeError(f"policy= and {', '.join(f'{name}=' for name in rest)} exclude each other")
    return Plan(policy, budget, overrides)


def checked_overrides(overrides: Sequence[Override] | Override) -> tuple[Override, ...]:
    """The rules as they are kept.

    Raises:
        TypeError: They are no sequence of ``Override``.
    """
    if isinstance(overrides, _native.Override):
        raise TypeError("overrides is a sequence of Override: write overrides=[...]")
    for override in (checked := tuple(overrides)):
        _check("each of overrides", override, _native.Override)
    return checked


def _check(name: str, value: object, kind: type) -> None:
    """Refuse now what would take the place of the database's error later."""
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{name} is a turnwise.{kind.__name__}, not {type(value).__name__}")


class Attempts:
    """The attempts of one unit of work.

    ``started_at_ns`` is the ``time.monotonic_ns()`` at which the first attempt began, from which
    the deadline counts; without it the deadline counts from now.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        budget: Budget | None = None,
        overrides: Sequence[Override] = (),
        name: str = "",
        started_at_ns: int | None = None,
    ) -> None:
        self.name = name
        self.number = 1
        """The attempt that runs, or that failed last; the first is 1."""
        self.verdict: Verdict | None = None
        """What the last error meant."""
        self.stop_reason: str | None = None
        """Why the last answer was to stop: the words of ``turnwise.Retry.stop_reason``."""
        self._overrides = overrides
        self._began = time.monotonic_ns() if started_at_ns is None else started_at_ns
        self._retry = _native.Retry(policy, random.getrandbits(64), self._began, budget=budget)

    def after(
        self, error: BaseException, *, phase: str | None = None, verdict: Verdict | None = None
    ) -> float | None:
        """Seconds to sleep before the next attempt, or ``None`` to give up.

        Waits for a lock (``verdict.retry == "wait"``) are bounded by the deadline only, redone
        work and new connections by attempts, deadline and budget; an error that was retried before
        is not retried. ``phase`` goes to ``classify``; ``verdict`` is taken in place of its answer.
        """
        judged = verdict or classify(error, phase=phase, overrides=self._overrides)
        now = time.monotonic_ns()
        if is_exhausted(error):
            self.give_up(error, judged, "attempts")
            return None
        pause = self._retry.next(now, judged)
        if pause is None:
            self.give_up(error, judged, self._retry.stop_reason or "")
            return None
        self.verdict = judged
        left = self._retry.deadline_left_ns(now) / 1e9
        self._tell("retry", delay=pause / 1e9, deadline_left=left)
        self.number += 1
        return pause / 1e9

    def give_up(self, error: BaseException, verdict: Verdict, reason: str) -> None:
        """Record that an error is not retried, for one of the reasons of ``stop_reason``."""
        self.verdict, self.stop_reason = verdict, reason
        self._tell("failure", error=type(error).__name__, stop=reason)

    def recovered(self) -> None:
        """Record that an attempt after the first has succeeded."""
        self._retry.succeed()
        self._tell("recovery")

    def note(self, error: BaseException) -> None:
        """Write on an error how often and how long it was tried, and mark it as exhausted.

        An error that was never retried is left as it is.
        """
        if self.number > 1 and not is_exhausted(error):
            took = (time.monotonic_ns() - self._began) / 1e9
            what = self.verdict.class_ if self.verdict else "unlisted"
            add_note(
                error, f"turnwise: gave up after {self.number} attempts in {took:.2f} s ({what})"
            )
            error.__dict__[_EXHAUSTED] = True

    def _tell(
        self,
        kind: str,
        *,
        delay: float = 0.0,
        deadline_left: float = 0.0,
        error: str | None = None,
        stop: str | None = None,
    ) -> None:
        verdict = self.verdict
        events.tell(
            events.UnitEvent(
                kind,
                self.name,
                class_=verdict.class_ if verdict else "unlisted",
                code=verdict.code if verdict else 0,
                attempt=self.number,
                delay=delay,
                deadline_left=deadline_left,
                error=error,
                stop=stop,
                sqlstate=verdict.sqlstate if verdict else None,
            )
        )


def causes(error: BaseException) -> Iterator[BaseException]:
    """The errors that an error stands for: itself, ``orig``, ``__cause__``, those of a group.

    Never ``__context__``: what was raised while another error was handled need not come of it.
    """
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        nested = [getattr(one, "orig", None), one.__cause__, *getattr(one, "exceptions", ())]
        waiting += [other for other in nested if isinstance(other, BaseException)]


def is_exhausted(error: BaseException) -> bool:
    """Whether an error, or what caused it, was retried already until that was given up."""
    return any(
        _EXHAUSTED in getattr(one, "__dict__", ())
        or (isinstance(one, TurnwiseError) and one.state == "exhausted")
        for one in causes(error)
    )


def add_note(error: BaseException, text: str) -> None:
    """Add a note to an error; a note that it has is not repeated.

    Python 3.10 has no ``add_note``: there the note is in ``__notes__`` all the same, where tools
    that know it find it.
    """
    notes = getattr(error, "__notes__", None)
    if notes is not None and text in notes:
        return
    if hasattr(error, "add_note"):
        error.add_note(text)
    else:
        error.__notes__ = [*(notes or ()), text]  # type: ignore[attr-defined]
