"""Owners of ASGI requests: what the application sees of its phase, message by message."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading

import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from turnwise.tracking import asgi, owners
from turnwise.tracking.asgi import OwnerMiddleware

START = {"type": "http.response.start", "status": 200, "headers": []}
BODY = {"type": "http.response.body", "body": b"all"}
MORE = {"type": "http.response.body", "body": b"some", "more_body": True}


def http(path="/items/7", method="GET", headers=(), **extra):
    return {"type": "http", "method": method, "path": path, "headers": list(headers), **extra}


def websocket(path="/live"):
    return {"type": "websocket", "path": path, "headers": []}


async def receive():
    return {"type": "http.disconnect"}


class Wire:
    """A server that keeps what it is sent, and the phase in which it was sent."""

    def __init__(self, *, breaks_at=None):
        self.sent = []
        self.breaks_at = breaks_at

    async def send(self, message):
        self.sent.append((message["type"], owners.current().phase))
        if message["type"] == self.breaks_at:
            raise OSError("the client is gone")


def call(app, scope, wire=None):
    asyncio.run(OwnerMiddleware(app)(scope, receive, (wire or Wire()).send))


def phases_of(messages, scope=None):
    """The phase before the first message and after each."""
    seen = []

    async def app(scope, receive, send):
        seen.append(owners.current())
        seen.append(owners.current().phase)
        for message in messages:
            await send(message)
            seen.append(owners.current().phase)

    call(app, scope or http())
    assert seen[0].phase == "ended"
    return seen[1:]


def test_a_whole_answer():
    assert phases_of([START, BODY]) == ["running", "streaming", "responded"]


def test_a_streamed_answer_has_responded_with_its_last_chunk():
    last = {"type": "http.response.body"}
    assert phases_of([START, MORE, MORE, last]) == [
        "running",
        "streaming",
        "streaming",
        "streaming",
        "responded",
    ]


def test_a_phase_begins_when_its_message_was_sent():
    wire = Wire()

    async def app(scope, receive, send):
        await send(START)
        await send(BODY)

    call(app, http(), wire)
    assert wire.sent == [("http.response.start", "running"), ("http.response.body", "streaming")]


@pytest.mark.parametrize("body", ["http.response.pathsend", "http.response.zerocopysend"])
def test_a_file_that_the_server_reads_is_a_body(body):
    assert phases_of([START, {"type": body}]) == ["running", "streaming", "responded"]


def test_a_part_of_a_file_is_not_the_last():
    part = {"type": "http.response.zerocopysend", "more_body": True}
    assert phases_of([START, part, BODY])[2:] == ["streaming", "responded"]


def test_trailers_are_a_part_of_the_answer():
    trailers = {"type": "http.response.trailers", "headers": []}
    more = {**trailers, "more_trailers": True}
    assert phases_of([{**START, "trailers": True}, BODY, more, trailers]) == [
        "running",
        "streaming",
        "streaming",
        "streaming",
        "responded",
    ]


def test_messages_of_other_extensions_change_nothing():
    hint = {"type": "http.response.early_hint", "links": []}
    debug = {"type": "http.response.debug", "info": {}}
    assert phases_of([hint, debug, START, BODY])[:3] == ["running"] * 3


@pytest.mark.parametrize("before", [[], [START], [START, MORE], [START, BODY]])
def test_an_application_that_raises_has_ended(before):
    seen = []

    async def app(scope, receive, send):
        seen.append(owners.current())
        for message in before:
            await send(message)
        raise ZeroDivisionError

    async def serve():
        with pytest.raises(ZeroDivisionError):
            await OwnerMiddleware(app)(http(), receive, Wire().send)
        assert owners.current() is None

    asyncio.run(serve())
    assert seen[0].phase == "ended"


def test_a_route_that_fails_before_it_answers_is_named_too():
    seen = []

    async def app(scope, receive, send):
        seen.append(owners.current())
        scope["route"] = Route("/items/{id}", lambda request: None)
        scope["path_params"] = {"id": "7"}
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        call(app, http())
    assert seen[0].name == "GET /items/{id}"


def test_a_cancelled_application_has_ended():
    seen = []

    async def app(scope, receive, send):
        seen.append(owners.current())
        await asyncio.sleep(60)

    async def serve():
        task = asyncio.create_task(OwnerMiddleware(app)(http(), receive, Wire().send))
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(serve())
    assert seen[0].phase == "ended"


def test_what_a_client_that_went_away_did_not_get_was_not_sent():
    seen = []

    async def app(scope, receive, send):
        await send(START)
        with pytest.raises(OSError, match="gone"):
            await send(BODY)
        seen.append(owners.current().phase)

    call(app, http(), Wire(breaks_at="http.response.body"))
    assert seen == ["streaming"]


def test_a_disconnected_client_is_no_answer():
    seen = []

    async def app(scope, receive, send):
        assert (await receive())["type"] == "http.disconnect"
        seen.append(owners.current().phase)

    call(app, http())
    assert seen == ["running"]


ACCEPT = {"type": "websocket.accept"}
CLOSE = {"type": "websocket.close"}
TEXT = {"type": "websocket.send", "text": "tick"}


def test_a_websocket_runs_until_it_is_closed():
    expected = ["running", "running", "running", "responded"]
    assert phases_of([ACCEPT, TEXT, CLOSE], websocket()) == expected


def test_a_websocket_can_be_denied_with_an_answer():
    start = {"type": "websocket.http.response.start", "status": 403, "headers": []}
    body = {"type": "websocket.http.response.body", "body": b"no"}
    assert phases_of([start, body], websocket()) == ["running", "streaming", "responded"]


def test_the_lifespan_has_no_owner():
    seen = []

    async def app(scope, receive, send):
        seen.append((scope, receive, send, owners.current()))

    scope, send = {"type": "lifespan"}, Wire().send
    asyncio.run(OwnerMiddleware(app)(scope, receive, send))
    assert seen == [({"type": "lifespan"}, receive, send, None)]


def owner_of(scope):
    owner = None

    async def app(scope, receive, send):
        nonlocal owner
        owner = owners.current()
        assert scope["turnwise.owner"] is owner

    call(app, scope)
    return owner


def test_an_owner_has_kind_name_and_id():
    owner = owner_of(http(method="POST", headers=[(b"x-request-id", b"9f2c")]))
    assert (owner.kind, owner.name, owner.id) == ("request", "POST /items/7", "9f2c")
    owner = owner_of(websocket())
    assert (owner.kind, owner.name, owner.id) == ("websocket", "WS /live", "")


@pytest.mark.parametrize("sent", [b"x" * 129, b"a b", b"a\nb", b"", "ü".encode(), b"\x80"])
def test_an_id_that_would_spoil_a_line_is_dropped(sent):
    assert owner_of(http(headers=[(b"x-request-id", sent)])).id == ""


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a\nb", "GET /a%0Ab"),
        ("/a req=forged", "GET /a%20req%3Dforged"),
        ("/größe", "GET /größe"),
        ("/" + "x" * 300, "GET /" + "x" * 199 + "..."),
        ("", "GET "),
    ],
)
def test_a_name_is_a_part_of_one_line(path, name):
    assert owner_of(http(path)).name == name


def test_one_owner_per_request_however_often_it_is_wrapped():
    seen = []

    async def app(scope, receive, send):
        seen.append(owners.current())
        await send(START)
        await send(BODY)

    call(OwnerMiddleware(app), http())
    assert seen[0].parent is None


def test_a_request_inside_a_request_has_a_parent():
    seen = []

    async def inner(scope, receive, send):
        seen.append(owners.current())

    async def app(scope, receive, send):
        seen.append(owners.current())
        await OwnerMiddleware(inner)(http("/inner"), receive, send)
        seen.append(owners.current())

    call(app, http("/outer"))
    outer, inner_owner, after = seen
    assert inner_owner.name == "GET /inner"
    assert inner_owner.parent is outer is after


@pytest.mark.parametrize("broken", ["begin", "end"])
def test_a_failing_tracker_fails_no_request(broken, monkeypatch, caplog):
    def fail(*args, **keywords):
        raise RuntimeError("tracker")

    monkeypatch.setattr(asgi.owners, broken, fail)
    sent = []

    async def app(scope, receive, send):
        await send(START)
        await send(BODY)

    async def send(message):
        sent.append(message)

    with caplog.at_level(logging.DEBUG, "turnwise.tracking"):
        asyncio.run(OwnerMiddleware(app)(http(), receive, send))
    assert sent == [START, BODY]
    assert "tracker" in caplog.text


def test_a_failing_phase_fails_no_request(monkeypatch):
    sent = []

    def fail(self, message):
        raise RuntimeError("tracker")

    async def app(scope, receive, send):
        await send(START)

    async def send(message):
        sent.append(message)

    monkeypatch.setattr(asgi._Exchange, "_advance", fail)
    asyncio.run(OwnerMiddleware(app)(http(), receive, send))
    assert sent == [START]


def test_owners_of_requests_at_once_do_not_mix():
    async def app(scope, receive, send):
        owner = owners.current()
        assert owner.name == f"GET {scope['path']}"
        await send(START)
        for _ in range(5):
            await asyncio.sleep(0)
            assert owners.current() is owner
            assert owner.phase == "streaming"
        await send(BODY)
        assert owners.current() is owner

    async def serve():
        wrapped = OwnerMiddleware(app)

        async def send(message):
            await asyncio.sleep(0)

        await asyncio.gather(*(wrapped(http(f"/{i}"), receive, send) for i in range(20)))
        # One task after another, as with a server that keeps its connection.
        for i in range(3):
            await wrapped(http(f"/{i}"), receive, send)
        assert owners.current() is None

    asyncio.run(serve())


def test_where_an_owner_is_seen_and_where_not():
    seen = {}

    def note(where):
        seen[where] = owners.current()

    async def app(scope, receive, send):
        note("here")
        await asyncio.to_thread(note, "to_thread")
        await asyncio.get_running_loop().run_in_executor(None, note, "executor")
        thread = threading.Thread(target=note, args=("thread",))
        thread.start()
        thread.join()
        later = asyncio.create_task(late())
        await asyncio.sleep(0)
        tasks.append(later)

    async def late():
        note("task")
        await asyncio.sleep(0.01)
        seen["task after the end"] = owners.current().phase

    tasks = []

    async def serve():
        await OwnerMiddleware(app)(http(), receive, Wire().send)
        await tasks[0]

    asyncio.run(serve())
    assert seen["here"] is seen["to_thread"] is seen["task"] is not None
    assert seen["executor"] is None
    # Since 3.14, threads of free-threaded builds inherit the context.
    assert seen["thread"] is None
    assert seen["task after the end"] == "ended"


class Notes(list):
    """Where owners were seen: pairs of a place and the owner's name and phase."""

    def note(self, place):
        owner = owners.current()
        self.append((place, owner and owner.name, owner and owner.phase))

    def phases(self):
        return {place: phase for place, _, phase in self}


