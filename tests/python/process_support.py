"""Runs scenes in processes of their own, within a time limit, and reads what they left in the file."""

from __future__ import annotations

import faulthandler
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent
WAL, DELETE = "wal", "delete"
FLAGS = ("-X", "faulthandler", "-W", "ignore:Python's sqlite3 uses SQLite:RuntimeWarning")
INSERT = "INSERT INTO landed (party, number) VALUES (?, ?)"


def command(script: str, *arguments: object) -> list[str]:
    """How a script of this folder is started."""
    return [sys.executable, *FLAGS, str(HERE / script), *map(str, arguments)]


def run(script: str, *arguments: object, limit: int = 60, **options: Any) -> str:
    """Runs a script of this folder to its successful end and returns what it printed.

    A hang ends in the stacks of all its threads: the script itself dumps them a little before the
    limit (``play``), and whatever is left of its processes is killed.
    """
    environment = {**os.environ, "SCENE_LIMIT": str(int(limit)), **options.pop("env", {})}
    with start(
        script,
        *arguments,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    ) as scene:
        try:
            out, errors = scene.communicate(timeout=limit + 15)
        except subprocess.TimeoutExpired:
            kill_group(scene)
            out, errors = scene.communicate()
            errors += b"\n(killed at the limit)"
        finally:
            kill_group(scene)
    said = f"{script} {arguments}: status {scene.returncode}\n{out.decode()}\n{errors.decode(errors='replace')}"
    assert scene.returncode == 0, said
    assert b"Traceback" not in errors, said
    assert b"panicked" not in errors, said
    run.errors = errors.decode()
    return out.decode()


def start(script: str, *arguments: object, **options: Any) -> subprocess.Popen[bytes]:
    """Starts a script of this folder as the leader of a process group of its own."""
    return subprocess.Popen(command(script, *arguments), start_new_session=True, **options)


def kill_group(leader: subprocess.Popen[bytes]) -> None:
    """Kills what is left of a process and of the children in its group."""
    try:
        os.killpg(leader.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def play(scenes: dict[str, Callable[..., None]]) -> None:
    """Plays the scene named on the command line, in the child that `run` started."""
    # Not faulthandler's own timer: its thread is missing in a child of fork, which then waits for it.
    faulthandler.register(signal.SIGALRM, all_threads=True, chain=True)
    signal.alarm(int(os.environ.get("SCENE_LIMIT", "60")))
    name, *arguments = sys.argv[1:]
    scenes[name](*arguments)


def make_database(path: Path, journal: str = WAL) -> Path:
    """A database whose table takes everything, doubles too, so that a double shows as one."""
    with closing(sqlite3.connect(path, timeout=30)) as connection, connection:
        connection.execute(f"PRAGMA journal_mode={journal}")
        connection.execute(
            "CREATE TABLE landed (party TEXT NOT NULL, number INTEGER NOT NULL CHECK (number >= 0))"
        )
        connection.execute("CREATE INDEX by_party ON landed (party, number)")
    return path


def landed(path: Path) -> Counter[tuple[str, int]]:
    """How often each row is in the file, as another process sees it. Checks the file's integrity."""
    with closing(sqlite3.connect(path, timeout=30)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return Counter(connection.execute("SELECT party, number FROM landed"))


def check(
    path: Path, expected: set[tuple[str, int]], maybe: set[tuple[str, int]] = frozenset()
) -> None:
    """Every expected row is in the file, none twice, and none beside them but those of `maybe`."""
    rows = landed(path)
    assert_rows(rows, expected, maybe)


def assert_rows(
    rows: Counter[tuple[str, int]],
    expected: set[tuple[str, int]],
    maybe: set[tuple[str, int]] = frozenset(),
) -> None:
    """As `check`, for rows that were read already."""
    lost = sorted(expected - rows.keys())
    doubled = sorted(row for row, count in rows.items() if count > 1)
    strange = sorted(rows.keys() - expected - maybe)
    told = f"lost {len(lost)} {lost[:5]}, doubled {len(doubled)} {doubled[:5]}, strange {len(strange)} {strange[:5]}"
    assert (lost, doubled, strange) == ([], [], []), told


class Record:
    """A file of lines that outlives its writer: what was acknowledged, told by ``os.write``."""

    def __init__(self, path: str | Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def note(self, *words: object) -> None:
        """Appends a line. One `write` with O_APPEND, so that lines of many writers stay whole."""
        os.write(self._fd, (" ".join(map(str, words)) + "\n").encode())

    @staticmethod
    def read(path: str | Path) -> list[list[str]]:
        """The lines, in words. A last line that the kill cut short was not acknowledged."""
        text = Path(path).read_text(encoding="utf-8") if Path(path).exists() else ""
        return [line.split() for line in text.split("\n")[:-1]]

    @staticmethod
    def rows(path: str | Path) -> set[tuple[str, int]]:
        """The lines as rows of `landed`."""
        return {(party, int(number)) for party, number in Record.read(path)}


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Holds the database's write lock from another process."""
    code = (
        "import sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)\n"
        "c.execute('BEGIN IMMEDIATE')\n"
        "print('locked', flush=True)\n"
        "sys.stdin.readline()\n"
        "c.execute('ROLLBACK')\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    owner = os.getpid()
    with subprocess.Popen([sys.executable, "-c", code, str(path)], **pipes) as holder:
        assert holder.stdout.readline() == b"locked\n"
        try:
            yield
        finally:
            # Not by the pipe's end: children of a fork have it too, and may leave this block.
            if os.getpid() == owner:
                holder.stdin.write(b"\n")
                holder.stdin.close()
                holder.wait(30)


def outsider_gets_lock(path: str | Path) -> bool:
    """Whether another process gets the write lock at once."""
    code = (
        "import sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)\n"
        "try:\n"
        "    c.execute('BEGIN IMMEDIATE')\n"
        "    c.execute('ROLLBACK')\n"
        "except sqlite3.OperationalError as error:\n"
        "    assert 'locked' in str(error), error\n"
        "    sys.exit(3)\n"
    )
    status = subprocess.run(
        [sys.executable, "-c", code, str(path)], check=False, timeout=30
    ).returncode
    assert status in {0, 3}
    return status == 0


def wait_for(condition: Callable[[], bool], what: str, limit: float = 30.0) -> None:
    """Waits until `condition` holds."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"not within {limit} s: {what}"
        time.sleep(0.005)


def reap(pid: int, limit: float = 30.0) -> int:
    """The exit status of a child, which must end within the limit."""
    end = time.monotonic() + limit
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            # Its fault handler writes the stacks of its threads before it dies.
            os.kill(pid, signal.SIGABRT)
            os.waitpid(pid, 0)
            raise AssertionError(f"child {pid} hangs")
        time.sleep(0.002)
