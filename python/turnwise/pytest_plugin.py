"""Fixtures for pytest: ``pytest_plugins = ["turnwise.pytest_plugin"]``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from turnwise.testing import rehearsal

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def turnwise_rehearsal() -> Iterator[None]:
    """Writers never sleep in this test; a lock is asked for three times."""
    with rehearsal():
        yield
