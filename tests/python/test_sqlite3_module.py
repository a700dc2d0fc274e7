"""`turnwise.sqlite3` is the standard library's module but for its connections."""

from __future__ import annotations

import os
import pickle
import sqlite3 as stdlib
import sys
import tempfile
from pathlib import Path

import pytest

import turnwise
from sqlite3_support import INSERT, make, traced, turn_held, turn_is_taken
from turnwise import errors, sqlite3
from writer_support import child, in_thread, select, titles


@pytest.fixture
def path(tmp_path):
    return make(tmp_path / "app.db")


def side_files(folder):
    return [name for name in os.listdir(folder) if "turn" in name]


def test_every_public_name_is_there():
    import turnwise.sqlite3.dbapi2 as dbapi2

    ours = {"connect", "Connection", "Cursor", "dbapi2"}
    for name in dir(stdlib):
        if name.startswith("_") or name in {"dump", *ours}:
            continue
        assert getattr(sqlite3, name) is getattr(stdlib, name), name
        assert hasattr(dbapi2, name), name
    for name in ours:
        assert getattr(sqlite3, name) is not getattr(stdlib, name)
    assert dbapi2.connect is sqlite3.connect
    assert sqlite3.dbapi2 is dbapi2
    assert turnwise.sqlite3 is sqlite3
    with pytest.raises(AttributeError):
        sqlite3.nothing  # noqa: B018


@pytest.mark.parametrize(
    "words",
    [
        "from turnwise.sqlite3 import dbapi2",
        "from turnwise import sqlite3; dbapi2 = sqlite3.dbapi2",
        "from turnwise.sqlite3 import *",
        "import turnwise.sqlite3.dbapi2 as dbapi2",
    ],
)
def test_dbapi2_is_ours_however_it_is_imported(words):
    script = f"""
import sqlite3.dbapi2 as stdlib
{words}
import turnwise.sqlite3
assert dbapi2.__name__ == "turnwise.sqlite3.dbapi2", dbapi2
assert dbapi2.connect is turnwise.sqlite3.connect is not stdlib.connect
assert dbapi2 is turnwise.sqlite3.dbapi2
assert stdlib.__name__ == "sqlite3.dbapi2"
assert getattr(dbapi2, "version", None) == getattr(stdlib, "version", None)
"""
    child(script)


def test_importing_turnwise_does_not_import_it():
    script = """
import sys
import turnwise
assert not any("sqlite3" in name for name in sys.modules), "at the import"
import turnwise.sqlite3 as sqlite3
assert sqlite3.connect(":memory:").execute("SELECT 1").fetchall() == [(1,)]
"""
    child(script)


def test_a_connection_is_one_of_the_standard_library(path):
    connection = sqlite3.connect(path, timeout=5.0, detect_types=sqlite3.PARSE_DECLTYPES)
    assert isinstance(connection, stdlib.Connection)
    assert type(connection) is sqlite3.Connection
    cursor = connection.cursor()
    assert isinstance(cursor, stdlib.Cursor)
    assert type(cursor) is type(connection.execute("SELECT 1")) is sqlite3.Cursor
    connection.row_factory = sqlite3.Row
    row = connection.execute("SELECT 1 AS a").fetchone()
    assert (type(row), row["a"]) == (stdlib.Row, 1)
    assert connection.Error is stdlib.Error
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="pickle"):
            pickle.dumps(connection, protocol)
    connection.close()
    with pytest.raises(stdlib.ProgrammingError, match="closed"):
        connection.execute(INSERT, ("a",))


def test_adapters_and_declared_types_work(path):
    connection = sqlite3.connect(path, detect_types=sqlite3.PARSE_DECLTYPES, isolation_level=None)
    connection.execute("CREATE TABLE point (place pair)")
    sqlite3.register_adapter(complex, lambda value: f"{value.real};{value.imag}")
    sqlite3.register_converter("pair", lambda text: complex(*map(float, text.split(b";"))))
    rows = connection.execute("INSERT INTO point VALUES (?) RETURNING place", (1 + 2j,))
    assert rows.fetchall() == [(1 + 2j,)]
    assert connection.execute("SELECT place FROM point").fetchall() == [(1 + 2j,)]
    connection.close()


