"""A TCP proxy before a database server that loses connections at a chosen moment, above all at COMMIT."""

from __future__ import annotations

import contextlib
import re
import socket
import threading

HOST = "127.0.0.1"
# What a client cannot tell apart, and the server can.
BEFORE = "before"  # COMMIT never arrives; the server sees the connection end, and rolls back.
PARTITION = "partition"  # COMMIT never arrives; the server goes on holding the transaction open.
AFTER = "after"  # The server has answered COMMIT; the answer never arrives.
MODES = (BEFORE, PARTITION, AFTER)

# What comes instead of the log-in: asking for encryption, twice; cancelling a query.
NEGOTIATIONS, CANCEL = (80877103, 80877104), 80877102
COMMIT = re.compile(rb"\s*(?:/\*.*?\*/\s*)?(?:XA\s+COMMIT|COMMIT|END)\b", re.IGNORECASE)


class EndedError(Exception):
    """One side of a connection is closed."""


class PostgreSQLWire:
    """Messages of the protocol 3.x: a type, a length, a body; none has a type before the log-in."""

    def __init__(self) -> None:
        self._is_typed = self._is_negotiating = False
        self._statements: set[bytes] = set()  # The prepared ones that are a COMMIT.
        self._portals: set[bytes] = set()

    def request(self, read) -> tuple[bytes, bool]:
        """One message of the client, and whether it executes a COMMIT."""
        if not self._is_typed:
            head = read(4)
            body = read(int.from_bytes(head, "big") - 4)
            code = int.from_bytes(body[:4], "big")
            self._is_negotiating = code in NEGOTIATIONS
            self._is_typed = not self._is_negotiating and code != CANCEL
            return head + body, False
        head = read(5)
        body = read(int.from_bytes(head[1:], "big") - 4)
        return head + body, self._commits(head[:1], body)

    def _commits(self, kind: bytes, body: bytes) -> bool:
        if kind == b"Q":
            return bool(COMMIT.match(body))
        if kind == b"P":
            name, text, _ = body.split(b"\0", 2)
            self._note(self._statements, name, COMMIT.match(text))
        elif kind == b"B":
            portal, statement, _ = body.split(b"\0", 2)
            self._note(self._portals, portal, statement in self._statements)
        elif kind == b"E":
            return body.split(b"\0", 1)[0] in self._portals
        return False

    @staticmethod
    def _note(names: set[bytes], name: bytes, is_commit) -> None:
        names.add(name) if is_commit else names.discard(name)

    def reply(self, read) -> tuple[bytes, bool]:
        """One message of the server, and whether it is the last of an answer."""
        kind = read(1)
        if self._is_negotiating:
            self._is_negotiating = False
            if kind == b"S":
                raise NotImplementedError("the proxy cannot read what is encrypted")
            return kind, False
        head = read(4)
        return kind + head + read(int.from_bytes(head, "big") - 4), kind == b"Z"


class MySQLWire:
    """Packets of MySQL's protocol: three bytes of length, a number; 0 begins a command."""

    def __init__(self) -> None:
        self._is_prepared: dict[bytes, bool] = {}

    @staticmethod
    def _packet(read) -> bytes:
        head = read(4)
        return head + read(int.from_bytes(head[:3], "little"))

    def request(self, read) -> tuple[bytes, bool]:
        """One packet of the client, and whether it is a COMMIT."""
        packet = self._packet(read)
        is_query = packet[3:5] == b"\0\x03"
        # Newer clients put two numbers before the text: no parameters, in one set.
        return packet, is_query and bool(COMMIT.match(packet[5:].lstrip(b"\0\1")))

    def reply(self, read) -> tuple[bytes, bool]:
        """One packet of the server; COMMIT is answered in one."""
        return self._packet(read), True


class Link:
    """One connection of a client, and its own to the server."""

    def __init__(self, proxy: Proxy, client: socket.socket) -> None:
        self._proxy, self._client = proxy, client
        self._server = socket.create_connection(proxy.target)
        self._wire = PostgreSQLWire() if proxy.dialect == "postgresql" else MySQLWire()
        self._is_committing = threading.Event()
        for pump in (self._requests, self._replies):
            threading.Thread(target=self._carry, args=(pump,), daemon=True).start()

    @staticmethod
    def _reader(source: socket.socket):
        file = source.makefile("rb")

        def read(size: int) -> bytes:
            data = file.read(size)
            if len(data) < size:
                raise EndedError
            return data

        return read

    def _carry(self, pump) -> None:
        try:
            pump()
        except (OSError, EndedError, ValueError):
            self.cut(server=not self._proxy.is_held(self))

    def _requests(self) -> None:
        read = self._reader(self._client)
        while True:
            message, is_commit = self._wire.request(read)
            mode = self._proxy.at_commit(self) if is_commit else None
            if mode == AFTER:
                self._is_committing.set()
            elif mode is not None:
                self.cut(server=mode == BEFORE)
                self._proxy.has_cut.set()
                return
            self._server.sendall(message)

    def _replies(self) -> None:
        read = self._reader(self._server)
        while True:
            message, is_whole = self._wire.reply(read)
            if not self._is_committing.is_set():
                self._client.sendall(message)
            elif is_whole:
                self.cut()
                self._proxy.has_cut.set()
                return

    def cut(self, *, server: bool = True) -> None:
        """Close the client's side, and the server's too."""
        for side in (self._client, self._server) if server else (self._client,):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
            side.close()


class Proxy:
    """Listens on `port`; passes everything on until told to cut."""

    def __init__(self, server) -> None:
        self.dialect, self.target, self.host = server.dialect, (server.host, server.port), HOST
        self.has_cut = threading.Event()
        self.commits = 0  # How many were seen.
        self._mode: str | None = None
        self._held: set[Link] = set()
        self._links: list[Link] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server((HOST, 0))
        self.port = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def url(self, url):
        """The same URL of SQLAlchemy, by way of this proxy."""
        return url.set(host=self.host, port=self.port)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with contextlib.suppress(OSError):
                    self._links.append(Link(self, client))

    def cut_next_commit(self, mode: str) -> None:
        """Lose the connection that sends the next COMMIT, in one of MODES; later ones pass."""
        assert mode in MODES
        self.has_cut.clear()
        self._mode = mode

    def at_commit(self, link: Link) -> str | None:
        """What is to become of this COMMIT."""
        with self._lock:
            self.commits += 1
            mode, self._mode = self._mode, None
            if mode == PARTITION:
                self._held.add(link)
            return mode

    def is_held(self, link: Link) -> bool:
        return link in self._held

    def cut_all(self) -> None:
        """Lose every connection now."""
        for link in self._links:
            if not self.is_held(link):
                link.cut()

    def heal(self) -> None:
        """Let the server notice the end of the connections that a partition left open."""
        while self._held:
            self._held.pop().cut()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join(10)
        self.heal()
        self.cut_all()
