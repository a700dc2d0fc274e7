"""What is wrong with a file is told by a class of its own, and the writes beside it land."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import sqlite3
import subprocess
import sys

import pytest

from turnwise import BatchWriter, errors
from writer_support import (
    CREATE,
    INSERT,
    check_integrity,
    locked_by_another_process,
    select,
    titles,
)

JOURNALS = pytest.mark.parametrize("journal", ["wal", "delete"])
PAGE = 4096


def group_of(writer, bad, *parameters, count=1):
    """Have one group take bad writes between good ones; the errors of the bad ones."""
    before = writer.stats().groups
    with locked_by_another_process(writer.path) as release:
        good = [writer.submit(INSERT, (f"good {n}",)) for n in range(5)]
        poisoned = [writer.submit(bad, *parameters) for _ in range(count)]
        good += [writer.submit(INSERT, (f"good {n}",)) for n in range(5, 10)]
        release()
        assert [future.exception(30) for future in good] == [None] * 10
        told = [future.exception(30) for future in poisoned]
    assert writer.stats().groups == before + 1, "they were not in one group"
    assert titles(writer.path) == {f"good {n}" for n in range(10)}
    return told


def refused(path, **settings):
    """The error with which a path is refused, by whichever call finds out."""
    with pytest.raises(errors.TurnwiseError) as caught, BatchWriter(path, **settings) as writer:
        writer.execute(CREATE)
    return caught.value


def make(path, journal="delete"):
    """A sound database with a table `bad`; the page on which that table begins."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size={PAGE}")
        connection.execute(f"PRAGMA journal_mode={journal}")
        connection.execute(CREATE)
        connection.execute("CREATE TABLE bad (x)")
        ((root,),) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'bad'")
    return root


@pytest.mark.parametrize("name", ["folder", "folder/", ".", "..", "/", "folder/.."])
def test_a_directory(tmp_path, monkeypatch, name):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    error = refused(name)
    assert type(error) is errors.IsADirectoryError
    assert isinstance(error, sqlite3.OperationalError)
    assert (error.kind, error.state) == ("IsADirectory", "permanent")
    assert str(error) == f"{name} is a directory: name the database file"
    assert os.listdir(tmp_path) == ["folder"]
    assert os.listdir(tmp_path / "folder") == []


def test_a_link_to_a_directory(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    assert type(refused(tmp_path / "link")) is errors.IsADirectoryError


def test_a_folder_that_is_missing(tmp_path):
    error = refused(tmp_path / "missing" / "topics.db")
    assert type(error) is errors.CannotOpenError
    assert isinstance(error, sqlite3.OperationalError)
    assert str(tmp_path / "missing" / "topics.db") in str(error)
    assert "the folder cannot be opened: No such file or directory" in str(error)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ["file", "dangling", "circle", "long"])
def test_a_path_that_cannot_be_opened(tmp_path, kind):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "dangling").symlink_to(tmp_path / "missing" / "topics.db")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    path = tmp_path / {"file": "file/topics.db", "long": "x" * 300}.get(kind, kind)
    error = refused(path)
    assert type(error) is errors.CannotOpenError
    assert (error.kind, error.sqlite_errorcode) == ("CannotOpen", 14)
    assert str(path) in str(error)


@JOURNALS
@pytest.mark.parametrize(
    "content",
    [b"this is no database. " * 500, b"short", b"SQLite format 3\0" + b"x" * 40, b"\0" * 200],
    ids=["garbage", "short", "head alone", "zeroes"],
)
def test_a_file_that_is_no_database(tmp_path, journal, content):
    path = tmp_path / "topics.db"
    path.write_bytes(content)
    error = refused(path, journal_mode=journal)
    assert type(error) is errors.NotADatabaseError
    assert isinstance(error, sqlite3.DatabaseError)
    assert (error.kind, error.sqlite_errorcode) == ("NotADatabase", 26)
    assert str(error) == f"{path}: file is not a database"
    assert path.read_bytes() == content, "it was changed"
    # The file is free again, for a database.
    path.unlink()
    with BatchWriter(path, journal_mode=journal) as writer:
        writer.execute(CREATE)


