"""Every system call that SQLite makes fails once, and from then on: the first, the second, the third …,
until a run passes clean.
"""

from __future__ import annotations

import json

import pytest

from process_support import run

# Journal, system call, error, the calls that the mix makes at least, and what callers must be told among
# others. SQLite takes EIO at a read for a broken file system (`SQLITE_IOERR_CORRUPTFS`).
SWEEPS = [
    ("wal", "read", "EIO", 20, "Corrupt"),
    ("wal", "write", "EIO", 80, "CommitOutcomeUnknown"),
    ("wal", "write", "ENOSPC", 80, "DiskFull"),
    ("wal", "sync", "EIO", 8, "CommitOutcomeUnknown"),
    ("delete", "read", "EIO", 10, "Corrupt"),
    ("delete", "read", "ESTALE", 10, "Io"),
    ("delete", "write", "EIO", 80, "Io"),
    ("delete", "write", "ENOSPC", 80, "DiskFull"),
    ("delete", "sync", "EIO", 20, "CommitOutcomeUnknown"),
    ("delete", "unlink", "EIO", 5, "CommitOutcomeUnknown"),
    ("truncate", "write", "EIO", 80, "CommitOutcomeUnknown"),
    ("truncate", "sync", "EIO", 20, "CommitOutcomeUnknown"),
    ("truncate", "truncate", "EIO", 5, "CommitOutcomeUnknown"),
]
# The call that fails comes after the one that commits: in doubt for good reason.
COMMITTED = {("wal", "sync"), ("delete", "sync"), ("truncate", "sync")}


def sweep(failing_io, journal, call, error):
    """Sweep in a process of its own; its report."""
    environment = {"LD_PRELOAD": str(failing_io)}
    output = run("io_sweep.py", journal, call, error, 60, env=environment, limit=150)
    report = json.loads(output)
    print(journal, call, error, report)
    return report


@pytest.mark.parametrize(("journal", "call", "error", "least", "told"), SWEEPS)
def test_every_system_call_fails_once(failing_io, soak, journal, call, error, least, told) -> None:
    report = sweep(failing_io, journal, call, error)
    for kind, (swept, strikes) in report["swept"].items():
        assert swept >= least, f"{kind}: {report}"
        assert strikes >= swept, f"{kind}: {report}"
    assert report["told"].get(told), report
    if (journal, call) in COMMITTED:
        assert report["in doubt"]["there"], report
    if journal == "delete" and call in {"read", "write"}:
        # The journal is still there, and undoes the pages.
        assert "CommitOutcomeUnknown" not in report["told"], report
    if soak and journal == "truncate" and call != "truncate":
        sweep(failing_io, "persist", call, error)
