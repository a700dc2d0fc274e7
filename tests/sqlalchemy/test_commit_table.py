"""Kinds of work by ways to fail, on each database: never a loss in silence, never a double write."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

import pytest
from sqlalchemy.exc import DBAPIError

from commit_scenes import (
    AT_FIRST,
    CUTS,
    WORKS,
    File,
    MariaDBPlace,
    PostgreSQLPlace,
    session_for,
)
from proxy import Proxy
from servers import Database
from turnwise.errors import CommitNotReplayableError, CommitOutcomeUnknownError
from turnwise.sqlalchemy.commit import commit_with_retry

if TYPE_CHECKING:
    from sqlalchemy import Engine

# SQLAlchemy's word for the rollback of a session whose other database has committed.
pytestmark = pytest.mark.filterwarnings("ignore:transaction already deassociated")
PLACES = {"postgresql": PostgreSQLPlace, "mariadb": MariaDBPlace}
FAST = {"initial_delay": 0.001, "max_delay": 0.01, "max_attempts": 5}
NOT_POSSIBLE = {
    **{
        ("sqlite", "fails at flush", kind): "SQLite's lock is had since the first write"
        for kind in ("bulk DML", "raw SQL", "earlier flush")
    },
    **{
        ("sqlite", failure, kind): "SQLite has no connection to lose"
        for kind in WORKS
        for failure in CUTS
    },
}
DIALECTS = ("sqlite", "postgresql", "mariadb")
FAILURES = ("fails at flush", "fails at COMMIT", *CUTS)
CELLS = [
    (dialect, failure, kind)
    for dialect in DIALECTS
    for failure in FAILURES
    for kind in WORKS
    if (dialect, failure, kind) not in NOT_POSSIBLE
]
LOST = [cell for cell in CELLS if cell[1] in CUTS]


def test_every_cell_is_run_or_says_why_not() -> None:
    cells = {(d, f, k) for d in DIALECTS for f in FAILURES for k in WORKS}
    assert cells == set(CELLS) | set(NOT_POSSIBLE)


@contextlib.contextmanager
def database(request, dialect):
    """A database on a server, for all cells."""
    with request.getfixturevalue(dialect).database() as name:
        yield Database(request.getfixturevalue(dialect), name)


class Cell(NamedTuple):
    """Where a cell is played: databases, and the engines of the application."""

    places: list
    engine: Engine
    far: Engine | None
    proxy: Proxy | None

    def state(self) -> dict:
        return {key: value for place in self.places for key, value in place.state().items()}


@pytest.fixture(scope="module")
def served(request):
    """Each place on a server with its engine, and one behind a proxy; made at first use."""
    made = {}
    with contextlib.ExitStack() as stack:

        def get(dialect, is_far):
            if (dialect, is_far) not in made:
                given = stack.enter_context(database(request, dialect))
                place = PLACES[dialect](given, is_far=is_far)
                stack.callback(place.close)
                place.fill()
                proxy = stack.enter_context(Proxy(given.server))
                engine = place.engine(proxy.url(place.plain))
                made[dialect, is_far] = place, place.engine(), engine, proxy
            return made[dialect, is_far]

        yield get


@pytest.fixture
def cell(request, tmp_path, served):
    """What a cell is played on, with nothing but the first rows in it."""
    dialect, failure, kind = request.param
    journal = "delete" if failure == "fails at COMMIT" else "wal"
    places, engines, proxy = [], [], None
    for is_far in (False, True) if kind == "two binds" else (False,):
        if dialect == "sqlite":
            places.append(File(tmp_path / f"{is_far}.db", journal, is_far=is_far))
            places[-1].fill()
            engines.append(places[-1].engine())
        else:
            place, plain, proxied, behind = served(dialect, is_far)
            places.append(place)
            engines.append(proxied if failure in CUTS and not is_far else plain)
            proxy = proxy or behind
        places[-1].reset()
    cell = Cell(places, *[*engines, None][:2], proxy)
    assert cell.state() == expected(kind, {})
    return cell


def expected(kind, after) -> dict:
    return {**AT_FIRST, **({"far": []} if kind == "two binds" else {}), **after}


def outcome(session, kind, **settings):
    """What came of it: an error leaves a session that has nothing to commit."""
    with session:
        try:
            assert commit_with_retry(session, **FAST, **settings) is True
        except (CommitNotReplayableError, CommitOutcomeUnknownError) as error:
            raised = error
        else:
            return None
        session.rollback()
        session.commit()
    assert isinstance(raised.__cause__, DBAPIError), "the driver's error is within reach"
    return raised


def require_truth(cell, kind, error, *, done) -> None:
    """Done once, or not at all, as was said; a second look through another connection."""
    work = WORKS[kind]
    assert cell.state() == expected(kind, work.after if done else {})
    if isinstance(error, CommitNotReplayableError):
        assert error.reason
        assert error.lost


@pytest.mark.parametrize(
    ("cell", "kind"),
    [(cell, cell[2]) for cell in CELLS if cell[1] == "fails at flush"],
    indirect=["cell"],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_fails_at_flush(cell, kind) -> None:
    work = WORKS[kind]
    session, items = session_for(cell.engine, cell.far)
    work.do(session, items)
    with cell.places[0].fails_at_flush(cell.engine, work.table):
        error = outcome(session, kind)
    require_truth(cell, kind, error, done=work.alone)
    assert isinstance(error, CommitNotReplayableError) is not work.alone


@pytest.mark.parametrize(
    ("cell", "kind"),
    [(cell, cell[2]) for cell in CELLS if cell[1] == "fails at COMMIT"],
    indirect=["cell"],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_fails_at_commit(cell, kind) -> None:
    work = WORKS[kind]
    session, items = session_for(cell.engine, cell.far)
    work.do(session, items)
    with cell.places[0].fails_at_commit(cell.engine):
        error = outcome(session, kind)
    # SQLite's transaction is still open, whatever is in it, and its COMMIT is sent again; but with
    # Python's sqlite3 it is the RELEASE of a savepoint that commits.
    is_done = work.alone or (cell.engine.dialect.name == "sqlite" and kind != "savepoint")
    if kind == "two binds" and isinstance(error, CommitOutcomeUnknownError):
        # The other database was committed first, which nobody can undo.
        assert cell.state() == expected(kind, {"far": ["far"]})
        return
    require_truth(cell, kind, error, done=is_done)
    assert isinstance(error, CommitNotReplayableError) is not is_done


@pytest.mark.parametrize("answers", [False, True], ids=["unasked", "verified"])
@pytest.mark.parametrize(
    ("cell", "kind", "failure"),
    [(cell, cell[2], cell[1]) for cell in LOST],
    indirect=["cell"],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_connection_is_lost(cell, kind, failure, answers) -> None:
    work, place, asked = WORKS[kind], cell.places[0], []
    is_in = failure == "cut after COMMIT"

    def verify() -> bool:
        place.settle()
        asked.append(place.state())
        return asked[-1] != AT_FIRST

    session, items = session_for(cell.engine, cell.far)
    work.do(session, items)
    cell.proxy.cut_next_commit(CUTS[failure])
    error = outcome(session, kind, **({"verify": verify} if answers else {}))
    place.settle()
    if kind == "two binds":
        assert (place.state() != AT_FIRST) is is_in
        return
    if not answers:
        assert isinstance(error, CommitOutcomeUnknownError)
        require_truth(cell, kind, error, done=is_in)
        return
    assert len(asked) == 1
    is_done = is_in or work.alone
    require_truth(cell, kind, error, done=is_done)
    assert isinstance(error, CommitNotReplayableError) is not is_done
