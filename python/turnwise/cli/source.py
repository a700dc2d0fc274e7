"""The input of `turnwise write`: which bytes, in which format."""

from __future__ import annotations

import csv
import io
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from turnwise.cli.interruption import InterruptibleInput, Interruption
from turnwise.cli.output import CommandError
from turnwise.cli.records import csv_records, jsonl_records

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

    from turnwise.cli.records import Malformed, Record

STANDARD_INPUT = "-"
FORMATS = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


def open_input(arguments: Namespace, interruption: Interruption) -> InterruptibleInput:
    """Opens the input.

    Raises `CommandError` when it cannot be, or is a folder or the database itself.
    """
    if arguments.input == STANDARD_INPUT:
        try:
            return InterruptibleInput(os.dup(0), interruption)
        except OSError:
            raise CommandError("standard input is closed; name a FILE") from None
    try:
        fd = os.open(arguments.input, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise CommandError(f"{arguments.input}: {error.strerror}") from None
    raw = InterruptibleInput(fd, interruption)
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        raw.close()
        raise CommandError(f"{arguments.input}: is a directory")
    if os.path.samestat(os.fstat(fd), os.stat(arguments.database)):
        raw.close()
        raise CommandError(f"{arguments.input}: is the database itself")
    return raw


def open_records(
    arguments: Namespace, raw: InterruptibleInput, names: list[str]
) -> tuple[Iterator[Record | Malformed], str]:
    """The input's records and its format, `csv` or `jsonl`.

    Raises `CommandError` when the beginning is unusable.
    """
    buffered = io.BufferedReader(raw, 64 * 1024)
    extension = os.path.splitext(arguments.input)[1].lower()
    file_format = arguments.format or FORMATS.get(extension) or _format_of(buffered.peek())
    try:
        text = io.TextIOWrapper(
            buffered,
            encoding=arguments.encoding,
            errors="surrogateescape",
            newline="" if file_format == "csv" else "\n",
        )
    except LookupError:
        raise CommandError(
            f"--encoding: {arguments.encoding!r} is not a known text encoding"
        ) from None
    if file_format == "jsonl":
        return jsonl_records(text, names, start_line=arguments.start_line), file_format
    delimiter = arguments.delimiter or ("\t" if extension == ".tsv" else ",")
    return csv_records(
        text, names, start_line=arguments.start_line, delimiter=delimiter, null=arguments.null
    ), file_format


def _format_of(beginning: bytes) -> str:
    # The byte order marks of UTF-8 and UTF-16, and the zero bytes of UTF-16, come before the first
    # character.
    first = beginning.lstrip(b"\xef\xbb\xbf\xff\xfe\x00 \t\r\n")[:1]
    if first == b"[":
        raise CommandError(
            "the input looks like one JSON array; "
            "JSON Lines has one object per line (or pass --format)"
        )
    return "jsonl" if first == b"{" else "csv"


@contextmanager
def field_limit(characters: int) -> Iterator[None]:
    """Sets the longest CSV field, which the `csv` module keeps for the whole process."""
    previous = csv.field_size_limit(characters)
    try:
        yield
    finally:
        csv.field_size_limit(previous)
