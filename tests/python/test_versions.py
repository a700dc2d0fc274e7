"""One version everywhere."""

from __future__ import annotations

import importlib.metadata
import re
import sys

import pytest

import turnwise
from turnwise import _native

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@pytest.fixture(scope="module")
def workspace(repository):
    return tomllib.loads((repository / "Cargo.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def version(workspace):
    return workspace["workspace"]["package"]["version"]


def test_every_crate_takes_the_version_of_the_workspace(repository, workspace):
    for member in workspace["workspace"]["members"]:
        manifest = tomllib.loads((repository / member / "Cargo.toml").read_text(encoding="utf-8"))
        assert manifest["package"]["version"] == {"workspace": True}, member


def test_crates_depend_on_each_other_at_that_version(workspace, version):
    ours = {
        name: dependency
        for name, dependency in workspace["workspace"]["dependencies"].items()
        if isinstance(dependency, dict) and "path" in dependency
    }
    assert "turnwise" in ours
    assert {name: d["version"] for name, d in ours.items()} == dict.fromkeys(ours, version)


def test_the_lock_file_has_it(repository, version):
    lock = tomllib.loads((repository / "Cargo.lock").read_text(encoding="utf-8"))
    ours = {p["name"]: p["version"] for p in lock["package"] if "source" not in p}
    assert ours == dict.fromkeys(ours, version)


def test_python_has_it(version):
    assert turnwise.__version__ == version
    assert version == _native.VERSION
    assert importlib.metadata.version("turnwise") == version


def test_the_changelog_has_an_entry(repository, version):
    text = (repository / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[([^\]]+)\] - (Unreleased|\d{4}-\d\d-\d\d)$", text, re.MULTILINE)
    assert newest is not None
    assert newest.group(1) == version
