"""The settings in effect are reported as they are, and what is wrong with the host is said once."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sqlite3

import pytest

from turnwise import BatchWriter, RetryPolicy, WriterSettings, errors
from writer_support import CREATE, INSERT, child, database_files, select


@pytest.mark.parametrize("journal_mode", ["wal", "delete", "truncate", "persist"])
@pytest.mark.parametrize("page_size", [512, 4096, 65536])
def test_the_settings_are_those_of_the_file(tmp_path, journal_mode, page_size):
    path = tmp_path / "topics.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size={page_size}")
        connection.execute(CREATE)
    policy = RetryPolicy(deadline=7.0, max_attempts=None)
    with BatchWriter(
        path,
        journal_mode=journal_mode,
        foreign_keys=True,
        durability="normal",
        max_batch=11,
        max_queue_rows=12,
        max_queue_bytes=13_000,
        hold_limit=1.5,
        turn_timeout=3,
        policy=policy,
    ) as writer:
        settings = writer.settings
        assert type(settings) is WriterSettings
        assert dataclasses.asdict(settings) == {
            "path": str(path),
            "sqlite_version": settings.sqlite_version,
            "private_copy": True,
            "journal_mode": journal_mode,
            "foreign_keys": True,
            "page_size": page_size,
            "durability": "normal",
            "max_batch": 11,
            "max_queue_rows": 12,
            "max_queue_bytes": 13_000,
            "hold_limit": 1.5,
            "turn_lock": True,
            "turn_lock_missing": None,
            "turn_timeout": 3.0,
            "policy": policy,
        }
        with pytest.raises(dataclasses.FrozenInstanceError):
            settings.page_size = 1
        # As SQLite says itself, on the writer's own connection and on another.
        ((version,),) = writer.execute("SELECT sqlite_version()").rows
        assert settings.sqlite_version == version
        writer.execute(INSERT, ("x",))
        assert select(path, "PRAGMA page_size") == [(page_size,)]
        on_disk = "wal" if journal_mode == "wal" else "delete"
        assert select(path, "PRAGMA journal_mode") == [(on_disk,)]
        left = {
            "wal": "topics.db-wal",
            "truncate": "topics.db-journal",
            "persist": "topics.db-journal",
        }
        assert (left.get(journal_mode, "topics.db") in os.listdir(tmp_path)) is True
        if journal_mode != "wal":
            assert "topics.db-wal" not in os.listdir(tmp_path)
        if journal_mode == "delete":
            assert database_files(tmp_path) == ["topics.db"]
        if journal_mode == "truncate":
            assert (tmp_path / "topics.db-journal").stat().st_size == 0
        if journal_mode == "persist":
            assert (tmp_path / "topics.db-journal").stat().st_size > 0


@pytest.mark.parametrize("enforced", [False, True])
def test_foreign_keys_are_enforced_as_the_settings_say(tmp_path, enforced):
    with BatchWriter(tmp_path / "topics.db", foreign_keys=enforced) as writer:
        assert writer.settings.foreign_keys is enforced
        writer.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
        writer.execute("CREATE TABLE child (parent REFERENCES parent (id))")
        if enforced:
            with pytest.raises(errors.ConstraintError, match="FOREIGN KEY"):
                writer.execute("INSERT INTO child VALUES (1)")
        else:
            assert writer.execute("INSERT INTO child VALUES (1)").rowcount == 1


def test_the_writer_describes_itself(tmp_path):
    path = tmp_path / "tópics.db"
    writer = BatchWriter(path)
    assert repr(writer) == f"<BatchWriter {str(path)!r} open>"
    writer.close()
    assert repr(writer) == f"<BatchWriter {str(path)!r} closed>"


# The version is the host's own data. Prints the class and the words of every warning.
WARNED = """
import sqlite3, sys, warnings
version = tuple(map(int, sys.argv[1].split(".")))
if version != (0,):
    sqlite3.sqlite_version_info, sqlite3.sqlite_version = version, sys.argv[1]
import turnwise
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for number, journal in enumerate(sys.argv[3:]):
        with turnwise.BatchWriter(f"{sys.argv[2]}/{number}.db", journal_mode=journal) as writer:
            writer.execute("CREATE TABLE topic (title)")
for warning in caught:
    print(warning.category.__module__, warning.category.__name__, warning.filename, warning.message)
"""


def warned(folder, version, *journals):
    return child(WARNED, version, folder, *journals).stdout.splitlines()


@pytest.mark.parametrize("version", ["3.7.0", "3.40.1", "3.51.2"])
def test_the_wal_reset_bug_of_the_host_is_warned_of_once(tmp_path, version):
    (line,) = warned(tmp_path, version, "wal", "wal", "delete", "wal")
    assert line.startswith("turnwise.errors WalResetBugWarning <string> ")
    assert f"Python's sqlite3 uses SQLite {version}," in line
    assert "https://sqlite.org/wal.html#walresetbug" in line
    assert issubclass(errors.WalResetBugWarning, RuntimeWarning)


@pytest.mark.parametrize("version", ["3.6.23", "3.51.3", "3.52.0", "4.0.0"])
def test_a_host_without_the_wal_reset_bug_is_not_warned_of(tmp_path, version):
    assert warned(tmp_path, version, "wal", "wal") == []


def test_without_a_wal_there_is_no_warning(tmp_path):
    assert warned(tmp_path, "3.40.1", "delete", "truncate", "persist") == []


def test_the_host_is_asked_for_its_real_version(tmp_path):
    affected = (3, 7, 0) <= sqlite3.sqlite_version_info < (3, 51, 3)
    lines = warned(tmp_path, "0", "wal")
    assert len(lines) == affected
    assert all(f"SQLite {sqlite3.sqlite_version}," in line for line in lines)
