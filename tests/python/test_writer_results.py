"""What a write gives back: rowcount, lastrowid and rows, in each way of writing."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from turnwise import BatchWriter, WriteResult, errors
from writer_support import select, together


def by_execute(writer, sql, params):
    return writer.execute(sql, params)


def by_submit(writer, sql, params):
    return writer.submit(sql, params).result(10)


def by_aexecute(writer, sql, params):
    return asyncio.run(writer.aexecute(sql, params))


def by_transaction(writer, sql, params):
    with writer.transaction() as tx:
        return tx.execute(sql, params)


def by_executemany(writer, sql, params):
    return writer.executemany(sql, [params])


WAYS = [by_execute, by_submit, by_aexecute, by_transaction, by_executemany]

# SQL, parameters, rowcount, lastrowid, rows. The table holds (1, 'one') and (2, 'two').
RESULTS = [
    ("INSERT INTO kept (word) VALUES (?)", ("x",), 1, 3, []),
    ("INSERT INTO kept (id, word) VALUES (:id, :word)", {"word": "x", "id": 70}, 1, 70, []),
    ("INSERT INTO kept (word) VALUES ('x'), ('y')", (), 2, 4, []),
    (
        "INSERT INTO kept (word) VALUES ('x'), ('y') RETURNING id, word",
        (),
        2,
        4,
        [(3, "x"), (4, "y")],
    ),
    ("INSERT OR IGNORE INTO kept VALUES (1, 'again')", (), 0, None, []),
    ("INSERT INTO kept VALUES (1, 'z') ON CONFLICT (id) DO NOTHING", (), 0, None, []),
    ("REPLACE INTO kept VALUES (2, 'z') RETURNING word", (), 1, 2, [("z",)]),
    ("UPDATE kept SET word = word || ?", ("!",), 2, None, []),
    ("UPDATE kept SET word = 'z' WHERE id > 1 RETURNING id, word", (), 1, None, [(2, "z")]),
    ("UPDATE kept SET word = 'z' WHERE id > 9", (), 0, None, []),
    ("DELETE FROM kept", (), 2, None, []),
    ("DELETE FROM kept WHERE id = ?1 RETURNING *", (1,), 1, None, [(1, "one")]),
    ("WITH x(v) AS (VALUES (5), (6)) INSERT INTO kept SELECT v, 'w' FROM x", (), 2, None, []),
    ("WITH x(v) AS (VALUES (1)) SELECT v FROM x", (), -1, None, [(1,)]),
    ("/* why */ -- and how\n ; delete from kept where id = 1", (), 1, None, []),
    ("SELECT id, word FROM kept ORDER BY id DESC", (), -1, None, [(2, "two"), (1, "one")]),
    ("SELECT * FROM kept WHERE id = 9", (), -1, None, []),
    ("VALUES (1, 'a'), (2, NULL)", (), -1, None, [(1, "a"), (2, None)]),
    ("CREATE TABLE other (x)", (), -1, None, []),
    ("PRAGMA user_version = 5", (), -1, None, []),
    (
        "PRAGMA table_info(kept)",
        (),
        -1,
        None,
        [(0, "id", "INTEGER", 0, None, 1), (1, "word", "", 0, None, 0)],
    ),
]


@pytest.fixture
def writer(tmp_path):
    with BatchWriter(tmp_path / "results.db") as writer:
        writer.execute("CREATE TABLE kept (id INTEGER PRIMARY KEY, word)")
        writer.executemany("INSERT INTO kept (word) VALUES (?)", [("one",), ("two",)])
        yield writer


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize(
    ("sql", "params", "rowcount", "lastrowid", "rows"), RESULTS, ids=range(len(RESULTS))
)
def test_each_way_of_writing_gives_the_same_result(
    writer, way, sql, params, rowcount, lastrowid, rows
):
    result = way(writer, sql, params)
    assert type(result) is WriteResult
    assert (result.rowcount, result.lastrowid, result.rows) == (rowcount, lastrowid, rows)


def test_executemany_adds_up(writer):
    rows = [(n, f"w{n}") for n in range(10, 14)]
    result = writer.executemany("INSERT INTO kept VALUES (?, ?) RETURNING id", rows)
    assert (result.rowcount, result.lastrowid, result.rows) == (
        4,
        13,
        [(n,) for n in range(10, 14)],
    )
    named = [{"id": n, "word": "x"} for n in (1, 2, 99)]
    result = writer.executemany("UPDATE kept SET word = :word WHERE id = :id", named)
    assert (result.rowcount, result.lastrowid) == (2, None)
    result = writer.executemany("DELETE FROM kept WHERE id = ?", iter([(1,), (2,)]))
    assert result.rowcount == 2


def test_executemany_of_nothing_changes_nothing(writer):
    before = select(writer.path, "SELECT * FROM kept")
    result = writer.executemany("DELETE FROM kept", [])
    assert (result.rowcount, result.lastrowid, result.rows) == (0, None, [])
    assert select(writer.path, "SELECT * FROM kept") == before
    with pytest.raises(errors.StatementError):
        writer.executemany("DELETE FRM kept", [])


def test_executemany_writes_all_rows_or_none_and_names_the_row(writer):
    with pytest.raises(sqlite3.IntegrityError, match="^row 2: UNIQUE constraint failed: kept.id"):
        writer.executemany("INSERT INTO kept VALUES (?, 'x')", [(7,), (8,), (1,), (9,)])
    with pytest.raises(errors.ParameterMismatchError, match="^row 1: "):
        writer.executemany("INSERT INTO kept VALUES (?, 'x')", [(7,), (8, 8)])
    assert select(writer.path, "SELECT id FROM kept") == [(1,), (2,)]


def test_a_unit_larger_than_a_batch_is_still_one_transaction(tmp_path):
    with BatchWriter(tmp_path / "large.db", max_batch=10) as writer:
        writer.execute("CREATE TABLE kept (id INTEGER PRIMARY KEY)")
        before = writer.stats().transactions
        assert (
            writer.executemany("INSERT INTO kept VALUES (?)", [(n,) for n in range(1000)]).rowcount
            == 1000
        )
        assert writer.stats().transactions == before + 1


def test_the_result_of_each_thread_is_its_own(writer):
    def work(number):
        mine = []
        for count in range(20):
            word = f"{number}.{count}"
            result = writer.execute(
                "INSERT INTO kept (word) VALUES (?) RETURNING id, word", (word,)
            )
            assert result.rows == [(result.lastrowid, word)]
            mine.append((result.lastrowid, word))
        return mine

    outcomes = together(24, work)
    assert sorted(row for mine in outcomes for row in mine) == select(
        writer.path, "SELECT id, word FROM kept WHERE id > 2 ORDER BY id"
    )


def test_a_write_is_on_file_when_it_returns(writer):
    """Acknowledged means committed: another connection sees it at once."""
    connection = sqlite3.connect(writer.path)
    for number in range(50):
        way = WAYS[number % 3]
        row_id = way(writer, "INSERT INTO kept (word) VALUES (?)", ("w",)).lastrowid
        assert connection.execute("SELECT word FROM kept WHERE id = ?", (row_id,)).fetchall() == [
            ("w",)
        ]
    connection.close()


def test_the_result_describes_itself(writer):
    result = writer.execute("SELECT 1 UNION SELECT 2")
    assert repr(result) == "WriteResult(rowcount=-1, lastrowid=None, rows=<2>)"
    with pytest.raises(AttributeError):
        result.rowcount = 3


def test_the_order_of_one_threads_writes_is_kept(writer):
    futures = [writer.submit("INSERT INTO kept (word) VALUES (?)", (n,)) for n in range(500)]
    ids = [future.result(10).lastrowid for future in futures]
    assert ids == sorted(ids)
    assert [word for (word,) in select(writer.path, "SELECT word FROM kept WHERE id > 2")] == list(
        range(500)
    )
