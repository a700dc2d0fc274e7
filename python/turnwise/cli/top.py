"""`turnwise top`: a server's sessions, with what the processes of this machine say of theirs."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

from turnwise.cli.output import CommandError, complain, is_terminal, show
from turnwise.cli.top_picture import Style, picture, wants_colours
from turnwise.cli.top_reports import join, read_all
from turnwise.cli.top_rows import SORTS, Moment

if TYPE_CHECKING:
    import argparse

    from turnwise.cli.top_screen import Screen

_WIDTH_OF_A_FILE = 160


def top(arguments: argparse.Namespace) -> int:
    """Shows the sessions, once or until its user ends it (0). 2: it could not, or was stopped."""
    try:
        source = _Source(arguments.url, arguments.socket_dir)
        first = source.read()
        if arguments.once:
            _show_once(source, first, arguments)
            return 0
        return _live(source, first, arguments)
    except CommandError as error:
        complain(str(error))
        return 2


class _Source:
    """The server and the processes."""

    def __init__(self, url: str, folder: str | None) -> None:
        try:
            from turnwise.sqlalchemy.server_sessions import Server, UnreachableServerError
        except ModuleNotFoundError as error:
            raise CommandError(f"top needs SQLAlchemy 2.0 or newer: {error}") from None
        self._unreachable = UnreachableServerError
        self._folder = folder
        try:
            self._server = Server(url)
        except UnreachableServerError as error:
            raise CommandError(str(error)) from None
        self.where = self._server.name

    def read(self) -> Moment:
        """What is now.

        Raises:
            CommandError: The server cannot be reached, or refuses.
        """
        try:
            view = self._server.read()
        except self._unreachable as error:
            raise CommandError(str(error)) from error
        reports = read_all(self._folder)
        joined = join(view, reports.reports)
        return Moment(view, joined, reports.reports, (*view.notes, *reports.notes))

    def close(self) -> None:
        """Give the connection back."""
        self._server.close()


def _show_once(source: _Source, moment: Moment, arguments: argparse.Namespace) -> None:
    source.close()
    if arguments.json:
        document = moment.as_json(sort=arguments.sort, everything=arguments.all)
        show(json.dumps(document, indent=2))
        return
    import shutil

    lines = picture(
        moment,
        where=source.where,
        sort=arguments.sort,
        everything=arguments.all,
        width=max(40, shutil.get_terminal_size((_WIDTH_OF_A_FILE, 24)).columns),
        height=None,
        style=_style(),
    )
    show("\n".join(lines))


def _style() -> Style:
    encoding = (getattr(sys.stdout, "encoding", "") or "").lower().replace("-", "")
    return Style(
        colours=is_terminal(sys.stdout) and wants_colours(), unicode=encoding.startswith("utf")
    )


def _live(source: _Source, first: Moment, arguments: argparse.Namespace) -> int:
    if not is_terminal(sys.stdout):
        raise CommandError("the live view needs a terminal; elsewhere use --once")
    from turnwise.cli.top_screen import Screen

    with Screen() as screen:
        sampler = _Sampler(source, first, arguments.interval, screen)
        sampler.start()
        try:
            _watch(screen, sampler, arguments)
        except OSError:
            return 2  # The terminal is gone.
        finally:
            sampler.stop()
    return 0 if screen.ended_by in {None, signal.SIGINT} else 2


def _watch(screen: Screen, sampler: _Sampler, arguments: argparse.Namespace) -> None:
    """Draw what the sampler has until a key or a signal ends it."""
    sort, everything = arguments.sort, arguments.all
    style = _style()
    where = sampler.source.where
    while screen.ended_by is None:
        width, height = screen.size()
        screen.draw(
            picture(
                sampler.moment,
                where=where,
                sort=sort,
                everything=everything,
                width=width,
                height=height,
                style=style,
                trouble=sampler.trouble(),
            )
        )
        for key in screen.wait():
            if key in "qQ":
                return
            if key in "sS":
                sort = SORTS[(SORTS.index(sort) + 1) % len(SORTS)]
            elif key in "aA":
                everything = not everything


class _Sampler(threading.Thread):
    """Asks again and again, so that a slow server does not stop the keys."""

    def __init__(self, source: _Source, first: Moment, interval: float, screen: Screen) -> None:
        super().__init__(name="turnwise-top", daemon=True)
        self.source = source
        self.moment = first
        self._interval = interval
        self._screen = screen
        self._error = ""
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(self._interval):
            try:
                self.moment = self.source.read()
                self._error = ""
            except CommandError as error:
                self._error = str(error)
            if not self._ended.is_set():
                self._screen.wake()

    def trouble(self) -> str:
        """What is wrong now; empty: nothing."""
        if not self._error:
            return ""
        age = time.time() - self.moment.at
        return f"no answer for {age:.0f}s, trying again: {self._error}"

    def stop(self) -> None:
        """End, without waiting for a server that does not answer."""
        self._ended.set()
        self.join(0.5)
        if not self.is_alive():
            self.source.close()
