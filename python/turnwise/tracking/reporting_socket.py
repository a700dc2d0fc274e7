"""Serves what this process knows of its leases to `turnwise top`, on a Unix socket."""

from __future__ import annotations

import atexit
import errno
import os
import secrets
import select
import socket
import threading
import time
from typing import TYPE_CHECKING

from turnwise.tracking import reporting_folder

if TYPE_CHECKING:
    from collections.abc import Callable

_SECONDS_PER_CLIENT = 1.0
# Clients are answered one after the other; these may wait, more are refused by the kernel.
_WAITING_CLIENTS = 8


class _Serving:
    """The server of this process, and whether the hooks of its end and its forks are set."""

    server: _Server | None = None
    hooked = False


class _Server:
    """One socket and the thread that answers."""

    def __init__(self, source: Callable[[], str], folder: str) -> None:
        self.source = source
        self.folder = folder
        self.path = ""
        self._listener: socket.socket | None = None
        self._awake, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="turnwise-reports", daemon=True)

    def listen(self) -> None:
        reporting_folder.make(self.folder)
        # A name of its own: processes of two containers may have one number and share the folder.
        name = f"{os.getpid()}-{secrets.token_hex(4)}"
        path = os.path.join(self.folder, name + reporting_folder.SUFFIX)
        unfinished = os.path.join(self.folder, name + reporting_folder.UNFINISHED)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(unfinished)
            os.chmod(unfinished, 0o600)
            listener.listen(_WAITING_CLIENTS)
            listener.setblocking(False)
            # Before it listens it would look like one left by a dead process.
            os.rename(unfinished, path)
        except OSError:
            listener.close()
            reporting_folder.remove(unfinished)
            raise
        self._listener, self.path = listener, path

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        try:
            if self._listener is None:
                self.listen()
            reporting_folder.clean(self.folder)
            self._answer_all()
        except (OSError, ValueError) as error:
            _warn(error)

    def _answer_all(self) -> None:
        listener = self._listener
        if listener is None:
            return
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        poll.register(self._awake, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._awake.fileno() in ready:
                return
            try:
                client, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                continue
            except OSError as error:
                if error.errno not in {errno.EMFILE, errno.ENFILE}:
                    raise
                time.sleep(_SECONDS_PER_CLIENT)
                continue
            with client:
                self._answer(client)

    def _answer(self, client: socket.socket) -> None:
        try:
            document = self.source()
        except Exception as error:  # noqa: BLE001 - a report must not end the thread
            document = f'{{"version": 1, "pid": {os.getpid()}, "error": "{type(error).__name__}"}}'
        try:
            client.settimeout(_SECONDS_PER_CLIENT)  # Of `sendall` as a whole.
            client.sendall(document.encode("utf-8", "replace"))
        except OSError:
            pass

    def stop(self) -> None:
        self._waker.close()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(2 * _SECONDS_PER_CLIENT)
        if self.path:
            reporting_folder.remove(self.path)
        self.drop()

    def drop(self) -> None:
        """Close this process's descriptors; the socket's file stays."""
        for each in (self._listener, self._awake, self._waker):
            if each is not None:
                each.close()


def serve(source: Callable[[], str], *, folder: str | None = None) -> None:
    """Answer each connection to this process's socket with what `source` returns: a JSON document.

    One daemon thread calls `source`. A child of `fork` serves on a socket of its own. Serving
    already, only the source is another from now on.

    Raises:
        PermissionError: The folder is not this user's alone.
        OSError: The socket cannot be made there.
    """
    if _Serving.server is not None:
        if folder in {None, _Serving.server.folder}:
            _Serving.server.source = source
            return
        stop()
    server = _Server(source, folder or reporting_folder.default_folder())
    try:
        server.listen()
    except OSError as error:
        server.drop()
        if "too long" in str(error):
            raise OSError(f"{error}: {server.folder} (set XDG_RUNTIME_DIR)") from None
        raise
    _Serving.server = server
    if not _Serving.hooked:
        _Serving.hooked = True
        atexit.register(stop)
        os.register_at_fork(after_in_child=_serve_in_child)
    server.start()


def stop() -> None:
    """Serve no longer, and remove the socket."""
    server, _Serving.server = _Serving.server, None
    if server is not None:
        server.stop()


def path() -> str | None:
    """Where this process serves."""
    return _Serving.server.path if _Serving.server is not None else None


def _serve_in_child() -> None:
    parents, _Serving.server = _Serving.server, None
    if parents is None:
        return
    parents.drop()
    try:
        _Serving.server = _Server(parents.source, parents.folder)
        # Its thread makes the socket: nothing of it delays the child.
        _Serving.server.start()
    except (OSError, RuntimeError) as error:
        _Serving.server = None
        _warn(error)


def _warn(error: Exception) -> None:
    import logging

    logging.getLogger("turnwise").warning("process %d serves no reports: %s", os.getpid(), error)
