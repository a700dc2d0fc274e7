"""SQLAlchemy engines whose writes take turns, and whose losses are not silent."""

from __future__ import annotations


def require(wanted: str) -> None:
    """Refuse to go on without SQLAlchemy 2, whose events and names differ from those before.

    Raises:
        ModuleNotFoundError: It is not installed.
        ImportError: An older one is.
    """
    needs = f"{wanted} needs SQLAlchemy 2.0 or newer"
    try:
        from sqlalchemy import __version__ as version
    except ModuleNotFoundError as error:
        if error.name != "sqlalchemy":
            raise
        raise ModuleNotFoundError(f"{needs}: pip install sqlalchemy", name="sqlalchemy") from None
    if int(version.partition(".")[0]) < 2:
        raise ImportError(f"{needs}; installed is {version}", name="sqlalchemy")
