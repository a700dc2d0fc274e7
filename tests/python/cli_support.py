"""Runs the command line as users do: its own process, real files."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = [sys.executable, "-m", "turnwise"]
INSERT = "INSERT INTO item(id, name) VALUES(:id, :name)"


def run(
    *arguments: object, stdin: bytes | str | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Runs `turnwise` to its end. Without `stdin` its standard input is empty."""
    given = stdin.encode() if isinstance(stdin, str) else stdin or b""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input=given,
        capture_output=True,
        timeout=120,
        check=False,
        **options,
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def start(*arguments: object, **options: Any) -> subprocess.Popen[bytes]:
    """Starts `turnwise` with pipes; Ctrl-C works even where the test run itself ignores it."""
    pipes = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        **options,
    }
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
        **pipes,
    )


def make_database(folder: Path, schema: str = "id INTEGER PRIMARY KEY, name TEXT NOT NULL") -> Path:
    """A database with the table `item`."""
    path = folder / "shop.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"CREATE TABLE item({schema})")
    return path


def rows(path: Path, sql: str = "SELECT id, name FROM item ORDER BY id") -> list[tuple[Any, ...]]:
    """What a fresh connection reads."""
    with closing(sqlite3.connect(path, timeout=30)) as connection:
        return connection.execute(sql).fetchall()


def rejects(path: Path) -> list[dict[str, Any]]:
    """The entries of a rejects file, by line."""
    return sorted(
        map(json.loads, path.read_text(encoding="utf-8").splitlines()),
        key=lambda entry: entry["line"],
    )
