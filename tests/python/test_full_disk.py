"""A disk that runs full: what fits lands, what does not is told, and room is used when it comes."""

from __future__ import annotations

import os
import pathlib
import subprocess
import tempfile

import pytest

from process_support import command

JOURNALS = pytest.mark.parametrize("journal", ["wal", "delete"])
HERE = pathlib.Path(__file__).parent
# A real file system where a child may mount one, and everywhere one that the child takes for small.
DISKS = {"quota": [], "tmpfs": ["unshare", "--mount"]}
if os.getuid() != 0:
    DISKS["tmpfs"] = ["unshare", "--user", "--map-root-user", "--mount"]


def may_mount():
    with tempfile.TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "tmpfs", folder]
        try:
            done = subprocess.run([*DISKS["tmpfs"], *mount], check=False, capture_output=True)
        except OSError:
            return False
        return done.returncode == 0


@pytest.fixture(params=["quota", "tmpfs"] if may_mount() else ["quota"])
def on_small_disk(request, tmp_path, small_disk):
    """Play a scene of `full_disk_scenes.py` on a disk of 8 MB."""

    def play(scene, *arguments):
        environment = {**os.environ, "SCENE_LIMIT": "90"}
        if request.param == "quota":
            environment["SMALL_DISK"] = str(tmp_path)
            environment["SMALL_DISK_BYTES"] = str(8 << 20)
            environment["LD_PRELOAD"] = str(small_disk)
        done = subprocess.run(
            [*DISKS[request.param], *command("full_disk_scenes.py", scene, tmp_path, *arguments)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return play


@JOURNALS
@pytest.mark.parametrize("kind", ["at commit", "while it runs"])
@pytest.mark.parametrize("count", [1, 3])
def test_a_write_too_large_for_the_disk_fails_alone(on_small_disk, journal, kind, count):
    on_small_disk("some_large", journal, kind, count)


@JOURNALS
def test_a_full_disk_is_told_to_each_and_forgotten_when_there_is_room(on_small_disk, journal):
    on_small_disk("full", journal)


@JOURNALS
def test_a_database_cannot_begin_on_a_full_disk(on_small_disk, journal, tmp_path):
    assert str(tmp_path / "topics.db") in on_small_disk("opening", journal)
