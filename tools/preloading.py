"""Compiles C files into libraries that are preloaded into a process (LD_PRELOAD), on Linux."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def preloadable(source: Path, folder: Path) -> Path:
    """The C file as a library that can be preloaded into a process."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise RuntimeError("no C compiler")
    library = folder / f"{source.stem}.so"
    command = [compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o"]
    subprocess.run([*command, library, source, "-ldl"], check=True)
    return library
