"""Names and well-known messages of error codes, and how to find them in a pasted text."""

from __future__ import annotations

import re
from typing import NamedTuple

_PRIMARY = (
    "ERROR INTERNAL PERM ABORT BUSY LOCKED NOMEM READONLY INTERRUPT IOERR CORRUPT NOTFOUND FULL "
    "CANTOPEN PROTOCOL EMPTY SCHEMA TOOBIG CONSTRAINT MISMATCH MISUSE NOLFS AUTH FORMAT RANGE "
    "NOTADB NOTICE WARNING"
)
# An extended code is its primary code + 256 * its place here, from 1.
_EXTENDED = {
    "ERROR": "MISSING_COLLSEQ RETRY SNAPSHOT",
    "ABORT": "- ROLLBACK",
    "BUSY": "RECOVERY SNAPSHOT TIMEOUT",
    "LOCKED": "SHAREDCACHE VTAB",
    "READONLY": "RECOVERY CANTLOCK ROLLBACK DBMOVED CANTINIT DIRECTORY",
    "IOERR": "READ SHORT_READ WRITE FSYNC DIR_FSYNC TRUNCATE FSTAT UNLOCK RDLOCK DELETE BLOCKED "
    "NOMEM ACCESS CHECKRESERVEDLOCK LOCK CLOSE DIR_CLOSE SHMOPEN SHMSIZE SHMLOCK SHMMAP SEEK "
    "DELETE_NOENT MMAP GETTEMPPATH CONVPATH VNODE AUTH BEGIN_ATOMIC COMMIT_ATOMIC ROLLBACK_ATOMIC "
    "DATA CORRUPTFS",
    "CORRUPT": "VTAB SEQUENCE INDEX",
    "CANTOPEN": "NOTEMPDIR ISDIR FULLPATH CONVPATH DIRTYWAL SYMLINK",
    "CONSTRAINT": "CHECK COMMITHOOK FOREIGNKEY FUNCTION NOTNULL PRIMARYKEY TRIGGER UNIQUE VTAB "
    "ROWID PINNED DATATYPE",
}
_POSTGRESQL = {
    "08000": "connection_exception",
    "08003": "connection_does_not_exist",
    "08006": "connection_failure",
    "08007": "transaction_resolution_unknown",
    "0A000": "feature_not_supported",
    "22001": "string_data_right_truncation",
    "22P02": "invalid_text_representation",
    "23502": "not_null_violation",
    "23503": "foreign_key_violation",
    "23505": "unique_violation",
    "23514": "check_violation",
    "23P01": "exclusion_violation",
    "25006": "read_only_sql_transaction",
    "25P02": "in_failed_sql_transaction",
    "25P03": "idle_in_transaction_session_timeout",
    "25P04": "transaction_timeout",
    "26000": "invalid_sql_statement_name",
    "28P01": "invalid_password",
    "3D000": "invalid_catalog_name",
    "40001": "serialization_failure",
    "40003": "statement_completion_unknown",
    "40P01": "deadlock_detected",
    "42501": "insufficient_privilege",
    "42601": "syntax_error",
    "42703": "undefined_column",
    "42P01": "undefined_table",
    "42P05": "duplicate_prepared_statement",
    "53100": "disk_full",
    "53200": "out_of_memory",
    "53300": "too_many_connections",
    "55006": "object_in_use",
    "55P03": "lock_not_available",
    "57014": "query_canceled",
    "57P01": "admin_shutdown",
    "57P02": "crash_shutdown",
    "57P03": "cannot_connect_now",
    "57P04": "database_dropped",
    "57P05": "idle_session_timeout",
}
_MYSQL = {
    1020: "ER_CHECKREAD",
    1022: "ER_DUP_KEY",
    1040: "ER_CON_COUNT_ERROR",
    1045: "ER_ACCESS_DENIED_ERROR",
    1047: "ER_UNKNOWN_COM_ERROR",
    1048: "ER_BAD_NULL_ERROR",
    1049: "ER_BAD_DB_ERROR",
    1053: "ER_SERVER_SHUTDOWN",
    1062: "ER_DUP_ENTRY",
    1064: "ER_PARSE_ERROR",
    1205: "ER_LOCK_WAIT_TIMEOUT",
    1206: "ER_LOCK_TABLE_FULL",
    1213: "ER_LOCK_DEADLOCK",
    1290: "ER_OPTION_PREVENTS_STATEMENT",
    1305: "ER_SP_DOES_NOT_EXIST",
    1317: "ER_QUERY_INTERRUPTED",
    1364: "ER_NO_DEFAULT_FOR_FIELD",
    1406: "ER_DATA_TOO_LONG",
    1412: "ER_TABLE_DEF_CHANGED",
    1451: "ER_ROW_IS_REFERENCED_2",
    1452: "ER_NO_REFERENCED_ROW_2",
    1792: "ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION",
    2002: "CR_CONNECTION_ERROR",
    2003: "CR_CONN_HOST_ERROR",
    2006: "CR_SERVER_GONE_ERROR",
    2013: "CR_SERVER_LOST",
    2055: "CR_SERVER_LOST_EXTENDED",
    3572: "ER_LOCK_NOWAIT",
    3819: "ER_CHECK_CONSTRAINT_VIOLATED",
    4025: "ER_CONSTRAINT_FAILED",
    4031: "ER_CLIENT_INTERACTION_TIMEOUT",
}
TWINS = ("mysql", "mariadb")
DIALECTS = {
    "sqlite": ("sqlite",),
    "sqlite3": ("sqlite",),
    "aiosqlite": ("sqlite",),
    "postgresql": ("postgresql",),
    "postgres": ("postgresql",),
    "pg": ("postgresql",),
    "psycopg": ("postgresql",),
    "psycopg2": ("postgresql",),
    "asyncpg": ("postgresql",),
    "pg8000": ("postgresql",),
    "mysql": ("mysql",),
    "mariadb": ("mariadb",),
    # Drivers of both servers.
    "pymysql": TWINS,
    "aiomysql": TWINS,
    "asyncmy": TWINS,
    "mysqldb": TWINS,
    "mysql.connector": TWINS,
}
MESSAGES: tuple[tuple[str, tuple[str, ...], tuple[int | str, ...]], ...] = (
    # SQLITE_BUSY_SNAPSHOT has SQLITE_BUSY's text.
    ("database is locked", ("sqlite",), (5, 517)),
    ("database table is locked", ("sqlite",), (6, 262)),
    ("unique constraint failed", ("sqlite",), (2067,)),
    ("foreign key constraint failed", ("sqlite",), (787,)),
    ("not null constraint failed", ("sqlite",), (1299,)),
    ("check constraint failed", ("sqlite",), (275,)),
    ("database or disk is full", ("sqlite",), (13,)),
    ("disk i/o error", ("sqlite",), (10,)),
    ("attempt to write a readonly database", ("sqlite",), (8,)),
    ("unable to open database file", ("sqlite",), (14,)),
    ("database disk image is malformed", ("sqlite",), (11,)),
    ("file is not a database", ("sqlite",), (26,)),
    ("no such table", ("sqlite",), (1,)),
    ("deadlock detected", ("postgresql",), ("40P01",)),
    ("could not serialize access", ("postgresql",), ("40001",)),
    ("could not obtain lock", ("postgresql",), ("55P03",)),
    ("due to lock timeout", ("postgresql",), ("55P03",)),
    ("due to statement timeout", ("postgresql",), ("57014",)),
    ("current transaction is aborted", ("postgresql",), ("25P02",)),
    ("due to administrator command", ("postgresql",), ("57P01",)),
    ("server closed the connection unexpectedly", ("postgresql",), ("08006",)),
    ("too many clients already", ("postgresql",), ("53300",)),
    ("the database system is", ("postgresql",), ("57P03",)),
    ("violates unique constraint", ("postgresql",), ("23505",)),
    ("violates foreign key constraint", ("postgresql",), ("23503",)),
    ("violates not-null constraint", ("postgresql",), ("23502",)),
    ("violates check constraint", ("postgresql",), ("23514",)),
    ("violates exclusion constraint", ("postgresql",), ("23P01",)),
    ("in a read-only transaction", ("postgresql",), ("25006",)),
    ("lock wait timeout exceeded", TWINS, (1205,)),
    ("deadlock found when trying to get lock", TWINS, (1213,)),
    ("record has changed since last read", TWINS, (1020,)),
    ("server has gone away", TWINS, (2006,)),
    ("lost connection to", TWINS, (2013,)),
    ("duplicate entry", TWINS, (1062,)),
    ("too many connections", TWINS, (1040,)),
    ("cannot add or update a child row", TWINS, (1452,)),
    ("cannot delete or update a parent row", TWINS, (1451,)),
    ("cannot be null", TWINS, (1048,)),
    ("data too long for column", TWINS, (1406,)),
)
"""What a message says, in lower case; whose it is; the codes it may have."""

