"""The picture of `turnwise top`: it fits, shows no values, and nobody steers the terminal."""

from __future__ import annotations

import random
import re

import pytest

from turnwise.cli.top_documents import Finding, Lease, Owner
from turnwise.cli.top_picture import (
    Style,
    columns_of,
    cut_end,
    cut_owner,
    cut_site,
    duration,
    picture,
    wants_colours,
)
from turnwise.cli.top_reports import Ends, Joined, Report, join
from turnwise.cli.top_rows import SORTS, Moment
from turnwise.cli.top_statements import without_values
from turnwise.sqlalchemy.server_sessions import ServerSession, ServerView

PLAIN = Style()
SITES = [
    "",
    "a.py:1 in f",
    "app/api/v2/routes/items.py:1041 in read_items",
    "長い/道/ファイル.py:7 in 関数",
]
NASTY = [
    "GET /items/{id}",
    "x" * 300,
    "\x1b[2J\x9b2J\x07\r\n",
    "日本語の長い名前" * 9,
    "e\u0301" * 50,
    "",
]


def view(sessions, **more):
    own = ServerSession(1, "active", address="10.0.0.9", port=999)
    return ServerView("PostgreSQL", "15.1", 4, 100, own, tuple(sessions), **more)


def lease(pid, **more):
    given = {"number": 1, "pool": "", "state": "idle_in_tx", "age": 1.0, "state_age": 1.0}
    given |= {"owner": None, "opened": "", "last": "", "statement": "", "wrote": False}
    return Lease(**{**given, "backend_pid": pid, "statements": 1, **more})


def lines_of(moment, width=80, **more):
    settings = {"where": "app@db/shop", "sort": "blocked", "everything": True, "height": None}
    return picture(moment, **{**settings, "style": PLAIN, **more}, width=width)


def drawn(draw):
    """A moment of anything."""
    states = ["active", "idle", "idle_in_tx", "waiting", "hidden", "background", "aborted_tx"]
    sessions, joined = [], {}
    report = Report(7, draw.choice(NASTY), findings=(Finding(1.0, draw.choice(NASTY), {}),))
    for pid in range(draw.randrange(30)):
        sessions.append(
            ServerSession(
                pid=pid * 1111 + 1,
                state=draw.choice(states),
                user=draw.choice(NASTY),
                application=draw.choice(NASTY),
                transaction_age=draw.choice([None, 0.0, draw.random() * 10 ** draw.randrange(7)]),
                state_age=draw.random() * 1000,
                wait=draw.choice(NASTY),
                statement=draw.choice(NASTY),
                blocked_by=tuple(
                    draw.randrange(30) * 1111 + 1 for _ in range(draw.choice([0, 0, 1, 2]))
                ),
            )
        )
        if draw.random() < 0.5:
            owner = draw.choice([None, Owner("task", draw.choice(NASTY), "", "responded")])
            said = lease(pid, owner=owner, opened=draw.choice(SITES), last=draw.choice(SITES))
            joined[pid * 1111 + 1] = Joined(report, said, draw.choice(["socket", "number"]))
    return Moment(view(sessions), joined, [report], (draw.choice(NASTY),))


def test_every_line_fits_and_no_session_is_lost():
    draw = random.Random(4)
    for _ in range(60):
        moment, width = drawn(draw), draw.randrange(20, 220)
        for sort in SORTS:
            rows = moment.rows(sort=sort, everything=True)
            assert sorted(row.session.pid for row in rows) == [
                session.pid for session in moment.view.sessions
            ]
            height = draw.choice([None, draw.randrange(4, 60)])
            style = Style(colours=draw.random() < 0.5, unicode=draw.random() < 0.5)
            lines = lines_of(moment, width, sort=sort, height=height, style=style)
            if height is not None:
                assert len(lines) == height
            for line in lines:
                text = re.sub(r"\x1b\[\d+m", "", line) if style.colours else line
                assert columns_of(text) <= width, line
                assert text.isprintable() or not text
                if not style.unicode:
                    assert not set("…├└│") & set(text)


def test_waiters_stand_below_who_blocks_them():
    sessions = [
        ServerSession(10, "waiting", transaction_age=9.0, blocked_by=(30, 20)),
        ServerSession(20, "waiting", transaction_age=8.0, blocked_by=(30,)),
        ServerSession(30, "idle_in_tx", transaction_age=7.0),
        ServerSession(40, "active", transaction_age=99.0),
        ServerSession(50, "waiting", transaction_age=1.0, blocked_by=(60,)),
        ServerSession(60, "waiting", transaction_age=2.0, blocked_by=(50,)),
    ]
    moment = Moment(view(sessions), {}, [])
    rows = moment.rows(sort="blocked")
    assert [(row.session.pid, row.below) for row in rows] == [
        *[(30, None), (10, 30), (20, 30), (40, None)],
        # Who waits for one another has no beginning; the longest comes first.
        *[(60, None), (50, 60)],
    ]
    assert [row.session.pid for row in moment.rows(sort="age")] == [40, 10, 20, 30, 60, 50]
    text = "\n".join(lines_of(moment, 160))
    assert re.search(r"├ 10 .*\n└ 20 ", text)
    assert "ALSO BLOCKED BY" in text


