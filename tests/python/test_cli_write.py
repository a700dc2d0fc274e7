"""`turnwise write`: exit status, formats, rejects."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from cli_support import COMMAND, INSERT, make_database, rejects, rows, run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rejects of standard input go to the current folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return make_database(tmp_path)


@pytest.mark.parametrize("workers", [1, 8])
def test_all_rows_land(database: Path, tmp_path: Path, workers: int) -> None:
    source = tmp_path / "items.csv"
    source.write_text("id,name\n" + "".join(f"{n},name {n}\n" for n in range(2000)))
    done = run("write", database, INSERT, source, "--workers", workers, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert rows(database) == [(n, f"name {n}") for n in range(2000)]
    summary = json.loads(done.stdout)
    assert (summary["read"], summary["landed"], summary["rejected"]) == (2000, 2000, 0)
    assert 1 <= summary["transactions"] < 2000
    assert not (tmp_path / "items.csv.rejects.jsonl").exists()


def test_one_worker_keeps_the_order_of_the_input(tmp_path: Path) -> None:
    database = make_database(tmp_path, "id INTEGER, name TEXT")
    lines = "".join(json.dumps({"id": n, "name": "x"}) + "\n" for n in range(3000))
    assert run("write", database, INSERT, "--workers", 1, stdin=lines).returncode == 0
    assert [row[0] for row in rows(database, "SELECT id FROM item ORDER BY rowid")] == list(
        range(3000)
    )


def test_csv_and_json_lines_give_the_same_rows(tmp_path: Path) -> None:
    wanted = [
        (1, 'say "hi", he said'),
        (2, "two\nlines"),
        (3, ""),
        (4, "Grüße 🙂"),
        (5, "a\r\nb"),
        (6, "'; --"),
    ]
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    csv_file, json_file = tmp_path / "in.csv", tmp_path / "in.jsonl"
    quoted = [(n, '"' + text.replace('"', '""') + '"') for n, text in wanted]
    csv_file.write_text(
        "id,name\n" + "".join(f"{n},{text}\n" for n, text in quoted), encoding="utf-8", newline=""
    )
    json_file.write_text("".join(json.dumps({"name": text, "id": n}) + "\n" for n, text in wanted))
    for name, source in (("one", csv_file), ("two", json_file)):
        database = make_database(tmp_path / name)
        assert run("write", database, INSERT, source).returncode == 0
        found.append(rows(database))
    assert found == [wanted, wanted]


def test_format_is_seen_in_a_pipe(tmp_path: Path) -> None:
    database = make_database(tmp_path)
    assert run("write", database, INSERT, stdin='\n {"id": 1, "name": "json"}\n').returncode == 0
    assert run("write", database, INSERT, "-", stdin="id,name\n2,csv\n").returncode == 0
    done = run("write", database, INSERT, stdin='[{"id": 3, "name": "array"}]')
    assert done.returncode == 2
    assert "JSON array" in done.stderr
    assert rows(database) == [(1, "json"), (2, "csv")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_byte_order_marks(database: Path, encoding: str) -> None:
    options = [] if encoding.startswith("utf-8") else ["--encoding", encoding]
    done = run("write", database, INSERT, *options, stdin="id,name\r\n1,é\r\n".encode(encoding))
    assert (done.returncode, rows(database)) == (0, [(1, "é")])


def test_unused_fields_null_and_delimiter(tmp_path: Path) -> None:
    database = make_database(tmp_path, "id INTEGER, name TEXT")
    source = tmp_path / "items.tsv"
    source.write_text("other\tid\tname\nx\t1\tNULL\nx\t2\t\n")
    assert run("write", database, INSERT, source, "--null", "NULL").returncode == 0
    assert (
        run("write", database, INSERT, "--delimiter", ";", stdin="name;id\na,b;3\n").returncode == 0
    )
    assert rows(database) == [(1, None), (2, ""), (3, "a,b")]


def test_each_bad_csv_row_is_rejected_with_its_line(database: Path, tmp_path: Path) -> None:
    source = tmp_path / "items.csv"
    source.write_bytes(
        b"id,name\n"
        b'1,"two\nlines"\n'  # lines 2 and 3
        b"2\n"  # too few
        b"3,c,d\n"  # too many
        b"\n"
        b"1,again\n"  # line 7: the id is taken
        b"4,\xff\n"  # not UTF-8
        b'5,"x"y\n'  # a quote that closes too early
        b"6,fine\n"
        b'7,"never closed\n'  # line 11
    )
    done = run("write", database, INSERT, source, "--workers", 1)
    assert done.returncode == 1
    assert "items.csv.rejects.jsonl" in done.stderr
    assert rows(database) == [(1, "two\nlines"), (6, "fine")]
    found = rejects(tmp_path / "items.csv.rejects.jsonl")
    assert [(entry["line"], entry["kind"]) for entry in found] == [
        (4, "FieldCount"),
        (5, "FieldCount"),
        (7, "Constraint"),
        (8, "InvalidEncoding"),
        (9, "InvalidCsv"),
        (11, "InvalidCsv"),
    ]
    assert found[2]["row"] == {"id": "1", "name": "again"}
    assert found[0]["text"] == "2\n"
    assert found[3]["text"].encode("utf-8", "surrogateescape") == b"4,\xff\n"
    assert all(entry["message"] for entry in found)


def test_each_bad_json_line_is_rejected_with_its_line(database: Path, tmp_path: Path) -> None:
    bad = [
        ("{", "InvalidJson"),
        ("[1, 2]", "NotAnObject"),
        ('{"id": 1}', "MissingKey"),
        ('{"id": 1, "id": 2, "name": "x"}', "DuplicateKey"),
        ('{"id": NaN, "name": "x"}', "InvalidJson"),
        ('{"id": 99999999999999999999, "name": "x"}', "ParameterOutOfRange"),
        ('{"id": 1, "name": ["x"]}', "UnsupportedParameter"),
        ('{"id": 1, "name": null}', "Constraint"),
        ("[" * 100_000, "InvalidJson"),
        ("1" * 5000, "InvalidJson"),
    ]
    lines = "".join(
        f'{text}\n{{"id": {100 + n}, "name": "good"}}\n' for n, (text, _) in enumerate(bad)
    )
    done = run(
        "write", database, INSERT, "--format", "jsonl", "--rejects", tmp_path / "bad", stdin=lines
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    found = [(entry["line"], entry["kind"]) for entry in rejects(tmp_path / "bad")]
    accepted_as_int = 0 if hasattr(__import__("sys"), "get_int_max_str_digits") else 1
    assert len(found) == len(bad)
    assert (
        found[: -1 - accepted_as_int]
        == [(2 * n + 1, kind) for n, (_, kind) in enumerate(bad)][: -1 - accepted_as_int]
    )
    assert [row[0] for row in rows(database)] == [100 + n for n in range(len(bad))]


def test_a_value_that_a_function_refuses_is_the_rows_own_fault(
    database: Path, tmp_path: Path
) -> None:
    sql = "INSERT INTO item(id, name) VALUES(:id, json(:name))"
    lines = "id,name\n1,[1]\n2,{broken\n3,[3]\n"
    done = run("write", database, sql, "--rejects", tmp_path / "bad", stdin=lines)
    assert done.returncode == 1
    assert [(entry["line"], entry["kind"]) for entry in rejects(tmp_path / "bad")] == [
        (3, "Statement")
    ]
    assert rows(database) == [(1, "[1]"), (3, "[3]")]


def test_a_statement_that_changes_no_row_is_counted(database: Path) -> None:
    done = run(
        "write",
        database,
        "UPDATE item SET name = :name WHERE id = :id",
        "--json",
        stdin="id,name\n1,x\n",
    )
    assert (done.returncode, json.loads(done.stdout)["unchanged"]) == (0, 1)


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("INSRT INTO item VALUES(:id, :name)", "syntax error"),
        ("INSERT INTO nothing VALUES(:id, :name)", "nothing"),
        ("INSERT INTO item(id, nope) VALUES(:id, :name)", "nope"),
        ("INSERT INTO item VALUES(?, ?)", "? parameters"),
        ("INSERT INTO item VALUES(1, 'a :id')", "no parameters"),
        ("SELECT :id", "writes nothing"),
        ("INSERT INTO item VALUES(:id, :name); DELETE FROM item", ""),
        ("COMMIT /* :id */", "no parameters"),
        ("", "no parameters"),
    ],
)
def test_a_bad_statement_is_refused_before_the_input_is_read(
    database: Path, sql: str, says: str
) -> None:
    # Standard input is a pipe that never ends: a command that read it would not return.
    read_end, write_end = os.pipe()
    try:
        done = subprocess.run(
            [*COMMAND, "write", database, sql],
            stdin=read_end,
            capture_output=True,
            timeout=30,
            text=True,
            check=False,
        )
    finally:
        os.close(read_end)
        os.close(write_end)
    assert done.returncode == 2
    assert done.stdout == ""
    assert says in done.stderr
    assert done.stderr.startswith("turnwise: ")
    assert done.stderr.count("\n") == 1
    assert rows(database) == []


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    text, folder = tmp_path / "notes.txt", tmp_path / "folder"
    text.write_text("these are my notes, all of them\n" * 100)
    folder.mkdir()
    for path in (tmp_path / "missing.db", folder, text, "/dev/null"):
        done = run("write", path, INSERT, stdin="id,name\n1,x\n")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert str(path) in done.stderr
    assert sorted(os.listdir(tmp_path)) == ["folder", "notes.txt"]
    assert text.read_text().startswith("these are my notes")


def test_an_unusable_input_is_refused(database: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.csv"
    plain.write_text("id,name\n1,x\n")
    cases = [
        ([tmp_path / "missing.csv"], "missing.csv"),
        ([tmp_path], "directory"),
        ([database], "the database itself"),
        ([plain, "--rejects", plain], "rejects"),
        ([plain, "--rejects", database], "rejects"),
        ([plain, "--rejects", tmp_path / "none" / "x"], "rejects"),
        ([plain, "--encoding", "latin-11"], "--encoding"),
        ([plain, "--workers", "0"], "--workers"),
        ([plain, "--delimiter", "ab"], "--delimiter"),
        ([plain, "--start-line", "x"], "--start-line"),
        ([plain, "--skip-lines", "9-7"], "--skip-lines"),
        ([plain, "--timeout", "nan"], "--timeout"),
    ]
    for arguments, says in cases:
        done = run("write", database, INSERT, *arguments)
        assert done.returncode == 2, arguments
        assert says in done.stderr
        assert "Traceback" not in done.stderr
    assert rows(database) == []
    assert plain.read_text() == "id,name\n1,x\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "empty"), ("id,nome\n1,x\n", "name"), ("id,name,id\n1,x,2\n", "more than once")],
)
def test_a_csv_header_that_does_not_fit_is_refused(database: Path, text: str, says: str) -> None:
    done = run("write", database, INSERT, "--format", "csv", stdin=text)
    assert (done.returncode, rows(database)) == (2, [])
    assert says in done.stderr


def test_the_database_keeps_its_journal_mode(tmp_path: Path) -> None:
    for mode in ("wal", "delete"):
        (tmp_path / mode).mkdir()
        database = make_database(tmp_path / mode)
        with closing(sqlite3.connect(database)) as connection:
            connection.execute(f"PRAGMA journal_mode = {mode}")
        done = run("write", database, INSERT, "--json", stdin="id,name\n1,x\n")
        assert json.loads(done.stdout)["journal_mode"] == mode
        assert rows(database, "PRAGMA journal_mode") == [(mode,)]


def test_rejects_are_replaced_by_a_fresh_run_and_continued_by_a_resumed_one(
    database: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad"
    lines = "id,name\n1\n2\n3,good\n"
    run("write", database, INSERT, "--rejects", bad, stdin=lines)
    run("write", database, INSERT, "--rejects", bad, stdin=lines)
    assert [(entry["line"], entry["kind"]) for entry in rejects(bad)] == [
        (2, "FieldCount"),
        (3, "FieldCount"),
        (4, "Constraint"),
    ]
    done = run(
        "write",
        database,
        INSERT,
        "--rejects",
        bad,
        "--start-line",
        3,
        "--skip-lines",
        "4",
        stdin=lines,
    )
    assert done.returncode == 1
    assert [entry["line"] for entry in rejects(bad)] == [2, 3, 3, 4]


def test_start_line_passes_over_earlier_records(tmp_path: Path) -> None:
    database = make_database(tmp_path)
    done = run(
        "write", database, INSERT, "--start-line", 4, stdin='id,name\n1,"a\nb"\n2,c\nbad\n3,d\n'
    )
    assert (done.returncode, rows(database)) == (1, [(2, "c"), (3, "d")])


def test_a_reader_that_leaves_is_no_error(database: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(
            [*COMMAND, "write", database, INSERT],
            input=b"id,name\n1,x\n",
            stdout=write_end,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    finally:
        os.close(write_end)
    assert (done.returncode, done.stderr, rows(database)) == (0, b"", [(1, "x")])


def test_quiet_says_nothing(database: Path) -> None:
    done = run("write", database, INSERT, "--quiet", stdin="id,name\n1,x\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_help_and_version() -> None:
    for arguments in (["--help"], ["write", "--help"], ["demo", "--help"]):
        done = run(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert "turnwise" in done.stdout
    assert run("--version").stdout.startswith("turnwise ")
    assert run().returncode == 2
    assert run("fly").returncode == 2
