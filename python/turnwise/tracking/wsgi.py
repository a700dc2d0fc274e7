"""Owners for the requests of any WSGI application."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

from turnwise.tracking import owners
from turnwise.tracking.request_names import MARK, id_of, name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sized

    from turnwise.tracking.owners import Token

    Environ = dict[str, Any]
    StartResponse = Callable[..., Any]
    Application = Callable[[Environ, StartResponse], Iterable[bytes]]

_LOG = logging.getLogger("turnwise.tracking")


class OwnerMiddleware:
    """Each request is the owner of what it opens: ``OwnerMiddleware(app)``.

    Put it around everything else. A request that has an owner already keeps it. The owner is
    ``environ["turnwise.owner"]``, and ``"GET /items/7"`` until something gives it the name of the
    route: `turnwise.flask.setup` does.
    """

    def __init__(self, app: Application) -> None:
        self.app = app

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Call the application in the name of an owner."""
        if MARK in environ:
            return self.app(environ, start_response)
        try:
            token = owners.begin("request", _name_of(environ), id=_id_of(environ))
        except Exception:  # noqa: BLE001 - no request fails for it
            _LOG.debug("a request has no owner", exc_info=True)
            return self.app(environ, start_response)
        environ[MARK] = token.owner
        try:
            body = self.app(environ, start_response)
        except BaseException:
            _end(token)
            raise
        # Until the server asks for a chunk, and if it never does, its thread works for others.
        owners.suspend(token.restores)
        if _is_file(body, environ):
            return _watch_close(body, token)
        return (_SizedBody if hasattr(body, "__len__") else _Body)(body, token)


class _Body:
    """The chunks of an answer, each made in the name of the owner."""

    __slots__ = ("_body", "_chunks", "_closed", "_token")

    def __init__(self, body: Iterable[bytes], token: Token) -> None:
        self._body = body
        self._chunks: Iterator[bytes] | None = None
        self._closed = False
        self._token = token

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        owner = self._token.owner
        before = owners.resume(owner)
        try:
            if self._chunks is None:
                self._chunks = iter(self._body)
            chunk = next(self._chunks)
        except StopIteration:
            owner.phase = "responded"
            raise
        finally:
            owners.suspend(before)
        # A server sends the head of an answer with the first chunk that is not empty (PEP 3333).
        if chunk:
            owner.phase = "streaming"
        return chunk

    def close(self) -> None:
        """End the request, whether all of its answer was wanted or not."""
        if not self._closed:
            self._closed = True
            _close(getattr(self._body, "close", None), self._token)


class _SizedBody(_Body):
    """An answer whose number of chunks is known: a single one needs no chunked encoding."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(cast("Sized", self._body))


def _end(token: Token) -> None:
    try:
        owners.end(token)
    except Exception:  # noqa: BLE001 - no request fails for it
        _LOG.debug("the end of a request was lost", exc_info=True)


def _is_file(body: Iterable[bytes], environ: Environ) -> bool:
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(wrapper, type) and isinstance(body, wrapper)


def _watch_close(body: Iterable[bytes], token: Token) -> Iterable[bytes]:
    """Leave a file to the server as it is: it sends what it recognises without reading it."""
    body_close = getattr(body, "close", None)
    closed = False

    def close() -> None:
        nonlocal closed
        if not closed:
            closed = True
            _close(body_close, token)

    try:
        body.close = close  # type: ignore[attr-defined]
    except AttributeError:
        return _Body(body, token)
    token.owner.phase = "streaming"
    return body


def _close(close: Callable[[], object] | None, token: Token) -> None:
    before = owners.resume(token.owner)
    try:
        if close is not None:
            close()
    finally:
        _end(token)
        owners.suspend(before)


def _name_of(environ: Environ) -> str:
    path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    if not path.isascii():
        # PEP 3333: bytes of UTF-8 in a text of Latin-1.
        path = path.encode("latin-1", "replace").decode("utf-8", "replace")
    return name_of(environ.get("REQUEST_METHOD", ""), path)


def _id_of(environ: Environ) -> str:
    return id_of(environ.get("HTTP_X_REQUEST_ID", ""))