@JOURNALS
def test_an_empty_file_is_a_new_database(tmp_path, journal):
    path = tmp_path / "topics.db"
    path.touch()
    with BatchWriter(path, journal_mode=journal) as writer:
        writer.execute(CREATE)
        writer.execute(INSERT, ("first",))
    assert titles(path) == {"first"}


@JOURNALS
@pytest.mark.parametrize("damage", ["schema", "cut off"])
def test_a_corrupt_database(tmp_path, journal, damage):
    path = tmp_path / "topics.db"
    make(path, journal)
    if damage == "schema":
        with path.open("r+b") as file:
            file.seek(100)
            file.write(b"\xff" * (PAGE - 100))
    else:
        os.truncate(path, PAGE)
    content = path.read_bytes()
    error = refused(path, journal_mode=journal)
    assert type(error) is errors.CorruptError
    assert isinstance(error, sqlite3.DatabaseError)
    assert (error.kind, error.sqlite_errorcode & 0xFF) == ("Corrupt", 11)
    assert str(path) in str(error)
    assert path.read_bytes() == content, "it was changed"


@JOURNALS
@pytest.mark.parametrize("count", [1, 3])
def test_a_corrupt_table_fails_its_own_writes_only(tmp_path, journal, count):
    path = tmp_path / "topics.db"
    root = make(path, journal)
    with path.open("r+b") as file:
        file.seek((root - 1) * PAGE)
        file.write(b"\xff" * PAGE)
    with BatchWriter(path, journal_mode=journal) as writer:
        told = group_of(writer, "INSERT INTO bad VALUES (1)", count=count)
        assert [type(error) for error in told] == [errors.CorruptError] * count
        assert told[0].sqlite_errorcode & 0xFF == 11
        with pytest.raises(errors.CorruptError):
            writer.execute("INSERT INTO bad VALUES (1)")
        assert writer.execute(INSERT, ("late",)).rowcount == 1


@JOURNALS
def test_a_missing_table_fails_its_own_write_only(tmp_path, journal):
    with BatchWriter(tmp_path / "topics.db", journal_mode=journal) as writer:
        writer.execute(CREATE)
        (error,) = group_of(writer, "INSERT INTO nowhere VALUES (?)", (1,))
        assert type(error) is errors.NoSuchTableError
        assert isinstance(error, sqlite3.OperationalError)
        assert (error.kind, str(error)) == ("NoSuchTable", "no such table: nowhere")
        for call in (
            lambda: writer.execute("DELETE FROM nowhere"),
            lambda: writer.executemany("INSERT INTO nowhere VALUES (?)", [(1,), (2,)]),
            lambda: asyncio.run(writer.aexecute("UPDATE nowhere SET x = 1")),
        ):
            with pytest.raises(errors.NoSuchTableError, match="nowhere"):
                call()


@pytest.mark.parametrize("as_path", [str, pathlib.Path, pathlib.PurePath], ids=lambda t: t.__name__)
def test_paths_of_text(tmp_path, as_path):
    path = tmp_path / "tópics with blanks?mode=memory#.db"
    with BatchWriter(as_path(path)) as writer:
        writer.execute(CREATE)
        assert writer.path == writer.settings.path == str(path)
    assert path.exists()


def test_a_name_that_is_not_unicode(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.db")
    with BatchWriter(path) as writer:
        writer.execute(CREATE)
        assert writer.path == path
    assert os.path.exists(path)


@pytest.mark.parametrize("path", [b"topics.db", 5, None, 1.5, ["topics.db"], object()], ids=repr)
def test_what_is_no_path_is_a_type_error(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TypeError, match=f"path must be a str or .*, not {type(path).__name__}"):
        BatchWriter(path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("", "needs a database file"),
        (":memory:", "a database in memory belongs to one connection"),
        ("topics\0.db", "NUL"),
        ("file:///topics.db", "the folder cannot be opened"),
    ],
)
def test_a_path_that_names_no_file(tmp_path, monkeypatch, path, words):
    monkeypatch.chdir(tmp_path)
    error = refused(path)
    assert type(error) is errors.CannotOpenError
    assert words in str(error)
    assert os.listdir(tmp_path) == []


def test_a_uri_is_a_file_name_like_any_other(tmp_path, monkeypatch):
    """What a URI asks for (memory, no locks) is what must not be had."""
    monkeypatch.chdir(tmp_path)
    name = "file:topics.db?mode=memory&nolock=1"
    with BatchWriter(name) as writer:
        writer.execute(CREATE)
        writer.execute(INSERT, ("kept",))
        assert writer.path == str(tmp_path / name)
    assert titles(tmp_path / name) == {"kept"}


