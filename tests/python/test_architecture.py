"""The rules of the layout that a machine can check."""

from __future__ import annotations

import ast
import os
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILT = {".git", ".venv", "target", "dist", "__pycache__", ".hypothesis"}
TEXT = {".rs", ".py", ".pyi", ".c", ".h", ".md", ".toml", ".json", ".sh", ".yml", ".sql", ""}
# The parts of the package that may import a third-party module. Whoever uses `sqlalchemy`, `flask` or
# `fastapi` of ours has theirs; the others import inside functions.
THIRD_PARTY = {
    "tqdm": {"cli"},
    "pytest": {"pytest_plugin", "_findings_in_tests"},
    "sqlalchemy": {"sqlalchemy", "flask", "fastapi", "celery", "tracking", "_shared_in_tests"},
    "celery": {"celery"},
    "flask": {"flask", "_shared_in_tests"},
    "flask_sqlalchemy": {"flask"},
    "fastapi": {"fastapi"},
    "starlette": {"fastapi"},
}
LOADED_BY_THEIR_USERS = {
    "pytest_plugin",
    "_findings_in_tests",
    "_shared_in_tests",
    "sqlalchemy",
    "flask",
    "fastapi",
    "celery",
    "tracking",
}
# Every type checker brings it along, and nothing else ever imports it.
FOR_TYPE_CHECKERS = {"typing_extensions"}


def tracked(*suffixes):
    """Files of the source tree, without what was built."""
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [f for f in folders if f not in BUILT and not f.endswith("_cache")]
        for path in sorted(Path(folder, name) for name in names):
            if path.name not in BUILT and path.suffix in (suffixes or TEXT):
                yield path


def ids(path):
    return str(path.relative_to(ROOT))


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= 1, "a relative import stays in its package"
            yield node, "turnwise" if node.level else node.module


def for_type_checkers(tree):
    for node in tree.body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from ast.walk(node)


@pytest.mark.parametrize("path", sorted((ROOT / "python" / "turnwise").rglob("*.py")), ids=ids)
def test_the_package_imports_only_itself_and_the_standard_library(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node, name in imports(tree):
        root = name.split(".")[0]
        if root == "turnwise" or root in sys.stdlib_module_names:
            continue
        if root in FOR_TYPE_CHECKERS and node in for_type_checkers(tree):
            continue
        place = path.relative_to(ROOT / "python" / "turnwise").parts[0].removesuffix(".py")
        assert place in THIRD_PARTY.get(root, ()), f"{name} in line {node.lineno}"
        slows = node in tree.body and place not in LOADED_BY_THEIR_USERS
        assert not slows, f"{name} in line {node.lineno} slows down every import"


@pytest.mark.parametrize("path", sorted((ROOT / "crates").rglob("Cargo.toml")), ids=ids)
def test_no_crate_knows_a_language_binding(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"pyo3|wasm-bindgen|cbindgen|bindings/", text)


@pytest.mark.parametrize("path", list(tracked(".rs", ".py", ".c", ".h")), ids=ids)
def test_modules_stay_below_400_lines(path):
    parts = path.relative_to(ROOT).parts
    if not {"tests", "benches", "tests.rs"} & set(parts):
        lines = path.read_text(encoding="utf-8").count("\n")
        assert lines <= 400


def test_no_file_names_a_place_on_somebodys_machine():
    places = "home|root|Users|mnt|opt|srv|work|workspace"
    absolute = re.compile(rf"(?<![\w.~)}}*/-])/(?:{places})/\w|[A-Z]:\\\w")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in tracked()
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if absolute.search(line)
    ]
    assert found == []


def test_unsafe_code_stays_in_its_place():
    """Of the crates, only the private copy may hold unsafe code, and the sync of the log."""
    sqlite = ROOT / "crates" / "core" / "src" / "sqlite"
    allowed = sqlite / "private"
    unsafe = re.compile(r"\bunsafe\b(?!_)|allow\(unsafe_code\)")
    found = [
        path
        for path in (ROOT / "crates").rglob("*.rs")
        if allowed not in path.parents and "tests" not in path.parts
        if path != sqlite / "log_sync.rs"
        for line in path.read_text(encoding="utf-8").splitlines()
        if unsafe.search(line.split("//")[0])
    ]
    assert found == []
