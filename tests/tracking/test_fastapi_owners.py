"""`turnwise.fastapi.setup` on real FastAPI and Starlette applications."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
import sqlalchemy as sa
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from turnwise.fastapi import OwnerMiddleware, setup
from turnwise.tracking import owners
from turnwise.tracking.blocking import blocked_by_route
from turnwise.tracking.watching import current_settings, is_watching, leases, unwatch, watch


@pytest.fixture
def engine():
    engine = sa.create_engine("sqlite://")
    yield engine
    unwatch()
    engine.dispose()


class Notes(list):
    """The places that were passed, each with the owner's phase."""

    def note(self, place):
        owner = owners.current()
        self.append((place, owner and owner.phase))
        return owner


@pytest.fixture
def notes():
    return Notes()


@pytest.fixture
def app(notes):
    app = FastAPI()

    def session():
        notes.note("enter")
        yield
        notes.note("exit")

    @app.get("/sync/{number}", dependencies=[Depends(session)])
    def sync(number: int, tasks: BackgroundTasks):
        tasks.add_task(notes.note, "background")
        return {"name": notes.note("endpoint").name}

    @app.get("/async/{number}")
    async def asynchronous(number: int):
        notes.note("endpoint")
        await asyncio.to_thread(notes.note, "to_thread")
        await asyncio.get_running_loop().run_in_executor(None, notes.note, "executor")

    @app.get("/stream")
    async def stream():
        async def chunks():
            for i in range(2):
                notes.note(f"chunk {i}")
                yield str(i)

        return StreamingResponse(chunks())

    @app.get("/fails")
    def fails():
        raise ZeroDivisionError

    @app.websocket("/live/{room}")
    async def live(socket: WebSocket, room: str):
        await socket.accept()
        await socket.send_text(notes.note("accepted").name)
        await socket.close()
        notes.note("closed")

    inner, outer, sub = APIRouter(prefix="/items"), APIRouter(prefix="/shops/{shop}"), FastAPI()

    for router in (app, inner, sub):

        @router.get("/own/{item}")
        def own(item: str):
            return "own"

    @inner.get("")
    def bare():
        return "bare"

    blank = APIRouter()
    blank.get("")(lambda shop: shop)
    app.include_router(blank, prefix="/open/{shop}")
    outer.include_router(inner)
    app.include_router(outer, prefix="/v1")
    app.mount("/sub/{tenant}", sub)
    return app


def client(app):
    return TestClient(app, raise_server_exceptions=False)


def owner_of(app, path, method="GET"):
    """The owner of a request, after it: what is added last is called first, inside of owners."""
    kept = []

    class Keeping:
        def __init__(self, app):
            self.app = app

        async def __call__(self, scope, receive, send):
            kept.append(owners.current())
            await self.app(scope, receive, send)

    app.add_middleware(Keeping)
    client(app).request(method, path)
    assert len(kept) == 1
    assert kept[0].phase == "ended"
    return kept[0]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/own/7", "GET /own/{item}"),
        ("/v1/shops/north/items/own/7", "GET /v1/shops/{shop}/items/own/{item}"),
        ("/v1/shops/v1/items/own/v1", "GET /v1/shops/{shop}/items/own/{item}"),
        ("/v1/shops/north/items", "GET /v1/shops/{shop}/items"),
        ("/open/north", "GET /open/{shop}"),
        ("/sub/north/own/7", "GET /sub/{tenant}/own/{item}"),
        ("/sub/north/none", "GET /sub/{tenant}/none"),
        ("/openapi.json", "GET /openapi.json"),
        ("/none/7", "GET /none/7"),
        ("/own/7/", "GET /own/7/"),
    ],
)
def test_a_request_is_named_by_its_route(app, engine, path, name):
    setup(app, engine)
    kept = []

    async def keep(scope, receive, send):
        await app(scope, receive, send)
        if scope["type"] == "http":
            kept.append(scope["turnwise.owner"])

    TestClient(keep).get(path, follow_redirects=False)
    assert [owner.name for owner in kept] == [name]


def test_a_wrong_method_has_a_route(app, engine):
    setup(app, engine)
    assert owner_of(app, "/own/7", "POST").name == "POST /own/{item}"


def test_a_route_in_the_threadpool_with_dependency_and_background_task(app, engine, notes):
    setup(app, engine)
    assert client(app).get("/sync/7").json() == {"name": "GET /sync/7"}
    phases = dict(notes)
    assert phases["enter"] == phases["endpoint"] == "running"
    assert phases["background"] == "responded"
    # The order of the last two is FastAPI's, and has changed twice.
    assert phases["exit"] in ("running", "responded")


