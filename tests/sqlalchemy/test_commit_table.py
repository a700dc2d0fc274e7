"""Kinds of work × ways to fail × databases: never a loss in silence, never a double write."""

from __future__ import annotations

import contextlib

import pytest
from sqlalchemy.exc import DBAPIError

from commit_scenes import (
    AT_FIRST,
    CUTS,
    WORKS,
    Far,
    File,
    MariaDBPlace,
    PostgreSQLPlace,
    cut,
    session_for,
)
from servers import Database
from turnwise.errors import CommitNotReplayableError, CommitOutcomeUnknownError
from turnwise.sqlalchemy.commit import commit_with_retry

PLACES = {"postgresql": PostgreSQLPlace, "mariadb": MariaDBPlace}
FAST = {"initial_delay": 0.001, "max_delay": 0.01, "max_attempts": 5}
NOT_POSSIBLE = {
    **{
        ("sqlite", "fails at flush", kind): "SQLite's lock is had since the first write"
        for kind in ("bulk DML", "raw SQL", "earlier flush")
    },
    **{("sqlite", failure, kind): "SQLite has no connection to lose" for kind in WORKS for failure in CUTS},
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


@pytest.fixture(scope="module")
def filled(request):
    """Each place by dialect and whether it is the second one; made at first use."""
    places = {}
    with contextlib.ExitStack() as stack:

        def get(dialect, is_far):
            if (dialect, is_far) not in places:
                given = stack.enter_context(database(request, dialect))
                place = PLACES[dialect](given, is_far=is_far)
                stack.callback(place.close)
                place.fill()
                places[dialect, is_far] = place
            return places[dialect, is_far]

        yield get


@pytest.fixture
def places(request, tmp_path, filled):
    """The database of a cell, and the second one of "two binds"."""
    dialect, failure, kind = request.param
    journal = "delete" if failure == "fails at COMMIT" else "wal"
    made = []
    for is_far in (False, True) if kind == "two binds" else (False,):
        if dialect == "sqlite":
            made.append(File(tmp_path / f"{is_far}.db", journal, is_far=is_far))
            made[-1].fill()
        else:
            made.append(filled(dialect, is_far))
        made[-1].reset()
    assert state(made) == expected(kind, {})
    return made if len(made) == 2 else [*made, None]


def state(places) -> dict:
    return {key: value for place in places if place for key, value in place.state().items()}


def expected(kind, after) -> dict:
    return {**AT_FIRST, **({"far": []} if kind == "two binds" else {}), **after}


def outcome(session, kind, **settings):
    """What came of it: an error leaves a session that has nothing to commit."""
    try:
        assert commit_with_retry(session, **FAST, **settings) is True
    except (CommitNotReplayableError, CommitOutcomeUnknownError) as error:
        assert isinstance(error.__cause__, DBAPIError), "the driver's error is within reach"
        session.rollback()
        session.commit()
        return error
    finally:
        session.close()
    return None


def require_truth(places, kind, error, *, done) -> None:
    """Done once, or not at all, as was said; a second look through another connection."""
    work = WORKS[kind]
    assert state(places) == expected(kind, work.after if done else {})
    if isinstance(error, CommitNotReplayableError):
        assert error.reason
        assert error.lost


@pytest.mark.parametrize(
    ("places", "kind"),
    [(cell, cell[2]) for cell in CELLS if cell[1] == "fails at flush"],
    indirect=["places"],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_fails_at_flush(places, kind) -> None:
    place, far = places
    work, engine = WORKS[kind], place.engine()
    session, items = session_for(engine, far)
    work.do(session, items)
    with place.fails_at_flush(engine, work.table):
        error = outcome(session, kind)
    require_truth(places, kind, error, done=work.alone)
    assert isinstance(error, CommitNotReplayableError) is not work.alone


@pytest.mark.parametrize(
    ("places", "kind"),
    [(cell, cell[2]) for cell in CELLS if cell[1] == "fails at COMMIT"],
    indirect=["places"],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_fails_at_commit(places, kind) -> None:
    place, far = places
    work, engine = WORKS[kind], place.engine()
    session, items = session_for(engine, far)
    work.do(session, items)
    with place.fails_at_commit(engine):
        error = outcome(session, kind)
    # SQLite's transaction is still open, whatever is in it.
    is_done = work.alone or place.dialect == "sqlite"
    if kind == "two binds" and isinstance(error, CommitOutcomeUnknownError):
        # The other database was committed first, which nobody can undo.
        assert state(places) == expected(kind, {"far": ["far"]})
        return
    require_truth(places, kind, error, done=is_done)
    assert isinstance(error, CommitNotReplayableError) is not is_done


@pytest.mark.parametrize("answers", [False, True], ids=["unasked", "verified"])
@pytest.mark.parametrize(
    ("places", "kind", "failure"),
    [(cell, cell[2], cell[1]) for cell in LOST],
    indirect=["places"],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_connection_is_lost(places, kind, failure, answers) -> None:
    place, far = places
    work, asked = WORKS[kind], []
    is_in = failure == "cut after COMMIT"

    def verify() -> bool:
        place.settle()
        asked.append(place.state())
        return asked[-1] != AT_FIRST

    with cut(place, CUTS[failure]) as (engine, arm):
        session, items = session_for(engine, far)
        work.do(session, items)
        arm()
        error = outcome(session, kind, **({"verify": verify} if answers else {}))
        engine.dispose()
    place.settle()
    if kind == "two binds":
        assert (place.state() != AT_FIRST) is is_in
        return
    if not answers:
        assert isinstance(error, CommitOutcomeUnknownError)
        require_truth(places, kind, error, done=is_in)
        return
    assert len(asked) == 1
    is_done = is_in or work.alone
    require_truth(places, kind, error, done=is_done)
    assert isinstance(error, CommitNotReplayableError) is not is_done
