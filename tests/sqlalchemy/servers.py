"""Private PostgreSQL and MariaDB servers: own folder, port and user, gone with the process that uses them."""

from __future__ import annotations

import asyncio
import contextlib
import glob
import itertools
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

HOST = "127.0.0.1"
ROLE = "app"
START_SECONDS = 60
ADVICE = "run tools/servers.sh as root, or install Debian's packages postgresql, mariadb-server-core and mariadb-client-core"
# Outlives a process that is killed: the end of its standard input is that process's end.
SWEEPER = (
    'cat >/dev/null; for i in 1 2 3 4 5 6 7 8 9; do rm -rf "$1" 2>/dev/null && exit; sleep 1; done'
)


class MissingServerError(Exception):
    """The machine has no program of this server."""


class Database(NamedTuple):
    """A database of a server, named once."""

    server: Server
    name: str

    @property
    def dialect(self):
        return self.server.dialect

    def url(self, driver):
        return self.server.url(driver, self.name)

    def raw(self, *, admin=False, port=None):
        return self.server.raw(self.name, admin=admin, port=port)

    def sql(self, text, *, admin=False):
        return self.server.sql(self.name, text, admin=admin)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def account(*names: str):
    """The first of these users, for servers refuse to run as root; None where we are not root."""
    if os.getuid() != 0:
        return None
    for name in (*names, "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise MissingServerError("no unprivileged user to run a server as")


def until(condition, seconds: float = 30) -> bool:
    """Whether the condition comes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


class Server:
    """What both have in common: a folder, a process that cannot outlive ours, databases."""

    dialect: str
    drivers: tuple[str, ...]  # What SQLAlchemy calls them.
    users: tuple[str, ...]
    end: signal.Signals

    def __init__(self, *options: str) -> None:
        self.host, self.password = HOST, secrets.token_hex(16)
        self._numbers = itertools.count(1)
        self._account = account(*self.users)
        self.folder = Path(tempfile.mkdtemp(prefix=f"turnwise-{self.dialect}-"))
        self._sweeper = subprocess.Popen(
            ["sh", "-c", SWEEPER, "sweeper", str(self.folder)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        self._process = None
        try:
            if self._account:
                os.chown(self.folder, self._account.pw_uid, self._account.pw_gid)
            self._initialise()
            self._start(options)
            with contextlib.closing(self.raw(self._maintenance, admin=True)) as connection:
                self.version = self._prepare(connection.cursor())
        except BaseException:
            self.stop()
            raise

    def _command(self, *words: str) -> list[str]:
        """Run unprivileged, and be ended by the kernel with the thread that starts it."""
        drop = [f"--pdeathsig={self.end.name[3:]}"]
        if self._account:
            drop += [f"--reuid={self._account.pw_uid}", f"--regid={self._account.pw_gid}"]
            drop += ["--clear-groups"]
        return ["setpriv", *drop, *words]

    def _write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        if self._account:
            os.chown(path, self._account.pw_uid, self._account.pw_gid)
        return path

    def _run(self, *words: str) -> None:
        done = subprocess.run(
            self._command(*words), cwd=self.folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{words[0]} failed:\n{done.stdout}{done.stderr}")

    def _start(self, options) -> None:
        for last in (
            False,
            False,
            True,
        ):  # Another process may take the port before the server does.
            self.port = free_port()
            with (self.folder / "log").open("wb") as log:
                self._process = subprocess.Popen(
                    self._command(*self._server(), *options),
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            if self._is_ready():
                return
            if last:
                raise RuntimeError(f"{self.dialect} does not start:\n{self.log()}")

    def _is_ready(self) -> bool:
        deadline = time.monotonic() + START_SECONDS
        while self._process.poll() is None:
            try:
                self.raw(self._maintenance, admin=True).close()
                return True
            except Exception:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{self.dialect} is not ready:\n{self.log()}") from None
                time.sleep(0.05)
        return False

    @property
    def pid(self) -> int:
        return self._process.pid

    def log(self) -> str:
        """The last lines that the server wrote."""
        return (self.folder / "log").read_text(errors="replace")[-4000:]

    def stop(self) -> None:
        """End the server and remove its folder."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(self.end)
            self._process.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._sweeper.kill()  # A fork of ours may still hold its standard input open.
        self._sweeper.wait()
        self._sweeper.stdin.close()

    @contextlib.contextmanager
    def database(self):
        """The name of a fresh, empty database, which belongs to the application's role."""
        name = f"t{os.getpid()}_{next(self._numbers)}"
        with contextlib.closing(self.raw(self._maintenance, admin=True)) as connection:
            self._create(connection.cursor(), name)
        try:
            yield name
        finally:
            with contextlib.closing(self.raw(self._maintenance, admin=True)) as connection:
                self._drop(connection.cursor(), name)

    def sql(self, database: str, text: str, *, admin: bool = False):
        """Run statements on a connection of their own, each at once; the rows of the last one."""
        with contextlib.closing(self.raw(database, admin=admin)) as connection:
            cursor = connection.cursor()
            cursor.execute(text)
            while cursor.nextset() if self.dialect == "mariadb" else False:
                pass
            return list(cursor.fetchall()) if cursor.description else []

    def url(self, driver: str, database: str):
        """SQLAlchemy's URL for the application's role."""
        from sqlalchemy import URL

        name = f"{self.dialect}+{driver}"
        return URL.create(name, ROLE, ROLE, self.host, self.port, database)


class PostgreSQL(Server):
    """Debian's newest PostgreSQL; ROLE is no superuser, and the detector of deadlocks looks soon."""

    dialect, users, end = "postgresql", ("postgres",), signal.SIGQUIT
    drivers = ("psycopg2", "psycopg", "psycopg_async", "asyncpg", "pg8000")
    _maintenance = "postgres"

    @staticmethod
    def programs() -> Path:
        """The folder that they are in."""
        found = shutil.which("postgres")
        folders = sorted(
            glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: float(path.split("/")[4])
        )
        if not found and not folders:
            raise MissingServerError(f"PostgreSQL is missing: {ADVICE}")
        return Path(found).resolve().parent if found else Path(folders[-1])

    def _initialise(self) -> None:
        secret = self._write("password", self.password)
        initdb = str(self.programs() / "initdb")
        self._run(
            *(initdb, "-D", "data", "-U", "admin", f"--pwfile={secret}", "--auth=scram-sha-256"),
            *("-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"),
        )
        secret.unlink()
        # A role that may do nothing outside test databases needs no slow log-in.
        rules = f"host all {ROLE} {HOST}/32 trust\nhost all admin {HOST}/32 scram-sha-256\n"
        self._write("data/pg_hba.conf", rules)

    def _server(self) -> list[str]:
        settings = {
            "port": self.port,
            "listen_addresses": HOST,
            "unix_socket_directories": "",
            "fsync": "off",
            "full_page_writes": "off",
            "autovacuum": "off",
            "shared_buffers": "16MB",
            "max_connections": 100,
            "max_prepared_transactions": 10,
            "deadlock_timeout": "100ms",
        }
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [str(self.programs() / "postgres"), "-D", "data", *words]

    def _prepare(self, cursor):
        cursor.execute(f"CREATE ROLE {ROLE} LOGIN")
        cursor.execute("SHOW server_version_num")
        number = int(cursor.fetchone()[0])
        return number // 10000, number % 10000

    def _create(self, cursor, name) -> None:
        cursor.execute(f"CREATE DATABASE {name} OWNER {ROLE}")

    def _drop(self, cursor, name) -> None:
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def raw(self, database: str, *, admin: bool = False, port: int | None = None):
        """A psycopg2 connection of the application's role, each statement its own transaction."""
        import psycopg2

        user, password = ("admin", self.password) if admin else (ROLE, ROLE)
        connection = psycopg2.connect(
            host=self.host, port=port or self.port, user=user, password=password, dbname=database
        )
        connection.autocommit = True
        return connection


class MariaDB(Server):
    """Debian's MariaDB; ROLE owns the test databases and nothing else."""

    dialect, users, end = "mariadb", ("mysql",), signal.SIGKILL
    drivers = ("pymysql", "mysqldb", "mysqlconnector", "mariadbconnector", "aiomysql", "asyncmy")
    _maintenance = ""

    @staticmethod
    def programs() -> tuple[str, str]:
        """The one that makes the files, the one that serves."""
        path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
        found = [shutil.which(name, path=path) for name in ("mariadb-install-db", "mariadbd")]
        if None in found:
            raise MissingServerError(f"MariaDB is missing: {ADVICE}")
        return found[0], found[1]

    def _initialise(self) -> None:
        rights = f"""
            DELETE FROM mysql.global_priv WHERE User <> 'mariadb.sys';
            FLUSH PRIVILEGES;
            CREATE USER admin@'{HOST}' IDENTIFIED BY '{self.password}';
            GRANT ALL ON *.* TO admin@'{HOST}' WITH GRANT OPTION;
            CREATE USER {ROLE}@'{HOST}' IDENTIFIED BY '{ROLE}';
            GRANT ALL ON `t%`.* TO {ROLE}@'{HOST}';
        """
        statements = [" ".join(line.split()) for line in rights.splitlines() if line.strip()]
        self._write("rights.sql", "\n".join(statements) + "\n")
        install, _ = self.programs()
        self._run(
            *(install, "--no-defaults", f"--datadir={self.folder}/data", "--skip-name-resolve"),
            *("--auth-root-authentication-method=normal", "--skip-test-db", *self._small()),
        )

    def _small(self) -> list[str]:
        return [
            # Two that start at once use the same names in the common one.
            f"--tmpdir={self.folder}",
            "--innodb-flush-method=nosync",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-buffer-pool-size=32M",
            "--innodb-log-file-size=16M",
        ]

    def _server(self) -> list[str]:
        settings = [
            f"--datadir={self.folder}/data",
            f"--socket={self.folder}/socket",
            f"--pid-file={self.folder}/pid",
            f"--init-file={self.folder}/rights.sql",
            f"--port={self.port}",
            f"--bind-address={HOST}",
            "--skip-name-resolve",
            "--performance-schema=OFF",
            "--sync-frm=OFF",
            "--max-connections=200",
            "--character-set-server=utf8mb4",
        ]
        return [self.programs()[1], "--no-defaults", *settings, *self._small()]

    def _prepare(self, cursor):
        cursor.execute("SELECT VERSION()")
        return tuple(int(part) for part in cursor.fetchone()[0].split("-")[0].split("."))

    def _create(self, cursor, name) -> None:
        cursor.execute(f"CREATE DATABASE {name}")

    def _drop(self, cursor, name) -> None:
        # An open transaction of a test that failed would keep the tables locked.
        cursor.execute("SELECT id FROM information_schema.processlist WHERE db = %s", (name,))
        for (number,) in cursor.fetchall():
            with contextlib.suppress(Exception):
                cursor.execute(f"KILL {number}")
        cursor.execute(f"DROP DATABASE {name}")

    def raw(self, database: str, *, admin: bool = False, port: int | None = None):
        """A PyMySQL connection of the application's role, each statement its own transaction."""
        import pymysql

        return pymysql.connect(
            host=self.host,
            port=port or self.port,
            user="admin" if admin else ROLE,
            password=self.password if admin else ROLE,
            database=database or None,
            autocommit=True,
            client_flag=pymysql.constants.CLIENT.MULTI_STATEMENTS,
        )


SERVERS = {kind.dialect: kind for kind in (PostgreSQL, MariaDB)}
DRIVERS = {driver: kind.dialect for kind in SERVERS.values() for driver in kind.drivers}
ASYNCHRONOUS = {"psycopg_async", "asyncpg", "aiomysql", "asyncmy"}


def commit(url, statement: str):
    """Execute one statement by SQLAlchemy, with an engine of its own, and commit: what it returned first."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    def work(connection):
        result = connection.execute(text(statement))
        value = result.scalar() if result.returns_rows else None
        connection.commit()
        return value

    if url.get_driver_name() not in ASYNCHRONOUS:
        with create_engine(url, poolclass=NullPool).connect() as connection:
            return work(connection)

    async def work_on_a_loop():
        async with create_async_engine(url, poolclass=NullPool).connect() as connection:
            return await connection.run_sync(work)

    return asyncio.run(work_on_a_loop())
