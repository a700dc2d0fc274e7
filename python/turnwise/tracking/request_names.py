"""What a request is called in reports: its method and route, and the id that it came with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Mapping

MARK = "turnwise.owner"
"""Where scopes of ASGI and environments of WSGI hold the owner of their request."""

_LONGEST_PATH = 200
_LONGEST_ID = 128


def name_of(method: str, path: str) -> str:
    """The name of a request whose route is not known: ``"GET /items/7"``, in one line."""
    if " " in path or not path.isprintable():
        path = quote(path)
    if len(path) > _LONGEST_PATH:
        path = f"{path[:_LONGEST_PATH]}..."
    return f"{method} {path}"


def id_of(header: str) -> str:
    """The id of a request, unless it would spoil a line of the log. The client has chosen it."""
    fits = len(header) <= _LONGEST_ID and header.isascii() and header.isprintable()
    return header if fits and " " not in header else ""


def template_of(path: str, template: str | None, values: Mapping[str, Any]) -> str:
    """The whole path with parameters in place of their values: ``"/shops/{shop}/items/{id}"``.

    ``template`` is that of the innermost route, without the prefixes of mounts and, since FastAPI
    includes routers lazily, of routers. What of ``path`` precedes it belongs to them.
    """
    if template is None or template[:1] not in ("", "/"):
        return _with_parameters(path, values)
    if template.count("/") == path.count("/"):
        return template
    inner, outer = template, {}
    for name, value in values.items():
        if f"{{{name}}}" in template:
            inner = inner.replace(f"{{{name}}}", str(value))
        else:
            outer[name] = value
    if "{" in inner:
        # A mount of a foreign application: what follows its prefix is no parameter.
        return template
    prefix = path.split("/")[: -inner.count("/") or None]
    return _with_parameters("/".join(prefix), outer) + template


def _with_parameters(path: str, values: Mapping[str, Any]) -> str:
    """Each parameter stands for the last segment that equals its value."""
    segments = path.split("/")
    for name, value in values.items():
        text = str(value)
        if text and text in segments:
            segments[-1 - segments[::-1].index(text)] = f"{{{name}}}"
    return "/".join(segments)
