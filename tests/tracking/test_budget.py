"""Pools that may open more connections than their server has."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from turnwise.errors import InvalidSettingError, UnsupportedServerError
from turnwise.tracking.budget import check_budget
from turnwise.tracking.watching import clear_findings, findings, unwatch, watch


@pytest.fixture
def engine(postgresql_database):
    engine = create_engine(postgresql_database.url("psycopg2"), pool_size=5, max_overflow=10)
    yield engine
    engine.dispose()


def available(engine) -> int:
    with engine.connect() as connection:
        limits = connection.execute(
            text(
                "SELECT name, setting::int FROM pg_settings WHERE name IN ('max_connections', "
                "'superuser_reserved_connections')"
            )
        )
        limits = dict(limits.all())
    return limits["max_connections"] - limits["superuser_reserved_connections"]


def test_what_fits_is_told_and_no_finding(engine) -> None:
    watch(engine)
    try:
        clear_findings()
        budget = check_budget(engine, workers=2)
        assert (budget.wanted, budget.available) == (30, available(engine))
        assert budget.fits
        assert not findings()
    finally:
        unwatch()


def test_too_many_workers_are_found_with_a_size_that_fits(engine) -> None:
    watch(engine)
    try:
        clear_findings()
        budget = check_budget(engine, engine, workers=10, deploys=2)
        assert budget.wanted == 600
        assert not budget.fits
        assert budget.pool_size * 40 <= budget.available
        (found,) = findings()
        assert found.code == "budget-exceeded"
        assert f"pool_size + max_overflow = {budget.pool_size}" in found.text
    finally:
        unwatch()


def test_a_pool_without_a_limit_never_fits(postgresql_database) -> None:
    engine = create_engine(postgresql_database.url("psycopg2"), poolclass=NullPool)
    assert check_budget(engine, workers=1).wanted == -1
    assert not check_budget(engine, workers=1).fits


def test_what_cannot_be_asked_is_refused(engine) -> None:
    with pytest.raises(InvalidSettingError, match="workers=0"):
        check_budget(engine, workers=0)
    with pytest.raises(UnsupportedServerError, match="sqlite"):
        check_budget(create_engine("sqlite://"), workers=1)