class Loud(stdlib.Connection):
    """An application's connection, written for the standard library."""

    calls = ()

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.calls = []

    def execute(self, *args):
        self.calls.append(args[0])
        return super().execute(*args)

    def commit(self):
        self.calls.append("commit")
        super().commit()


class LoudWithTurns(sqlite3.Connection):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.calls = []

    def execute(self, *args):
        self.calls.append(args[0])
        return super().execute(*args)

    def commit(self):
        self.calls.append("commit")
        super().commit()


@pytest.mark.parametrize("factory", [Loud, LoudWithTurns])
@pytest.mark.parametrize("positional", [False, True])
def test_a_factory_that_is_a_class_gets_turns(path, factory, positional):
    if positional and sys.version_info >= (3, 13):
        with pytest.warns(DeprecationWarning, match="positional") as warned:
            connection = sqlite3.connect(path, 5.0, 0, "", True, factory)
        assert {warning.filename for warning in warned} == {__file__}
    elif positional:
        connection = sqlite3.connect(path, 5.0, 0, "", True, factory)
    else:
        connection = sqlite3.connect(path, factory=factory)
    assert isinstance(connection, (factory, sqlite3.Connection))
    connection.execute(INSERT, ("a",))
    assert turn_is_taken(path)
    connection.commit()
    assert connection.calls == [INSERT, "commit"]
    assert not turn_is_taken(path)
    with connection:
        connection.execute(INSERT, ("b",))
    assert connection.calls == [INSERT, "commit", INSERT], "`with` calls no commit of a subclass"
    assert not turn_is_taken(path)
    connection.close()


def test_a_factory_that_makes_something_else_is_refused(path):
    made = []

    def factory(*args, **kwargs):
        made.append(stdlib.Connection(*args, **kwargs))
        return made[0]

    with pytest.raises(TypeError, match=r"turnwise\.sqlite3\.Connection"):
        sqlite3.connect(path, factory=factory)
    with pytest.raises(stdlib.ProgrammingError, match="closed"):
        made[0].execute("SELECT 1")

    def derived(*args, **kwargs):
        return sqlite3.Connection(*args, **kwargs)

    sqlite3.connect(path, factory=derived).close()


@pytest.mark.filterwarnings("ignore:Passing more than")
def test_wrong_arguments_are_refused_as_ever(path):
    for arguments, settings in [((), {}), ((path, 5.0), {"timeout": 5.0}), ((path,) * 12, {})]:
        with pytest.raises(TypeError):
            sqlite3.connect(*arguments, **settings)
        with pytest.raises(TypeError):
            sqlite3.Connection(*arguments, **settings)
    connection = sqlite3.connect(path)
    for sql in (5, None, b"INSERT INTO topic VALUES (1)"):
        with pytest.raises(TypeError):
            connection.execute(sql)
        with pytest.raises((TypeError, ValueError)):
            connection.executescript(sql)
    with pytest.raises(stdlib.Error):
        connection.executemany("SELECT 1", [()])
    assert not turn_is_taken(path)
    connection.close()


def test_where_there_is_no_file_nothing_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [
        (":memory:", {}),
        ("", {}),
        ("file::memory:", {"uri": True}),
        ("file:a?mode=memory&cache=shared", {"uri": True}),
        ("file:/b?vfs=memdb", {"uri": True}),
    ]
    for name, settings in names:
        connection = sqlite3.connect(name, **settings)
        seen = traced(connection)
        connection.execute("CREATE TABLE topic (title)")
        with connection:
            connection.execute(INSERT, ("a",))
        assert seen == [
            "CREATE TABLE topic (title)",
            "BEGIN ",
            "INSERT INTO topic VALUES ('a')",
            "COMMIT",
        ]
        connection.close()
    assert os.listdir(tmp_path) == []


def test_who_only_reads_makes_no_side_files(tmp_path):
    path = tmp_path / "app.db"
    plain = stdlib.connect(path)
    plain.executescript("CREATE TABLE topic (title); INSERT INTO topic VALUES ('a')")
    plain.close()
    names = [
        (path, {}),
        (f"file:{path}?mode=ro", {"uri": True}),
        (f"file:{path}?immutable=1", {"uri": True}),
    ]
    for name, settings in names:
        connection = sqlite3.connect(name, **settings)
        assert connection.execute("SELECT * FROM topic").fetchall() == [("a",)]
        if settings:
            with pytest.raises(stdlib.OperationalError, match="readonly"):
                connection.execute(INSERT, ("b",))
        connection.close()
    assert side_files(tmp_path) == []


