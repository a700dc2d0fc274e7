"""Which lines of code a report names: those of the application."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from turnwise._process import waiting_frames

if TYPE_CHECKING:
    from types import CodeType, FrameType

# Packages between an application's line and ours, and modules.
_LIBRARIES = (
    "sqlalchemy",
    "flask_sqlalchemy",
    "sqlmodel",
    "greenlet",
    "turnwise",
    "asyncio",
    "concurrent",
    "anyio",
    "starlette",
    "fastapi",
    "celery",
    "contextlib",
    "threading",
    "weakref",
)


def is_own(code: CodeType) -> bool:
    """Whether a piece of code is the application's, and not a library's around sessions."""
    name = code.co_filename
    # What SQLAlchemy and dataclasses generate has no file.
    return not name.startswith("<") and not name.startswith(_folders())


def _folders() -> tuple[str, ...]:
    """Where the libraries lie that are loaded."""
    found = []
    for library in _LIBRARIES:
        file = getattr(sys.modules.get(library), "__file__", None)
        if file is not None:
            is_package = os.path.basename(file).startswith("__init__.")
            found.append(os.path.dirname(file) + os.sep if is_package else file)
    return tuple(found)


def describe(frame: FrameType) -> str:
    """A line of code as reports name it: ``app/items.py:41 in list_items``."""
    code = frame.f_code
    name = code.co_filename
    try:
        relative = os.path.relpath(name)
    except (OSError, ValueError):
        relative = name
    if not relative.startswith(".."):
        name = relative
    return f"{name}:{frame.f_lineno} in {code.co_name}"


def waiting_frame() -> FrameType | None:
    """The frame that waits for this greenlet; ``None`` outside of one."""
    return next(waiting_frames(), None)


def circumstance() -> str:
    """What of SQLAlchemy runs a statement here: ``"commit"``, ``"lazy load"`` or ``""``."""
    frame: FrameType | None = sys._getframe(0)  # noqa: SLF001 - what traceback and logging use
    for _ in range(_DEEPEST):
        if frame is None:
            break
        if frame.f_code.co_name in _CIRCUMSTANCES and "sqlalchemy" in frame.f_code.co_filename:
            return _CIRCUMSTANCES[frame.f_code.co_name]
        frame = frame.f_back
    return ""


# By the function that does it: a session's commit with its flush, an attribute that was not loaded,
# attributes that have expired.
_CIRCUMSTANCES = {
    "_prepare_impl": "commit",
    "_load_for_state": "lazy load",
    "load_scalar_attributes": "lazy load",
}
_DEEPEST = 60
