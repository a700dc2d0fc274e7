"""`turnwise write`: rows from CSV or JSON Lines into an existing database."""

from __future__ import annotations

import importlib
import os
import stat
import sys
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Literal

from turnwise.cli import ALL_LANDED, COULD_NOT_RUN, SOME_REJECTED
from turnwise.cli.interruption import Interruption
from turnwise.cli.ledger import Ledger
from turnwise.cli.loader import Loader, kind_of
from turnwise.cli.output import CommandError, complain, is_terminal
from turnwise.cli.records import LONGEST_LINE
from turnwise.cli.rejects import Rejects
from turnwise.cli.source import STANDARD_INPUT, field_limit, open_input, open_records
from turnwise.cli.statement import compile_statement, parameter_names
from turnwise.cli.summary import Stop, report, summary

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterator

    from turnwise.cli.interruption import InterruptibleInput
    from turnwise.cli.records import Malformed, Record

_MAGIC = b"SQLite format 3\x00"


def write(arguments: Namespace) -> int:
    """Runs the command and returns the exit status."""
    from turnwise.errors import TurnwiseError

    try:
        return _load(arguments)
    except CommandError as error:
        complain(str(error))
    except (TurnwiseError, OSError) as error:
        complain(
            f"{arguments.database}: {error}" if isinstance(error, TurnwiseError) else str(error)
        )
    return COULD_NOT_RUN


def _load(arguments: Namespace) -> int:
    from turnwise import BatchWriter, RetryPolicy

    names = parameter_names(arguments.sql)
    journal_mode = _journal_mode(arguments.database)
    rejects_path = _rejects_path(arguments)
    with ExitStack() as resources:
        interruption = resources.enter_context(Interruption())
        raw = resources.enter_context(open_input(arguments, interruption))
        writer = resources.enter_context(
            BatchWriter(
                arguments.database,
                policy=RetryPolicy(deadline=arguments.timeout),
                durability=arguments.durability,
                journal_mode=journal_mode,
            )
        )
        if not compile_statement(writer, arguments.sql, names):
            raise CommandError("the statement writes nothing")
        resources.enter_context(field_limit(LONGEST_LINE))
        try:
            records, file_format = open_records(arguments, raw, names)
            # The rejects of an earlier run are replaced only once this input has proved readable.
            first = next(records, None)
        except (CommandError, UnicodeError) as error:
            if raw.cut:
                raise CommandError(
                    "interrupted before the first row; nothing was written"
                ) from None
            source = "standard input" if arguments.input == STANDARD_INPUT else arguments.input
            raise CommandError(f"{source}: {error}") from None
        ledger = Ledger(arguments.start_line)
        rejects = Rejects(
            rejects_path, resumed=arguments.start_line > 1 or bool(arguments.skip_lines)
        )
        resources.callback(rejects.close)
        started, transactions = time.perf_counter(), writer.stats().transactions
        try:
            loader = Loader(
                writer,
                arguments.sql,
                names,
                ledger,
                rejects,
                workers=arguments.workers,
                give_up=lambda: interruption.requests > 1,
                on_failure=interruption.end_reading,
            )
        except RuntimeError:
            raise CommandError(f"--workers: cannot start {arguments.workers} threads") from None
        stop = None
        with _progress(arguments, raw, ledger) as show_progress:
            try:
                stop = _feed(
                    loader,
                    ledger,
                    _chain(first, records),
                    raw,
                    skip_lines=arguments.skip_lines,
                    show_progress=show_progress,
                )
            finally:
                loader.drain()
        seconds = time.perf_counter() - started
        transactions = writer.stats().transactions - transactions
        if loader.failure is not None:
            line, failure = loader.failure
            stop = Stop(kind_of(failure), str(failure), line)
        elif stop is None and (raw.cut or ledger.unsettled):
            stop = Stop("Interrupted", "interrupted", None)
        report(
            arguments,
            summary(
                arguments,
                ledger,
                writer,
                stop=stop,
                seconds=seconds,
                format=file_format,
                rejects=rejects.path if ledger.rejected else None,
                transactions=transactions,
            ),
        )
    if stop is not None:
        return COULD_NOT_RUN
    return SOME_REJECTED if ledger.rejected else ALL_LANDED