_NUMBER = re.compile(
    r"""\(\s*(\d{1,5})\s*,\s*['"]              # (1205, 'Lock wait …')  PyMySQL, mysqlclient
    | ^(?:.*:\s)?(\d{4})\s\([0-9A-Z]{5}\):       # 1205 (HY000): …        mysql-connector
    | \b(?:errno|error\scode|errorcode|error)[\s:=]+(\d{1,5})\b  # ERROR 1213 (40001): …
    """,
    re.VERBOSE | re.IGNORECASE,
)
_SQLSTATE = re.compile(r"""(?:sqlstate|pgcode|'C')['":\s=\[(]+([0-9A-Z]{5})\b""", re.IGNORECASE)
_NAME = re.compile(r"\b(?:SQLITE|ER|CR)_[A-Z0-9_]+\b", re.IGNORECASE)


class Code(NamedTuple):
    """A code of one of the databases."""

    dialect: str
    code: int | str


def sqlite_names() -> dict[str, int]:
    """The names of SQLite's codes; Python's own module has them from 3.11 on."""
    names = {f"SQLITE_{name}": code for code, name in enumerate(_PRIMARY.split(), 1)}
    for primary, endings in _EXTENDED.items():
        for place, ending in enumerate(endings.split(), 1):
            names[f"SQLITE_{primary}_{ending}"] = names[f"SQLITE_{primary}"] + 256 * place
    return names


