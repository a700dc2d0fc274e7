"""Files and folders that may not be read or written: which error, and that nothing else is harmed."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import tempfile

import pytest

from turnwise import BatchWriter
from writer_support import CREATE, child, titles

JOURNALS = pytest.mark.parametrize("journal", ["wal", "delete"])

# Root is held by no permission, so a child gives it up. Whatever it needs is imported before.
UNPRIVILEGED = """
import json, os, sqlite3, sys
import turnwise, turnwise.writer
from turnwise import BatchWriter, errors
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
"""

REFUSED = (
    UNPRIVILEGED
    + """
path, journal = sys.argv[1:]
try:
    with BatchWriter(path, journal_mode=journal) as writer:
        writer.execute("INSERT INTO topic (title) VALUES ('x')")
    print(json.dumps("acknowledged"))
except errors.TurnwiseError as error:
    print(json.dumps([type(error).__name__, isinstance(error, sqlite3.OperationalError), str(error)]))
"""
)


def told(done):
    return json.loads(done.stdout)


@pytest.fixture
def open_folder():
    """A folder that everybody may enter, which pytest's own are not."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="turnwise-"))
    folder.chmod(0o755)
    yield folder
    for path in folder.rglob("*"):
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(folder)


@JOURNALS
@pytest.mark.parametrize(
    ("scene", "file_mode", "folder_mode", "due"),
    [
        ("a file that is not to be read", 0o000, 0o777, "CannotOpenError"),
        ("a file that is not to be written", 0o444, 0o777, "ReadOnlyError"),
        ("a file and a folder that are not to be written", 0o444, 0o555, "ReadOnlyError"),
        ("a folder without room for a journal", 0o666, 0o555, "ReadOnlyError"),
        ("a folder that is closed", 0o666, 0o000, "CannotOpenError"),
        ("no file, and a folder that takes none", None, 0o555, "CannotOpenError"),
    ],
)
def test_permissions(open_folder, journal, scene, file_mode, folder_mode, due):
    folder = open_folder / "inner"
    folder.mkdir()
    path = folder / "topics.db"
    if file_mode is not None:
        with BatchWriter(path, journal_mode=journal) as writer:
            writer.execute(CREATE)
        path.chmod(file_mode)
    folder.chmod(folder_mode)
    # Who owns the file may not write it either: the modes hold for all.
    name, is_sqlite, message = told(child(REFUSED, path, journal))
    assert (name, is_sqlite) == (due, True), (scene, message)
    if (scene, journal) != ("a folder without room for a journal", "delete"):
        assert str(path) in message
    folder.chmod(0o755)
    if file_mode is not None:
        path.chmod(0o644)
        assert titles(path) == set()
    else:
        assert not path.exists()


LATER = (
    UNPRIVILEGED
    + """
folder = sys.argv[1]
writer = BatchWriter(folder + "/topics.db", journal_mode="delete")
writer.execute("CREATE TABLE topic (id INTEGER PRIMARY KEY, title TEXT NOT NULL UNIQUE)")
insert = "INSERT INTO topic (title) VALUES (?)"
os.chmod(folder, 0o555)
futures = [writer.submit(insert, (f"refused {n}",)) for n in range(20)]
print(json.dumps([type(future.exception(30)).__name__ for future in futures]))
os.chmod(folder, 0o755)
writer.execute(insert, ("late",))
writer.close()
"""
)


def test_a_folder_that_becomes_read_only_refuses_until_it_is_not(open_folder):
    folder = open_folder / "inner"
    folder.mkdir()
    if os.getuid() == 0:
        os.chown(folder, 65534, 65534)
    assert told(child(LATER, folder)) == ["ReadOnlyError"] * 20
    assert titles(folder / "topics.db") == {"late"}
