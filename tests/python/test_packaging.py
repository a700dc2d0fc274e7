"""A wheel and an sdist, each installed into a clean environment and used there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest

pytestmark = pytest.mark.packaging

USE = """
import json, os, sys
import turnwise
from turnwise import BatchWriter, _native
with BatchWriter("installed.db") as writer:
    writer.execute("CREATE TABLE t (x INTEGER)")
    result = writer.execute("INSERT INTO t VALUES (?) RETURNING x", (7,))
package = os.path.dirname(turnwise.__file__)
print(json.dumps({
    "package": package,
    "typed": os.path.exists(os.path.join(package, "py.typed")),
    "stub": os.path.exists(os.path.join(package, "_native.pyi")),
    "native": _native.__file__,
    "version": turnwise.__version__,
    "rows": result.rows,
}))
"""


@pytest.fixture(scope="module")
def built(repository, tmp_path_factory):
    """The wheel and the sdist of the source tree as it is."""
    folder = tmp_path_factory.mktemp("dist")
    maturin = str(Path(sysconfig.get_path("scripts")) / "maturin")
    for command in (["build", "--release"], ["sdist"]):
        subprocess.run([maturin, *command, "--out", str(folder)], cwd=repository, check=True)
    (wheel,) = folder.glob("*.whl")
    (sdist,) = folder.glob("*.tar.gz")
    return {"wheel": wheel, "sdist": sdist}


@pytest.fixture(scope="module")
def version():
    import turnwise

    return turnwise.__version__


class Installation:
    """A clean environment, outside the source tree, into which one file was installed."""

    def __init__(self, distribution, folder, repository):
        self.folder = folder
        self.venv = folder / "venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(self.venv)], check=True)
        self.python = str(self.venv / "bin" / "python")
        # Nothing of this test run leads back to the source tree, but for the compiled third-party
        # crates of an sdist build: they are kept, because SQLite takes a minute. Our own are not:
        # the files of an sdist all bear one old date, and cargo would find the last build fresh.
        self.environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("PYTHON", "VIRTUAL_ENV", "PYO3_", "MAKE", "MFLAGS", "RUSTFLAGS"))
        }
        target = repository / "target" / "sdist"
        for ours in target.glob("*/.fingerprint/turnwise-*"):
            shutil.rmtree(ours)
        self.environment["CARGO_TARGET_DIR"] = str(target)
        pip = [sys.executable, "-m", "pip", "--python", self.python, "install", "--quiet"]
        self.run([*pip, "--no-cache-dir", str(distribution)])

    def run(self, command):
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module", params=["wheel", "sdist"])
def installed(request, built, repository, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return Installation(built[request.param], folder, repository)


def test_it_works_where_it_is_installed(installed, version):
    seen = json.loads(installed.run([installed.python, "-I", "-c", USE]))
    assert Path(seen["package"]).is_relative_to(installed.venv)
    assert seen["typed"]
    assert seen["stub"]
    assert Path(seen["native"]).name == "_native.abi3.so"
    assert seen["version"] == version
    assert seen["rows"] == [[7]]


def test_the_command_is_installed(installed, version):
    printed = installed.run([str(installed.venv / "bin" / "turnwise"), "--version"])
    assert printed.split() == ["turnwise", version]


def test_sqlalchemy_finds_the_plugin(built):
    with zipfile.ZipFile(built["wheel"]) as wheel:
        (name,) = (one for one in wheel.namelist() if one.endswith("dist-info/entry_points.txt"))
        lines = wheel.read(name).decode().splitlines()
    group = lines.index("[sqlalchemy.plugins]")
    assert lines[group + 1].replace(" ", "") == "turnwise=turnwise.sqlalchemy.plugin:TurnwisePlugin"


def test_type_checkers_see_the_types(installed, repository, tmp_path):
    used = tmp_path / "used.py"
    used.write_text("import turnwise\nreveal_type(turnwise.__version__)\n", encoding="utf-8")
    mypy = [sys.executable, "-m", "mypy", "--strict", "--python-executable", installed.python]
    cache = ["--cache-dir", str(tmp_path / "cache"), "--config-file="]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MYPY")}
    done = subprocess.run(
        [*mypy, *cache, str(used)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'Revealed type is "str"' in done.stdout


def test_the_tag_is_abi3_for_python_3_10(built, version):
    name, tagged_version, python, abi, platform = built["wheel"].stem.split("-")
    assert (name, tagged_version, python, abi) == ("turnwise", version, "cp310", "abi3")
    assert "linux" in platform


def test_the_wheel_holds_the_package_and_nothing_else(built):
    with zipfile.ZipFile(built["wheel"]) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
    tops = {PurePosixPath(name).parts[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"turnwise"}
    suffixes = {PurePosixPath(name).suffix for name in names if name.startswith("turnwise/")}
    assert suffixes == {".py", ".pyi", ".so", ".typed"}
    licences = {PurePosixPath(name).name for name in names if "/licenses/" in name}
    assert {"LICENSE-MIT", "LICENSE-APACHE"} <= licences


def test_the_sdist_holds_what_the_build_needs_and_nothing_else(built):
    with tarfile.open(built["sdist"]) as archive:
        names = [PurePosixPath(*PurePosixPath(name).parts[1:]) for name in archive.getnames()]
    tops = {name.parts[0] for name in names}
    assert tops == {
        *("Cargo.toml", "Cargo.lock", "pyproject.toml", "PKG-INFO", "README.md"),
        *("LICENSE-MIT", "LICENSE-APACHE", "crates", "bindings", "python"),
    }
    assert not [str(name) for name in names if "tests" in name.parts or name.suffix == ".so"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux wheels carry a private SQLite")
def test_the_private_sqlite_stays_private(built, tmp_path):
    """No symbol of our SQLite is visible: it could replace the host's, or be replaced by it."""
    nm = shutil.which("nm")
    assert nm, "nm comes with the C compiler's binutils"
    with zipfile.ZipFile(built["wheel"]) as archive:
        library = archive.extract("turnwise/_native.abi3.so", tmp_path)
    exported = subprocess.run(
        [nm, "--dynamic", "--defined-only", library], check=True, capture_output=True, text=True
    ).stdout
    names = {line.split()[-1].split("@")[0] for line in exported.splitlines()}
    assert "PyInit__native" in names
    assert not {name for name in names if "sqlite" in name.lower()}
    wanted = subprocess.run(
        [nm, "--dynamic", "--undefined-only", library], check=True, capture_output=True, text=True
    ).stdout
    assert "sqlite3" not in wanted
