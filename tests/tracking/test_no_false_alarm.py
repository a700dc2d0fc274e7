"""Applications in the style of the frameworks' tutorials: nothing is found but what is wrong."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SUITES = Path(__file__).with_name("suites")
FINDINGS = "= turnwise findings ="


def run(folder, *arguments):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-p",
        "anyio.pytest_plugin",
    ]
    command += ["-p", "turnwise.pytest_plugin", "--turnwise=strict", *arguments]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    environment.pop("PYTEST_ADDOPTS", None)
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=150,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.fixture
def suite(tmp_path):
    def copy(name):
        folder = tmp_path / name
        shutil.copytree(SUITES / name, folder)
        (folder / "pytest.ini").write_text("[pytest]\n")
        return folder

    return copy


@pytest.mark.parametrize("name", ["fastapi_sync", "fastapi_async", "flask_blog"])
def test_a_tutorial_is_without_findings(suite, name):
    status, told = run(suite(name), "suite.py")
    assert status == 0, told
    assert FINDINGS not in told, told


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (
            "fastapi_sync",
            {
                "test_on_the_loop": "sync-on-loop",
                "test_in_the_background": "commit-after-response",
            },
        ),
        (
            "fastapi_async",
            {
                "test_in_the_background": "session-after-response",
                "test_after_the_response": "reopened-after-close",
            },
        ),
        ("flask_blog", {"test_in_a_thread": "cross-owner-use"}),
    ],
)
def test_its_wrong_routes_are_found(suite, name, found):
    status, told = run(suite(name), "wrong.py")
    assert status == 1, told
    heads = re.split(r"^_+ (?:ERROR at teardown of )?(\w+) _+$", told, flags=re.MULTILINE)
    failures = list(zip(heads[1::2], heads[2::2], strict=True))
    assert {test for test, _ in failures} == set(found), told
    for test, code in found.items():
        assert any(code in text for failed, text in failures if failed == test), told


# Flask-SQLAlchemy 3.1.1 itself fails there with SQLAlchemy 2.1, whose dataclasses are stricter.
STRICTER = "db2 or db4 or model_class2 or model_class4 or mapped_2x"


def test_flask_sqlalchemys_own_suite(tmp_path):
    """From its source distribution."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary"]
    command += ["flask-sqlalchemy", "flask-sqlalchemy==3.1.1"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=150)
    [archive] = tmp_path.glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path, filter="data")
    [folder] = (path for path in tmp_path.iterdir() if path.is_dir())
    status, told = run(folder, "-q", "-k", f"not ({STRICTER})", "tests")
    assert status == 0, told
    assert FINDINGS not in told, told
    assert int(re.search(r"(\d+) passed", told)[1]) >= 290
