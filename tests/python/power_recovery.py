"""Opens what a power cut may have left, and compares it with what was acknowledged before the cut."""

from __future__ import annotations

import hashlib
import random
import sqlite3
import tempfile
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from power_cut import Disk, Image, Record, crash_points

DATABASE = "app.db"
SCHEMA = """
CREATE TABLE landed (
    party TEXT NOT NULL, unit INTEGER NOT NULL, part INTEGER NOT NULL, parts INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE INDEX by_party ON landed (party, unit);
CREATE TABLE tally (party TEXT PRIMARY KEY, landed INTEGER NOT NULL);
CREATE TABLE once (unit INTEGER PRIMARY KEY);
CREATE TRIGGER counts AFTER INSERT ON landed BEGIN
    INSERT INTO tally VALUES (new.party, 1) ON CONFLICT (party) DO UPDATE SET landed = landed + 1;
END;
"""
INSERT = "INSERT INTO landed VALUES (?, ?, ?, ?, ?)"

Unit = tuple[str, int]


def rows(party: str, unit: int, parts: int, size: int) -> list[tuple[str, int, int, int, bytes]]:
    """The rows of a unit, each of which tells what it must hold."""
    return [(party, unit, part, parts, body(party, unit, part, size)) for part in range(parts)]


def body(party: str, unit: int, part: int, size: int) -> bytes:
    word = f"{party} {unit} {part},".encode()
    return (word * (size // len(word) + 1))[:size]


class Recovered:
    """What a database holds after SQLite has recovered it."""

    def __init__(self, folder: Path) -> None:
        self.units: set[Unit] = set()
        self.defects: list[str] = []
        try:
            with closing(sqlite3.connect(folder / DATABASE)) as connection:
                self._read(connection)
        except sqlite3.Error as error:
            self.defects.append(f"{error}")

    def _read(self, connection: sqlite3.Connection) -> None:
        integrity = connection.execute("PRAGMA integrity_check").fetchall()
        if integrity != [("ok",)]:
            self.defects.append(f"{integrity[:3]}")
        if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'counts'").fetchone():
            return
        self.units.add(("schema", 0))
        self.units.update(("once", unit) for (unit,) in connection.execute("SELECT unit FROM once"))
        parts, counted = defaultdict(list), defaultdict(int)
        for party, unit, part, of, content in connection.execute("SELECT * FROM landed"):
            parts[party, unit, of].append(part)
            counted[party] += 1
            if content != body(party, unit, part, len(content)):
                self.defects.append(f"{party} {unit}: wrong content")
        for (party, unit, of), found in parts.items():
            if sorted(found) != list(range(of)):
                self.defects.append(f"{party} {unit}: rows {sorted(found)} of {of}")
            self.units.add((party, unit))
        if counted != dict(connection.execute("SELECT * FROM tally")):
            self.defects.append("rows that were not counted, or counted and not there")


@dataclass
class Findings:
    """What a sweep over the crash points of one record has come to."""

    points: int = 0
    images: int = 0
    opened: int = 0
    acknowledged: int = 0
    lost: list[str] = field(default_factory=list)
    defects: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.points} crash points, {self.images} images, {self.opened} of them distinct, "
            f"{self.acknowledged} units acknowledged, {len(self.lost)} images with losses, "
            f"{len(self.defects)} with defects; first {self.lost[:1]} {self.defects[:1]}"
        )


class Sweep:
    """Cuts the power at the points of a record, and looks at what is left."""

    def __init__(self, records: list[Record], seed: int, keep: Path) -> None:
        self.records = records
        self.rng = random.Random(seed)
        self.seen: dict[bytes, Recovered] = {}
        self.findings = Findings()
        self.keep = keep
        # In memory where there is a place for it: nothing here must last.
        memory = Path("/dev/shm")
        self.memory = memory if memory.is_dir() else None

    def run(self, points: int, by_chance: int, since: int = 0) -> Findings:
        chosen = crash_points(self.records, points, self.rng, since)
        disk, acknowledged = Disk(), set()
        for at, record in enumerate(self.records, 1):
            disk.apply(record)
            if record.kind == "N":
                party, unit = record.data.decode().split()
                acknowledged.add((party, int(unit)))
            if at in chosen:
                self.findings.points += 1
                for what, image in disk.images(self.rng, by_chance):
                    self._judge(f"after {at} records, {what}", image, acknowledged)
        self.findings.acknowledged = len(acknowledged)
        return self.findings

    def _judge(self, where: str, image: Image, acknowledged: set[Unit]) -> None:
        self.findings.images += 1
        recovered = self._recover(image)
        lost = sorted(acknowledged - recovered.units)
        if lost:
            self._note(self.findings.lost, where, f"lost {len(lost)}: {lost[:3]}", image)
        if recovered.defects:
            self._note(self.findings.defects, where, f"{recovered.defects[:3]}", image)

    def _note(self, findings: list[str], where: str, text: str, image: Image) -> None:
        if not findings:
            folder = self.keep / where.replace(" ", "-")
            folder.mkdir(parents=True, exist_ok=True)
            fill(folder, image)
        findings.append(f"{where}: {text}")

    def _recover(self, image: Image) -> Recovered:
        digest = hashlib.blake2b(digest_size=16)
        for name, content in sorted(image.items()):
            digest.update(f"{name} {len(content)} ".encode())
            digest.update(content)
        key = digest.digest()
        if key not in self.seen:
            self.findings.opened += 1
            with tempfile.TemporaryDirectory(dir=self.memory) as folder:
                fill(Path(folder), image)
                self.seen[key] = Recovered(Path(folder))
        return self.seen[key]


def fill(folder: Path, image: Image) -> None:
    for name, content in image.items():
        (folder / name).write_bytes(content)


def check_record(records: list[Record], folder: Path) -> None:
    """Nothing was missed: the records make the files what they are."""
    disk = Disk()
    for record in records:
        disk.apply(record)
    found = {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.name.endswith((".db", ".db-wal", ".db-journal"))
    }
    assert disk.everything() == found
