"""What the processes of this machine report, and which of it is about which session of a server."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import struct
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from turnwise.cli.top_documents import Finding, Lease, findings_in, leases_in
from turnwise.tracking import reporting_folder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from turnwise.sqlalchemy.server_sessions import ServerSession, ServerView

_SECONDS_PER_PROCESS = 1.5
_SECONDS_IN_ALL = 3.0
_MOST_BYTES = 16 * 1024 * 1024
_ESTABLISHED = "01"


Address = tuple[str, int]


class Ends(NamedTuple):
    """A TCP connection: address and port on both sides."""

    address: str
    port: int
    peer: str
    peer_port: int


@dataclass(frozen=True)
class Report:
    """One process and what it says. `connections`: `None` where the system does not tell."""

    pid: int
    argv0: str
    leases: tuple[Lease, ...] = ()
    findings: tuple[Finding, ...] = ()
    connections: tuple[Ends, ...] | None = None


@dataclass(frozen=True)
class Joined:
    """A lease of a process, and how sure it is that it is this session's.

    "socket": the process has the very connection that the server names. "number": only the server's
    number of the session agrees.
    """

    report: Report
    lease: Lease
    match: str


@dataclass
class Reports:
    """What all processes report; `note` says why there is nothing."""

    reports: list[Report] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_all(folder: str | None) -> Reports:
    """Ask every process of this user. Takes a few seconds at most."""
    place = folder or reporting_folder.default_folder()
    found = Reports()
    try:
        reporting_folder.check(place)
        clients = reporting_folder.connections(place, _SECONDS_PER_PROCESS)
    except FileNotFoundError:
        return found
    except OSError as error:
        found.notes.append(f"reports are ignored: {error}")
        return found
    deadline = time.monotonic() + _SECONDS_IN_ALL
    silent = 0
    for client in clients:
        with client:
            pid = _listener(client)
            document = _receive(client, min(deadline, time.monotonic() + _SECONDS_PER_PROCESS))
        if document is None:
            silent += 1
        else:
            found.reports.append(_report(pid, document))
    if silent:
        found.notes.append(f"{silent} processes gave no report that can be read")
    return found


def _listener(client: socket.socket) -> int | None:
    """Who serves this socket, by the kernel and as this process sees it (containers)."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    size = struct.calcsize("3i")
    about = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid: int = struct.unpack("3i", about)[0]
    return pid or None


def _receive(client: socket.socket, deadline: float) -> dict[str, Any] | None:
    parts: list[bytes] = []
    size = 0
    try:
        while size <= _MOST_BYTES:
            client.settimeout(max(0.01, deadline - time.monotonic()))
            part = client.recv(1 << 16)
            if not part:
                document = json.loads(b"".join(parts))
                return document if isinstance(document, dict) else None
            parts.append(part)
            size += len(part)
    except (OSError, ValueError, RecursionError):
        pass
    return None


def _report(pid: int | None, document: dict[str, Any]) -> Report:
    said = document.get("pid")
    number = pid or (said if isinstance(said, int) else 0)
    return Report(
        number,
        str(document.get("argv0") or ""),
        leases_in(document),
        findings_in(document),
        connections_of(pid) if pid else None,
    )


def connections_of(pid: int | str) -> tuple[Ends, ...] | None:
    """The TCP connections of a process, on Linux and if it is one's own."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        inodes = set()
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                target = os.readlink(f"/proc/{pid}/fd/{name}")
            except FileNotFoundError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
        found: list[Ends] = []
        for table in ("tcp", "tcp6"):
            found += _connections(f"/proc/{pid}/net/{table}", inodes)
    except OSError:
        return None
    return tuple(found)


def _connections(table: str, inodes: set[str]) -> Iterable[Ends]:
    try:
        with open(table, encoding="ascii") as lines:
            rows = [line.split() for line in lines][1:]
    except FileNotFoundError:  # A kernel without IPv6.
        return
    for row in rows:
        if row[3] == _ESTABLISHED and row[9] in inodes:
            yield Ends(*_end(row[1]), *_end(row[2]))


def _end(text: str) -> tuple[str, int]:
    """Address and port of `0100007F:1538`: 32-bit words in the machine's own order."""
    address, _, port = text.partition(":")
    words = bytes.fromhex(address)
    if sys.byteorder == "little":
        words = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
    return _plain(ipaddress.ip_address(words)), int(port, 16)


def _plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def join(view: ServerView, reports: list[Report]) -> dict[int, Joined]:
    """The leases by the server's number of their session.

    A number alone proves little: another server, or the same behind a proxy, counts for itself. So
    the process must have the connection that the server sees, by the client's address and port.
    Where the server does not say these (a Unix socket, a row hidden from this role), a number that
    one process alone reports is taken, and marked.
    """
    claims: dict[int, list[tuple[Report, Lease]]] = {}
    for report in reports:
        for lease in report.leases:
            claims.setdefault(lease.backend_pid, []).append((report, lease))
    server = _server_end(view)
    joined = {}
    for session in view.sessions:
        pairs = claims.get(session.pid, [])
        sure = [pair for pair in pairs if _has_connection(pair[0], session, server)]
        if sure:
            joined[session.pid] = Joined(*sure[0], "socket")
            continue
        likely = [pair for pair in pairs if _may_have(pair[0], session, server)]
        if len(likely) == 1:
            joined[session.pid] = Joined(*likely[0], "number")
    return joined


def _has_connection(report: Report, session: ServerSession, server: Address | None) -> bool:
    return session.port is not None and any(
        _is_end_of(ends, session, server) for ends in report.connections or ()
    )


def _is_end_of(ends: Ends, session: ServerSession, server: Address | None) -> bool:
    """Whether the client's end of a connection is the one that the server names."""
    address = _parsed(session.address)
    if address is not None:
        return (ends.address, ends.port) == (address, session.port)
    # MariaDB has put a name in the address's place.
    return ends.port == session.port and server in {None, (ends.peer, ends.peer_port)}


def _may_have(report: Report, session: ServerSession, server: Address | None) -> bool:
    if report.connections is None:
        return True
    if session.port is not None:
        return False
    if not session.is_visible and server is not None:
        # Whoever talks to the address that we talk to, talks to the same server.
        return any((ends.peer, ends.peer_port) == server for ends in report.connections)
    return True


def _server_end(view: ServerView) -> Address | None:
    """Where the server is, seen from here: the other end of our own connection to it."""
    for ends in connections_of("self") or ():
        if _is_end_of(ends, view.own, None):
            return ends.peer, ends.peer_port
    return None


def _parsed(address: str) -> str | None:
    try:
        return _plain(ipaddress.ip_address(address.partition("%")[0]))
    except ValueError:
        return None