WAYS = {
    "execute": lambda writer: writer.execute(INSERT, ("lost",)),
    "executemany": lambda writer: writer.executemany(INSERT, [("lost",), ("lost 2",)]),
    "submit": lambda writer: writer.submit(INSERT, ("lost",)).result(30),
    "aexecute": lambda writer: asyncio.run(writer.aexecute(INSERT, ("lost",))),
    "transaction": lambda writer: writer.transaction().__enter__(),
}


def remove_all(path):
    """A WAL that is left behind would be applied to whatever file takes its place."""
    for end in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{path}{end}")


@JOURNALS
@pytest.mark.parametrize("fate", ["deleted", "replaced", "moved"])
def test_a_file_that_is_not_there_any_more(tmp_path, journal, fate):
    path = tmp_path / "topics.db"
    writer = BatchWriter(path, journal_mode=journal)
    writer.execute(CREATE)
    neighbour = BatchWriter(tmp_path / "neighbour.db", journal_mode=journal)
    neighbour.execute(CREATE)
    if fate == "moved":
        path.rename(tmp_path / "elsewhere.db")
    else:
        remove_all(path)
    if fate == "replaced":
        make(path, journal)
    for way in WAYS.values():
        with pytest.raises(errors.FileReplacedError) as caught:
            way(writer)
        assert isinstance(caught.value, sqlite3.OperationalError)
        assert caught.value.kind == "FileReplaced"
        assert str(path) in str(caught.value)
        assert "close this writer and open another" in str(caught.value)
    assert path.exists() == (fate == "replaced")
    assert neighbour.execute(INSERT, ("unhurt",)).rowcount == 1
    neighbour.close()
    writer.close()
    with BatchWriter(path, journal_mode=journal) as another:
        if fate != "replaced":
            another.execute(CREATE)
        assert another.execute(INSERT, ("new",)).rowcount == 1
    assert titles(path) == {"new"}
    check_integrity(path)


NEW_OWNER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode=wal")
connection.execute("CREATE TABLE topic (id INTEGER PRIMARY KEY, title TEXT)")
connection.execute("INSERT INTO topic (title) VALUES ('of the new owner')")
print("written", flush=True)
sys.stdin.readline()
print(connection.execute("SELECT title FROM topic").fetchall(), flush=True)
"""


def test_closing_spares_the_log_of_the_file_that_took_the_place(tmp_path):
    path = tmp_path / "topics.db"
    writer = BatchWriter(path)
    writer.execute(CREATE)
    remove_all(path)
    command = [sys.executable, "-c", NEW_OWNER, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as owner:
        assert owner.stdout.readline() == "written\n"
        with pytest.raises(errors.FileReplacedError):
            writer.execute(INSERT, ("lost",))
        writer.close()
        assert os.path.exists(f"{path}-wal")
        assert titles(path) == {"of the new owner"}
        assert owner.communicate("\n", 30)[0] == "[('of the new owner',)]\n"
    assert titles(path) == {"of the new owner"}


@JOURNALS
def test_a_file_that_goes_while_writes_wait_fails_each_of_them(tmp_path, journal):
    path = tmp_path / "topics.db"
    with BatchWriter(path, journal_mode=journal) as writer:
        writer.execute(CREATE)
        with locked_by_another_process(path) as release:
            futures = [writer.submit(INSERT, (f"lost {n}",)) for n in range(10)]
            path.rename(tmp_path / "elsewhere.db")
            assert [type(future.exception(30)) for future in futures] == [
                errors.FileReplacedError
            ] * 10
            release()
        # Its WAL is found by the name: that it is back makes the writer whole again.
        (tmp_path / "elsewhere.db").rename(path)
        assert writer.execute(INSERT, ("back",)).rowcount == 1
    assert select(path, "SELECT title FROM topic") == [("back",)]


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_what_is_no_regular_file_is_not_opened(tmp_path, kind):
    path = pathlib.Path("/dev/null") if kind == "device" else tmp_path / "fifo"
    if kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(errors.CannotOpenError, match="is no regular file"):
        BatchWriter(path)
