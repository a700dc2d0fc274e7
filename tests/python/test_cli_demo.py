"""`turnwise demo`: measured, honest, bounded in time."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from cli_support import run, start
from turnwise.cli.machine import MEMORY_FILE_SYSTEMS, file_system
from turnwise.cli.story import SAVE, Side, Threads, finish, percentiles, run_batched, run_by_hand


def test_json_has_all_numbers_versions_and_the_machine(tmp_path: Path) -> None:
    done = run("demo", "--json", "--workers", 6, "--writes", 33, "--seed", 5, "--dir", tmp_path)
    found = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert found["settings"]["workers"] == 6
    assert found["settings"]["seed"] == 5
    assert {
        "turnwise",
        "python",
        "python_sqlite",
        "system",
        "cpus",
        "file_system",
        "flush_ms",
    } <= set(found["machine"])
    assert [side["name"] for side in found["sides"]] == ["as_it_was", "cure_by_hand", "turnwise"]
    for side in found["sides"]:
        assert (
            side["landed"]
            == side["acknowledged"]
            == side["writes"] - side["errors"] - side["unfinished"]
        )
        assert side["consistent"]
        assert side["seconds"] > 0
        assert side["wait_ms"]["p50"] <= side["wait_ms"]["p99"] <= side["wait_ms"]["max"]
    ours = found["sides"][2]
    assert (ours["landed"], ours["errors"], ours["cut"]) == (33, 0, False)
    assert 1 <= ours["transactions"] <= 33
    assert list(tmp_path.iterdir()) == []


def test_the_threads_may_be_in_several_processes(tmp_path: Path) -> None:
    options = ["--workers", 12, "--writes", 60, "--processes", 3, "--dir", tmp_path]
    done = run("demo", "--json", *options)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["settings"]["processes"] == 3
    for side in found["sides"]:
        assert side["landed"] == side["acknowledged"] == 60 - side["errors"] - side["unfinished"]
        assert side["consistent"]
        assert side["twice"] == 0
    ours = found["sides"][2]
    # None of them can be in a transaction with another process's.
    assert (ours["landed"], ours["errors"]) == (60, 0)
    assert 3 <= ours["transactions"] <= 60
    assert list(tmp_path.iterdir()) == []


def test_a_process_of_the_demo_that_dies_is_told(tmp_path: Path) -> None:
    options = ["--workers", 4, "--writes", 400_000, "--processes", 2, "--time-limit", 60]
    process = start("demo", *options, "--dir", tmp_path)
    try:
        while not list(tmp_path.glob("*/as_it_was.db-wal")):
            time.sleep(0.01)
        time.sleep(0.5)
        children = Path("/proc") / str(process.pid) / "task" / str(process.pid) / "children"
        # The first is multiprocessing's own; the last is one of the demo's.
        os.kill(int(children.read_text().split()[-1]), signal.SIGKILL)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 2
    assert b"a process of the demo was killed" in errors
    assert list(tmp_path.iterdir()) == []


def on_a_disk(tmp_path: Path, repository: Path) -> Path:
    """A folder where a flush costs something: in memory nobody waits, and no group forms."""
    if file_system(str(tmp_path)) not in MEMORY_FILE_SYSTEMS:
        return tmp_path
    folder = repository / "target" / "story" / tmp_path.name
    folder.mkdir(parents=True)
    return folder


def cpu_seconds_elsewhere() -> float:
    """The CPU time that this machine has spent on anything but this process."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _, _, *interrupts_and_steal = map(int, file.readline().split()[1:9])
    ticks = user + nice + system + sum(interrupts_and_steal)
    return ticks / os.sysconf("SC_CLK_TCK") - time.process_time()


def test_the_story_lands_in_at_most_ten_transactions(
    tmp_path: Path, repository: Path, soak: bool
) -> None:
    folder = on_a_disk(tmp_path, repository)
    for attempt in range(5):
        transactions = []
        began, elsewhere = time.monotonic(), cpu_seconds_elsewhere()
        for number in range(100 if soak else 20):
            threads, side = Threads(58, 288, 20), Side("turnwise", "c", "", 288)
            path = str(folder / f"{attempt}-{number}.db")
            run_batched(path, side, threads)
            finish(path, side, threads)
            assert side.complete
            assert side.errors == 0
            transactions.append(side.transactions)
        if max(transactions) <= 10:
            return
        share = (cpu_seconds_elsewhere() - elsewhere) / (time.monotonic() - began)
        # Others that take the CPUs may keep a thread away from its group.
        assert share > 0.2, sorted(transactions)
    pytest.fail(f"others kept {share:.0%} of a CPU busy in each attempt: {sorted(transactions)}")