def name_of(code: Code) -> str | None:
    """The name of a code, as its database's documentation has it."""
    if code.dialect == "sqlite":
        return next((name for name, known in sqlite_names().items() if known == code.code), None)
    if code.dialect == "postgresql":
        return _POSTGRESQL.get(str(code.code))
    return _MYSQL.get(int(code.code))


def names() -> dict[str, list[Code]]:
    """Every name in capitals, and what it is called in: `DEADLOCK_DETECTED`, `DEADLOCKDETECTED`."""
    known = {name: [Code("sqlite", code)] for name, code in sqlite_names().items()}
    for sqlstate, name in _POSTGRESQL.items():
        # psycopg's classes are named so; asyncpg's end in Error, and one is shorter.
        for spelling in (name, name.replace("_", ""), name.replace("_", "") + "Error"):
            known[spelling.upper()] = [Code("postgresql", sqlstate)]
    known["SERIALIZATIONERROR"] = [Code("postgresql", "40001")]
    for number, name in _MYSQL.items():
        known[name] = [Code(dialect, number) for dialect in TWINS]
    return known


def in_text(text: str) -> list[Code]:
    """The codes that a message or a line of a traceback names, the surest kind of sign alone."""
    lowered = text.lower()
    hosts = [found for word, found in DIALECTS.items() if re.search(rf"\b{word}\b", lowered)]
    allowed = {dialect for found in hosts for dialect in found} or {*TWINS, "sqlite", "postgresql"}
    known = names()
    words = re.findall(r"\w+", text)
    for signs in (
        [code for name in _NAME.findall(text) for code in known.get(name.upper(), [])],
        [Code("postgresql", state.upper()) for state in _SQLSTATE.findall(text)],
        [
            Code(dialect, int(number))
            for groups in _NUMBER.findall(text)
            for number in groups
            if number
            for dialect in TWINS
        ],
        # A class of psycopg or asyncpg: no plain English word is written so.
        [
            code
            for word in words
            if not word.islower() and "_" not in word and not word.isupper()
            for code in known.get(word.upper(), [])
        ],
        [
            Code(dialect, code)
            for message, dialects, codes in MESSAGES
            if message in lowered
            for code in codes
            for dialect in dialects
        ],
    ):
        found = [code for code in dict.fromkeys(signs) if code.dialect in allowed]
        if found:
            return found
    return []
