"""What routes have blocked their event loop for: totals that stay small, and few lines."""

from __future__ import annotations

import logging
import os
import signal
import threading
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from turnwise.tracking import blocking
from turnwise.tracking.blocking import BlockedRoutes, BlockedTime, blocked_by_route
from turnwise.tracking.watching import unwatch, watch


def owner(name, blocked, number=""):
    return SimpleNamespace(name=name, blocked=blocked, id=number, age=2.0)


@pytest.fixture
def routes():
    return BlockedRoutes()


def test_totals_by_route_the_worst_first(routes):
    for name, blocked in [("GET /a", 0.25), ("GET /b", 0.5), ("GET /a", 0.5), ("GET /c", 0.0)]:
        routes.add(owner(name, blocked))
    assert list(routes.totals().items()) == [
        ("GET /a", BlockedTime(requests=2, seconds=0.75, longest=0.5)),
        ("GET /b", BlockedTime(requests=1, seconds=0.5, longest=0.5)),
    ]


def test_the_number_of_routes_is_bounded(routes):
    for i in range(blocking._MOST_ROUTES + 10):
        routes.add(owner(f"GET /{i}", 0.01))
    routes.add(owner("GET /0", 0.01))
    totals = routes.totals()
    assert len(totals) == blocking._MOST_ROUTES + 1
    assert totals["(other routes)"].requests == 10
    assert totals["GET /0"].requests == 2


def test_a_line_for_more_than_100_ms_and_at_most_one_a_minute_and_route(
    routes, caplog, monkeypatch
):
    now = 1000.0
    monkeypatch.setattr(blocking.time, "monotonic", lambda: now)
    with caplog.at_level(logging.WARNING, "turnwise.findings"):
        routes.add(owner("GET /a", 0.1))
        assert caplog.messages == []
        routes.add(owner("GET /a", 0.3, "9f2c"))
        routes.add(owner("GET /a", 0.2))
        routes.add(owner("GET /b", 0.2))
        now += 59
        routes.add(owner("GET /a", 0.2))
        assert [line.split(" ->")[0] for line in caplog.messages] == [
            "loop-blocked 300ms GET /a req=9f2c (of 2000ms; its requests so far: 2, 0.400s in all)",
            "loop-blocked 200ms GET /b (of 2000ms; its requests so far: 1, 0.200s in all)",
        ]
        now += 1
        routes.add(owner("GET /a", 0.2))
        assert len(caplog.messages) == 3


@pytest.mark.parametrize("settings", [{"log": False}, {"ignore": ["sync-on-loop"]}])
def test_lines_that_are_not_wanted(routes, caplog, settings):
    engine = sa.create_engine("sqlite://")
    watch(engine, **settings)
    try:
        routes.add(owner("GET /a", 0.3))
    finally:
        unwatch()
    assert caplog.messages == []
    assert routes.totals()["GET /a"].requests == 1


def test_threads_lose_no_count(routes):
    def add():
        for _ in range(500):
            routes.add(owner("GET /a", 0.001))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert routes.totals()["GET /a"].requests == 2000


def test_a_child_begins_anew_even_if_a_thread_was_counting():
    blocking.BLOCKED.add(owner("GET /before-the-fork", 0.01))
    assert "GET /before-the-fork" in blocked_by_route()
    with blocking.BLOCKED._lock:
        pid = os.fork()
        if pid == 0:
            signal.alarm(10)
            os._exit(len(blocked_by_route()))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert "GET /before-the-fork" in blocked_by_route()
