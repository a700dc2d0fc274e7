"""For pytest: ``--turnwise=strict``, a marker and fixtures. Loaded wherever turnwise is installed.

Without ``--turnwise`` (or the setting ``turnwise``) it does nothing, and imports nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from turnwise._findings_in_tests import FindingsOfTest

_MODES = ("off", "report", "strict")
_RECORDER = "turnwise-findings"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--turnwise`` and the setting ``turnwise``."""
    parser.getgroup("turnwise").addoption(
        "--turnwise",
        choices=_MODES,
        help="watch SQLAlchemy sessions: 'strict' fails the test that causes an exact finding, "
        "'report' lists all findings at the end",
    )
    parser.addini("turnwise", "default of --turnwise: off, report or strict", default="off")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and begin to watch if that is wanted."""
    config.addinivalue_line(
        "markers",
        "turnwise_allow(*codes): findings of these codes do not fail the test (--turnwise=strict)",
    )
    mode = config.getoption("turnwise") or config.getini("turnwise")
    if mode not in _MODES:
        raise pytest.UsageError(f"turnwise = {mode!r}: must be one of {', '.join(_MODES)}")
    if mode != "off":
        from turnwise._findings_in_tests import register

        register(config, _RECORDER, strict=mode == "strict")


@pytest.fixture
def turnwise_rehearsal() -> Iterator[None]:
    """Writers never sleep in this test; a lock is asked for three times."""
    from turnwise.testing import rehearsal

    with rehearsal():
        yield


@pytest.fixture
def turnwise_findings(request: pytest.FixtureRequest) -> FindingsOfTest:
    """The findings of this test so far; ``take(code)`` removes those that it expects.

    Skips the test without ``--turnwise``.
    """
    recorder = request.config.pluginmanager.get_plugin(_RECORDER)
    if recorder is None:
        pytest.skip("needs --turnwise=strict or --turnwise=report")
    findings: FindingsOfTest = recorder.of_test
    return findings


@pytest.fixture
def no_open_sessions() -> None:
    """Fails the test if a connection that it took is not back once its fixtures are torn down.

    What fixtures of a wider scope took may stay. Without ``--turnwise`` it asserts nothing.
    """
