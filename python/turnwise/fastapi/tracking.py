"""Owners for the requests of a FastAPI or Starlette application."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from turnwise.tracking.asgi import OwnerMiddleware

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine
    from starlette.applications import Starlette
    from starlette.types import ASGIApp


def setup(app: Starlette, engine: Engine | AsyncEngine | None = None, **settings: Any) -> None:  # noqa: ANN401
    """Watch an engine, or all, and make each request the owner of the sessions that it opens.

    The owner is around everything, also around the middleware that is added later and the answer
    to an error that nobody handled. The settings are those of `turnwise.watch`: without any, those
    that were chosen before stay. It may be called again.

    Raises:
        TypeError: ``turnwise.watch`` has no such setting.
    """
    from turnwise.tracking.watching import watch_also

    watch_also(engine, **settings)
    build = app.build_middleware_stack
    if getattr(build, "begins_owners", False):
        return

    def build_with_owners() -> ASGIApp:
        return OwnerMiddleware(build())

    build_with_owners.begins_owners = True  # type: ignore[attr-defined]
    app.build_middleware_stack = build_with_owners  # type: ignore[method-assign]
    if app.middleware_stack is not None:
        app.middleware_stack = OwnerMiddleware(app.middleware_stack)
