"""What the tests of `turnwise top` share: a terminal, processes that report, servers."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

from servers import Database, MariaDB, PostgreSQL
from turnwise.cli import main
from turnwise.tracking import reporting_socket

COMMAND = [sys.executable, "-m", "turnwise", "top"]
PACKAGE = Path(__file__).resolve().parents[2] / "python"
_SEQUENCE = re.compile(r"\x1b\[(\??)([0-9;]*)([A-Za-z])")


def environment(**more):
    given = {**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **more}
    for name in ("COLUMNS", "LINES", *(["NO_COLOR"] if "NO_COLOR" not in more else [])):
        if name not in more:
            given.pop(name, None)
    return given


def once(*arguments, **more):
    """`turnwise top ... --once` to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments), "--once"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment(**more),
    )


def document(*arguments):
    """What `--once --json` says; in this process, for it takes a tenth of the time."""
    printed, complaints = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(complaints):
        status = main(["top", *map(str, arguments), "--once", "--json"])
    assert status == 0, complaints.getvalue()
    return json.loads(printed.getvalue())


class Picture:
    """What a terminal shows that knows the sequences that `turnwise top` sends, and no others."""

    def __init__(self, lines: int, columns: int) -> None:
        self.lines, self.columns = lines, columns
        self.modes: set[str] = set()
        self._clear()

    def _clear(self) -> None:
        self._cells = [[" "] * self.columns for _ in range(self.lines)]
        self._row = self._column = 0

    def resize(self, lines: int, columns: int) -> None:
        self.lines, self.columns = lines, columns
        self._clear()

    def feed(self, text: str) -> None:
        at = 0
        while at < len(text):
            found = _SEQUENCE.match(text, at)
            if found:
                self._obey(*found.groups())
                at = found.end()
                continue
            assert text[at] != "\x1b", text[at : at + 20]
            if text[at] == "\n":
                self._row = min(self._row + 1, self.lines - 1)
            elif text[at] == "\r":
                self._column = 0
            elif self._column < self.columns:
                self._cells[self._row][self._column] = text[at]
                self._column += 1
            at += 1

    def _obey(self, private, numbers, name) -> None:
        if private:
            (self.modes.add if name == "h" else self.modes.discard)(numbers)
        elif name == "H":
            row, column = (int(number) - 1 for number in (numbers or "1;1").split(";"))
            self._row, self._column = min(row, self.lines - 1), column
        elif name == "K":
            self._cells[self._row] = [" "] * self.columns
        elif name == "J":
            self._clear()
        else:
            assert name == "m", name

    def rows(self) -> list[str]:
        return ["".join(row).rstrip() for row in self._cells]

    def __str__(self) -> str:
        return "\n".join(self.rows())


class Terminal:
    """`turnwise top` in a terminal of its own."""

    def __init__(self, *arguments, lines=24, columns=80, shell=(), **more) -> None:
        self.picture = Picture(lines, columns)
        self.raw = ""
        self._held = b""
        self._end, other = pty.openpty()
        self._set_size(lines, columns)
        self.mode_before = termios.tcgetattr(self._end)

        def lead() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            # A test run that was started in the background ignores them, and children inherit that.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)

        self.process = subprocess.Popen(
            [*shell, *COMMAND, *map(str, arguments)],
            stdin=other,
            stdout=other,
            stderr=other,
            preexec_fn=lead,
            env=environment(**more),
        )
        self._other = other

    def _set_size(self, lines, columns) -> None:
        fcntl.ioctl(self._end, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def resize(self, lines, columns) -> None:
        self.picture.resize(lines, columns)
        self._set_size(lines, columns)

    def read(self, seconds=0.2) -> None:
        """Take in what it writes for so long."""
        deadline = time.monotonic() + seconds
        while select.select([self._end], [], [], max(0, deadline - time.monotonic()))[0]:
            self._held += os.read(self._end, 1 << 16)
            text = self._held.decode("utf-8", "ignore")
            # Not in the middle of a character or a sequence.
            if self._held.endswith(text[-1:].encode()) and not re.search(r"\x1b[^A-Za-z]*$", text):
                self._held = b""
                self.raw += text
                self.picture.feed(text)

    def until(self, condition, seconds=30):
        """Read until the picture is so."""
        deadline = time.monotonic() + seconds
        while not condition(str(self.picture)):
            assert time.monotonic() < deadline, f"the screen:\n{self.picture}"
            assert self.process.poll() is None, f"ended:\n{self.raw}"
            self.read(0.1)
        return str(self.picture)

    def press(self, keys: str) -> None:
        os.write(self._end, keys.encode())

    def end(self) -> int:
        """Its exit status; reads on, or it could not write its last words."""
        deadline = time.monotonic() + 20
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"does not end:\n{self.picture}"
            self.read(0.1)
        self.read(0.1)
        return self.process.returncode

    def is_restored(self) -> bool:
        """Whether the terminal is as it was: screen, cursor, wrapping, line editing, echo."""
        modes = self.picture.modes
        return modes == {"25", "7"} and termios.tcgetattr(self._end) == self.mode_before

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._other)
        os.close(self._end)


