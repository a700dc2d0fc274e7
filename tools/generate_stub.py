"""Writes the type stub of the native module.

Usage: generate_stub.py FILE
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def generate(target: Path) -> None:
    """Write the stub that the Rust signatures give to `target`.

    Builds with the release profile, which shares the compiled SQLite with the wheel, and never
    strips: the signatures are read from the symbols of the library.

    Raises:
        subprocess.CalledProcessError: The crate does not build.
    """
    maturin = Path(sysconfig.get_path("scripts")) / "maturin"
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                *(str(maturin), "generate-stubs", "--quiet", "--locked"),
                *("--profile", "release", "--features", "stubs", "--out", folder),
            ],
            cwd=ROOT,
            check=True,
        )
        shutil.copyfile(Path(folder, "turnwise", "_native.pyi"), target)


if __name__ == "__main__":
    generate(Path(sys.argv[1]))
