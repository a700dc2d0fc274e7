"""One worker's claims: what it selects, how often it tries, and what leaving early means."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from turnwise import errors
from turnwise.attempts import Attempts, plan
from turnwise.classification import classify
from turnwise.sqlalchemy import leases
from turnwise.sqlalchemy.skip_locked import locked_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

    from turnwise._native import Verdict
    from turnwise.attempts import Settings

T = TypeVar("T")

_logger = logging.getLogger("turnwise")


class Claiming(Generic[T]):
    """What is claimed, and the retries of one batch."""

    def __init__(
        self,
        model: type[T],
        conditions: Sequence[ColumnElement[bool]],
        session_factory: Callable[[], Any],
        limit: int,
        order_by: object,
        lease: leases.Lease | None,
        settings: Settings,
    ) -> None:
        self.session_factory, self.settings, self.lease = session_factory, settings, lease
        self._name = model.__name__
        self._selection = (model, conditions, limit, order_by)
        self._plan = plan(settings)
        self._attempts: Attempts | None = None
        self._began = 0

    def locked(self, session: Session) -> list[T]:
        """Lock the next rows."""
        self._began = self._began or time.monotonic_ns()
        return locked_rows(session, *self._selection)

    def leased(self, session: Session) -> list[T]:
        """Lease the next rows."""
        return self.leasing.claim(session, *self._selection)

    @property
    def leasing(self) -> leases.Lease:
        """The lease column; raises without one."""
        if self.lease is None:
            raise errors.UnsupportedUnitError(
                "rows that are claimed without lease= are committed by the loop"
            )
        return self.lease

    def pause(self, error: Exception) -> float:
        """Seconds until a batch that has failed is claimed again; raises where it is not."""
        verdict = self.check_doubt(error)
        if self._attempts is None:
            self._attempts = Attempts(
                self._plan.policy,
                budget=self._plan.budget,
                overrides=self._plan.overrides,
                name=f"claim {self._name}",
                started_at_ns=self._began,
            )
        pause = self._attempts.after(error, verdict=verdict)
        if pause is None:
            self._attempts.note(error)
            raise error
        return pause

    def check_doubt(self, error: Exception) -> Verdict:
        """What an error means; raises where it leaves a COMMIT in doubt."""
        verdict = classify(error, overrides=self._plan.overrides)
        if verdict.is_in_doubt:
            raise errors.CommitOutcomeUnknownError(
                f"the connection was lost when claimed rows of {self._name} were committed: it is "
                "unknown whether they are"
            ) from error
        return verdict

    def committed(self) -> None:
        """Begin to count anew."""
        if self._attempts is not None:
            self._attempts.recovered()
        self._attempts, self._began = None, 0

    def given_back(self, rows: Sequence[T]) -> None:
        """Say that a loop without ``with`` was left early."""
        _logger.warning(
            "turnwise: %d claimed rows of %s were given back, and what was changed with them was "
            "rolled back: the loop was left early; `with claim(...) as rows` commits after a break",
            *(len(rows), self._name),
        )


class Handed(Generic[T]):
    """What loops over claimed rows have in common."""

    def __init__(self, claiming: Claiming[T]) -> None:
        self._claiming = claiming
        self._commits: bool | None = None  # What leaving early means; None: there is no `with`.
        self._session: Any = None

    def _left(self, rows: list[T], at: int) -> list[T]:
        """The leased rows to release, now that the loop is left at one of them."""
        # After a break the row at hand may be in work elsewhere.
        return [row for row in rows[at + bool(self._commits) :] if leases.is_leased(row)]

    def _abandoned(self, rows: list[T]) -> None:
        if self._commits is None:
            self._claiming.given_back(rows)
