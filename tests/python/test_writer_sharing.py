"""Writers on one file in one process: one connection, one set of file settings, options of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from turnwise import BatchWriter, RetryPolicy, errors
from writer_support import (
    CREATE,
    INSERT,
    check_integrity,
    database_files,
    in_thread,
    locked_by_another_process,
    titles,
    together,
)

JOURNALS = pytest.mark.parametrize("journal", ["wal", "delete"])


def descriptors(folder):
    """What this process has open in a folder, by name."""
    names = []
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
        if target.startswith(f"{folder}/"):
            names.append(os.path.relpath(target, folder))
    return sorted(names)


def check_let_go(folder):
    """Of a closed file one descriptor may be kept, whose close would drop the locks of others."""
    kept = descriptors(folder)
    assert len(kept) == len(set(kept)), kept
    assert not [name for name in kept if name.endswith(("-wal", "-shm"))], kept


@JOURNALS
@pytest.mark.parametrize(
    "way",
    ["the same", "symbolic link", "hard link", "linked folder", "relative", "dots", "after chdir"],
)
def test_whatever_the_path_one_connection_is_shared(tmp_path, monkeypatch, journal, way):
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    monkeypatch.chdir(folder)
    path = folder / "topics.db"
    first = BatchWriter("topics.db" if way == "after chdir" else path, journal_mode=journal)
    first.execute(CREATE)
    alone = descriptors(folder)
    assert "topics.db" in alone
    other = path
    if way == "symbolic link":
        other = tmp_path / "link"
        other.symlink_to(path)
    elif way == "hard link":
        other = folder / "hard.db"
        os.link(path, other)
    elif way == "linked folder":
        (tmp_path / "linked").symlink_to(folder, target_is_directory=True)
        other = tmp_path / "linked" / "topics.db"
    elif way == "relative":
        other = "topics.db"
    elif way == "dots":
        other = folder / "inner" / ".." / ".." / "folder" / "topics.db"
    elif way == "after chdir":
        monkeypatch.chdir(tmp_path)
        other = "folder/topics.db"
    second = BatchWriter(other, journal_mode=journal)
    assert descriptors(folder) == alone
    assert second.path == first.path == str(path)
    assert second.stats() == first.stats()
    second.execute(INSERT, ("second",))
    first.execute(INSERT, ("first",))
    second.submit(INSERT, ("future",)).result(30)
    assert second.stats() == first.stats()
    assert first.stats().committed == 4
    # Nobody else could be the one who holds the second up.
    with first.transaction() as tx:
        tx.execute(INSERT, ("transaction",))
        late = in_thread(lambda: second.execute(INSERT, ("late",), timeout=0.1))
        with pytest.raises(errors.WriteTimeoutError):
            late()
    first.close()
    second.close()
    check_let_go(folder)
    assert titles(path) == {"first", "second", "future", "transaction"}
    check_integrity(path)


def test_a_copy_is_another_file(tmp_path):
    with BatchWriter(tmp_path / "a.db") as first:
        first.execute(CREATE)
        with BatchWriter(tmp_path / "b.db", max_batch=7) as second:
            second.execute(CREATE)
            second.execute(INSERT, ("second",))
            assert (first.stats().committed, second.stats().committed) == (1, 2)
    assert titles(tmp_path / "a.db") == set()


CONFLICTS = [
    ("journal_mode", "wal", "delete"),
    ("journal_mode", "truncate", "persist"),
    ("foreign_keys", False, True),
    ("max_batch", 1_000, 7),
    ("max_queue_rows", 100_000, 99),
    ("max_queue_bytes", 67_108_864, 4_096),
]


@pytest.mark.parametrize(("name", "there", "here"), CONFLICTS)
def test_settings_of_the_file_that_differ_are_refused(tmp_path, name, there, here):
    path = tmp_path / "topics.db"
    first = BatchWriter(path, **{name: there})
    first.execute(CREATE)
    with pytest.raises(errors.SettingsConflictError) as caught:
        BatchWriter(path, **{name: here})
    assert isinstance(caught.value, ValueError)
    assert caught.value.kind == "SettingsConflict"
    shown = [str(value).lower() if isinstance(value, bool) else value for value in (here, there)]
    assert f"{name}={shown[0]} here, {shown[1]} there" in str(caught.value)
    assert str(path) in str(caught.value)
    # The first one is unhurt, and the refused one holds nothing.
    assert first.execute(INSERT, ("first",)).rowcount == 1
    assert getattr(first.settings, name) == there
    first.close()
    check_let_go(tmp_path)
    with BatchWriter(path, **{name: here}) as second:
        assert getattr(second.settings, name) == here
        assert second.execute(INSERT, ("second",)).rowcount == 1
    assert titles(path) == {"first", "second"}


def test_options_of_a_writer_are_its_own(tmp_path):
    path = tmp_path / "topics.db"
    hasty = RetryPolicy(deadline=0.2, max_attempts=None, initial_delay=0.001, max_delay=0.01)
    with (
        BatchWriter(path) as plain,
        BatchWriter(path, durability="normal", hold_limit=0.05, policy=hasty) as other,
    ):
        plain.execute(CREATE)
        assert (plain.settings.durability, other.settings.durability) == ("full", "normal")
        assert (plain.settings.hold_limit, other.settings.hold_limit) == (5.0, 0.05)
        assert (plain.settings.policy.deadline, other.settings.policy.deadline) == (30.0, 0.2)
        with plain.transaction() as tx:
            time.sleep(0.5)
            tx.execute(INSERT, ("held long",))
        with pytest.raises(errors.HoldLimitExceededError), other.transaction() as tx:
            time.sleep(0.5)
            tx.execute(INSERT, ("held too long",))
        with locked_by_another_process(path) as release:
            patient = in_thread(lambda: plain.execute(INSERT, ("patient",)))
            with pytest.raises(errors.LockTimeoutError):
                other.execute(INSERT, ("hasty",))
            time.sleep(0.3)
            assert patient.is_alive()
            release()
            assert patient().rowcount == 1
    assert titles(path) == {"held long", "patient"}


@JOURNALS
def test_closing_one_leaves_the_other_and_the_last_one_closes(tmp_path, journal):
    path = tmp_path / "topics.db"
    writers = [BatchWriter(path, journal_mode=journal) for _ in range(4)]
    writers[0].execute(CREATE)
    opened = descriptors(tmp_path)
    while writers:
        writer = writers.pop(0)
        futures = [writer.submit(INSERT, (f"{len(writers)}.{n}",)) for n in range(50)]
        if len(writers) == 2:
            # Left to the garbage collector.
            del writer
            assert [future.result(30).rowcount for future in futures] == [1] * 50
        else:
            writer.close()
            assert [future.result(0).rowcount for future in futures] == [1] * 50
            with pytest.raises(errors.WriterClosedError):
                writer.execute(INSERT, ("late",))
        if writers:
            assert descriptors(tmp_path) == opened
        for other in writers:
            assert not other.closed
            assert other.execute(f"UPDATE topic SET title = title WHERE id = {len(writers)}")
    check_let_go(tmp_path)
    assert len(titles(path)) == 200
    assert database_files(tmp_path) == ["topics.db"]


@JOURNALS
def test_opening_and_closing_at_any_moment_loses_nothing(tmp_path, journal):
    path = tmp_path / "topics.db"
    with BatchWriter(path, journal_mode=journal) as writer:
        writer.execute(CREATE)

    def work(number):
        for count in range(25):
            with BatchWriter(path, journal_mode=journal, durability="normal") as writer:
                writer.execute(INSERT, (f"{number}.{count}",))
                if count % 2:
                    writer.submit(INSERT, (f"{number}.{count}.future",))

    assert together(8, work) == [None] * 8
    check_let_go(tmp_path)
    assert len(titles(path)) == 8 * (25 + 12)
    check_integrity(path)


# Counts the syncs of each scene; a transaction that holds them up makes one group of the writes.
SYNCS = """
import ctypes, json, sys, threading
sys.path.insert(0, sys.argv[3])
from turnwise import BatchWriter
from writer_support import CREATE, INSERT, in_thread
path, journal, _, kind = sys.argv[1:]
library = ctypes.CDLL(None)
full = BatchWriter(path, journal_mode=journal)
normal = BatchWriter(path, journal_mode=journal, durability="normal")
full.execute(CREATE)
serial = iter(range(1000))
told = {}

