"""Which SQLAlchemy the tests of this folder really run on."""

from __future__ import annotations

import os
from importlib.metadata import version

import sqlalchemy


def test_the_version_is_the_one_asked_for() -> None:
    wanted = os.environ.get("TURNWISE_SQLALCHEMY", "2.1")
    assert sqlalchemy.__version__.startswith(f"{wanted}.")
    assert version("sqlalchemy") == sqlalchemy.__version__
