"""Whether all workers together may open more connections than the server has."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import text
from sqlalchemy.pool import QueuePool

from turnwise.errors import InvalidSettingError, UnsupportedServerError
from turnwise.tracking.watching import report

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

# Of what the server gives, the share that pools should use: others connect too.
_SHARE = 0.9


class ConnectionBudget(NamedTuple):
    """What the pools of all workers may open, and what the server gives, in connections."""

    wanted: int
    """Most that all workers open; -1: without end."""
    available: int
    """Of the server, without those reserved for superusers."""
    pool_size: int
    """What ``pool_size + max_overflow`` of each engine may be, for all to fit; at least 1."""

    @property
    def fits(self) -> bool:
        """Whether the server can give what the pools may want."""
        return 0 <= self.wanted <= self.available


def check_budget(
    engine: Engine, *others: Engine, workers: int, deploys: int = 1
) -> ConnectionBudget:
    """Compare what pools may open with what the server of ``engine`` allows, in one query.

    Over it, the finding ``budget-exceeded`` is noted: the server would refuse connections in the
    hour of most load.

    Args:
        engine: An engine of one worker; the server is asked through it.
        others: The other engines that each worker has on the same server.
        workers: How many processes have such engines.
        deploys: How many generations of them run at once: 2 where workers are replaced one by one.

    Raises:
        InvalidSettingError: ``workers`` or ``deploys`` is below 1.
        UnsupportedServerError: a server other than PostgreSQL, MariaDB and MySQL.
    """
    if workers < 1 or deploys < 1:
        raise InvalidSettingError(f"workers={workers}, deploys={deploys}: both are 1 or more")
    engines = [engine, *others]
    processes = workers * deploys
    with engine.connect() as connection:
        available = _available(connection)
    sizes = [_most(one) for one in engines]
    wanted = -1 if -1 in sizes else sum(sizes) * processes
    fitting = max(1, int(available * _SHARE) // (processes * len(engines)))
    budget = ConnectionBudget(wanted, available, fitting)
    if not budget.fits:
        may = "any number of" if wanted < 0 else str(wanted)
        report(
            "budget-exceeded",
            detail=(
                f"{processes} processes may open {may} connections, and the server gives "
                f"{available}: pool_size + max_overflow = {fitting} would fit"
            ),
        )
    return budget


def _most(engine: Engine) -> int:
    """The connections that an engine's pool may open; -1: without end."""
    pool = engine.pool
    if not isinstance(pool, QueuePool):
        return -1
    overflow = pool._max_overflow  # noqa: SLF001 - what `status` prints
    return -1 if overflow < 0 else pool.size() + overflow


def _available(connection: Connection) -> int:
    name = connection.dialect.name
    if name == "postgresql":
        # reserved_connections is there from PostgreSQL 16 on.
        reserved = (
            "SELECT current_setting('max_connections')::int"
            " - current_setting('superuser_reserved_connections')::int"
            " - coalesce(current_setting('reserved_connections', true)::int, 0)"
        )
        return int(connection.execute(text(reserved)).scalar_one())
    if name in ("mysql", "mariadb"):
        return int(connection.execute(text("SELECT @@max_connections")).scalar_one())
    raise UnsupportedServerError(f"{name} has no limit of connections that could be asked for")


__all__ = ["ConnectionBudget", "check_budget"]
