"""`turnwise write` stopped: Ctrl-C, a lock that stays, a full file, an endless input."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import random
import re
import resource
import signal
import sqlite3
import struct
import termios
import threading
import time
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from cli_support import INSERT, make_database, rejects, rows, run, start

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

LOOSE = "id INTEGER, name TEXT"
"""No key, so that a line written twice is two rows."""


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened in time"
        time.sleep(0.01)


def count(database: Path) -> int:
    return rows(database, "SELECT count(*) FROM item")[0][0]


def feed(process: subprocess.Popen[bytes], lines: list[bytes], pause: float) -> threading.Thread:
    """Writes the lines one by one and leaves the pipe open."""

    def work() -> None:
        draw = random.Random(len(lines))
        try:
            for line in lines:
                # In two pieces, so that the end of reading mostly falls inside a line.
                middle = len(line) // 2
                os.write(process.stdin.fileno(), line[:middle])
                if draw.random() < 0.2:
                    time.sleep(pause)
                os.write(process.stdin.fileno(), line[middle:])
        except (OSError, ValueError):
            pass

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def resume_options(errors: str) -> list[str]:
    found = re.search(
        r"resume with (--start-line \d+(?: --skip-lines [\d,-]+)?)$", errors, re.MULTILINE
    )
    assert found, errors
    return found[1].split()


@pytest.mark.parametrize("workers", [1, 8])
@pytest.mark.parametrize(
    "signals", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGINT, signal.SIGINT, signal.SIGTERM]]
)
def test_interrupted_and_resumed_writes_each_line_once(
    tmp_path: Path, workers: int, signals: list[signal.Signals]
) -> None:
    draw = random.Random(workers)
    for attempt in range(4):
        (tmp_path / str(attempt)).mkdir()
        database = make_database(tmp_path / str(attempt), LOOSE)
        source = tmp_path / "items.csv"
        # Every seventh row has a field over two lines, every eleventh is bad.
        records = [
            f'{n},"x\ny"\n' if n % 7 == 0 else f"{n},x,bad\n" if n % 11 == 0 else f"{n},x\n"
            for n in range(20_000)
        ]
        source.write_text("id,name\n" + "".join(records))
        bad = tmp_path / str(attempt) / "bad"
        options = ["--workers", workers, "--rejects", bad]
        process = start("write", database, INSERT, "-", *options)
        # The rest is left for the resumed run, however late this thread notices the first row.
        fed = [b"id,name\n", *(record.encode() for record in records[:15_000])]
        feeder = feed(process, fed, 0.0005)
        wait_for(lambda database=database: count(database) > 0)
        time.sleep(draw.uniform(0, 0.5))
        for number in signals:
            process.send_signal(number)
        # communicate() would close the pipe, which the feeder still writes to.
        status = process.wait(timeout=60)
        errors = process.stderr.read().decode()
        assert status == 2, errors
        process.stdout.close()
        process.stderr.close()
        process.stdin.close()
        feeder.join(timeout=30)
        assert "Traceback" not in errors

        assert 0 < count(database) < len(records)
        done = run("write", database, INSERT, source, *resume_options(errors), *options)
        assert done.returncode == 1, done.stderr
        good = [n for n in range(len(records)) if n % 7 == 0 or n % 11]
        assert [row[0] for row in rows(database)] == good
        lines = [entry["line"] for entry in rejects(bad)]
        assert len(lines) == len(set(lines)) == len(records) - len(good)


def test_ctrl_c_at_the_end_of_what_has_come_so_far(tmp_path: Path) -> None:
    """The reader is about to wait for more, and no more comes: the signal alone must wake it."""
    draw = random.Random(5)
    # A lost signal was seen in 6 of 100 attempts.
    for attempt in range(100):
        (tmp_path / str(attempt)).mkdir()
        database = make_database(tmp_path / str(attempt), LOOSE)
        options = ["--format", "csv", "--workers", 8, "--durability", "normal"]
        process = start("write", database, INSERT, *options)
        os.write(process.stdin.fileno(), b"id,name\n0,x\n")
        wait_for(lambda database=database: count(database) > 0)
        for number in range(draw.randrange(5, 300)):
            os.write(process.stdin.fileno(), b"%d,x\n" % number)
            if draw.random() < 0.2:
                time.sleep(draw.uniform(0, 0.0005))
        end = time.perf_counter() + draw.uniform(0, 100e-6)
        while time.perf_counter() < end:
            pass
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 2
        process.communicate()


@pytest.mark.parametrize("workers", [1, 8])
def test_a_lock_that_stays_stops_the_load_where_it_can_go_on(tmp_path: Path, workers: int) -> None:
    database = make_database(tmp_path, LOOSE)
    lines = [f'{{"id": {n}, "name": "x"}}\n'.encode() for n in range(40)]
    bad = tmp_path / "bad"
    process = start(
        "write", database, INSERT, "--workers", workers, "--timeout", 0.5, "--rejects", bad
    )
    feed(process, lines[:20], 0).join()
    wait_for(lambda: count(database) == 20)
    with closing(sqlite3.connect(database, timeout=30, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        feed(process, lines[20:], 0).join()
        # The input stays open: the command must end by itself.
        assert process.wait(timeout=30) == 2
        holder.execute("ROLLBACK")
    errors = process.stderr.read().decode()
    process.communicate()
    assert resume_options(errors) == ["--start-line", "21"]
    assert not bad.exists()
    done = run("write", database, INSERT, *resume_options(errors), stdin=b"".join(lines))
    assert done.returncode == 0
    assert [row[0] for row in rows(database)] == list(range(40))


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_file_that_may_not_grow_stops_the_load(tmp_path: Path, mode: str) -> None:
    database = make_database(tmp_path, LOOSE)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
    source = tmp_path / "items.jsonl"
    source.write_text("".join(f'{{"id": {n}, "name": "{"x" * 900}"}}\n' for n in range(2000)))
    limit = 400_000

    process = run(
        "write",
        database,
        INSERT,
        source,
        "--json",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert process.returncode == 2, process.stderr
    summary = json.loads(process.stdout)
    assert (summary["rejected"], summary["stopped"] is not None) == (0, True)
    done = run("write", database, INSERT, source, *resume_options(process.stderr))
    assert done.returncode == 0, done.stderr
    found = Counter(row[0] for row in rows(database))
    assert set(found.values()) == {1}
    unknown = {line - 1 for line in summary["unknown_lines"]}
    assert set(range(2000)) - set(found) <= unknown


def test_a_huge_input_needs_little_memory(tmp_path: Path) -> None:
    database = make_database(tmp_path, LOOSE)
    sql = "INSERT INTO item(id, name) VALUES(:id, length(:name))"
    line = b"1," + b"x" * 20_000 + b"\n"

    def peak(records: int) -> int:
        before = count(database)
        process = start("write", database, sql, "--format", "csv", stdout=None, stderr=None)
        os.write(process.stdin.fileno(), b"id,name\n" + line)
        wait_for(lambda: count(database) > before)
        with closing(sqlite3.connect(database, timeout=30, isolation_level=None)) as holder:
            # While nothing can be written, the reader must not run ahead.
            holder.execute("BEGIN IMMEDIATE")
            feeder = threading.Thread(
                target=lambda: [process.stdin.write(line) for _ in range(records - 1)]
            )
            feeder.start()
            feeder.join(timeout=2)
            assert feeder.is_alive() == (records > 10)
            holder.execute("ROLLBACK")
        feeder.join(timeout=60)
        process.stdin.close()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        assert count(database) == before + records
        return usage.ru_maxrss // 1024

    few, many = peak(10), peak(12_000)
    # 240 MB of input; the bounds are 16 MiB of queue, 1 MiB per worker, and the copies of what is
    # being written.
    assert many - few < 100, f"{few} MiB for 10 rows, {many} MiB for 12,000"


def test_a_line_without_end_is_one_reject(tmp_path: Path) -> None:
    database = make_database(tmp_path)
    text = b'{"id": 1, "name": "' + b"x" * (40 << 20) + b'"}\n{"id": 2, "name": "after"}\n'
    done = run("write", database, INSERT, "--rejects", tmp_path / "bad", stdin=text)
    assert (done.returncode, rows(database)) == (1, [(2, "after")])
    assert [(entry["line"], entry["kind"]) for entry in rejects(tmp_path / "bad")] == [
        (1, "RecordTooLong")
    ]


def on_a_terminal(arguments: list[str], stdin: bytes) -> tuple[int, str]:
    """Runs the command with standard error on a terminal; returns the status and what it showed."""
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 100, 0, 0))
    process = start(*arguments, stderr=terminal)
    os.close(terminal)
    process.stdin.write(stdin)
    process.stdin.close()
    shown = b""
    try:
        while chunk := os.read(master, 4096):
            shown += chunk
    except OSError:
        # Linux reports the end of a terminal without users as EIO.
        pass
    os.close(master)
    process.stdout.close()
    return process.wait(timeout=60), shown.decode()


def test_a_bar_on_a_terminal_only(tmp_path: Path) -> None:
    database = make_database(tmp_path, LOOSE)
    source = tmp_path / "items.csv"
    source.write_text("id,name\n" + "1,x\n" * 5000)
    status, shown = on_a_terminal(["write", str(database), INSERT, str(source)], b"")
    assert status == 0
    assert "100%" in shown
    assert on_a_terminal(["write", str(database), INSERT, str(source), "--quiet"], b"") == (0, "")
    done = run("write", database, INSERT, source)
    assert (done.returncode, done.stderr) == (0, "")
