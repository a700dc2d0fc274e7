"""What a measurement depends on: versions, processor, file system, the cost of one flush."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import sys
import time

MEMORY_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs"})
FLUSHES = 20


def file_system(path: str) -> str | None:
    """The type of the file system of `path`, such as `ext4`; None where Linux does not tell."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            device = os.stat(path).st_dev
            wanted = f"{os.major(device)}:{os.minor(device)}"
            for mount in mounts:
                fields = mount.split()
                if fields[2] == wanted:
                    return fields[fields.index("-") + 1]
    except (OSError, ValueError, IndexError):
        pass
    return None


def flush_ms(folder: str) -> float:
    """Milliseconds (median of 20) that the disk takes to keep 4 KiB appended to a file."""
    sync = getattr(os, "fdatasync", os.fsync)
    path = os.path.join(folder, "flush")
    times = []
    with open(path, "wb", buffering=0) as file:
        for _ in range(FLUSHES):
            file.write(bytes(4096))
            started = time.perf_counter()
            sync(file.fileno())
            times.append(time.perf_counter() - started)
    os.remove(path)
    return statistics.median(times) * 1000


def machine(folder: str) -> dict[str, object]:
    """The machine and the versions, ready for JSON."""
    import turnwise

    return {
        "turnwise": turnwise.__version__,
        "python": platform.python_version(),
        "python_sqlite": sqlite3.sqlite_version,
        "system": platform.platform(),
        "processor": platform.machine(),
        "cpus": os.cpu_count(),
        "free_threaded": not getattr(sys, "_is_gil_enabled", lambda: True)(),
        "file_system": file_system(folder),
        "flush_ms": round(flush_ms(folder), 3),
    }
