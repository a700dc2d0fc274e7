"""Rows that nobody else has locked: SELECT ... FOR UPDATE SKIP LOCKED, and what does for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

from sqlalchemy import inspect, select
from sqlalchemy.orm import Mapper, Session, selectinload

from turnwise import errors
from turnwise.sqlalchemy.transactions import (
    hold_write_lock,
    in_greenlet,
    refuse_autocommit,
    server_of,
    unwrapped,
)
from turnwise.units import check_whole

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from sqlalchemy import ColumnElement, Dialect
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
    from sqlalchemy.orm import scoped_session

T = TypeVar("T")

# The first versions with SKIP LOCKED, by their release notes.
_SINCE = {"PostgreSQL": (9, 5), "MySQL": (8, 0, 1), "MariaDB": (10, 6)}


@overload
def get_for_update_skip_locked(
    model: type[T],
    *conditions: ColumnElement[bool],
    session: Session | scoped_session[Any],
    limit: int | None = None,
    order_by: object = None,
    of: object = None,
) -> list[T]: ...
@overload
def get_for_update_skip_locked(
    model: type[T],
    *conditions: ColumnElement[bool],
    session: AsyncSession | async_scoped_session[Any],
    limit: int | None = None,
    order_by: object = None,
    of: object = None,
) -> Coroutine[Any, Any, list[T]]: ...
def get_for_update_skip_locked(
    model: type[T],
    *conditions: ColumnElement[bool],
    session: Any,
    limit: int | None = None,
    order_by: object = None,
    of: object = None,
) -> Any:
    """Lock rows in the session's transaction, without waiting for those that others have locked.

    Returns them, up to ``limit``, as the database has them now: what the session had loaded of them
    is loaded anew, after its changes were flushed. They stay locked until the transaction ends.
    With an ``AsyncSession`` it is to be awaited.

    - ``order_by``: a column or a sequence of them; by default the primary key. On MySQL and MariaDB
      all rows that are looked at are locked, also those beyond ``limit`` if they are sorted: let
      an index serve conditions and order.
    - ``of``: what is locked if the conditions join other tables; by default the rows of ``model``
      alone. MariaDB locks the rows of all tables.

    On SQLite, which locks no rows, the transaction takes the write lock first, as a write would:
    everybody else's turn comes after it, so nothing is ever skipped. Call it before the transaction
    reads: afterwards the lock is only to be had as long as nothing has changed.

    Raises:
        UnsupportedServerError: PostgreSQL before 9.5, MySQL before 8.0.1, MariaDB before 10.6, or
            another database.
        UnsupportedUnitError: The connection is in AUTOCOMMIT and would keep no lock.
        InvalidSettingError: ``limit`` is no number from 0.
        TypeError: ``model`` is no mapped class, ``session`` no session.
    """
    target, is_async = unwrapped(session)
    if not isinstance(target, Session):
        raise TypeError(f"session is a session of SQLAlchemy, not {type(target).__name__}")
    if limit is not None:
        check_whole("limit", limit, 0)
    mapper_of(model)
    arguments = (target, model, conditions, limit, order_by, of)
    return in_greenlet(locked_rows, *arguments) if is_async else locked_rows(*arguments)


def locked_rows(
    session: Session,
    model: type[T],
    conditions: Sequence[ColumnElement[bool]],
    limit: int | None,
    order_by: object = None,
    of: object = None,
) -> list[T]:
    """Lock rows and return them."""
    mapper = mapper_of(model)
    connection = session.connection(bind_arguments={"mapper": mapper})
    if any(isinstance(changed, mapper.class_) for changed in session.dirty):
        session.flush()  # Else what is loaded anew would replace the changes.
    if connection.dialect.name == "sqlite":
        hold_write_lock(connection, mapper.local_table)
    else:
        check_skip_locked(connection.dialect, of)
        refuse_autocommit(connection)
    statement = select(model).where(*conditions).limit(limit)
    if order_by is None:
        order_by = primary_key_of(model)
    statement = statement.order_by(
        *(order_by if isinstance(order_by, (list, tuple)) else [order_by])
    )
    statement = statement.with_for_update(skip_locked=True, of=model if of is None else of)  # type: ignore[arg-type]
    # A joined eager load would lock the other tables as well; PostgreSQL refuses outer joins.
    joined = [r for r in mapper.relationships if r.lazy in ("joined", False)]
    statement = statement.options(*(selectinload(getattr(model, r.key)) for r in joined))
    return list(session.scalars(statement, execution_options={"populate_existing": True}))


def mapper_of(model: object) -> Mapper[Any]:
    """The mapper of a mapped class.

    Raises:
        TypeError: It is something else.
    """
    mapper = inspect(model, raiseerr=False)
    if not isinstance(mapper, Mapper):
        name = model.__name__ if isinstance(model, type) else type(model).__name__
        raise TypeError(f"model is a mapped class, not {name}")
    return mapper


def primary_key_of(model: type[Any]) -> list[Any]:
    """The attributes of a mapped class that hold its primary key."""
    mapper = inspect(model)
    return [
        getattr(model, mapper.get_property_by_column(column).key) for column in mapper.primary_key
    ]


def check_skip_locked(dialect: Dialect, of: object = None) -> None:
    """Raise unless the server can skip locked rows.

    Raises:
        UnsupportedServerError: It names what the server is, and what is needed.
    """
    server, version = server_of(dialect)
    since = _SINCE.get(server)
    if since is None:
        needed = ", ".join(f"{name} {_dotted(first)}" for name, first in _SINCE.items())
        raise errors.UnsupportedServerError(
            f"SKIP LOCKED needs {needed} or SQLite; this is {server} {_dotted(version)}".rstrip()
        )
    if version < since:
        raise errors.UnsupportedServerError(
            f"SKIP LOCKED needs {server} {_dotted(since)}; this is {server} {_dotted(version)}"
        )
    if of is not None and server == "MariaDB":
        raise errors.UnsupportedServerError(
            f"FOR UPDATE OF needs PostgreSQL or MySQL 8; MariaDB {_dotted(version)} locks the rows "
            "of all tables: leave of= out"
        )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
