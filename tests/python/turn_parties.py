"""Processes that take turns, and do what a test tells them, line by line."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from process_support import wait_for

SAVE = "INSERT INTO landed (party, number) VALUES (?, ?)"


class Party:
    """A process with `path`, `turnwise` and `TurnLock` at hand, killed at the end of the block."""

    def __init__(self, path, *, preload=None, user=0):
        environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
        if preload is not None:
            environment["LD_PRELOAD"] = str(preload)
        self.process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", __file__, str(path), str(user)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=environment,
        )
        self.pid = self.process.pid
        self._read = b""
        assert self.reply() is None

    def start(self, code):
        """Has the process run a line; `reply` tells what came of it."""
        self.process.stdin.write(json.dumps(code).encode() + b"\n")

    def reply(self, timeout=30.0):
        """The value of the line that was started, or its error as an AssertionError."""
        end = time.monotonic() + timeout
        while b"\n" not in self._read:
            ready, _, _ = select.select([self.process.stdout], [], [], end - time.monotonic())
            assert ready, f"process {self.pid} says nothing"
            got = os.read(self.process.stdout.fileno(), 65_536)
            assert got, f"process {self.pid} has ended with {self.process.wait()}"
            self._read += got
        line, self._read = self._read.split(b"\n", 1)
        value, error = json.loads(line)
        assert error is None, error
        return value

    def do(self, code, timeout=30.0):
        self.start(code)
        return self.reply(timeout)

    def stop(self):
        os.kill(self.pid, signal.SIGSTOP)
        wait_for(lambda: state_of(self.pid) == "T", "the process stops")

    def go_on(self):
        os.kill(self.pid, signal.SIGCONT)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        self.process.stdin.close()
        self.process.stdout.close()


def state_of(pid):
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]


def waits_in_kernel(pid):
    """Whether the keeper of a process waits for a side file."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            if (task / "comm").read_text(encoding="utf-8").strip() != "turnwise-keeper":
                continue
            if (task / "syscall").read_text(encoding="utf-8").split()[0] == str(FLOCK):
                return True
    return False


# x86-64 and aarch64.
FLOCK = {"x86_64": 73, "aarch64": 32}[os.uname().machine]


def locked_by(path):
    """The processes that have a file locked, as the kernel knows them."""
    inode = str(os.stat(path).st_ino)
    found = set()
    for line in Path("/proc/locks").read_text(encoding="utf-8").splitlines():
        words = line.split()[1:]
        if words[0] == "FLOCK" and words[4].rsplit(":", 1)[1] == inode:
            found.add(int(words[3]))
    return found


def side(path, suffix="-turn"):
    return Path(f"{path}{suffix}")


def free(path):
    """Whether nobody has the turn or is next."""
    return not any(locked_by(side(path, end)) for end in ("-turn", "-turn-next"))


def jain(shares):
    """Jain's index of fairness: 1 where all have the same, 1/n where one has everything."""
    shares = list(shares)
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


def _obey():
    import asyncio  # noqa: F401 - loaded, not used
    import sqlite3  # noqa: F401

    import turnwise
    from turnwise import BatchWriter, TurnLock, events  # noqa: F401

    def timed(work):
        """The seconds that `work` took, and the name and text of its error."""
        began = time.monotonic()
        try:
            work()
        except Exception as error:
            return [time.monotonic() - began, type(error).__name__, str(error)]
        return [time.monotonic() - began, None, None]

    known = {
        "path": sys.argv[1],
        "turnwise": turnwise,
        "BatchWriter": BatchWriter,
        "TurnLock": TurnLock,
        "SAVE": SAVE,
        "timed": timed,
        "os": os,
        "time": time,
        "contextlib": contextlib,
    }
    # Not before: another user may be unable to read the interpreter's files.
    if (user := int(sys.argv[2])) not in {0, os.getuid()}:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    out = os.fdopen(os.dup(1), "w", buffering=1)
    print(json.dumps([None, None]), file=out)
    for line in sys.stdin:
        code = json.loads(line)
        try:
            try:
                value = eval(code, known)
            except SyntaxError:
                value = exec(code, known)
            try:
                told = json.dumps([value, None])
            except TypeError:
                told = json.dumps([None, None])
        except Exception as error:
            told = json.dumps([None, f"{type(error).__name__}: {error}"])
        print(told, file=out)


if __name__ == "__main__":
    _obey()
