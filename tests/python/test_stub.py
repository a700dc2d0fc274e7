"""The committed stub is the one that the Rust signatures give."""

from __future__ import annotations

import subprocess
import sys

import pytest


# A first build of the crate with its introspection data.
@pytest.mark.timeout(600)
def test_the_stub_is_up_to_date(repository, tmp_path):
    fresh = tmp_path / "_native.pyi"
    script = repository / "tools" / "generate_stub.py"
    subprocess.run([sys.executable, str(script), str(fresh)], check=True)
    committed = repository / "python" / "turnwise" / "_native.pyi"
    assert committed.read_text(encoding="utf-8") == fresh.read_text(encoding="utf-8"), (
        "run `make stubs` and commit python/turnwise/_native.pyi"
    )