def test_landed_is_what_the_file_holds(tmp_path: Path) -> None:
    path = str(tmp_path / "a.db")
    threads, side = Threads(8, 40, 10), Side("as_it_was", "a", "", 40)
    run_by_hand(path, side, threads, tries=5, jitter=0, seed=0)
    finish(path, side, threads)
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute("SELECT count(*) FROM topic").fetchone() == (side.landed,)
        assert side.consistent
        # An acknowledged save that is not in the file, and one that is there twice, must both be
        # seen.
        lost = threads.acknowledged[0]
        connection.execute("DELETE FROM topic WHERE id = ?", (lost,))
        connection.execute(SAVE, (threads.acknowledged[1], "again"))
    before = side.landed
    finish(path, side, threads)
    assert (side.landed, side.twice) == (before - 1, 1)
    assert not side.consistent
    assert not side.complete


def test_a_side_that_takes_too_long_is_cut_and_says_so(tmp_path: Path) -> None:
    # Another writer holds every lock: nothing can land, and no thread may outlive the limit.
    path = str(tmp_path / "a.db")
    threads, side = Threads(8, 40, 0.3), Side("as_it_was", "a", "", 40)
    holder = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)

    release = threads.run

    def run_while_locked(connect: object) -> None:
        holder.execute("BEGIN IMMEDIATE")
        release(connect)  # type: ignore[arg-type]
        holder.execute("ROLLBACK")

    threads.run = run_while_locked  # type: ignore[method-assign, assignment]
    started = time.monotonic()
    run_by_hand(path, side, threads, tries=10, jitter=0.1, seed=0)
    finish(path, side, threads)
    holder.close()
    assert time.monotonic() - started < 3
    assert side.cut
    assert (side.landed, side.unfinished) == (0, 40)


def test_the_screen_fits(tmp_path: Path) -> None:
    done = run("demo", "--workers", 6, "--writes", 33, "--dir", tmp_path)
    assert done.returncode == 0
    host = sqlite3.sqlite_version_info
    notes = done.stderr.splitlines()
    assert len(notes) == ((3, 7, 0) <= host < (3, 51, 3))
    assert all(note.startswith("turnwise: note: ") and len(note) < 100 for note in notes)
    table = done.stdout.split("\n\n")[1].splitlines()
    # Every number ends where its heading ends, within 80 columns.
    columns = [
        {match.end() for match in re.finditer(r"\S(?= \s|$)", line)} - {0} for line in table[:4]
    ]
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    for line in columns[1:]:
        assert len(line & columns[0]) == 7


def test_the_table_says_cut() -> None:
    started = time.monotonic()
    done = run("demo", "--time-limit", 0.25)
    assert time.monotonic() - started < 20
    assert "CUT" in done.stdout
    assert "cut after 0.25 s" in done.stdout
    assert "(c) turnwise" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


def test_a_cut_of_our_own_side_fails_the_demo() -> None:
    done = run("demo", "--time-limit", 0.002, "--workers", 4, "--writes", 5000, "--json")
    ours = json.loads(done.stdout)["sides"][2]
    assert done.returncode == 1
    assert ours["cut"]
    assert ours["consistent"]
    assert ours["landed"] < 5000


@pytest.mark.parametrize(
    "arguments",
    [
        ["--workers", "0"],
        ["--writes", "-1"],
        ["--writes", "many"],
        ["--time-limit", "0"],
        ["--seed", "x"],
    ],
)
def test_a_bad_option_is_explained(arguments: list[str]) -> None:
    done = run("demo", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert arguments[0] in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("option", ["--wrkers", "--worker", "--workers5"])
def test_a_mistyped_option_is_never_guessed(option: str) -> None:
    done = run("demo", option, "3")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean --workers?" in done.stderr


def test_a_folder_that_is_not_there_is_explained(tmp_path: Path) -> None:
    done = run("demo", "--dir", tmp_path / "none")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_demo_ends_at_once_and_leaves_nothing(
    tmp_path: Path, number: signal.Signals
) -> None:
    process = start("demo", "--dir", tmp_path, "--writes", 100_000)
    end = time.monotonic() + 30
    while not list(tmp_path.glob("*/as_it_was.db-wal")):
        assert time.monotonic() < end
        time.sleep(0.02)
    time.sleep(0.2)
    started = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - started < 5
    assert process.returncode == 2
    assert b"Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def test_percentiles_are_by_nearest_rank() -> None:
    assert percentiles([float(n) for n in range(1, 101)]) == {
        "p50": 50.0,
        "p99": 99.0,
        "max": 100.0,
    }
    assert percentiles([7.0]) == {"p50": 7.0, "p99": 7.0, "max": 7.0}
    assert percentiles([]) == {}