def _feed(
    loader: Loader,
    ledger: Ledger,
    records: Iterator[Record | Malformed],
    raw: InterruptibleInput,
    *,
    skip_lines: list[range],
    show_progress: Callable[[], None],
) -> Stop | None:
    try:
        for record in records:
            if raw.cut or raw.interrupted:
                raw.cut = True
                return None
            if any(record.line in lines for lines in skip_lines):
                ledger.pass_over(record.next_line)
            elif not loader.accept(record):
                return None
            show_progress()
    except (OSError, UnicodeError) as error:
        return Stop(type(error).__name__, f"the input cannot be read: {error}", None)
    return None


def _chain(
    first: Record | Malformed | None, rest: Iterator[Record | Malformed]
) -> Iterator[Record | Malformed]:
    if first is not None:
        yield first
        yield from rest


def _journal_mode(path: str) -> Literal["wal", "delete"]:
    """The journal mode that keeps the file as it is.

    Raises `CommandError` unless `path` is an existing file.

    Header bytes 18 and 19 are 2 in WAL mode, the only mode that is kept in the file
    (https://sqlite.org/fileformat2.html#file_format_version_numbers).
    """
    # A descriptor of our own is harmless here alone: closing it drops the locks that this process
    # has on the file, and a process of the command has none before its writer opens. Asking
    # through Python's sqlite3 would checkpoint, with the host's copy, when it is the last to close.
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise CommandError(f"{path}: is a directory, not a database")
        if not stat.S_ISREG(mode):
            raise CommandError(f"{path}: is not a regular file")
        with open(path, "rb") as file:
            header = file.read(20)
    except FileNotFoundError:
        raise CommandError(f"{path}: no such database; create it and its tables first") from None
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from None
    if header and not header.startswith(_MAGIC):
        raise CommandError(f"{path}: is not a SQLite database")
    return "wal" if header[18:20] == b"\x02\x02" else "delete"


def _rejects_path(arguments: Namespace) -> str:
    from_stdin = arguments.input == STANDARD_INPUT
    path: str = (
        arguments.rejects or ("turnwise" if from_stdin else arguments.input) + ".rejects.jsonl"
    )
    for other in (arguments.database, *([] if from_stdin else [arguments.input])):
        if os.path.exists(path) and os.path.exists(other) and os.path.samefile(path, other):
            raise CommandError(
                f"{path}: cannot take the rejects, it is the command's input or database"
            )
    folder = os.path.dirname(path) or "."
    target = path if os.path.exists(path) else folder
    if os.path.isdir(path) or not os.access(target, os.W_OK):
        raise CommandError(
            f"{path}: cannot be made for the rejects; name another file with --rejects"
        )
    return path


@contextmanager
def _progress(
    arguments: Namespace, raw: InterruptibleInput, ledger: Ledger
) -> Iterator[Callable[[], None]]:
    """A function that shows the ledger on a bar, when a person watches standard error."""
    if arguments.quiet or not is_terminal(sys.stderr):
        yield lambda: None
        return
    # By name, so that type checking does not depend on stubs that only checking would need.
    tqdm = importlib.import_module("tqdm").tqdm
    size = os.fstat(raw.fileno()).st_size if stat.S_ISREG(os.fstat(raw.fileno()).st_mode) else None

    def counts() -> str:
        return f"{ledger.landed} landed, {ledger.rejected} rejected"

    with tqdm(total=size, unit="B", unit_scale=True, file=sys.stderr, dynamic_ncols=True) as bar:

        def show_progress() -> None:
            if bar.update(raw.bytes_read - bar.n):
                bar.set_postfix_str(counts(), refresh=False)

        try:
            yield show_progress
        finally:
            # What was read last is written by now.
            bar.set_postfix_str(counts(), refresh=False)
            bar.update(raw.bytes_read - bar.n)
            bar.refresh()
