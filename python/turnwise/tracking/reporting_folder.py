"""The folder where processes of one user serve their reports."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
import time

SUFFIX = ".sock"
UNFINISHED = ".new"
# From `bind` to `rename` takes microseconds; what is this old is left from a process that died.
_LONGEST_START = 60.0


def default_folder() -> str:
    """Where the reports of this user are: below XDG_RUNTIME_DIR, else in the temporary folder."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime) and os.path.isdir(runtime):
        return os.path.join(runtime, "turnwise")
    return os.path.join(tempfile.gettempdir(), f"turnwise-{os.geteuid()}")


def make(folder: str) -> None:
    """Make the folder if need be, for this user alone.

    Raises:
        PermissionError: Others could read or replace what is in it.
    """
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        pass
    check(folder)


def check(folder: str) -> None:
    """Refuse a folder in which others could read or replace a socket.

    Raises:
        FileNotFoundError: It does not exist.
        PermissionError: It is a link or a file, somebody else's, or open to others; or others could
            put another in its place.
    """
    about = os.lstat(folder)
    if not stat.S_ISDIR(about.st_mode):
        raise PermissionError(f"{folder} is not a folder, or a link to one: remove it")
    if about.st_uid != os.geteuid():
        raise PermissionError(f"{folder} belongs to another user (uid {about.st_uid})")
    if about.st_mode & 0o077:
        raise PermissionError(f"{folder} is open to others: chmod 700 it")
    parent = os.path.dirname(os.path.abspath(folder))
    above = os.stat(parent)
    if above.st_mode & 0o022 and not above.st_mode & stat.S_ISVTX:
        raise PermissionError(f"{parent} lets others replace what is in it: chmod go-w it")
    if above.st_uid not in {0, os.geteuid()}:
        raise PermissionError(f"{parent} belongs to another user (uid {above.st_uid})")


def connections(folder: str, seconds: float) -> list[socket.socket]:
    """A connection to every process that serves there; what dead ones left is removed."""
    found = []
    for name in sorted(os.listdir(folder)):
        if name.endswith(SUFFIX):
            client = _connect(os.path.join(folder, name), seconds)
            if client is not None:
                found.append(client)
    return found


def clean(folder: str) -> None:
    """Remove what dead processes left, without asking the living."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        number = name.partition("-")[0]
        if name.endswith(UNFINISHED):
            _remove_old(path)
        elif name.endswith(SUFFIX) and number.isdigit() and not _lives(int(number)):
            client = _connect(path, 0.1)
            if client is not None:
                client.close()


def remove(path: str) -> None:
    """Remove a socket that may be gone already."""
    try:
        os.unlink(path)
    except OSError:
        pass


def _connect(path: str, seconds: float) -> socket.socket | None:
    """A connection. Removes a socket of which the kernel says that nobody listens.

    Its process's number would not do: it may be in use again, or be of another container.
    """
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        client.settimeout(seconds)
        client.connect(path)
    except ConnectionRefusedError:
        client.close()
        remove(path)
    except OSError:
        client.close()
    else:
        return client
    return None


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


def _remove_old(path: str) -> None:
    try:
        age = time.time() - os.lstat(path).st_mtime
    except OSError:
        return
    if age > _LONGEST_START:
        remove(path)
