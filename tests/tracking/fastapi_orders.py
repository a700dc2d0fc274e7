"""Prints the order of a request's parts on the FastAPI that it finds: one JSON object by scene.

Without turnwise: these are facts that the findings rest on.
"""

from __future__ import annotations

import asyncio
import json
import sys

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
    try:
        add_routes("function", fastapi.Depends(dependency, scope="function"))
    except TypeError:
        pass
    return app


def main():
    order = []
    app = application(order)
    found = {"version": fastapi.__version__}
    for path in sorted({route.path for route in app.routes} - {"/openapi.json"}):
        if path.count("/") != 2 or path.startswith("/docs"):
            continue
        order.clear()
        asyncio.run(call(app, path, sent=order.append))
        found[path[1:]] = " ".join(order)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
