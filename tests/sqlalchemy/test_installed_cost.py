"""Counts that guard the cost of an installed engine: no clock, so that they hold on any machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, insert, select
from sqlalchemy.orm import Session

from turnwise.sqlalchemy.installing import install, uninstall

sys.path.append(str(Path(__file__).resolve().parents[2] / "benches" / "python"))

from null_driver import null_engine

ITEM = Table("item", MetaData(), Column("id", Integer, primary_key=True, autoincrement=False))
QUERY = select(ITEM.c.id).where(ITEM.c.id == 0)


def calls(run):
    """The Python functions and built-in ones that a call takes, once everything is warm.

    The least of several: callbacks of what is collected meanwhile count as well.
    """
    for _ in range(3):
        run()
    return min(counted(run) for _ in range(5))


def counted(run):
    count = 0

    def profile(frame, event, argument):
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(None)
    return count


def added(dialect, work):
    bare, installed = null_engine(dialect), install(null_engine(dialect))
    try:
        return calls(lambda: work(installed)) - calls(lambda: work(bare))
    finally:
        uninstall(installed)
        bare.dispose()
        installed.dispose()


def one_statement(engine):
    with engine.connect() as connection:
        connection.execute(QUERY).close()


def two_statements(engine):
    with engine.connect() as connection:
        connection.execute(QUERY).close()
        connection.execute(QUERY).close()


def transaction(engine):
    with Session(engine) as session:
        session.execute(insert(ITEM), {"id": 1})
        session.commit()


@pytest.mark.parametrize(("dialect", "most"), [("postgresql", 2), ("sqlite", 13)])
def test_a_statement(dialect, most):
    """The entry and the guard; on SQLite the autocommit flag, and the layer that takes turns."""
    assert 2 <= added(dialect, two_statements) - added(dialect, one_statement) <= most


@pytest.mark.parametrize(("dialect", "most"), [("postgresql", 40), ("sqlite", 80)])
def test_a_transaction(dialect, most):
    assert added(dialect, transaction) <= most
