"""CSV and JSON Lines, record by record, each with the number of its first physical line."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, NoReturn, TextIO

from turnwise.cli.output import CommandError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

LONGEST_LINE = 16 * 1024 * 1024
"""Characters in one line or CSV field. Bounds what an unclosed quote can swallow."""

_NOT_DECODED = re.compile("[\ud800-\udfff]")


class Record(NamedTuple):
    """One row to write. `next_line` is the line after the record's last one."""

    line: int
    next_line: int
    parameters: dict[str, object]
    size: int


class Malformed(NamedTuple):
    """A record that gives no row, with the input's own text."""

    line: int
    next_line: int
    kind: str
    message: str
    text: str


class _BadRecordError(Exception):
    """This record cannot be read; the next one may be."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class _Lines:
    """Numbers the lines of `stream` and keeps those of the current record.

    An undecoded byte is a lone surrogate.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.number = 0
        self.record: list[str] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._stream.readline(LONGEST_LINE)
        if not line:
            raise StopIteration
        self.number += 1
        self.record.append(line)
        if len(line) == LONGEST_LINE and line[-1] not in "\r\n":
            while (rest := self._stream.readline(LONGEST_LINE)) and rest[-1] not in "\r\n":
                pass
            raise _BadRecordError(
                "RecordTooLong", f"the line is longer than {LONGEST_LINE} characters"
            )
        return line

    def text(self) -> str:
        return "".join(self.record)

    def check_decoded(self) -> None:
        for line in self.record:
            if not line.isascii() and _NOT_DECODED.search(line):
                raise _BadRecordError(
                    "InvalidEncoding", "the bytes are not valid in the input's encoding"
                )


def csv_records(
    stream: TextIO, names: Collection[str], *, start_line: int, delimiter: str, null: str | None
) -> Iterator[Record | Malformed]:
    """The records of a CSV stream (opened with `newline=""`), reduced to the fields in `names`.

    Empty lines are no records.
    Raises `CommandError` when the header is missing, repeats a name or lacks one of `names`.
    """
    lines = _Lines(stream)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header = _header(lines, reader, names)
    columns = [(index, name) for index, name in enumerate(header) if name in names]
    while True:
        line = lines.number + 1
        lines.record.clear()
        try:
            fields = next(reader)
            if not fields or line < start_line:
                continue
            lines.check_decoded()
            if len(fields) != len(header):
                raise _BadRecordError(
                    "FieldCount", f"{len(fields)} fields, the header has {len(header)}"
                )
        except StopIteration:
            return
        except (_BadRecordError, csv.Error) as error:
            if line >= start_line:
                kind = error.kind if isinstance(error, _BadRecordError) else "InvalidCsv"
                yield Malformed(line, lines.number + 1, kind, str(error), lines.text())
            continue
        parameters: dict[str, object] = {
            name: None if null is not None and fields[index] == null else fields[index]
            for index, name in columns
        }
        yield Record(line, lines.number + 1, parameters, sum(map(len, lines.record)))


def _header(lines: _Lines, reader: Iterator[list[str]], names: Collection[str]) -> list[str]:
    header: list[str] = []
    try:
        while not header:
            lines.record.clear()
            header = next(reader)
        lines.check_decoded()
    except StopIteration:
        raise CommandError(
            "the input is empty: CSV needs a header line that names the fields"
        ) from None
    except (_BadRecordError, csv.Error) as error:
        raise CommandError(f"line {lines.number}: the CSV header cannot be read: {error}") from None
    repeated = [name for name, count in Counter(header).items() if count > 1 and name in names]
    if repeated:
        raise CommandError(f"the CSV header names {_listed(repeated)} more than once")
    missing = [name for name in names if name not in header]
    if missing:
        raise CommandError(
            f"the statement wants {_listed(missing)}; the CSV header has {_listed(header)}"
        )
    return header


def jsonl_records(
    stream: TextIO, names: Collection[str], *, start_line: int
) -> Iterator[Record | Malformed]:
    """The records of a JSON Lines stream, reduced to the keys in `names`.

    Blank lines are no records.
    """
    lines = _Lines(stream)
    decoder = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_unique_keys)
    while True:
        lines.record.clear()
        try:
            text = next(lines)
            line = lines.number
            if line < start_line or text.isspace():
                continue
            lines.check_decoded()
            parameters = _parameters(decoder, text, names)
        except StopIteration:
            return
        except _BadRecordError as error:
            line = lines.number
            if line >= start_line:
                yield Malformed(line, line + 1, error.kind, str(error), lines.text())
            continue
        yield Record(line, line + 1, parameters, len(text))


def _parameters(decoder: json.JSONDecoder, text: str, names: Collection[str]) -> dict[str, object]:
    try:
        row = decoder.decode(text)
    except RecursionError:
        raise _BadRecordError("InvalidJson", "the JSON is nested too deeply") from None
    except ValueError as error:
        raise _BadRecordError("InvalidJson", str(error)) from None
    if not isinstance(row, dict):
        raise _BadRecordError("NotAnObject", "the line is JSON, but not an object")
    missing = [name for name in names if name not in row]
    if missing:
        raise _BadRecordError("MissingKey", f"the statement wants {_listed(missing)}")
    return {name: row[name] for name in names}


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    row = dict(pairs)
    if len(row) != len(pairs):
        raise _BadRecordError("DuplicateKey", "an object names a key more than once")
    return row


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _listed(names: Collection[str]) -> str:
    shown = list(names)[:12]
    return ", ".join(shown) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
