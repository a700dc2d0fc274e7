"""The contention story: what the application had, and what it has with turnwise."""

from __future__ import annotations

import collections
import json
import os

import pytest
from sqlalchemy import create_engine, func, insert, select

from contention_models import Child, url_of
from story_parties import GROUPS, USERS, AdGroup, Base, User

SOAK = os.environ.get("TURNWISE_SOAK", "") not in {"", "0"}
SECONDS = {"hand": 10 if SOAK else 1.5, "turnwise": 30 if SOAK else 3}


@pytest.fixture
def story(database):
    engine = create_engine(url_of(database))
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(insert(User).values([{"id": n, "points": 0} for n in range(USERS)]))
        connection.execute(insert(AdGroup).values([{"id": n, "spent": 0} for n in range(GROUPS)]))
    yield engine
    engine.dispose()


def told(engine, style, seed=0):
    """What the processes say that they have done, how many errors came up, what is stored."""
    url = engine.url.render_as_string(hide_password=False)
    with Child("story_parties", "main", url, style, SECONDS[style], seed) as child:
        books = collections.Counter(json.loads(child.end(SECONDS[style] + 90)[-1]))
    with engine.connect() as connection:
        users = int(connection.scalar(select(func.sum(User.points))))
        groups = int(connection.scalar(select(func.sum(AdGroup.spent))))
    print(f"{engine.dialect.name}, {style}: {dict(books)}; stored {users} and {groups}")
    surfaced = sum(count for name, count in books.items() if name.startswith("surfaced"))
    return books, surfaced, (users, groups)


def test_by_hand_deadlocks_surface_and_writes_are_lost(story):
    reported, errors, lost = collections.Counter(), 0, 0
    for seed in range(8):
        books, surfaced, (users, _) = told(story, "hand", seed)
        reported += books
        errors += surfaced
        lost = reported["users"] - users  # The commit loop has reported them as done.
        if errors and lost:
            break
    assert errors > 0
    assert lost > 0


def test_with_turnwise_none_surfaces_and_the_sums_are_right(story):
    books, surfaced, stored = told(story, "turnwise")
    assert surfaced == 0
    assert stored == (books["users"], books["groups"])
    assert books["attempts"] > books["done"] > 0  # There were some to heal.
