"""Sessions that a test shares with the requests that it makes: no fault of the application."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from sqlalchemy.orm import Session

from turnwise.tracking import owners

if TYPE_CHECKING:
    from turnwise._native import Finding


class Sharing:
    """Knows the sessions that were made by tests and fixtures, outside of any request.

    Such as the one that ``app.dependency_overrides`` gives to all requests of a test, or the
    ``db.session`` of a Flask application whose context the test has pushed: they go from one
    request to the next with their transaction open, as no session of the application may.
    """

    def __init__(self) -> None:
        self.running = False
        self._sessions: WeakSet[Session] = WeakSet()
        self._contexts: WeakSet[object] = WeakSet()
        self._listens = False
        self._before = before = Session.__init__
        made = self._made

        def __init__(self: Session, *args: object, **kwargs: object) -> None:  # noqa: N807
            before(self, *args, **kwargs)  # type: ignore[arg-type]
            made(self)

        # There is no event for it.
        Session.__init__ = __init__  # type: ignore[method-assign]

    def stop(self) -> None:
        """Leave nothing behind."""
        Session.__init__ = self._before  # type: ignore[method-assign]

    def explains(self, finding: Finding) -> bool:
        """Whether it is about a session that its test shares."""
        if finding.code == "cross-owner-use":
            session = _session_in_use()
            return session is not None and session in self._sessions
        if finding.code == "held-past-owner":
            return any(session.in_transaction() for session in self._sessions)
        return False

    def _made(self, session: Session) -> None:
        if self.running and (owners.current() is None or _context() in self._contexts):
            self._sessions.add(session)

    def listen(self) -> None:
        """Learn of the contexts that tests push, once Flask is there."""
        if not self._listens and "flask" in sys.modules:
            from flask import appcontext_pushed

            appcontext_pushed.connect(self._pushed)
            self._listens = True

    def _pushed(self, sender: object, **_: object) -> None:
        if owners.current() is None:
            self._contexts.add(_context())


def _context() -> object:
    """Flask's, or something that is in no set."""
    if "flask" not in sys.modules:
        return _context
    from flask import globals as context_locals
    from flask import has_app_context

    if not has_app_context():
        return _context
    context: Any = context_locals.app_ctx
    return context._get_current_object()  # noqa: SLF001 - the documented way out of a proxy


def _session_in_use() -> Session | None:
    """The session whose statement this thread is about to send."""
    frame = sys._getframe()  # noqa: SLF001
    while frame.f_back is not None:
        frame = frame.f_back
        if isinstance(owner := frame.f_locals.get("self"), Session):
            return owner
    return None
