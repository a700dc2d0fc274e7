"""Leases: a column of a row says until when a worker has it, who works without a lock meanwhile."""

from __future__ import annotations

import math
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import inspect, or_, select, text, tuple_
from sqlalchemy.orm import QueryableAttribute

from turnwise import errors
from turnwise.sqlalchemy.skip_locked import locked_rows, primary_key_of
from turnwise.sqlalchemy.transactions import MYSQL, hold_write_lock

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection
    from sqlalchemy.orm import InstrumentedAttribute, Session

T = TypeVar("T")

_INFO = "turnwise.lease"
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Lease:
    """The column that holds a model's leases, and for how many seconds a claim sets it.

    It holds a date and time (without a time zone: of UTC) or a number (of seconds since 1970), by
    the server's clock.
    """

    def __init__(self, attribute: InstrumentedAttribute[Any], seconds: float) -> None:
        if not seconds > 0:
            raise errors.InvalidSettingError("lease_for is a number of seconds above 0")
        if not isinstance(attribute, QueryableAttribute):
            raise TypeError("lease is a mapped column, such as Job.leased_until")
        self._attribute, self._seconds = attribute, seconds
        self._kind = attribute.type.python_type
        if not issubclass(self._kind, (datetime, int, float)):
            raise TypeError("a lease column holds a date and time, or a number of seconds")

    def claim(
        self,
        session: Session,
        model: type[T],
        conditions: Sequence[ColumnElement[bool]],
        limit: int | None,
        order_by: object,
    ) -> list[T]:
        """Lease rows that nobody has a lease of, and detach them as they are stored."""
        connection = session.connection(bind_arguments={"mapper": inspect(model)})
        # Rows are locked before the clock is read: a lease that is taken over has run out by then.
        free = or_(self._attribute.is_(None), self._attribute <= self._value(_now(connection)))
        rows = locked_rows(session, model, [*conditions, free], limit, order_by)
        until = self._value(_now(connection) + self._seconds)
        for row in rows:
            setattr(row, self._attribute.key, until)
        session.flush()
        # MySQL rounds what it stores to seconds: later the lease is compared with what is stored.
        for row in _stored(session, model, rows):
            inspect(row).info[_INFO] = getattr(row, self._attribute.key)
            session.expunge(row)
        return rows

    def check(self, session: Session, row: T) -> T:
        """Lock a leased row in the session's transaction and return it as it is stored now.

        Raises:
            HoldLimitExceededError: The lease is no longer the one that it was claimed with.
            UnsupportedUnitError: The row has no lease, or no longer.
        """
        state: Any = inspect(row)
        model = state.mapper.class_
        if _INFO not in state.info:
            raise errors.UnsupportedUnitError(
                f"this {model.__name__} is not leased, or was completed or released already"
            )
        connection = session.connection(bind_arguments={"mapper": state.mapper})
        if connection.dialect.name == "sqlite":
            hold_write_lock(connection, state.mapper.local_table)
        key = zip(primary_key_of(model), state.identity, strict=True)
        statement = select(model).where(*(column == value for column, value in key))
        stored = session.scalars(
            statement.with_for_update(of=model), execution_options={"populate_existing": True}
        ).one_or_none()
        if stored is None or getattr(stored, self._attribute.key) != state.info[_INFO]:
            raise errors.HoldLimitExceededError(
                f"the lease of this {model.__name__} had run out, and another worker has had it "
                "since; nothing was written"
            )
        found: T = stored
        return found

    def finish(self, session: Session, row: T, values: Mapping[str, object]) -> T:
        """Free a leased row, and set what else its worker has to say of it."""
        stored = self.check(session, row)
        names = inspect(type(stored)).attrs
        for name, value in {**values, self._attribute.key: None}.items():
            if name not in names:
                raise TypeError(f"{type(stored).__name__} has no attribute {name!r}")
            setattr(stored, name, value)
        return stored

    def renew(self, session: Session, row: object) -> object:
        """Lease a row for another ``seconds`` from now; the new value, as it is stored."""
        stored = self.check(session, row)
        now = _now(session.connection(bind_arguments={"mapper": inspect(type(stored))}))
        setattr(stored, self._attribute.key, self._value(now + self._seconds))
        session.flush()
        (stored,) = _stored(session, type(stored), [stored])
        return getattr(stored, self._attribute.key)

    def _value(self, seconds: float) -> object:
        if not issubclass(self._kind, datetime):
            return math.ceil(seconds) if issubclass(self._kind, int) else seconds
        moment = _EPOCH + timedelta(seconds=seconds)
        type_: Any = self._attribute.type
        has_zone = getattr(getattr(type_, "impl_instance", type_), "timezone", False)
        return moment if has_zone else moment.replace(tzinfo=None)


def remember(row: object, value: object) -> None:
    """Note the lease that a row has now."""
    inspect(row, raiseerr=True).info[_INFO] = value


def forget(row: object) -> None:
    """Note that a row has no lease any more."""
    inspect(row, raiseerr=True).info.pop(_INFO, None)


def is_leased(row: object) -> bool:
    """Whether a row has a lease that was neither completed nor released."""
    return _INFO in inspect(row, raiseerr=True).info


def _now(connection: Connection) -> float:
    """Seconds since 1970 by the server's clock, which all workers share."""
    if connection.dialect.name == "postgresql":
        statement = "SELECT extract(epoch FROM clock_timestamp())"
    elif connection.dialect.name in MYSQL:
        statement = "SELECT timestampdiff(MICROSECOND, '1970-01-01', utc_timestamp(6)) / 1000000"
    else:
        return time.time()
    return float(connection.scalar(text(statement)) or 0)


def _stored(session: Session, model: type[T], rows: Sequence[T]) -> Sequence[T]:
    if not rows:
        return rows
    columns = primary_key_of(model)
    keys = [inspect(row, raiseerr=True).identity for row in rows]
    mine = (
        columns[0].in_([key[0] for key in keys])
        if len(columns) == 1
        else tuple_(*columns).in_(keys)
    )
    statement = select(model).where(mine)
    return session.scalars(statement, execution_options={"populate_existing": True}).all()
