"""Scenes on a disk of 8 MB that runs full, each played in a process of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import subprocess
import time
from pathlib import Path

import pytest

from process_support import play
from turnwise import BatchWriter, errors
from writer_support import (
    CREATE,
    INSERT,
    check_integrity,
    locked_by_another_process,
    titles,
    wait_until,
)

BYTES = 8 << 20
ROOM = 600 << 10
CONTENT = "INSERT INTO topic (title, content) VALUES (?, ?)"


def small_disk(folder: str) -> Path:
    """The folder as a disk of its own, unless the preloaded library makes it one."""
    if "SMALL_DISK" not in os.environ:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={BYTES}", "tmpfs", folder], check=True)
    return Path(folder)


def fill(folder: Path, room: int) -> None:
    """Leave so many bytes on the disk."""
    ballast = os.open(folder / "ballast", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for block in (65536, 4096, 1):
        with contextlib.suppress(OSError):
            while True:
                os.write(ballast, b"\0" * block)
    size = os.fstat(ballast).st_size
    os.ftruncate(ballast, max(0, size - room))
    os.close(ballast)
    assert size > room, "the ballast does not fit"


def open_writer(folder: Path, journal: str) -> BatchWriter:
    writer = BatchWriter(folder / "topics.db", journal_mode=journal)
    writer.execute(CREATE)
    writer.execute("ALTER TABLE topic ADD COLUMN content BLOB")
    return writer


def some_large(folder: str, journal: str, kind: str, count: str) -> None:
    """In a group, some writes do not fit on the disk; the small ones beside them do."""
    disk = small_disk(folder)
    writer = open_writer(disk, journal)
    fill(disk, ROOM)
    # Below SQLite's cache of 2 MB the lack shows at COMMIT alone, when all have run.
    size = {"at commit": 1 << 20, "while it runs": 3 << 20}[kind]
    with locked_by_another_process(writer.path) as release:
        before = [writer.submit(INSERT, (f"before {n}",)) for n in range(10)]
        large = [writer.submit(CONTENT, (f"large {n}", b"x" * size)) for n in range(int(count))]
        after = [writer.submit(INSERT, (f"after {n}",)) for n in range(10)]
        wait_until(lambda: writer.stats().lock_retries > 0)
        release()
        concurrent.futures.wait([*before, *large, *after], 60)
    told = [future.exception(0) for future in before + after]
    assert told == [None] * 20, told
    for future in large:
        error = future.exception(0)
        assert type(error) is errors.DiskFullError, repr(error)
        assert (error.kind, error.sqlite_errorcode) == ("DiskFull", 13)
    small = {f"{when} {n}" for when in ("before", "after") for n in range(10)}
    assert titles(writer.path) == small
    check_integrity(writer.path)
    (disk / "ballast").unlink()
    writer.execute(CONTENT, ("large", b"x" * size))
    writer.close()
    assert titles(writer.path) == small | {"large"}


def full(folder: str, journal: str) -> None:
    """Nothing fits any more, until there is room."""
    disk = small_disk(folder)
    writer = open_writer(disk, journal)
    writer.execute(CONTENT, ("early", b"x" * 40_000))
    fill(disk, 0)
    content = b"x" * 200_000
    started = time.monotonic()

    def coroutine() -> None:
        asyncio.run(writer.aexecute(CONTENT, ("coroutine", content)))

    def transaction() -> None:
        with writer.transaction() as tx:
            tx.execute(CONTENT, ("transaction", content))

    for call in (
        lambda: writer.execute(CONTENT, ("execute", content)),
        lambda: writer.executemany(CONTENT, [(f"row {n}", content) for n in range(3)]),
        lambda: writer.submit(CONTENT, ("future", content)).result(30),
        coroutine,
        transaction,
    ):
        with pytest.raises(errors.DiskFullError, match="full") as caught:
            call()
        assert caught.value.state == "permanent"
    with locked_by_another_process(writer.path) as release:
        group = [writer.submit(CONTENT, (f"group {n}", content)) for n in range(30)]
        release()
        concurrent.futures.wait(group, 60)
    told = [type(future.exception(0)) for future in group]
    assert told == [errors.DiskFullError] * 30, told
    assert time.monotonic() - started < 30
    assert titles(writer.path) == {"early"}

    (disk / "ballast").unlink()
    assert writer.execute(CONTENT, ("late", content)).rowcount == 1
    assert writer.submit(CONTENT, ("later", content)).result(30).rowcount == 1
    writer.flush()
    writer.close()
    assert titles(writer.path) == {"early", "late", "later"}
    check_integrity(writer.path)


def opening(folder: str, journal: str) -> None:
    """A database cannot be begun on a full disk, and can once there is room."""
    disk = small_disk(folder)
    fill(disk, 0)
    with pytest.raises(errors.DiskFullError) as caught:
        open_writer(disk, journal)
    print(caught.value)
    (disk / "ballast").unlink()
    open_writer(disk, journal).close()


if __name__ == "__main__":
    play({"some_large": some_large, "full": full, "opening": opening})
