"""The power is cut at moments all over a run, and what was acknowledged is there when it comes back."""

from __future__ import annotations

import os
import random
import subprocess
from collections import Counter
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from power_cut import Record, read_log
from power_recovery import DATABASE, Findings, Sweep, check_record
from process_support import DELETE, WAL, kill_group, start

if TYPE_CHECKING:
    from collections.abc import Iterator

# What has an acknowledged write on disk.
LASTING = ["full", "pipelined"]

POINTS, SOAK_POINTS = 100, 4_000
BY_CHANCE, SOAK_BY_CHANCE = 2, 8


class Run:
    """Processes on one database, whose operations are recorded."""

    def __init__(self, folder, library, seed) -> None:
        self.folder, self.seed = folder / "disk", seed
        self.folder.mkdir()
        self.path = self.folder / DATABASE
        self.log, self.keep = folder / "log", folder / "found"
        self.environment = {
            **os.environ,
            "LD_PRELOAD": str(library),
            "RECORDED_FOLDER": str(self.folder),
            "RECORDED_LOG": str(self.log),
            "RECORDED_SYNC_US": "300",
            "SCENE_LIMIT": "100",
        }

    def make(self, journal) -> None:
        self.together([("make", journal)])

    def together(self, parties, helpers=()) -> list[str]:
        """Start the parties at once, and the helpers, which end after them; what the parties printed."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with ExitStack() as stack:
            started = []
            for scene, *arguments in [*parties, *helpers]:
                command = ["power_parties.py", scene, self.path, *arguments]
                process = stack.enter_context(start(*command, env=self.environment, **pipes))
                stack.callback(kill_group, process)
                started.append(process)
            for process in started:
                process.stdin.write(b"go\n")
                process.stdin.flush()
            told = []
            for process in started:
                out, errors = process.communicate(timeout=120)
                assert process.returncode == 0, errors.decode()
                told.append(out.decode())
            return told

    @contextmanager
    def going(self, scene, *arguments) -> Iterator[subprocess.Popen[bytes]]:
        """A party that has begun and not ended; what it says comes line by line. In the end it is killed."""
        environment = {**self.environment, "RECORDED_SYNC_US": "200000", "SCENE_LIMIT": "20"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with start(
            "power_parties.py", scene, self.path, *arguments, env=environment, **pipes
        ) as process:
            try:
                yield process
            finally:
                kill_group(process)

    def records(self) -> list[Record]:
        return read_log(self.log)

    def sweep(self, soak, since=0) -> Findings:
        records = self.records()
        check_record(records, self.folder)
        sweep = Sweep(records, self.seed, self.keep)
        counts = (SOAK_POINTS, SOAK_BY_CHANCE) if soak else (POINTS, BY_CHANCE)
        findings = sweep.run(*counts, since)
        print(f"{len(records)} records, seed {self.seed}: {findings}")
        return findings


@pytest.fixture
def run(tmp_path, recorded_io) -> Run:
    return Run(tmp_path, recorded_io, random.SystemRandom().randrange(1 << 32))


def restarts(records) -> int:
    """How often a log began anew: a header at its begin, after the first."""
    headers = Counter(record.inode for record in records if is_header(record))
    return sum(count - 1 for count in headers.values())


def is_header(record) -> bool:
    return record.kind == "W" and record.at == 0 and record.data[:3] == b"\x37\x7f\x06"


def checkpoints(records) -> int:
    """Syncs of the database file, which in WAL mode only a checkpoint makes."""
    (database,) = {r.inode for r in records if r.kind == "C" and r.data == DATABASE.encode()}
    return sum(record.kind == "E" and record.inode == database for record in records)


def deletions(records) -> int:
    return sum(record.kind == "U" and record.data.endswith(b"-wal") for record in records)


def assert_kept(findings: Findings, acknowledged: int) -> None:
    assert (len(findings.lost), len(findings.defects)) == (0, 0), str(findings)
    assert findings.acknowledged >= acknowledged, findings
    assert findings.opened >= 80, findings


def one_process(run, durability, journal) -> None:
    run.make(journal)
    run.together([("writes", journal, durability, "one", 4, 15, 1_500, 1)])


def three_processes(run, durability, journal) -> None:
    run.make(journal)
    run.together([("writes", journal, durability, f"{at}", 2, 12, 800, 1) for at in range(3)])


@pytest.mark.parametrize(
    ("scene", "durability", "journal"),
    [
        *(
            (one_process, durability, journal)
            for durability in LASTING
            for journal in (WAL, DELETE)
        ),
        *(
            (three_processes, durability, journal)
            for durability in LASTING
            for journal in (WAL, DELETE)
        ),
        (one_process, "full", "truncate"),
        (one_process, "full", "persist"),
    ],
)
def test_what_was_acknowledged_outlasts_a_power_cut(run, soak, scene, durability, journal) -> None:
    scene(run, durability, journal)
    assert_kept(run.sweep(soak), 60)


@pytest.mark.parametrize("durability", LASTING)
def test_checkpoints_and_restarts_of_the_log_lose_nothing(run, soak, durability) -> None:
    run.make(WAL)
    ours = [("writes", WAL, durability, f"{at}", 3, 12, 8_000, 1) for at in range(2)]
    run.together(ours, [("outsider", "host", "checkpoints"), ("outsider", "other", "writes")])
    assert checkpoints(run.records()) >= 5
    assert restarts(run.records()) >= 3
    assert_kept(run.sweep(soak), 72)


@pytest.mark.parametrize("durability", LASTING)
def test_own_checkpoints_lose_nothing(run, soak, durability) -> None:
    run.make(WAL)
    run.together([("writes", WAL, durability, f"{at}", 3, 18, 10_000, 1) for at in range(2)])
    # One when the last of them closes the file, and one before. Whether the log begins anew after that is up
    # to when the other process writes.
    assert checkpoints(run.records()) >= 2
    assert_kept(run.sweep(soak), 108)


@pytest.mark.parametrize("durability", LASTING)
def test_logs_that_are_deleted_and_made_anew_lose_nothing(run, soak, durability) -> None:
    run.make(WAL)
    for turn in range(3):
        run.together([("writes", WAL, durability, f"{turn}{at}", 2, 3, 800, 3) for at in range(2)])
    # Whoever is the last to close the file deletes its log.
    assert deletions(run.records()) >= 3
    assert_kept(run.sweep(soak), 108)


@pytest.mark.parametrize("durability", LASTING)
def test_a_row_that_was_found_there_lasts_as_one_that_was_written(run, soak, durability) -> None:
    run.make(WAL)
    run.together([("once", WAL, durability, 60)] * 3)
    assert_kept(run.sweep(soak), 61)


@pytest.mark.parametrize("durability", LASTING)
@pytest.mark.parametrize("processes", [1, 2])
def test_nothing_acknowledged_around_a_failed_flush_is_lost(
    run, soak, durability, processes
) -> None:
    run.make(WAL)
    # Many pages, and then a new log, which does not have them all.
    run.together([("writes", WAL, durability, "before", 4, 40, 60, 1)])
    after = [random.Random(run.seed).randrange(12), -1]
    told = run.together(
        [("failing", WAL, durability, f"{at}", 3, 12, 60, after[at]) for at in range(processes)]
    )
    told = [words.split() for words in told]
    assert max(words[0] for words in told) == "1", told
    assert any(words[1:] for words in told), "nobody was told of the failure"
    failed = next(at for at, record in enumerate(run.records()) if record.kind == "E" and record.at)
    assert_kept(run.sweep(soak, failed - 20), 180)


def test_who_opens_the_log_after_a_failed_flush_acknowledges_nothing_behind_the_hole(
    run, soak
) -> None:
    """Linux tells the failure only to descriptors that were open, and their owner is killed before he mends."""
    run.make(WAL)
    with run.going("holder") as holder, run.going("holed", "pipelined") as holed:
        for process in (holder, holed):
            process.stdin.write(b"go\n")
            process.stdin.flush()
        assert holder.stdout.readline() == b"locked\n"
        assert holed.stdout.readline() == b"FlushFailed\n"
        kill_group(holed)
        holed.wait()
        holder.stdin.close()
        assert holder.wait(60) == 0
        run.together([("writes", WAL, "pipelined", "after", 2, 12, 60, 1)])
    failed = next(at for at, record in enumerate(run.records()) if record.kind == "E" and record.at)
    assert_kept(run.sweep(soak, failed - 20), 25)


@pytest.mark.parametrize("scene", [one_process, three_processes])
def test_normal_loses_the_last_writes_in_a_wal(run, soak, scene) -> None:
    """And so this way of looking finds losses. The file stays sound."""
    scene(run, "normal", WAL)
    findings = run.sweep(soak)
    assert findings.lost, findings
    assert not findings.defects, findings
