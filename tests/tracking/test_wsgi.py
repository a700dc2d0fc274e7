"""Owners of WSGI requests: what the application sees of its phase, chunk by chunk."""

from __future__ import annotations

import http.client
import io
import logging
import threading
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import pytest

from turnwise.tracking import owners, wsgi
from turnwise.tracking.wsgi import OwnerMiddleware


def environ(path="/items/7", method="GET", **more):
    return {"REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": path, **more}


def start_response(status, headers, exc_info=None):
    return lambda data: None


class Answer:
    """An iterable that notes in which phase its parts run, and how often it is closed."""

    def __init__(self, *chunks):
        self.chunks = iter(chunks)
        self.phases = []
        self.closed = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.phases.append(owners.current().phase)
        return next(self.chunks)

    def close(self):
        self.closed += 1
        self.phases.append(owners.current().phase)


def application(answer, seen=None):
    def app(environ, start_response):
        assert owners.current().phase == "running"
        if seen is not None:
            seen.append(owners.current())
        start_response("200 OK", [])
        return answer

    return app


def begun(answer, **more):
    """What a server gets of an application that gives this answer, and the owner."""
    seen = []
    body = OwnerMiddleware(application(answer, seen))(environ(**more), start_response)
    assert owners.current() is None
    return body, seen[0]


def test_an_answer_streams_from_its_first_chunk_and_has_responded_after_its_last():
    answer = Answer(b"a", b"b")
    body, owner = begun(answer)
    phases = []
    for _ in body:
        assert owners.current() is None
        phases.append(owner.phase)
    phases.append(owner.phase)
    body.close()
    assert phases == ["streaming", "streaming", "responded"]
    assert answer.phases == ["running", "streaming", "streaming", "responded"]
    assert owner.phase == "ended"


def test_an_empty_chunk_sends_nothing():
    answer = Answer(b"", b"a")
    body, _ = begun(answer)
    list(body)
    assert answer.phases == ["running", "running", "streaming"]


def test_an_answer_that_was_not_wanted_in_full_ends_when_it_is_closed():
    answer = Answer(b"a", b"b")
    body, owner = begun(answer)
    next(body)
    body.close()
    assert answer.phases == ["running", "streaming"]
    assert owner.phase == "ended"


def test_it_is_closed_once():
    answer = Answer(b"a")
    body, _ = begun(answer)
    body.close()
    body.close()
    assert answer.closed == 1


def test_an_answer_without_close_ends_too():
    body, owner = begun([b"a"])
    list(body)
    body.close()
    assert owner.phase == "ended"


def test_the_number_of_chunks_is_kept_where_it_is_known():
    assert len(begun([b"all"])[0]) == 1
    assert not hasattr(begun(Answer(b"all"))[0], "__len__")


def test_an_application_that_raises_has_ended():
    seen = []

    def app(environ, start_response):
        seen.append(owners.current())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        OwnerMiddleware(app)(environ(), start_response)
    assert seen[0].phase == "ended"
    assert owners.current() is None


def test_an_answer_that_raises_ends_when_it_is_closed():
    def chunks():
        yield b"a"
        raise ZeroDivisionError

    body, owner = begun(chunks())
    next(body)
    with pytest.raises(ZeroDivisionError):
        next(body)
    assert (owner.phase, owners.current()) == ("streaming", None)
    body.close()
    assert owner.phase == "ended"


def test_a_close_that_raises_ends_the_request():
    class Failing(Answer):
        def close(self):
            raise ZeroDivisionError

    body, owner = begun(Failing(b"a"))
    with pytest.raises(ZeroDivisionError):
        body.close()
    assert (owner.phase, owners.current()) == ("ended", None)


def test_an_answer_that_is_never_closed_leaves_no_owner_behind():
    for _ in range(2):
        body, owner = begun(Answer(b"a"))
        next(body)
        assert owner.parent is None
        assert owners.current() is None


def test_another_thread_may_send_the_answer():
    answer = Answer(b"a")
    body, owner = begun(answer)

    def send():
        list(body)
        body.close()
        left.append(owners.current())

    left = []
    thread = threading.Thread(target=send)
    thread.start()
    thread.join()
    assert answer.phases == ["running", "streaming", "responded"]
    assert (owner.phase, left) == ("ended", [None])


