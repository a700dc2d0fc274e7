"""mysqlclient, PyMySQL, aiomysql, asyncmy, mysql-connector and mariadb."""

from __future__ import annotations

from turnwise.drivers import messages
from turnwise.drivers.reading import Reading

MARIADB_ALONE = {1020, 1927, 1969}
"""A changed row under snapshot isolation, a killed connection, `max_statement_time`: MySQL has the
first for MyISAM alone and not the others."""

CHECK_OF_MARIADB = 4025
"""A check constraint in MariaDB; in MySQL, another error with another SQLSTATE than 23000."""


def read(error: BaseException, *, module: str) -> Reading:
    """The error number: `errno` where there is one (mysql-connector, mariadb), else `args[0]`."""
    message = str(error)
    code = getattr(error, "errno", None)
    if not isinstance(code, int):
        code = error.args[0] if error.args else None
    # 0 and -1 stand for no number.
    number = code if isinstance(code, int) and code > 0 else None
    sqlstate = getattr(error, "sqlstate", None)
    sqlstate = sqlstate if isinstance(sqlstate, str) and sqlstate else None
    mariadb = (
        module == "mariadb"
        or "MariaDB" in message
        or number in MARIADB_ALONE
        or (number == CHECK_OF_MARIADB and sqlstate in {None, "23000"})
    )
    return Reading(
        "mariadb" if mariadb else "mysql",
        number,
        sqlstate,
        _text(error) or message,
        is_lost=number is None and messages.has_one_of(message, messages.MYSQL_LOST),
    )


def _text(error: BaseException) -> str | None:
    """The server's text alone, which holds the constraint's name."""
    text = getattr(error, "msg", None) or (error.args[1] if len(error.args) > 1 else None)
    return text if isinstance(text, str) else None
