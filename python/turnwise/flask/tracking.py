"""Owners for the requests of a Flask application."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from turnwise.tracking.request_names import MARK, name_of
from turnwise.tracking.wsgi import OwnerMiddleware

if TYPE_CHECKING:
    from flask import Flask
    from sqlalchemy import Engine

_LOG = logging.getLogger("turnwise.tracking")


def setup(app: Flask, engine: Engine | None = None, **settings: Any) -> None:  # noqa: ANN401
    """Watch an engine, or all, and make each request the owner of the sessions that it opens.

    For applications with Flask-SQLAlchemy, `turnwise.flask.Turnwise` does it. Call it after what
    else wraps ``app.wsgi_app``. The settings are those of `turnwise.watch`: without any, those
    that were chosen before stay. It may be called again.

    Raises:
        TypeError: ``turnwise.watch`` has no such setting.
    """
    from turnwise.tracking.watching import watch_also

    watch_also(engine, **settings)
    begin_owners(app)


def begin_owners(app: Flask) -> None:
    """Make each request the owner of the sessions that it opens, without watching any."""
    from flask import request_started

    if not isinstance(app.wsgi_app, OwnerMiddleware):
        app.wsgi_app = OwnerMiddleware(app.wsgi_app)  # type: ignore[method-assign]
    request_started.connect(_rename, app)


def _rename(app: Flask, **_: object) -> None:
    """Name the owner as soon as the route is known, before any code of the application."""
    from flask import request

    try:
        owner = request.environ.get(MARK)
        rule = request.url_rule
        if owner is not None and rule is not None:
            owner.name = name_of(request.method, request.script_root + rule.rule)
    except Exception:  # noqa: BLE001 - no request fails for it
        _LOG.debug("a request kept its first name", exc_info=True)
