"""Answers of a Flask application to the errors of its databases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from turnwise import errors  # noqa: F401 - its root is among the loaded ones
from turnwise.drivers.classes import loaded_roots
from turnwise.http import problem_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flask import Flask, Response

    from turnwise._native import Override
    from turnwise.http import Problem


def add_error_handlers(
    app: Flask,
    *,
    constraints: Mapping[str, str | tuple[int, str]] | None = None,
    retry_after: float = 1.0,
    retry_after_outage: float = 5.0,
    overrides: Sequence[Override] = (),
    customize: Callable[[Problem, BaseException], Problem] | None = None,
) -> None:
    """Answer errors of databases with 409, 422, 503 or 500 and problem details.

    Handles what SQLAlchemy raises for a database, the errors of turnwise, and those of the drivers
    that are imported by then: import a driver that is used without SQLAlchemy first. Errors that
    are none of a database stay with Flask, and a handler of the application's own for a narrower
    class goes first.

    The settings are those of `turnwise.http.problem_of`.
    """

    def answer(error: Exception) -> Response:
        problem = problem_of(
            error,
            constraints=constraints,
            retry_after=retry_after,
            retry_after_outage=retry_after_outage,
            overrides=overrides,
            customize=customize,
        )
        return app.response_class(app.json.dumps(problem.body), problem.status, problem.headers)

    for root in loaded_roots():
        app.register_error_handler(root, answer)