def lease(
    backend_pid,
    *,
    number=1,
    state="idle_in_tx",
    owner=None,
    opened="app/items.py:41 in read",
    last="app/services/mail.py:17 in send",
):
    """A lease as the tracker says it in JSON."""
    return {
        "number": number,
        "pool": "app",
        "backend_pid": backend_pid,
        "state": state,
        "age": 12.5,
        "state_age": 3.25,
        "owner": owner,
        "opened": opened,
        "last": last,
        "statement": "UPDATE account SET money = ?",
        "wrote": True,
        "statements": 3,
        "thread": 1,
        "task": 0,
    }


def owner(name="GET /items/{id}", *, kind="request", phase="running"):
    return {"number": 1, "kind": kind, "id": "9f2c", "name": name, "phase": phase, "age": 12.6}


def report(*leases, findings=(), pid=None):
    """The document that a process serves."""
    return json.dumps(
        {
            "version": 1,
            "pid": pid or os.getpid(),
            "argv0": "gunicorn",
            "database": "",
            "leases": list(leases),
            "findings": list(findings),
        }
    )


def pid_of(connection):
    """The server's number of a raw connection."""
    info = getattr(connection, "info", None)
    return info.backend_pid if info is not None else connection.thread_id()


@contextlib.contextmanager
def blocked(database):
    """Connections: one that holds a row's lock and does nothing, two that wait for it."""
    database.sql("CREATE TABLE account (id INT PRIMARY KEY, money INT)")
    database.sql("INSERT INTO account VALUES (1, 1), (2, 2)")
    connections = [database.raw() for _ in range(3)]
    cursors = [connection.cursor() for connection in connections]
    cursors[0].execute("BEGIN")
    cursors[0].execute("UPDATE account SET money = 5 WHERE id = 1 AND 'a secret' <> ''")

    def wait(cursor):
        with contextlib.suppress(Exception):
            cursor.execute("BEGIN")
            cursor.execute("UPDATE account SET money = 4711 WHERE id = 1")

    threads = [threading.Thread(target=wait, args=(cursor,)) for cursor in cursors[1:]]
    try:
        for thread in threads:
            thread.start()
            time.sleep(0.3)
        yield connections
    finally:
        with contextlib.suppress(Exception):
            cursors[0].execute("ROLLBACK")
        for thread, connection in zip(threads, connections[1:], strict=True):
            thread.join(20)
            with contextlib.suppress(Exception):
                connection.cursor().execute("ROLLBACK")
                connection.cursor().execute("SELECT 1")
        for connection in connections:
            with contextlib.suppress(Exception):
                connection.close()


@pytest.fixture(scope="module", name="top_postgresql")
def private_postgresql():
    server = PostgreSQL()
    yield server
    server.stop()


@pytest.fixture(scope="module", name="top_mariadb")
def private_mariadb():
    server = MariaDB()
    yield server
    server.stop()


@pytest.fixture(name="on_postgresql")
def postgresql_database(top_postgresql):
    with top_postgresql.database() as name:
        yield Database(top_postgresql, name)


@pytest.fixture(name="on_mariadb")
def mariadb_database(top_mariadb):
    with top_mariadb.database() as name:
        yield Database(top_mariadb, name)


@pytest.fixture(name="on_either", params=["postgresql", "mariadb"])
def either_database(request):
    return request.getfixturevalue(f"on_{request.param}")


@pytest.fixture(name="folder")
def reporting_folder(tmp_path):
    place = tmp_path / "reports"
    yield place
    reporting_socket.stop()


def url_of(database, *, admin=False, driver=None):
    """Its URL with the password in it."""
    url = database.url(driver or {"postgresql": "psycopg", "mariadb": "pymysql"}[database.dialect])
    if admin:
        url = url.set(username="admin", password=database.server.password)
    return url.render_as_string(hide_password=False)
