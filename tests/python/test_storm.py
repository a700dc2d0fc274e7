"""Python's own SQLite and ours in one process, and other processes beside them: nothing is lost."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from process_support import (
    DELETE,
    WAL,
    Record,
    assert_rows,
    check,
    kill_group,
    landed,
    make_database,
    run,
    start,
)
from storm_parties import HOST, OTHER, OURS

SCRIPT = "storm_parties.py"
EVERYBODY = 4 * OURS + 2 * HOST + 2 * OTHER


def outlast(script, *arguments):
    """A process beside the storm."""
    return start(script, *arguments)


@pytest.mark.parametrize("journal", [WAL, DELETE])
def test_a_storm_of_both_copies_loses_nothing(tmp_path, soak, journal) -> None:
    for number in range(50 if soak else 5):
        path = make_database(tmp_path / f"storm-{number}.db", journal)
        record = tmp_path / f"acks-{number}"
        begun = time.monotonic()
        with (
            start(SCRIPT, "other", path, record) as other,
            start(SCRIPT, "other_ours", path, journal, record) as ours,
        ):
            try:
                told = run(SCRIPT, "storm", path, journal, record, limit=110)
                assert (other.wait(60), ours.wait(60)) == (0, 0)
            finally:
                kill_group(other)
                kill_group(ours)
        acknowledged = Record.rows(record)
        # Ours never fail, so the figures are exact; the host's poll until they are through.
        assert len(acknowledged) == EVERYBODY
        assert_rows(landed(path), acknowledged)
        print(
            f"{journal} {number}: {time.monotonic() - begun:.1f} s, transactions/lock retries/checkpoints {told}"
        )


@pytest.mark.parametrize("journal", [WAL, DELETE])
def test_readers_of_the_other_copy_do_not_drop_our_lock(tmp_path, journal) -> None:
    path = make_database(tmp_path / "a.db", journal)
    run(SCRIPT, "lock_survives_readers", path, journal)
    check(path, {("ours", 1)})


@pytest.mark.parametrize("journal", [WAL, DELETE])
def test_our_closes_do_not_drop_the_lock_of_the_other_copy(tmp_path, journal) -> None:
    path = make_database(tmp_path / "a.db", journal)
    run(SCRIPT, "host_lock_survives_ours", path, journal)
    assert landed(path) == Counter(
        {(party, number): 1 for party in ("host", "ours") for number in range(3)}
    )
