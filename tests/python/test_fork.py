"""fork at any moment: nothing lost, nothing doubled, no hang, and everybody's locks stay theirs."""

from __future__ import annotations

import pytest

from fork_scenes import SCENES
from process_support import DELETE, WAL, Record, check, make_database, run

SCENE_NAMES = sorted(SCENES.keys() - {"storm"})


def is_whole(tmp_path, scene, journal, *arguments, limit=60) -> str:
    """Plays a scene, and compares the file with what was acknowledged in it."""
    path = make_database(tmp_path / "a.db", journal)
    record = tmp_path / "acks"
    told = run("fork_scenes.py", scene, path, journal, record, *arguments, limit=limit)
    acknowledged = {row for row in Record.rows(record) if not row[0].isdigit()}
    check(path, acknowledged)
    return f"{scene} {journal}: {len(acknowledged)} rows {told}"


@pytest.mark.parametrize("journal", [WAL, DELETE])
def test_a_storm_of_forks_loses_and_doubles_nothing(tmp_path, soak, journal) -> None:
    print(is_whole(tmp_path, "storm", journal, 2_000 if soak else 100, limit=900 if soak else 100))


@pytest.mark.parametrize("journal", [WAL, DELETE])
@pytest.mark.parametrize("scene", SCENE_NAMES)
def test_fork(tmp_path, scene, journal) -> None:
    print(is_whole(tmp_path, scene, journal))
