"""What a power cut may leave of files whose every operation was recorded (recorded_io.c).

On the disk for certain is what was written before a sync began that has returned without an error;
and a name that was made or removed, once the folder was synced in that way. What is not certain may be there or
not: none of it, all of it, or any part, in writes or in sectors.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator
    from pathlib import Path

HEADER = struct.Struct("=IIQqQ")
# A sync that was only told of an earlier one's failure.
TOLD = -2


class Record(NamedTuple):
    kind: str
    inode: int
    at: int
    sync: int
    data: bytes


def read_log(path: Path) -> list[Record]:
    log, records, at = path.read_bytes(), [], 0
    while at < len(log):
        size, kind, inode, place, sync = HEADER.unpack_from(log, at)
        at += HEADER.size
        assert at + size <= len(log), "a record was cut short"
        records.append(Record(chr(kind), inode, place, sync, log[at : at + size]))
        at += size
    return records


@dataclass(eq=False)
class Change:
    """A write, or, without data, a truncation."""

    number: int
    at: int
    data: bytes | None
    on_disk: bool = False
    # Its sync failed: the kernel has taken it for clean since, and no later sync writes it.
    doubtful: bool = False

    @property
    def end(self) -> int:
        return self.at + len(self.data or b"")

    def apply(self, content: bytearray) -> None:
        if self.data is None:
            del content[self.at :]
        if len(content) < self.end:
            content.extend(bytes(self.end - len(content)))
        if self.data is not None:
            content[self.at : self.end] = self.data

    def covers(self, other: Change) -> bool:
        if self.data is None:
            return self.at <= other.at
        return other.data is not None and self.at <= other.at and other.end <= self.end


class File:
    """One file, whatever its name."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.changes: list[Change] = []

    def synced(self, before: int, failed: bool) -> None:
        for change in self.changes:
            if change.number < before and not change.on_disk:
                change.doubtful |= failed
                change.on_disk = not change.doubtful
        sure = [change for change in self.changes if change.on_disk]
        for change in [change for change in self.changes if change.doubtful]:
            if any(other.number > change.number and other.covers(change) for other in sure):
                self.changes.remove(change)
        while self.changes and self.changes[0].on_disk:
            self.changes.pop(0).apply(self.content)

    def image(self, keeps: Callable[[Change], bool]) -> bytes:
        content = bytearray(self.content)
        for change in self.changes:
            if change.on_disk or keeps(change):
                change.apply(content)
        return bytes(content)

    def image_of_sectors(self, rng: random.Random, sector: int, garbage: float) -> bytes:
        """Every sector as it was at a moment of its own; what was never written there may be garbage.

        A truncation is whole: it is there with its length and its end of all sectors, or not, and then
        nothing that came after it.
        """
        if not self.changes:
            return bytes(self.content)
        length_at = rng.choice([0, *(change.number + 1 for change in self.changes)])
        missing = [
            c.number
            for c in self.changes
            if c.data is None and not c.on_disk and c.number >= length_at
        ]
        last = min(missing, default=self.changes[-1].number + 1)
        moments = [0, *(c.number + 1 for c in self.changes if c.number < last)]
        content = bytearray(self.content)
        content.extend(bytes(max(0, max(change.end for change in self.changes) - len(content))))
        length, cuts = len(self.content), {}
        for change in self.changes:
            is_there = change.on_disk or change.number < length_at
            if change.data is None:
                if is_there:
                    content[change.at :] = bytes(len(content) - change.at)
                    length = change.at
                continue
            if is_there:
                length = max(length, change.end)
            for number in range(change.at // sector, -(-change.end // sector)):
                start = number * sector
                if number not in cuts:
                    cuts[number] = rng.choice(moments)
                    if start >= len(self.content) and rng.random() < garbage:
                        size = min(sector, len(content) - start)
                        content[start : start + size] = rng.randbytes(size)
                if change.on_disk or change.number < cuts[number]:
                    first, end = max(start, change.at), min(start + sector, change.end)
                    content[first:end] = change.data[first - change.at : end - change.at]
        return bytes(content[:length].ljust(length, b"\0"))


@dataclass
class Name:
    """What a name stands for on the disk, and what it may stand for: a file, or none."""

    file: File | None = None
    changes: list[tuple[int, File | None]] = field(default_factory=list)


Image = dict[str, bytes]


class Disk:
    """What is on the disk for certain, and what may be, after the records so far."""

    def __init__(self) -> None:
        self.names: dict[str, Name] = defaultdict(Name)
        self.files: dict[int, File] = {}
        self.syncs: dict[int, int] = {}
        self.number = 0

    def apply(self, record: Record) -> None:
        self.number += 1
        if record.kind in "WT":
            data = record.data if record.kind == "W" else None
            self.files[record.inode].changes.append(Change(self.number, record.at, data))
        elif record.kind in "Bb":
            self.syncs[record.sync] = self.number
        elif record.kind == "E":
            before = self.syncs.pop(record.sync)
            # It was written as well. The kernel has not said so, though: it is not counted upon.
            if record.at != TOLD:
                self.files[record.inode].synced(before, record.at != 0)
        elif record.kind == "e":
            self._folder_synced(self.syncs.pop(record.sync), record.at != 0)
        elif record.kind == "C":
            # The number of a file that is gone may be given again.
            self.files[record.inode] = File()
            self._rename(record.data.decode(), self.files[record.inode])
        elif record.kind == "U":
            self._rename(record.data.decode(), None)
        elif record.kind == "R":
            old, new = record.data.decode().split("\0")
            self._rename(new, self._now(old))
            self._rename(old, None)
        else:
            assert record.kind == "N", record

    def _now(self, name: str) -> File | None:
        changes = self.names[name].changes
        return changes[-1][1] if changes else self.names[name].file

    def _rename(self, name: str, file: File | None) -> None:
        self.names[name].changes.append((self.number, file))

    def _folder_synced(self, before: int, failed: bool) -> None:
        for name in self.names.values() if not failed else ():
            while name.changes and name.changes[0][0] < before:
                name.file = name.changes.pop(0)[1]

    def everything(self) -> Image:
        """What the files hold while the power is on."""
        files = {name: self._now(name) for name in self.names}
        return {name: file.image(lambda _: True) for name, file in files.items() if file}

    def images(self, rng: random.Random, count: int) -> Iterator[tuple[str, Image]]:
        """All or nothing of every file and of the folder, and `count` images by chance."""
        open_names = [name for name, file in self.names.items() if self._uncertain(file)]
        for folder in (
            (False, True) if any(self.names[name].changes for name in open_names) else (False,)
        ):
            for kept in range(1 << len(open_names)):
                whole = {name for bit, name in enumerate(open_names) if kept >> bit & 1}
                image = {}
                for text, name in self.names.items():
                    file = name.changes[-1][1] if folder and name.changes else name.file
                    if file:
                        image[text] = file.image(lambda _, all_of_it=text in whole: all_of_it)
                yield f"folder {folder}, whole {sorted(whole)}", image
        for number in range(count if open_names else 0):
            yield f"chance {number}", self._by_chance(rng)

    @staticmethod
    def _uncertain(name: Name) -> bool:
        files = [name.file, *(file for _, file in name.changes)]
        return bool(name.changes) or any(file and file.changes for file in files)

    def _by_chance(self, rng: random.Random) -> Image:
        image = {}
        for text, name in self.names.items():
            file = rng.choice([name.file, *(file for _, file in name.changes)])
            if file is None:
                continue
            share, sector = rng.choice([0.0, 0.1, 0.5, 0.9, 1.0]), rng.choice([0, 512, 4096])
            if sector:
                image[text] = file.image_of_sectors(rng, sector, rng.choice([0.0, 0.5]))
            else:
                image[text] = file.image(lambda _, share=share: rng.random() < share)
        return image


def crash_points(records: list[Record], limit: int, rng: random.Random, since: int = 0) -> set[int]:
    """After how many records the power is cut: everywhere, or at `limit` places, syncs and acknowledgements
    first.

    A point before a note or the begin of a sync is left out: the disk is the same after it, and more
    is acknowledged.
    """
    last = len(records)
    points = [
        at for at in range(since + 1, last + 1) if at == last or records[at].kind not in "NBb"
    ]
    if len(points) <= limit:
        return set(points)
    telling = [
        at for at in points if any(r.kind in "NEeTCU" for r in records[max(0, at - 2) : at + 2])
    ]
    first = rng.sample(telling, min(len(telling), limit * 2 // 3))
    rest = sorted(set(points) - set(first))
    return {*first, *rng.sample(rest, min(len(rest), limit - len(first))), last}