def test_answers_at_once_do_not_mix():
    bodies = [begun(Answer(b"a", b"b"), path=f"/{i}") for i in range(3)]
    for _ in range(2):
        for body, owner in bodies:
            next(body)
            assert owner.phase == "streaming"
    for body, owner in reversed(bodies):
        body.close()
        assert owner.phase == "ended"
    assert owners.current() is None


class Recognised:
    """A server's own wrapper of a file."""

    def __init__(self, file, block=8192):
        self.file = file
        self.close = file.close

    def __iter__(self):
        return iter(self.file)


class Closed(io.BytesIO):
    phases = ()

    def close(self):
        self.phases = (*self.phases, owners.current().phase)
        super().close()


@pytest.mark.parametrize("wrapper", [Recognised, FileWrapper])
def test_a_file_stays_what_the_server_recognises(wrapper):
    file = Closed(b"content")
    body, owner = begun(wrapper(file), **{"wsgi.file_wrapper": wrapper})
    assert type(body) is wrapper
    assert owner.phase == "streaming"
    body.close()
    body.close()
    assert file.phases == ("streaming",)
    assert owner.phase == "ended"


def test_a_file_in_a_wrapper_that_cannot_be_watched_is_sent_in_chunks():
    class Fixed:
        __slots__ = ("closed", "file")

        def __init__(self, file):
            self.file = file

        def __iter__(self):
            return iter(self.file)

        def close(self):
            self.file.close()

    file = Closed(b"content")
    body, owner = begun(Fixed(file), **{"wsgi.file_wrapper": Fixed})
    assert list(body) == [b"content"]
    body.close()
    assert file.phases == ("responded",)
    assert owner.phase == "ended"


def test_a_file_wrapper_may_be_a_function():
    body, owner = begun([b"content"], **{"wsgi.file_wrapper": lambda file, block=0: file})
    assert list(body) == [b"content"]
    body.close()
    assert owner.phase == "ended"


def test_an_owner_has_kind_name_and_id():
    _, owner = begun(
        [], path="/gr\u00c3\u00b6\u00c3\u009fe", method="POST", HTTP_X_REQUEST_ID="9f2c"
    )
    assert (owner.kind, owner.name, owner.id) == ("request", "POST /größe", "9f2c")
    _, owner = begun([], SCRIPT_NAME="/shop", HTTP_X_REQUEST_ID="a b")
    assert (owner.name, owner.id) == ("GET /shop/items/7", "")


def test_one_owner_per_request_however_often_it_is_wrapped():
    seen = []
    app = OwnerMiddleware(OwnerMiddleware(application([b"a"], seen)))
    given = environ()
    body = app(given, start_response)
    assert seen[0].parent is None
    assert given["turnwise.owner"] is seen[0]
    body.close()
    assert seen[0].phase == "ended"


@pytest.mark.parametrize("broken", ["begin", "end"])
def test_a_failing_tracker_fails_no_request(broken, monkeypatch, caplog):
    def fail(*args, **keywords):
        raise RuntimeError("tracker")

    monkeypatch.setattr(wsgi.owners, broken, fail)
    closed = []

    class Body(list):
        def close(self):
            closed.append(True)

    with caplog.at_level(logging.DEBUG, "turnwise.tracking"):
        body = OwnerMiddleware(lambda environ, start: Body([b"a"]))(environ(), start_response)
        assert list(body) == [b"a"]
        body.close()
    assert closed == [True]
    assert "tracker" in caplog.text


class QuietHandler(WSGIRequestHandler):
    def log_message(self, *_):
        pass


def test_a_real_server(tmp_path):
    """The standard library's server and its validator of PEP 3333, on both sides."""
    seen = []

    def app(environ, start_response):
        seen.append(owners.current())
        whole = environ["PATH_INFO"] == "/whole"
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"whole"] if whole else iter([b"in ", b"parts"])

    server = WSGIServer(("127.0.0.1", 0), QuietHandler)
    server.set_app(validator(OwnerMiddleware(validator(app))))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        for path, text in [("/whole", b"whole"), ("/parts", b"in parts")]:
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
            connection.request("GET", path)
            response = connection.getresponse()
            assert response.read() == text
            connection.close()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert [owner.name for owner in seen] == ["GET /whole", "GET /parts"]
    assert [owner.phase for owner in seen] == ["ended", "ended"]
    assert [owner.parent for owner in seen] == [None, None]
