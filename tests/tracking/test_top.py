"""`turnwise top` on real servers: who blocks whom, whose session it is, errors, the live view."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from threading import Thread

import pytest

from servers import MariaDB, PostgreSQL, until
from top_support import (
    Terminal,
    blocked,
    document,
    either_database,  # noqa: F401 - pytest finds fixtures by name
    lease,
    mariadb_database,  # noqa: F401
    once,
    owner,
    pid_of,
    postgresql_database,  # noqa: F401
    private_mariadb,  # noqa: F401
    private_postgresql,  # noqa: F401
    report,
    reporting_folder,  # noqa: F401
    url_of,
)
from turnwise.tracking import reporting_socket

pytestmark = pytest.mark.servers

SESSION_KEYS = {
    *("pid", "state", "state_age", "transaction_age", "wait", "blocked_by", "blocks", "user"),
    *("database", "application", "client", "statement", "match", "process", "owner", "lease"),
}
REPORTER = """
import sys, time
from turnwise.tracking import reporting_socket
reporting_socket.serve(lambda: sys.argv[2], folder=sys.argv[1])
print("serves", flush=True)
time.sleep(60)
"""


@contextlib.contextmanager
def other_process(folder, text):
    """A process without any connection that reports `text`."""
    child = subprocess.Popen([sys.executable, "-c", REPORTER, folder, text], stdout=subprocess.PIPE)
    try:
        assert child.stdout.readline() == b"serves\n"
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def by_pid(found):
    return {session["pid"]: session for session in found["sessions"]}


def test_who_blocks_whom(on_either, folder):
    with blocked(on_either) as connections:
        holder, first, second = map(pid_of, connections)
        url = url_of(on_either, admin=True)
        found = document(url, "--socket-dir", folder)
        text = once(url, "--socket-dir", folder, COLUMNS="100").stdout
    assert set(found) == {
        *("version", "time", "server", "counts", "notes", "sessions", "processes"),
    }
    assert found["version"] == 1
    assert all(set(session) == SESSION_KEYS for session in found["sessions"])
    product = {"postgresql": "PostgreSQL", "mariadb": "MariaDB"}[on_either.dialect]
    assert found["server"]["product"] == product
    assert 4 <= found["server"]["connections"] < found["server"]["max_connections"]
    assert found["counts"]["waiting"] == 2
    sessions = by_pid(found)
    assert [session["pid"] for session in found["sessions"]][:3] == [holder, first, second]
    assert sessions[holder]["state"] == "idle_in_tx"
    assert first in sessions[holder]["blocks"]
    assert sessions[holder]["blocked_by"] == []
    assert sessions[first]["state"] == sessions[second]["state"] == "waiting"
    assert sessions[first]["blocked_by"] == [holder]
    # Of a row's waiters PostgreSQL makes a queue, InnoDB names all that are before one.
    assert set(sessions[second]["blocked_by"]) <= {holder, first}
    assert sessions[second]["blocked_by"]
    for pid in (holder, first, second):
        assert 0 < sessions[pid]["transaction_age"] < 60
        assert sessions[pid]["match"] is sessions[pid]["owner"] is sessions[pid]["lease"] is None
    assert sessions[first]["statement"] == "UPDATE account SET money = ? WHERE id = ?"
    assert "secret" not in str(found) + text
    lines = text.splitlines()
    below = [next(line for line in lines if f" {pid} " in line) for pid in (first, second)]
    assert lines.index(below[0]) == 1 + next(
        number for number, line in enumerate(lines) if line.startswith(f"{holder} ")
    )
    assert all(line.lstrip()[0] in "├└" for line in below), text


def test_a_session_is_joined_with_the_process_that_has_its_connection(on_either, folder):
    with blocked(on_either) as connections:
        holder, first, _ = map(pid_of, connections)
        leases = [
            lease(holder, owner=owner(phase="responded")),
            lease(first, number=2, state="active", opened="app/billing.py:5 in charge", last=""),
        ]
        reporting_socket.serve(lambda: report(*leases), folder=str(folder))
        # A process with leases of the same numbers, on a server elsewhere.
        with other_process(folder, report(lease(holder, owner=owner("POST /wrong")))):
            url = url_of(on_either, admin=True)
            found = document(url, "--socket-dir", folder)
            text = once(url, "--socket-dir", folder, COLUMNS="120").stdout
    sessions = by_pid(found)
    assert sessions[holder]["match"] == "socket"
    said = {name: owner()[name] for name in ("kind", "name", "id")}
    assert sessions[holder]["owner"] == said | {"phase": "responded"}
    assert sessions[holder]["process"] == {"pid": os.getpid(), "argv0": "gunicorn"}
    elsewhere = {"backend_pid", "owner", "statement", "thread", "task"}
    said = {name: value for name, value in lease(holder).items() if name not in elsewhere}
    assert sessions[holder]["lease"] == said
    assert sessions[first]["lease"]["opened"] == "app/billing.py:5 in charge"
    assert sessions[first]["owner"] is None
    joined = {process["pid"]: process["joined"] for process in found["processes"]}
    assert joined.pop(os.getpid()) == 2
    assert list(joined.values()) == [0]
    assert "GET /items/{id} (responded)" in text
    assert "app/services/mail.py:17" in text
    assert f"gunicorn[{os.getpid()}]" in text
    assert "POST /wrong" not in str(found["sessions"]) + text


def test_a_number_of_another_server_is_not_joined(on_either, folder):
    connection = on_either.raw()
    connection.cursor().execute("BEGIN")
    connection.cursor().execute("SELECT 1")
    with other_process(folder, report(lease(pid_of(connection), owner=owner()))):
        found = document(url_of(on_either, admin=True), "--socket-dir", folder, "--all")
    assert by_pid(found)[pid_of(connection)]["match"] is None
    assert [process["leases"] for process in found["processes"]] == [1]
    connection.close()


def test_a_plain_role_is_told_what_it_cannot_see_on_postgresql(on_postgresql, folder):
    on_postgresql.sql("CREATE TABLE t (i INT)")
    holder, waiter = on_postgresql.raw(admin=True), on_postgresql.raw()
    holders = pid_of(holder)
    holder.cursor().execute("BEGIN")
    holder.cursor().execute("LOCK TABLE t")
    reporting_socket.serve(lambda: report(lease(pid_of(holder), owner=owner())), folder=str(folder))
    thread = Thread(target=lambda: waiter.cursor().execute("SELECT * FROM t"))
    thread.start()
    url = url_of(on_postgresql)
    assert until(lambda: "waiting" in document(url, "--socket-dir", folder)["counts"])
    found = document(url, "--socket-dir", folder)
    text = once(url, "--socket-dir", folder, COLUMNS="100").stdout
    without = document(url, "--socket-dir", folder / "none", "--all")
    holder.cursor().execute("ROLLBACK")
    thread.join(20)
    for connection in (holder, waiter):
        connection.close()
    assert any("pg_read_all_stats" in note for note in found["notes"])
    held = by_pid(found)[holders]
    # The server hides what it does; the process that has it does not.
    assert (held["match"], held["state"], held["blocks"] != []) == ("number", "idle_in_tx", True)
    assert "GET /items/{id}?" in text
    assert by_pid(without)[holders]["state"] == "hidden"


def test_the_waits_of_others_are_seen_by_a_plain_role(on_postgresql, folder):
    on_postgresql.sql("CREATE TABLE t (i INT)")
    holder, waiter = on_postgresql.raw(), on_postgresql.raw(admin=True)
    holder.cursor().execute("BEGIN; LOCK TABLE t")
    thread = Thread(target=lambda: waiter.cursor().execute("SELECT * FROM t"))
    thread.start()
    url, pids = url_of(on_postgresql), (pid_of(holder), pid_of(waiter))

    def is_seen():
        session = by_pid(document(url, "--socket-dir", folder)).get(pids[1], {})
        return (session.get("state"), session.get("blocked_by")) == ("waiting", [pids[0]])

    assert until(is_seen)
    holder.cursor().execute("ROLLBACK")
    thread.join(20)
    for connection in (holder, waiter):
        connection.close()


def test_a_plain_role_is_told_what_it_cannot_see_on_mariadb(on_mariadb, folder):
    with blocked(on_mariadb) as connections:
        holder = pid_of(connections[0])
        reporting_socket.serve(lambda: report(lease(holder)), folder=str(folder))
        found = document(url_of(on_mariadb), "--socket-dir", folder)
    assert any("PROCESS" in note for note in found["notes"])
    held = by_pid(found)[holder]
    assert (held["match"], held["state"], held["state_age"]) == ("socket", "idle_in_tx", 3.25)
    assert held["transaction_age"] is None


def test_a_prepared_transaction_blocks_without_a_session(on_postgresql, folder):
    on_postgresql.sql("CREATE TABLE t (i INT)")
    on_postgresql.sql("BEGIN; LOCK TABLE t; PREPARE TRANSACTION 'kept'")
    waiter = on_postgresql.raw()
    thread = Thread(target=lambda: waiter.cursor().execute("SELECT * FROM t"))
    thread.start()
    url = url_of(on_postgresql)
    try:
        assert until(lambda: "waiting" in document(url, "--socket-dir", folder)["counts"])
        found = document(url, "--socket-dir", folder)
        text = once(url, "--socket-dir", folder, COLUMNS="80").stdout
    finally:
        on_postgresql.sql("ROLLBACK PREPARED 'kept'")
        thread.join(20)
        waiter.close()
    assert found["sessions"][0]["blocked_by"] == [0]
    assert "prepared tx" in text


DRIVERS = [
    *((PostgreSQL.dialect, driver) for driver in PostgreSQL.drivers),
    *((MariaDB.dialect, driver) for driver in MariaDB.drivers),
]


@pytest.mark.parametrize(("server", "driver"), DRIVERS, ids=[driver for _, driver in DRIVERS])
def test_every_driver(server, driver, request, folder):
    database = request.getfixturevalue(f"on_{server}")
    other = database.raw()
    found = document(url_of(database, driver=driver), "--socket-dir", folder, "--all")
    assert by_pid(found)[pid_of(other)]["state"] == "idle"
    # Whoever asks is not shown.
    assert [session["pid"] for session in found["sessions"] if session["user"] == "app"] == [
        pid_of(other)
    ]
    other.close()


WRONG = {
    "no URL": ("nonsense: secret-word", "not a database URL"),
    "another database": ("sqlite:///x.db", "sqlite has no sessions"),
    "unknown driver": ("postgresql+none://app:secret-word@127.0.0.1/x", "none"),
    "missing driver": ("mysql+cymysql://app:secret-word@127.0.0.1/x", "cymysql is not installed"),
    "nobody there": ("postgresql+psycopg://app:secret-word@127.0.0.1:1/x", "refused"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_work_is_one_line(case):
    url, why = WRONG[case]
    done = once(url)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("turnwise: ")
    assert done.stderr.count("\n") == 1
    assert why in done.stderr
    assert "secret-word" not in done.stderr


def test_a_refused_login_is_one_line(on_either):
    url = url_of(on_either, admin=True).replace(on_either.server.password, "secret-word")
    done = once(url)
    assert done.returncode == 2
    assert "admin" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "secret-word" not in done.stderr


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--json"], "--json needs --once"),
        (["--interval", "0.1"], "at least 1 second"),
        (["--sort", "name"], "invalid choice"),
        ([], "needs a terminal"),
    ],
)
def test_options_that_cannot_work(options, why, on_postgresql):
    done = subprocess.run(
        [sys.executable, "-m", "turnwise", "top", url_of(on_postgresql), *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert why in done.stderr


def test_the_live_view(on_postgresql, folder):
    with blocked(on_postgresql) as connections:
        holder, first, _ = map(pid_of, connections)
        reporting_socket.serve(
            lambda: report(
                lease(holder, owner=owner()),
                findings=[
                    {"code": "idle-in-transaction", "text": "idle-in-transaction 12s \x1b[2J"}
                ],
            ),
            folder=str(folder),
        )
        with Terminal(url_of(on_postgresql), "--socket-dir", folder, columns=80) as terminal:
            text = terminal.until(lambda text: "2 waiting" in text)
            assert {"1049"} <= terminal.picture.modes
            assert not {"25", "7"} & terminal.picture.modes
            assert f"{holder} " in text
            assert f"└ {first}" in text
            assert "GET /items/{id}" in text
            assert "mail.py:17" in text
            assert "1 finding, the newest: idle-in-transaction 12s [2J" in text
            assert "\x1b[31m" in terminal.raw
            clock = terminal.picture.rows()[0][-8:]
            terminal.until(lambda text: text.splitlines()[0][-8:] != clock)
            terminal.resize(12, 140)
            text = terminal.until(lambda text: "STATEMENT" in text)
            assert "q quit" in text.splitlines()[11]
            terminal.press("s")
            terminal.until(lambda text: "sort: age" in text and "BLOCKED BY" in text)
            terminal.press("a")
            terminal.until(lambda text: "a fewer" in text and "background" in text)
            terminal.resize(9, 140)
            terminal.until(lambda text: re.search(r"^and \d+ more$", text, re.MULTILINE))
            terminal.press("q")
            assert terminal.end() == 0
            assert terminal.is_restored()


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 2), (signal.SIGHUP, 2)]
)
def test_a_signal_ends_the_view_and_restores_the_terminal(number, status, on_postgresql, folder):
    with Terminal(url_of(on_postgresql), "--socket-dir", folder, NO_COLOR="1") as terminal:
        terminal.until(lambda text: "turnwise top" in text)
        if number == signal.SIGINT:
            terminal.press("\x03")
        else:
            terminal.process.send_signal(number)
        assert terminal.end() == status
        assert terminal.is_restored()
        assert "Traceback" not in terminal.raw
        assert "\x1b[1m" not in terminal.raw


# Ctrl-Z stops no process without a shell that could continue it.
SHELL = ["bash", "-m", "-c", '"$@"; echo stopped; read; fg >/dev/null', "bash"]


def test_the_view_can_be_suspended(on_postgresql, folder):
    url = url_of(on_postgresql)
    with Terminal(url, "--socket-dir", folder, shell=SHELL) as terminal:
        terminal.until(lambda text: "turnwise top" in text)
        terminal.press("\x1a")
        terminal.until(lambda _: "stopped" in terminal.raw)
        assert terminal.is_restored()
        drawn = len(terminal.raw)
        terminal.press("\n")
        terminal.until(lambda text: "1049" in terminal.picture.modes)
        terminal.until(lambda _: "q quit" in terminal.raw[drawn:])
        terminal.press("q")
        assert terminal.end() == 0
        assert terminal.is_restored()


def test_a_lost_connection_is_said_and_made_again(on_either, folder):
    ends = {
        "postgresql": "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'turnwise top'",
        "mariadb": "SELECT id FROM information_schema.processlist "
        "WHERE user = 'app' AND command = 'Sleep'",
    }
    with Terminal(url_of(on_either), "--socket-dir", folder) as terminal:
        terminal.until(lambda text: "q quit" in text)
        rows = on_either.sql(ends[on_either.dialect], admin=True)
        assert len(rows) == 1
        if on_either.dialect == "mariadb":
            on_either.sql(f"KILL {rows[0][0]}", admin=True)
        terminal.until(lambda text: "trying again" in text)
        terminal.until(lambda text: "trying again" not in text)
        terminal.press("q")
        assert terminal.end() == 0


def test_a_closed_terminal_ends_it(on_postgresql, folder):
    terminal = Terminal(url_of(on_postgresql), "--socket-dir", folder)
    terminal.until(lambda text: "turnwise top" in text)
    os.close(terminal._other)
    os.close(terminal._end)
    deadline = time.monotonic() + 20
    while terminal.process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert terminal.process.returncode == 2