def test_an_async_route(app, engine, notes):
    setup(app, engine)
    client(app).get("/async/7")
    assert notes == [("endpoint", "running"), ("to_thread", "running"), ("executor", None)]


def test_a_streamed_answer(app, engine, notes):
    setup(app, engine)
    assert client(app).get("/stream").text == "01"
    assert notes == [("chunk 0", "streaming"), ("chunk 1", "streaming")]


def test_a_websocket(app, engine, notes):
    setup(app, engine)
    with client(app).websocket_connect("/live/blue") as socket:
        assert socket.receive_text() == "WS /live/{room}"
    assert notes == [("accepted", "running"), ("closed", "responded")]


def test_what_is_added_later_is_inside_and_so_is_the_answer_to_errors(app, engine, notes):
    setup(app, engine)

    @app.exception_handler(Exception)
    def answer(request, error):
        notes.note("handler")
        return PlainTextResponse("sorry", 500)

    class Later(BaseHTTPMiddleware):
        async def dispatch(self, request, call_next):
            notes.note("later")
            return await call_next(request)

    app.add_middleware(Later)
    assert client(app).get("/fails").text == "sorry"
    assert notes == [("later", "running"), ("handler", "running")]


def test_it_can_be_called_again_and_by_a_mounted_application(app, engine, notes):
    sub = FastAPI()

    @sub.get("/deep")
    def deep():
        return notes.note("deep").parent is None

    app.mount("/again", sub)
    setup(app, engine)
    setup(sub, engine)
    once = app.build_middleware_stack
    setup(app, engine)
    assert app.build_middleware_stack is once
    assert client(app).get("/again/deep").json() is True


def test_it_can_be_called_after_the_start(app, engine, notes):
    running = client(app)
    running.get("/async/7")
    setup(app, engine)
    setup(app, engine)
    running.get("/async/7")
    assert [phase for place, phase in notes if place == "endpoint"] == [None, "running"]


def test_it_watches(app, engine):
    assert not is_watching()
    setup(app, engine)
    assert is_watching()

    @app.get("/lease")
    def lease():
        with engine.connect() as connection:
            connection.exec_driver_sql("SELECT 1")
            return [lease.owner_name for lease in leases()]

    assert client(app).get("/lease").json() == ["GET /lease"]


def test_settings_that_were_chosen_before_stay(app, engine):
    watch(engine, strict=True)
    setup(app, engine)
    assert current_settings().strict
    setup(app, engine, strict=False)
    assert not current_settings().strict


def test_the_time_that_a_route_blocks_is_counted(app, tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'slow.db'}")
    setup(app, engine)

    @sa.event.listens_for(engine, "connect")
    def add_function(connection, record):
        connection.create_function("slow", 0, lambda: time.sleep(0.15))

    def run():
        with engine.connect() as connection:
            connection.exec_driver_sql("SELECT slow()")

    @app.get("/blocking/{number}")
    async def blocking(number: int):
        run()

    app.get("/threaded/{number}")(lambda number: run())
    before = blocked_by_route()
    for number in range(2):
        client(app).get(f"/blocking/{number}")
        client(app).get(f"/threaded/{number}")
    unwatch()
    engine.dispose()
    assert before.keys() ^ blocked_by_route().keys() == {"GET /blocking/{number}"}
    blocked = blocked_by_route()["GET /blocking/{number}"]
    assert blocked.requests == 2
    assert blocked.seconds >= 0.3
    assert blocked.seconds > blocked.longest >= 0.15


def test_an_unknown_setting_changes_nothing(app, engine):
    build = app.build_middleware_stack
    with pytest.raises(TypeError, match="patience"):
        setup(app, engine, patience=3)
    assert app.build_middleware_stack == build
    assert not is_watching()


def test_the_lifespan_has_no_owner(engine, notes):
    @contextlib.asynccontextmanager
    async def lifespan(app):
        notes.note("start")
        yield
        notes.note("stop")

    app = FastAPI(lifespan=lifespan)
    setup(app, engine)
    with client(app):
        pass
    assert notes == [("start", None), ("stop", None)]


def test_starlette(engine, notes):
    def home(request):
        return PlainTextResponse(notes.note("endpoint").phase)

    app = Starlette(routes=[Route("/", home)])
    setup(app, engine)
    assert client(app).get("/").text == "running"


def test_the_middleware_is_here_too(app, notes):
    app.add_middleware(OwnerMiddleware)
    client(app).get("/async/7")
    assert ("endpoint", "running") in notes