@pytest.fixture
def notes():
    return Notes()


def site(notes, **settings):
    def threaded(request):
        notes.note("threadpool")
        return PlainTextResponse("ok", background=BackgroundTask(notes.note, "background"))

    async def streamed(request):
        def chunks():
            for i in range(3):
                notes.note(f"chunk {i}")
                yield str(i)

        task = BackgroundTask(notes.note, "background")
        return StreamingResponse(chunks(), background=task)

    async def fails(request):
        raise ZeroDivisionError

    async def live(socket):
        notes.note("connecting")
        await socket.accept()
        notes.note("accepted")
        try:
            while True:
                if await socket.receive_text() == "close":
                    await socket.close()
                    notes.note("closed")
                    return
        except WebSocketDisconnect:
            notes.note("disconnected")

    routes = [
        Route("/items/{id:int}", threaded),
        Route("/files/{path:path}", threaded),
        Route("/stream/{name}", streamed),
        Route("/fails", fails),
        WebSocketRoute("/live/{room}", live),
        Mount("/shops/{shop}", routes=[Route("/items/{id}", threaded), Route("/", threaded)]),
        Mount("/foreign", PlainTextResponse("foreign")),
    ]
    return Starlette(routes=routes, **settings)


NAMES = [
    ("/items/7", "GET /items/{id}"),
    ("/files/a/b/c", "GET /files/{path}"),
    ("/shops/north/items/north", "GET /shops/{shop}/items/{id}"),
    ("/shops/north/", "GET /shops/{shop}/"),
    ("/foreign/a/b", "GET /foreign/{path}"),
    ("/none", "GET /none"),
]