def measure(name, work):
    before = library.count_of_syncs(kind.encode())
    work()
    told[name] = library.count_of_syncs(kind.encode()) - before

def inline(writer):
    return lambda: writer.execute(INSERT, (str(next(serial)),))

def transaction(writer):
    def run():
        with writer.transaction() as tx:
            tx.execute(INSERT, (str(next(serial)),))
    return run

def group(*writers):
    def hold():
        with full.transaction():
            inside.set()
            end.wait(30)

    def run():
        groups = full.stats().groups
        holder = in_thread(hold)
        inside.wait(30)
        futures = [writer.submit(INSERT, (str(next(serial)),)) for writer in writers]
        end.set()
        holder()
        for future in futures:
            future.result(30)
        assert full.stats().groups == groups + 1

    inside, end = threading.Event(), threading.Event()
    return run

measure("normal", inline(normal))
measure("full", inline(full))
measure("normal transaction", transaction(normal))
measure("full transaction", transaction(full))
measure("normal group", group(*[normal] * 10))
measure("full group", group(*[full] * 10))
measure("mixed group", group(*[normal] * 9, full))
measure("mixed group, the strict one first", group(full, *[normal] * 9))
measure("normal again", inline(normal))
full.close()
normal.close()
print(json.dumps(told))
"""


def count_syncs(path, journal, kind, library):
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            SYNCS,
            path,
            journal,
            os.path.dirname(__file__),
            kind,
        ],
        env={**os.environ, "LD_PRELOAD": str(library)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("journal", "kind", "relaxed", "strict"),
    [
        ("wal", "wal", 0, 1),
        # The folder is synced when the journal is made, and for "full" when it is gone.
        ("delete", "directory", 1, 2),
    ],
)
def test_a_group_is_as_durable_as_its_strictest_member_wants(
    tmp_path, counted_sync, journal, kind, relaxed, strict
):
    told = count_syncs(tmp_path / "topics.db", journal, kind, counted_sync)
    assert told == {
        "normal": relaxed,
        "full": strict,
        "normal transaction": relaxed,
        "full transaction": strict,
        "normal group": relaxed,
        "full group": strict,
        "mixed group": strict,
        "mixed group, the strict one first": strict,
        "normal again": relaxed,
    }
    assert len(titles(tmp_path / "topics.db")) == 45
