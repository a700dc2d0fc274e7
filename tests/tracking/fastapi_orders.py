"""The order of a request's parts, without turnwise: a fact that the findings rest on."""

from __future__ import annotations

import asyncio
import inspect

import fastapi
from fastapi.responses import StreamingResponse

from asgi_calls import call


def application(order):
    app = fastapi.FastAPI()

    def dependency():
        order.append("enter")
        yield
        order.append("exit")

    async def asynchronous_dependency():
        order.append("enter")
        yield
        order.append("exit")

    def background():
        order.append("background")

    def add_routes(name, needed):
        @app.get(f"/{name}/background")
        def with_background(tasks: fastapi.BackgroundTasks, _=needed):
            order.append("endpoint")
            tasks.add_task(background)

        @app.get(f"/{name}/stream")
        def with_stream(_=needed):
            order.append("endpoint")

            def rows():
                order.append("row")
                yield "a"

            return StreamingResponse(rows())

    add_routes("sync", fastapi.Depends(dependency))
    add_routes("async", fastapi.Depends(asynchronous_dependency))
    if "scope" in inspect.signature(fastapi.Depends).parameters:
        add_routes("function", fastapi.Depends(dependency, scope="function"))
    return app


def orders():
    """By dependency and kind of answer, such as ``sync/stream``."""
    order, found = [], {}
    app = application(order)
    for kind in ("sync", "async", "function"):
        for answer in ("background", "stream"):
            order.clear()
            status, _ = asyncio.run(call(app, f"/{kind}/{answer}", sent=order.append))
            if status == 200:
                found[f"{kind}/{answer}"] = " ".join(order)
    return found
