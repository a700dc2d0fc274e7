"""Answers of a FastAPI or Starlette application to the errors of its databases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from turnwise import errors  # noqa: F401 - its root is among the loaded ones
from turnwise.drivers.classes import loaded_roots
from turnwise.http import problem_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from turnwise._native import Override
    from turnwise.http import Problem


def add_error_handlers(
    app: Starlette,
    *,
    constraints: Mapping[str, str | tuple[int, str]] | None = None,
    retry_after: float = 1.0,
    retry_after_outage: float = 5.0,
    overrides: Sequence[Override] = (),
    customize: Callable[[Problem, BaseException], Problem] | None = None,
) -> None:
    """Answer errors of databases with 409, 422, 503 or 500 and problem details.

    Call it before the first request. Handles what SQLAlchemy raises for a database, the errors of
    turnwise, and those of the drivers that are imported by then: import a driver that is used
    without SQLAlchemy first. Errors that are none of a database stay with the framework, and a
    handler of the application's own for a narrower class goes first.

    The settings are those of `turnwise.http.problem_of`.
    """
    from starlette.responses import JSONResponse

    async def answer(request: Request, error: Exception) -> Response:
        problem = problem_of(
            error,
            constraints=constraints,
            retry_after=retry_after,
            retry_after_outage=retry_after_outage,
            overrides=overrides,
            customize=customize,
        )
        return JSONResponse(problem.body, status_code=problem.status, headers=problem.headers)

    for root in loaded_roots():
        app.add_exception_handler(root, answer)