def test_idle_sessions_are_shown_if_somebody_holds_or_waits_for_them():
    sessions = [
        ServerSession(1, "idle"),
        ServerSession(2, "idle"),
        ServerSession(3, "idle"),
        ServerSession(4, "waiting", blocked_by=(3,)),
        ServerSession(5, "background"),
    ]
    report = Report(7, "app")
    moment = Moment(view(sessions), {2: Joined(report, lease(2), "socket")}, [report])
    assert {row.session.pid for row in moment.rows()} == {2, 3, 4}
    assert len(moment.rows(everything=True)) == 5


def server_session(pid, port, **more):
    return ServerSession(pid, "active", user="app", address="10.0.0.1", port=port, **more)


OURS = Ends("10.0.0.1", 5000, "10.0.0.2", 5432)


@pytest.mark.parametrize(
    ("session", "connections", "match"),
    [
        (server_session(7, 5000), (OURS,), "socket"),
        # PgBouncer, another host or an address that is translated on the way: not the same end.
        (server_session(7, 5001), (OURS,), None),
        (server_session(7, 5000), (OURS._replace(address="10.0.0.3"),), None),
        (server_session(7, 5000), (), None),
        (server_session(7, 5000), None, "number"),
        (ServerSession(7, "idle", user="app"), (), "number"),
        (server_session(8, 5000), (OURS,), None),
        (ServerSession(7, "idle", address="db-client", port=5000), (OURS,), "socket"),
        (ServerSession(7, "idle", address="db-client", port=5001), (OURS,), None),
        (ServerSession(7, "idle", address="::ffff:10.0.0.1", port=5000), (OURS,), "socket"),
    ],
)
def test_what_makes_a_lease_a_sessions(session, connections, match):
    report = Report(1, "app", leases=(lease(7),), connections=connections)
    joined = join(view([session]), [report])
    assert (joined[session.pid].match if joined else None) == match
    two = join(view([session]), [report, Report(2, "app", (lease(7),), (), connections)])
    assert ("number" in {each.match for each in two.values()}) is False


def test_colours_are_asked_for():
    assert wants_colours({"TERM": "xterm"})
    assert wants_colours({"NO_COLOR": ""})
    assert not wants_colours({"NO_COLOR": "1"})
    assert not wants_colours({"TERM": "dumb"})


@pytest.mark.parametrize(
    ("site", "width", "shown"),
    [
        ("app/items.py:41 in read", 23, "app/items.py:41 in read"),
        ("app/items.py:41 in read", 22, "app/items.py:41"),
        ("app/api/v2/items.py:41 in read", 21, "app/…/v2/items.py:41"),
        ("app/api/v2/items.py:41 in read", 18, "app/…/items.py:41"),
        ("app/api/v2/items.py:41 in read", 14, "…/items.py:41"),
        ("app/api/v2/items.py:41 in read", 9, "…ms.py:41"),
    ],
)
def test_of_a_site_the_line_stays(site, width, shown):
    assert cut_site(site, width, PLAIN) == shown


def test_what_is_cut_says_so():
    assert cut_end("abcdef", 4, PLAIN) == "abc…"
    assert cut_end("abcdef", 4, Style(unicode=False)) == "abc~"
    assert cut_end("日本語", 4, PLAIN) == "日…"
    assert cut_owner("GET /items/{item_id} (responded)", 24, PLAIN) == "GET /items/… (responded)"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        *[(None, ""), (0.04, "0.0s"), (9.94, "9.9s"), (9.96, "10s"), (99.4, "99s"), (125, "2m05s")],
        *[(599.4, "9m59s"), (600, "10m"), (5999, "1h40"), (86_400, "24h00"), (1e6, "11d13")],
    ],
)
def test_a_duration_takes_five_characters(seconds, shown):
    assert duration(seconds) == shown
    assert len(shown) <= 5


@pytest.mark.parametrize(
    ("product", "statement", "shown"),
    [
        ("PostgreSQL", "SELECT 'it''s', 4.5e-3, t1.c2 FROM t1", "SELECT ?, ..., t1.c2 FROM t1"),
        (
            "PostgreSQL",
            "SELECT * FROM t WHERE i IN (1, 2,3)",
            "SELECT * FROM t WHERE i IN (?, ...)",
        ),
        ("PostgreSQL", "SELECT 'C:\\', 'secret'", "SELECT ?, ..."),
        ("PostgreSQL", "SELECT E'\\' secret', 1", "SELECT ?, ..."),
        ("PostgreSQL", "SELECT $tag$ 'secret' $tag$, $1", "SELECT ?, $1"),
        (
            "PostgreSQL",
            "SELECT \"a'b\" FROM t -- 'secret\n WHERE 1",
            'SELECT "a\'b" FROM t WHERE ?',
        ),
        ("PostgreSQL", "UPDATE t SET a = 'cut in the midd", "UPDATE t SET a = ?"),
        ("PostgreSQL", "/* secret */ SELECT 1", "SELECT ?"),
        ("MariaDB", "SELECT \"it\\\"s\", `c1`, 'a\\' secret' # secret", "SELECT ?, `c1`, ?"),
        ("MariaDB", "SELECT x'4D', 0xFF, -1", "SELECT x?, ..., -?"),
        ("MySQL", "UPDATE t SET a = 'cut \\", "UPDATE t SET a = ?"),
    ],
)
def test_statements_are_shown_without_values(product, statement, shown):
    assert without_values(statement, product) == shown
