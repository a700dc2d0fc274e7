"""`turnwise.flask.Turnwise`: the functions without a session, on a real Flask-SQLAlchemy."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys

import flask
import pytest
import sqlalchemy as sa
from flask_sqlalchemy import SQLAlchemy

import turnwise
from turnwise.errors import InvalidSettingError
from turnwise.flask import Turnwise
from turnwise.tracking.watching import unwatch


class Site:
    def __init__(self, path):
        self.path = path
        self.app = flask.Flask("site")
        self.app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{path}"
        self.db = db = SQLAlchemy()

        class User(db.Model):
            id = db.Column(db.Integer, primary_key=True)
            name = db.Column(db.String, nullable=False)
            done = db.Column(db.Boolean, default=False, nullable=False)

        self.User = User
        db.init_app(self.app)

    def names(self):
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            return [name for (name,) in connection.execute("SELECT name FROM user ORDER BY id")]


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path / "site.db")
    site.tw = Turnwise(site.app, site.db)
    with site.app.app_context():
        site.db.create_all()
        yield site
        site.db.session.remove()
        turnwise.uninstall(site.db)
        unwatch()
        for engine in site.db.engines.values():
            engine.dispose()


def test_it_installs_the_engines_and_is_found_by_the_application(site):
    assert turnwise.is_installed(site.db)
    assert site.app.extensions["turnwise"] is site.tw


def test_it_asks_for_what_it_needs(tmp_path):
    site = Site(tmp_path / "site.db")
    with pytest.raises(InvalidSettingError, match=r"db.init_app\(app\) before"):
        Turnwise(flask.Flask("other"), site.db)
    with pytest.raises(InvalidSettingError, match=r"Turnwise\(app, db\)"):
        Turnwise().commit_with_retry()
    with pytest.raises(TypeError, match="durability"):
        Turnwise(site.app, site.db, durability="full")


def test_init_app_finds_the_applications_own_database(tmp_path):
    site = Site(tmp_path / "site.db")
    tw = Turnwise()
    tw.init_app(site.app)
    with site.app.app_context():
        assert tw.db is site.db
        assert turnwise.is_installed(site.db)


def test_commit_with_retry_outlasts_a_writer_that_knows_nothing_of_turns(site):
    with locked_for(site.path, seconds=0.6):
        site.db.session.add(site.User(name="patient"))
        assert site.tw.commit_with_retry(max_attempts=3, initial_delay=0.1, deadline=20) is True
    assert site.names() == ["patient"]


def test_a_decorated_view_is_run_again_as_a_whole(site):
    read = []

    @site.app.post("/<name>")
    @site.tw.retry_on_deadlock(initial_delay=0.01)
    def add(name):
        users = site.db.session.query(site.User).count()
        if not read:
            write_beside(site.path)
        read.append(users)
        site.db.session.add(site.User(name=f"{name}{users}"))
        site.db.session.commit()
        return "", 201

    assert site.app.test_client().post("/ada").status_code == 201
    assert read == [0, 1]
    assert site.names() == ["beside", "ada1"]


def test_run_and_batches_use_sessions_of_their_own(site):
    pending = site.User(name="pending")
    site.db.session.add(pending)
    assert site.tw.run(lambda session: session.add(site.User(name="own"))) is None
    processed, failed = site.tw.batch_commit_with_retry(
        ["b", None, "a"], lambda session, name: session.add(site.User(name=name)), key=None
    )
    assert (processed, failed) == (2, 1)
    assert pending in site.db.session.new
    assert site.names() == ["own", "b", "a"]


def test_rows_are_locked_in_the_request_and_claimed_beside_it(site):
    site.db.session.add_all(site.User(name=name) for name in "abc")
    site.tw.commit_with_retry()
    rows = site.tw.get_for_update_skip_locked(site.User, site.User.name > "a", limit=1)
    assert [row.name for row in rows] == ["b"]
    rows[0].done = True
    site.tw.commit_with_retry()
    claimed = []
    for row in site.tw.claim(site.User, sa.not_(site.User.done)):
        claimed.append(row.name)
        row.done = True
    assert claimed == ["a", "c"]


def test_an_advisory_lock_is_had_by_one(site):
    with site.tw.advisory_lock("report", timeout=0):
        code = f"""
import sqlalchemy, turnwise
with turnwise.advisory_lock(sqlalchemy.create_engine("sqlite:///{site.path}"), "report", timeout=0.1):
    print("had")
"""
        other = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        assert "LockTimeoutError" in other.stderr
        assert other.stdout == ""


@contextlib.contextmanager
def locked_for(path, *, seconds):
    """Another process that holds SQLite's lock, and no turn."""
    code = f"""
import sqlite3, time
connection = sqlite3.connect({str(path)!r}, isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print(flush=True)
time.sleep({seconds})
connection.execute("COMMIT")
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        yield


def write_beside(path):
    """Another connection commits, after which the snapshot of a reader can never write."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO user (name, done) VALUES ('beside', 0)")
