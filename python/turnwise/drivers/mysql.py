"""mysqlclient, PyMySQL, aiomysql, asyncmy, mysql-connector and mariadb."""

from __future__ import annotations

from turnwise.drivers.reading import Reading, says, sqlstate_in

_OF_MARIADB = {1020, 1927, 1969}
"""A row that changed under snapshot isolation, a killed connection, `max_statement_time`: of MySQL,
only tables other than InnoDB's know the first."""

_CHECK_OF_MARIADB = 4025

# The last resort, where a client gives no number.
_LOST = (
    "(0, '')",
    "already closed",
    "connection not available",
    "gone away",
    "invalid connection",
    "lost connection",
    "network operation failed",
    "not connected",
    "read of closed file",
)


def read(error: BaseException, *, module: str) -> Reading:
    """The error number: `errno` where there is one (mysql-connector, mariadb), else `args[0]`."""
    args = error.args
    number = getattr(error, "errno", None)
    if not isinstance(number, int):
        number = args[0] if args and isinstance(args[0], int) else 0
    text = getattr(error, "msg", None) or (args[1] if len(args) > 1 else None) or str(error)
    message = text if isinstance(text, str) else str(error)
    mariadb = (
        module == "mariadb"
        or "MariaDB" in message
        or number in _OF_MARIADB
        # Another error in MySQL, and mysqlclient has no SQLSTATE to tell.
        or (number == _CHECK_OF_MARIADB and message.startswith("CONSTRAINT "))
    )
    return Reading(
        "mariadb" if mariadb else "mysql",
        # 0 and -1 stand for none.
        number if number > 0 else None,
        sqlstate_in(getattr(error, "sqlstate", None)),
        message,
        is_lost=number <= 0 and says(str(error), _LOST),
    )
