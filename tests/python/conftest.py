"""What all tests of the Python package share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import preloading

ROOT = Path(__file__).resolve().parents[2]


def pytest_configure() -> None:
    # A shell starts what runs in its background deaf to Ctrl-C, and so would be the children here.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source tree."""
    return ROOT


@pytest.fixture(scope="session")
def soak() -> bool:
    """Whether the long counts are wanted (`make soak`)."""
    return os.environ.get("TURNWISE_SOAK", "") not in {"", "0"}


def preloadable(name: str, folder: Path) -> Path:
    """The C file of this name as a library that can be preloaded into a process."""
    return preloading.preloadable(Path(__file__).with_name(f"{name}.c"), folder)


@pytest.fixture(scope="session")
def failing_io(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes a process's system calls on files fail on purpose."""
    return preloadable("failing_io", tmp_path_factory.mktemp("failing_io"))


@pytest.fixture(scope="session")
def counted_sync(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Counts a process's syncs, and slows them."""
    return preloadable("counted_sync", tmp_path_factory.mktemp("counted_sync"))


@pytest.fixture(scope="session")
def counting_calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Counts a process's system calls."""
    return preloadable("counting_calls", tmp_path_factory.mktemp("counting_calls"))


@pytest.fixture(scope="session")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes a folder look like a small disk to a process."""
    return preloadable("small_disk", tmp_path_factory.mktemp("small_disk"))


@pytest.fixture(scope="session")
def recorded_io(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records what processes do to the databases of a folder."""
    return preloadable("recorded_io", tmp_path_factory.mktemp("recorded_io"))
