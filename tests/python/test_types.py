"""An application that uses everything is checked as its authors would check it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_mypy_follows_signatures_sessions_and_coroutines_through_turnwise():
    command = [sys.executable, "-m", "mypy", "--strict", "--python-version", "3.10"]
    command += ["--follow-imports", "silent", "--cache-dir", str(ROOT / ".mypy_cache")]
    done = subprocess.run(
        [*command, str(ROOT / "tests" / "python" / "typed_application.py")],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"MYPYPATH": str(ROOT / "python"), "PATH": "/usr/bin"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