@pytest.mark.parametrize(("path", "name"), NAMES)
def test_a_request_is_named_by_its_route(notes, path, name):
    assert ended_owner(site(notes), path).name == name


def ended_owner(app, path):
    kept = []

    async def keep(scope, receive, send):
        kept.append(owners.current())
        await app(scope, receive, send)

    client = TestClient(OwnerMiddleware(keep), raise_server_exceptions=False)
    client.get(path)
    assert kept[0].phase == "ended"
    return kept[0]


def test_background_tasks_run_after_the_response(notes):
    TestClient(OwnerMiddleware(site(notes))).get("/items/7")
    assert notes == [
        ("threadpool", "GET /items/7", "running"),
        ("background", "GET /items/{id}", "responded"),
    ]


def test_a_streaming_response(notes):
    assert TestClient(OwnerMiddleware(site(notes))).get("/stream/x").text == "012"
    assert notes == [
        *((f"chunk {i}", "GET /stream/{name}", "streaming") for i in range(3)),
        ("background", "GET /stream/{name}", "responded"),
    ]


def test_a_websocket_that_the_application_closes(notes):
    with TestClient(OwnerMiddleware(site(notes))).websocket_connect("/live/blue") as socket:
        socket.send_text("close")
        with pytest.raises(WebSocketDisconnect):
            socket.receive_text()
    assert notes == [
        ("connecting", "WS /live/blue", "running"),
        ("accepted", "WS /live/{room}", "running"),
        ("closed", "WS /live/{room}", "responded"),
    ]


def test_a_websocket_whose_client_leaves_may_still_be_written_up(notes):
    with TestClient(OwnerMiddleware(site(notes))).websocket_connect("/live/blue"):
        pass
    assert notes.phases()["disconnected"] == "running"


def test_an_error_that_nobody_handles(notes):
    client = TestClient(OwnerMiddleware(site(notes)), raise_server_exceptions=False)
    assert client.get("/fails").status_code == 500
    assert ended_owner(site(notes), "/fails").name == "GET /fails"


@pytest.mark.parametrize("place", ["inside", "outside"])
def test_middleware_of_functions(notes, place):
    class Noting(BaseHTTPMiddleware):
        async def dispatch(self, request, call_next):
            notes.note("before")
            response = await call_next(request)
            notes.note("after")
            return response

    middleware = [Middleware(Noting), Middleware(OwnerMiddleware)]
    if place == "inside":
        middleware.reverse()
    client = TestClient(site(notes, middleware=middleware))
    assert client.get("/stream/x").text == "012"
    phases = notes.phases()
    assert [phases[f"chunk {i}"] for i in range(3)] == ["streaming"] * 3
    assert phases["background"] == "responded"
    assert phases["before"] == ("running" if place == "inside" else None)
