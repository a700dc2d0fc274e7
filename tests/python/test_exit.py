"""Submitted writes land although their process ends, or the loss is named. Descriptors stay few."""

from __future__ import annotations

import subprocess
import sys

import pytest

from exit_scenes import COUNT
from process_support import DELETE, FLAGS, HERE, WAL, Record, check, make_database, run, wait_for


def whole(*parties: str) -> set[tuple[str, int]]:
    """All rows of these parties."""
    return {(party, number) for party in parties for number in range(COUNT)}


@pytest.fixture
def path(tmp_path):
    return make_database(tmp_path / "a.db")


@pytest.mark.parametrize("scene", ["plain", "exits", "garbage"])
def test_the_end_of_the_interpreter_waits_for_submitted_writes(path, scene) -> None:
    run("exit_scenes.py", scene, path)
    check(path, whole(scene))


def test_children_with_an_inherited_writer_lose_nothing(path) -> None:
    run("exit_scenes.py", "inherited", path)
    check(path, whole("parent-late", *(f"child-{at}" for at in range(4))) | {("parent", 0)})


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing_lose_nothing(path, method) -> None:
    run("exit_scenes.py", "processes", path, method)
    check(path, whole(*(f"child-{at}" for at in range(4))))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("scene", ["pool", "executor"])
def test_pools_lose_nothing(path, scene, method) -> None:
    run("exit_scenes.py", scene, path, method)
    check(path, whole(*(f"task-{at}" for at in range(6))))


def test_children_of_billiard_lose_nothing(path) -> None:
    run("exit_scenes.py", "billiards", path)
    check(path, whole("child", *(f"task-{at}" for at in range(4))) | {("parent", 0)})


def test_the_workers_of_celery_lose_nothing(path, tmp_path, monkeypatch) -> None:
    for folder in ("queue", "control"):
        (tmp_path / folder).mkdir()
    monkeypatch.setenv("CELERY_FOLDER", str(tmp_path))
    from celery_tasks import save

    parties = [f"task-{at}" for at in range(6)]
    for party in parties:
        save.delay(str(path), party)
    command = [
        sys.executable,
        *FLAGS,
        "-m",
        "celery",
        "-A",
        "celery_tasks",
        "worker",
        "-P",
        "prefork",
        "-c",
        "2",
    ]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    with subprocess.Popen(
        [*command, *quiet], cwd=HERE, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    ) as worker:
        try:
            wait_for(
                lambda: all((tmp_path / party).exists() for party in parties), "all tasks have run"
            )
            worker.terminate()
            said = b"".join(worker.communicate(timeout=40)).decode()
        finally:
            worker.kill()
    assert worker.returncode == 0, said
    check(path, whole(*parties))


def test_children_of_fork_that_end_like_programs_lose_nothing(path) -> None:
    run("exit_scenes.py", "nested_fork", path)
    check(path, whole("child-0", "child-1", "parent-late") | {("parent", 0)})


@pytest.mark.parametrize("kind", ["open", "garbage"])
@pytest.mark.parametrize("deadline", [1, 60])
def test_a_loss_at_the_end_is_named(path, soak, kind, deadline) -> None:
    if (kind, deadline) == ("garbage", 60) and not soak:
        pytest.skip("waits for 30 s, as its sister does")
    told = run("exit_scenes.py", "locked_out", path, kind, deadline)
    # The end waits for the writes' own deadlines, and 30 s at most.
    assert float(told) < (10 if deadline == 1 else 35)
    assert "ends before every submitted write was committed" in run.errors, run.errors
    check(path, set())


def test_the_end_waits_for_the_lock(path) -> None:
    run("exit_scenes.py", "late_release", path)
    check(path, whole("patient"))


def test_what_was_acknowledged_outlives_a_bare_exit(path, tmp_path) -> None:
    run("exit_scenes.py", "acknowledged_exit", path, tmp_path / "acks")
    check(path, Record.rows(tmp_path / "acks"), whole("untold"))


@pytest.mark.parametrize("journal", [WAL, DELETE])
@pytest.mark.parametrize("fresh", [False, True], ids=["one_path", "temporary_files"])
def test_opening_and_closing_keeps_descriptors_few(tmp_path, soak, fresh, journal) -> None:
    cycles = 5_000 if soak else 1_000
    told = run("descriptor_cycles.py", "cycles", tmp_path, journal, int(fresh), cycles, limit=150)
    print(f"{cycles} cycles, descriptors {told}")
