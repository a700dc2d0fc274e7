"""What all tests of the Python package share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source tree."""
    return ROOT


@pytest.fixture(scope="session")
def soak() -> bool:
    """Whether the long counts are wanted (`make soak`)."""
    return os.environ.get("TURNWISE_SOAK", "") not in {"", "0"}
