"""Ctrl-C and SIGTERM as a request to the reader, never as an exception between two of its steps."""

from __future__ import annotations

import io
import os
import select
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType, TracebackType

    from typing_extensions import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Counts requests to stop instead of raising `KeyboardInterrupt`, while entered.

    Entered by the main thread only, which is the one that gets signals.
    """

    def __init__(self) -> None:
        self.requests = 0
        self._reading_is_over = False
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._previous: dict[signal.Signals, object] = {}
        self._previous_wakeup = -1

    def __enter__(self) -> Self:
        if os.name == "posix":
            # A signal may come after Python last looked for one and before select() waits: only
            # a byte that the C handler writes ends that wait. A full pipe has woken it already.
            self._previous_wakeup = signal.set_wakeup_fd(
                self._wake_write, warn_on_full_buffer=False
            )
        for number in SIGNALS:
            handler = signal.getsignal(number)
            # A shell starts background jobs of a script with Ctrl-C ignored; it must stay so.
            if handler is not signal.SIG_IGN:
                self._previous[number] = handler
                signal.signal(number, self._request)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        if os.name == "posix":
            signal.set_wakeup_fd(self._previous_wakeup)
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requests += 1
        self.end_reading()

    def end_reading(self) -> None:
        """Wakes a waiting reader and lets it read no more.

        May be called by any thread and by a signal handler.
        """
        self._reading_is_over = True
        try:
            os.write(self._wake_write, b"!")
        except BlockingIOError:
            # The pipe is full of earlier requests, so a waiting reader is awake already.
            pass

    def wait_readable(self, fd: int) -> bool:
        """Waits until `fd` can be read without blocking; False when reading is over."""
        ready = [fd] if os.name != "posix" else []
        while not (self._reading_is_over or fd in ready):
            ready, _, _ = select.select([fd, self._wake_read], [], [])
            if self._wake_read in ready:
                # Any signal with a handler writes a byte; only ours end the reading.
                os.read(self._wake_read, 4096)
        return not self._reading_is_over


class InterruptibleInput(io.RawIOBase):
    """Reads a file descriptor, which it owns, and ends early when reading is over.

    A record that the early end cuts in two may look complete to a parser: drop each record that
    appears when `cut` is set.
    """

    def __init__(self, fd: int, interruption: Interruption) -> None:
        self._fd = fd
        self._interruption = interruption
        self.bytes_read = 0
        self.cut = False

    @property
    def interrupted(self) -> bool:
        """Whether a signal has asked to stop."""
        return self._interruption.requests > 0

    def readable(self) -> bool:
        """It can be read; `io` asks."""
        return True

    def fileno(self) -> int:
        """The descriptor."""
        return self._fd

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Reads what is there; nothing when reading is over."""
        if not self._interruption.wait_readable(self._fd):
            self.cut = True
            return 0
        data = os.read(self._fd, len(buffer))
        buffer[: len(data)] = data
        self.bytes_read += len(data)
        return len(data)

    def close(self) -> None:
        """Closes the descriptor, once."""
        if not self.closed:
            os.close(self._fd)
        super().close()
