"""Owners for the requests and WebSockets of any ASGI application."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from turnwise.tracking import owners
from turnwise.tracking.blocking import BLOCKED
from turnwise.tracking.request_names import MARK, id_of, name_of, template_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_LOG = logging.getLogger("turnwise.tracking")

_STARTS = {"http.response.start", "websocket.http.response.start"}
_BODIES = {
    "http.response.body",
    "http.response.pathsend",
    "http.response.zerocopysend",
    "websocket.http.response.body",
}


class OwnerMiddleware:
    """Each request and each WebSocket is the owner of what it opens: ``OwnerMiddleware(app)``.

    Put it around everything else. A request that has an owner already keeps it, so that an
    application and one mounted in it may both be wrapped. The owner is ``"GET /items/{id}"`` once
    the route is known, and ``scope["turnwise.owner"]``.
    """

    def __init__(self, app: Application) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application in the name of an owner."""
        exchange = None
        if scope["type"] in ("http", "websocket") and MARK not in scope:
            try:
                exchange = _Exchange(scope, send)
            except Exception:  # noqa: BLE001 - no request fails for it
                _LOG.debug("a request has no owner", exc_info=True)
        if exchange is None:
            await self.app(scope, receive, send)
            return
        try:
            await self.app(scope, receive, exchange.send)
        finally:
            exchange.end()


class _Exchange:
    """One request and its answer."""

    __slots__ = ("_method", "_named", "_path", "_scope", "_send", "_token", "_trailers")

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        # Mounts of older versions of Starlette take their prefix from the path of the scope.
        self._path = str(scope.get("path", ""))
        kind = "request" if scope["type"] == "http" else "websocket"
        self._method = str(scope.get("method", "")) if kind == "request" else "WS"
        self._named = False
        self._trailers = False
        name = name_of(self._method, self._path)
        self._token = owners.begin(kind, name, id=_id_of(scope))
        scope[MARK] = self._token.owner

    async def send(self, message: Message) -> None:
        """Send, then say how far the answer is: what was not sent yet is no news."""
        await self._send(message)
        try:
            self._advance(message)
        except Exception:  # noqa: BLE001 - no request fails for it
            _LOG.debug("the phase of a request was lost", exc_info=True)

    def _advance(self, message: Message) -> None:
        kind = message["type"]
        owner = self._token.owner
        if kind in _BODIES:
            if not message.get("more_body", False) and not self._trailers:
                owner.phase = "responded"
        elif kind in _STARTS:
            self._trailers = bool(message.get("trailers", False))
            owner.phase = "streaming"
            self._rename()
        elif kind == "http.response.trailers":
            if not message.get("more_trailers", False):
                owner.phase = "responded"
        elif kind == "websocket.close":
            owner.phase = "responded"
        elif kind == "websocket.accept":
            self._rename()

    def _rename(self) -> None:
        if self._named:
            return
        scope = self._scope
        route = scope.get("route")
        values = scope.get("path_params") or {}
        template = getattr(route, "path_format", None)
        if isinstance(template, str) or values:
            self._named = True
            path = template_of(self._path, template, values)
            self._token.owner.name = name_of(self._method, path)

    def end(self) -> None:
        """The application has returned, or raised."""
        try:
            try:
                self._rename()
                BLOCKED.add(self._token.owner)
            finally:
                owners.end(self._token)
        except Exception:  # noqa: BLE001 - no request fails for it
            _LOG.debug("the end of a request was lost", exc_info=True)


def _id_of(scope: Scope) -> str:
    for name, value in scope.get("headers", ()):
        if name == b"x-request-id":
            return id_of(value.decode("latin-1"))
    return ""
