"""The socket of a driver's connection, and what waits on it unread. Nothing is ever consumed."""

from __future__ import annotations

import os
import select
import socket
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    Ready = Callable[[int], Any]

_ENDED = (
    getattr(select, "POLLRDHUP", 0)
    | getattr(select, "POLLHUP", 0)
    | getattr(select, "POLLERR", 0)
    | getattr(select, "POLLNVAL", 0)
)
_WANTED = getattr(select, "POLLIN", 0) | getattr(select, "POLLRDHUP", 0)
_MUCH = 65_536

_DESCRIPTORS: dict[str, Callable[[Any], int]] = {
    "psycopg2": lambda driver: int(driver.fileno()),
    "psycopg": lambda driver: int(driver.pgconn.socket),
    "pg8000": lambda driver: int(driver._usock.fileno()),  # noqa: SLF001 - no public name
    "pymysql": lambda driver: int(driver._sock.fileno()),  # noqa: SLF001 - no public name
    "MySQLdb": lambda driver: int(driver.fileno()),
    # Its C extension keeps the socket to itself.
    "mysql": lambda driver: int(driver._socket.sock.fileno()),  # noqa: SLF001 - no public name
    # The public `socket` makes an object that closes the descriptor when it is collected.
    "mariadb": lambda driver: int(driver._get_socket()),  # noqa: SLF001 - see above
}
_TRANSPORTS: dict[str, Callable[[Any], Any]] = {
    "asyncpg": lambda driver: driver._transport,  # noqa: SLF001 - no public name
    "asyncmy": lambda driver: driver._transport,  # noqa: SLF001 - no public name
    "aiomysql": lambda driver: driver._writer.transport,  # noqa: SLF001 - no public name
}


class Arrived(NamedTuple):
    """What an idle connection's socket has to say."""

    is_dead: bool | None
    """``None``: the bytes do not tell (they are encrypted), ask the server."""
    reason: str = ""
    """The server's code for the end, where it sent one."""


def ready_of(driver: Any) -> Ready:
    """What to call with 0 before the connection is used: true if something waits on its socket.

    No round trip: one ``poll``, 0.3 to 0.5 µs. Always false where the driver does not give its
    socket away. To be called by whoever has the connection, one at a time.
    """
    for root in _roots(driver):
        try:
            if root in _DESCRIPTORS:
                return _poller(_DESCRIPTORS[root](driver))
            if root in _TRANSPORTS:
                return _of_transport(_TRANSPORTS[root](driver))
        except Exception:  # noqa: BLE001 - another version of the driver, or already closed
            return _never
    return _never


def _roots(driver: Any) -> list[str]:
    return [cls.__module__.partition(".")[0] for cls in type(driver).__mro__]


def _never(_: int) -> None:
    """Nothing can be seen."""


def _poller(descriptor: int) -> Ready:
    poller = select.poll()
    poller.register(descriptor, _WANTED)
    return poller.poll


def _of_transport(transport: Any) -> Ready:
    """The event loop may have read the end already, and closed the descriptor."""
    descriptor = transport.get_extra_info("socket").fileno()
    is_closing, poll = transport.is_closing, _poller(descriptor)

    def ready(timeout: int) -> Any:
        return [(-1, _ENDED)] if is_closing() else poll(timeout)

    return ready


def look(events: list[tuple[int, int]], dialect: str) -> Arrived:
    """What has arrived on a connection that nobody asked anything.

    PostgreSQL sends notifications, notices and changed settings on its own: these leave the
    connection alive, and stay unread for their reader. Anything else is the end, or the answer to
    somebody else's question.
    """
    descriptor, flags = events[0]
    data = _peek(descriptor)
    has_ended = bool(flags & _ENDED) or data == b""
    if data is None or not data:
        return Arrived(is_dead=has_ended)
    if _is_encrypted(data):
        return Arrived(is_dead=True if has_ended else None)
    found = _postgresql(data) if dialect == "postgresql" else _mysql(data)
    return found._replace(is_dead=True) if has_ended else found


def idle_of(events: list[tuple[int, int]]) -> float | None:
    """Seconds since the client last sent something, as the kernel knows it; TCP on Linux only."""
    try:
        with socket.socket(fileno=os.dup(events[0][0])) as twin:
            info = twin.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    except (OSError, AttributeError):
        return None
    # `tcpi_last_data_sent` of struct tcp_info, in milliseconds.
    return float(struct.unpack_from("=I", info, 44)[0]) / 1000 if len(info) >= 48 else None


def _peek(descriptor: int) -> bytes | None:
    """What is unread, b"" at the end, ``None``: it cannot be known."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as twin:
            return twin.recv(_MUCH, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except (OSError, AttributeError):
        return None


def _is_encrypted(data: bytes) -> bool:
    """A record of TLS 1: no packet of MySQL is as long as its first bytes would then say."""
    return len(data) >= 3 and 0x14 <= data[0] <= 0x17 and data[1] == 3 and 1 <= data[2] <= 4


_UNASKED = b"ANS"  # NotificationResponse, NoticeResponse, ParameterStatus.
_ANSWERS = b"RKZTDCEIGHWVcdfnst123v"
_CRASH = "57P02"
"""The one end that PostgreSQL announces by a notice: another of its processes has crashed."""


def _postgresql(data: bytes) -> Arrived:
    place, reason = 0, ""
    while place < len(data):
        kind = data[place : place + 1]
        length = int.from_bytes(data[place + 1 : place + 5], "big")
        rest = data[place + 5 : place + 1 + length]
        if kind not in _UNASKED:
            break
        if kind == b"N" and _sqlstate(rest) == _CRASH:
            reason = _CRASH
        place += 1 + length if length >= 4 else len(data)
    else:
        return Arrived(is_dead=bool(reason), reason=reason)
    if kind not in _ANSWERS:
        return Arrived(is_dead=None)
    return Arrived(is_dead=True, reason=_sqlstate(rest) if kind == b"E" else "an unread answer")


def _sqlstate(fields: bytes) -> str:
    """Of the fields of an error or a notice, each a letter and a text."""
    codes = [field[1:] for field in fields.split(b"\0") if field[:1] == b"C"]
    return codes[0].decode("ascii", "replace") if codes else ""


def _mysql(data: bytes) -> Arrived:
    if len(data) >= 7 and data[4] == 0xFF:
        return Arrived(is_dead=True, reason=str(int.from_bytes(data[5:7], "little")))
    return Arrived(is_dead=True, reason="an unread answer")
