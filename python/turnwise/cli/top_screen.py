"""The terminal while the live view has it: keys, signals, drawing, and giving it back."""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import termios
import tty
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

    from typing_extensions import Self

# The other screen, no wrapping, no cursor; and back.
_ENTER = "\x1b[?1049h\x1b[?7l\x1b[?25l\x1b[2J"
_LEAVE = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"


class Screen:
    """Owns the terminal from `with` to its end, however it ends."""

    def __init__(self) -> None:
        self.ended_by: int | None = None
        """The signal that asks to end."""
        self._is_suspended = False
        self._drawn: list[str] = []
        self._size = (0, 0)
        self._keys = sys.stdin.fileno() if _is_open_terminal() else None
        self._mode: list[Any] | None = None
        self._before: dict[int, Any] = {}
        self._readable, self._writable = os.pipe()
        for end in (self._readable, self._writable):
            os.set_blocking(end, False)
        self._wakeup_before = -1

    def __enter__(self) -> Self:
        self._wakeup_before = signal.set_wakeup_fd(self._writable, warn_on_full_buffer=False)
        try:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                # Who was started to ignore it (nohup) goes on doing so.
                if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGINT:
                    self._before[number] = signal.signal(number, self._end)
            self._before[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, lambda *_: None)
            self._before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._suspend)
            self._take()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._give_back()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._readable)
        os.close(self._writable)

    def size(self) -> tuple[int, int]:
        """Columns and lines now."""
        found = shutil.get_terminal_size((80, 24))
        return max(20, found.columns), max(4, found.lines)

    def wake(self) -> None:
        """End the `wait` of the thread that draws, from another one."""
        try:
            os.write(self._writable, b"\0")
        except OSError:
            pass

    def wait(self) -> str:
        """Wait for a key, a signal or `wake`; the keys that were pressed."""
        watched = [self._readable] + ([self._keys] if self._keys is not None else [])
        ready, _, _ = select.select(watched, [], [])
        if self._readable in ready:
            try:
                os.read(self._readable, 4096)
            except BlockingIOError:
                pass
        if self._is_suspended:
            self._stop_until_continued()
        if self._keys is None or self._keys not in ready:
            return ""
        try:
            pressed = os.read(self._keys, 1024)
        except OSError:
            pressed = b""
        if not pressed:
            self._keys = None  # The terminal is gone; SIGHUP or a failing write ends the view.
        return pressed.decode("utf-8", "replace")

    def draw(self, lines: list[str]) -> None:
        """Show these lines; only what differs is sent, in one write.

        Raises:
            OSError: The terminal is gone.
        """
        parts = []
        if self._size != self.size():
            self._size, self._drawn = self.size(), []
            parts.append("\x1b[2J")
        for number, line in enumerate(lines):
            if number >= len(self._drawn) or self._drawn[number] != line:
                parts.append(f"\x1b[{number + 1};1H\x1b[2K{line}")
        parts += [f"\x1b[{number + 1};1H\x1b[2K" for number in range(len(lines), len(self._drawn))]
        self._drawn = lines
        if parts:
            _send("".join(parts))

    def _end(self, number: int, _: FrameType | None) -> None:
        self.ended_by = number

    def _suspend(self, *_: object) -> None:
        self._is_suspended = True

    def _stop_until_continued(self) -> None:
        self._is_suspended = False
        self._give_back()
        handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, handler)
        self._take()

    def _take(self) -> None:
        if self._keys is not None:
            self._mode = termios.tcgetattr(self._keys)
            tty.setcbreak(self._keys)
        self._size = (0, 0)
        _send(_ENTER)

    def _give_back(self) -> None:
        _quietly(lambda: _send(_LEAVE))
        mode, keys = self._mode, self._keys
        if mode is not None and keys is not None:
            _quietly(lambda: termios.tcsetattr(keys, termios.TCSADRAIN, mode))


def _quietly(act: Callable[[], None]) -> None:
    """Do it, unless the terminal is gone."""
    try:
        act()
    except (OSError, termios.error):
        pass


def _send(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _is_open_terminal() -> bool:
    try:
        return sys.stdin.isatty()
    except (AttributeError, ValueError):
        return False
