"""Calls an ASGI application as a server does, and tells what came in which order."""

from __future__ import annotations

import asyncio


def scope_of(path, method):
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"test")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }


async def call(app, path, *, method="GET", sent=lambda message: None):
    """One request to its end: status and body. ``sent`` is told of each message of the response."""
    status, body = [], []
    requests = [{"type": "http.request", "body": b"", "more_body": False}]
    answered = asyncio.Event()

    async def receive():
        if requests:
            return requests.pop()
        await answered.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        if message["type"] == "http.response.start":
            status.append(message["status"])
            sent("response")
            return
        body.append(message.get("body", b""))
        if message.get("more_body"):
            sent("chunk")
        else:
            sent("sent")
            answered.set()

    await app(scope_of(path, method), receive, send)
    return status[0], b"".join(body).decode()