def test_all_names_of_a_file_share_its_turn(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.db").symlink_to(path)
    names = [
        ("app.db", {}),
        (os.fsencode(path), {}),
        (Path("link.db"), {}),
        ("file:app.db?mode=rw", {"uri": True}),
        ("file:link.db?cache=private", {"uri": True}),
    ]
    for name, settings in names:
        connection = sqlite3.connect(name, **settings)
        connection.execute(INSERT, ("a",))
        assert turn_is_taken(path), name
        connection.close()
    assert sorted(side_files(tmp_path)) == ["app.db-turn", "app.db-turn-next"]


class PathOfItsOwn:
    """Names a path, and cannot be hashed."""

    __hash__ = None

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return self.path


def test_a_path_need_not_be_hashable(path):
    for name in (str(path), os.fsencode(path)):
        connection = sqlite3.connect(PathOfItsOwn(name))
        connection.execute(INSERT, ("a",))
        assert turn_is_taken(path)
        connection.close()
    for name in (":memory:", b":memory:", ""):
        connection = sqlite3.connect(PathOfItsOwn(name))
        connection.execute("CREATE TABLE topic (title)")
        connection.close()


if sys.version_info >= (3, 11):

    def test_a_blob_of_a_database_without_a_name_is_refused_as_ever(path):
        for module in (stdlib, sqlite3):
            connection = module.connect(path)
            for name in (None, 5, b"main"):
                with pytest.raises(TypeError, match="name"):
                    connection.blobopen("topic", "title", 1, name=name)
            connection.close()
        assert not turn_is_taken(path)


@pytest.mark.parametrize("table", ["temp.topic", "other.topic", "noted"])
def test_a_write_beside_the_file_takes_its_turn_like_any_other(path, tmp_path, table):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TEMP TABLE noted (title)")
    connection.execute("CREATE TEMP TABLE topic (title)")
    connection.execute("ATTACH ? AS other", (str(tmp_path / "other.db"),))
    connection.execute("CREATE TABLE other.topic (title)")
    assert not turn_is_taken(path)
    second = sqlite3.connect(path)
    connection.execute(f"INSERT INTO {table} VALUES ('a')")
    assert turn_is_taken(path)
    with pytest.raises(errors.TurnReenteredError):
        second.execute(INSERT, ("b",))
    connection.commit()
    with second:
        second.execute(INSERT, ("b",))
    second.close()
    connection.close()


def test_executemany_has_the_turn_before_its_first_row_is_made(path):
    connection, second = sqlite3.connect(path), sqlite3.connect(path)

    def rows():
        with pytest.raises(errors.TurnReenteredError), second:
            second.execute(INSERT, ("b",))
        yield ("a",)

    with connection:
        connection.executemany(INSERT, rows())
    assert titles(path) == {"a"}
    second.close()
    connection.close()


def test_a_database_that_becomes_one_in_memory_waits_for_nobody(tmp_path):
    path = make(tmp_path / "app.db", mode="delete")
    connection = sqlite3.connect(path, timeout=0)
    if hasattr(connection, "deserialize"):
        connection.deserialize(connection.serialize())
        with turn_held(path), connection:
            connection.execute(INSERT, ("a",))
        assert titles(path) == set()
    connection.close()


def test_the_application_may_put_it_in_the_place_of_the_standard_library(path):
    script = """
import sqlite3, sys
from turnwise import sqlite3 as ours
sqlite3.connect, sqlite3.Connection, sqlite3.Cursor = ours.connect, ours.Connection, ours.Cursor
connection = sqlite3.connect(sys.argv[1], factory=sqlite3.Connection)
with connection:
    connection.execute("INSERT INTO topic VALUES ('a') RETURNING title").fetchall()
connection.close()
"""
    child(script, path)
    assert select(path, "SELECT title FROM topic") == [("a",)]


# Root is held by no permission, so a child gives it up. Whatever it needs is imported before.
UNPRIVILEGED = """
import os, sys
from turnwise import sqlite3, errors
import turnwise._native, turnwise.events, logging
sqlite3.connect(":memory:").execute("SELECT 1")
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
connection = sqlite3.connect(sys.argv[1])
print(connection.execute("SELECT count(*) FROM topic").fetchall())
try:
    with connection:
        connection.execute("INSERT INTO topic VALUES ('a')")
    print("written")
except sqlite3.OperationalError as error:
    print(error)
"""


@pytest.mark.parametrize(("mode", "told"), [(0o444, "readonly database"), (0o666, "written")])
def test_where_no_side_file_can_be_made_sqlite_alone_decides(mode, told):
    with tempfile.TemporaryDirectory(prefix="turnwise-") as name:
        folder = Path(name)
        path = make(folder / "app.db")
        for file in side_files(folder):
            os.unlink(folder / file)
        # While somebody has it open, the files of the log are there, and no new ones are needed.
        opener = stdlib.connect(path)
        assert opener.execute("SELECT * FROM topic").fetchall() == []
        for file in folder.iterdir():
            file.chmod(mode)
        folder.chmod(0o555)
        done = child(UNPRIVILEGED, path)
        folder.chmod(0o755)
        opener.close()
        assert side_files(folder) == []
    assert "[(0,)]" in done.stdout
    assert told in done.stdout


def told_by_sqlite(path):
    """Errors of the standard library, and of turnwise in its place."""
    with sqlite3.connect(path) as holder:
        holder.execute("CREATE TABLE strict (x PRIMARY KEY NOT NULL CHECK (x > 0))")
        holder.execute("INSERT INTO strict VALUES (1)")
    refused = [
        "INSERT INTO strict VALUES (1)",
        "INSERT INTO strict VALUES (NULL)",
        "INSERT INTO strict VALUES (0)",
        "INSERT INTO nothing VALUES (1)",
    ]
    for sql in refused:
        with pytest.raises(stdlib.Error) as caught:
            holder.execute(sql)
        holder.rollback()
        yield caught.value
    holder.execute(INSERT, ("a",))

    def write(module):
        other = module.connect(path, timeout=0)
        with pytest.raises(stdlib.OperationalError, match="locked") as caught:
            other.execute(INSERT, ("b",))
        other.close()
        return caught.value

    yield in_thread(lambda: write(stdlib))()
    ours = in_thread(lambda: write(sqlite3))()
    assert isinstance(ours, errors.LockTimeoutError)
    yield ours
    holder.rollback()
    holder.close()
    with pytest.raises(stdlib.Error) as caught:
        stdlib.connect(path.parent)
    yield caught.value
    other = stdlib.connect(__file__)
    with pytest.raises(stdlib.Error) as caught:
        other.execute("SELECT * FROM sqlite_schema")
    other.close()
    yield caught.value


def test_an_error_in_the_place_of_one_of_sqlite_has_the_name_of_its_code(path):
    has_names = sys.version_info >= (3, 11)
    names = set()
    for theirs in told_by_sqlite(path):
        code = theirs.sqlite_errorcode if hasattr(theirs, "sqlite_errorcode") else 5
        name = theirs.sqlite_errorname if has_names else None
        names.add(name)
        ours = errors.StatementError("refused", sqlite_errorcode=code)
        for error in (ours, pickle.loads(pickle.dumps(ours))):
            assert (error.sqlite_errorcode, error.sqlite_errorname) == (code, name)
    if has_names:
        assert names == {
            "SQLITE_BUSY",
            "SQLITE_CANTOPEN",
            "SQLITE_CONSTRAINT_CHECK",
            "SQLITE_CONSTRAINT_NOTNULL",
            "SQLITE_CONSTRAINT_PRIMARYKEY",
            "SQLITE_ERROR",
            "SQLITE_NOTADB",
        }
    assert errors.TurnwiseError("no code").sqlite_errorname is None
    # Has no name, but the number of other constants of the module.
    for code in (sqlite3.SQLITE_SELECT + 1000, 0xFF00 | 0xFE):
        told = errors.TurnwiseError(sqlite_errorcode=code).sqlite_errorname
        assert told == ("unknown" if has_names else None)
