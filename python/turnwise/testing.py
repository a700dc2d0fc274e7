"""For the test suites of applications: writers that never sleep, and faults on purpose.

Both are context managers. For pytest, ``rehearsal`` is the fixture ``turnwise_rehearsal``.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from turnwise import _native

if TYPE_CHECKING:
    from collections.abc import Iterator

    from turnwise.writer import BatchWriter

    Point = Literal["begin", "statement", "commit", "checkpoint", "flush"]
    Effect = Literal["refused", "rolled_back", "done", "panicked"]

# SQLite's result codes (https://sqlite.org/rescode.html) by the names that people use.
_CODES = {
    "busy": 5,
    "busy_snapshot": 517,
    "nomem": 7,
    "readonly": 8,
    "interrupt": 9,
    "ioerr": 10,
    "corrupt": 11,
    "full": 13,
    "constraint": 19,
}


@contextmanager
def rehearsal(*, max_attempts: int = 3, seed: int = 0) -> Iterator[None]:
    """Have every writer of this process wait without sleeping, up to ``max_attempts`` tries.

    A lock that is held at each of them is a ``LockTimeoutError`` at once, with ``attempts`` set.
    The jitter is drawn from ``seed``, so that events show the same delays in every run. What waits
    for another *thread* (a full queue, a ``transaction()``) is not cut short. Not for production.

    Raises:
        InvalidSettingError: ``max_attempts`` is not 1 to 4,294,967,295, or ``seed`` not of 64 bits.
    """
    from turnwise.errors import InvalidSettingError

    if not 1 <= max_attempts < 2**32:
        raise InvalidSettingError(f"max_attempts={max_attempts} is out of range: 1 to {2**32 - 1}")
    if not 0 <= seed < 2**64:
        raise InvalidSettingError(f"seed={seed} is out of range: 0 to {2**64 - 1}")
    before = _native.rehearse((max_attempts, seed))
    try:
        yield
    finally:
        _native.rehearse(before)


class Faults:
    """The faults that ``faults`` has armed on a writer's file."""

    def __init__(self, writer: BatchWriter) -> None:
        self._writer = writer

    def strike(
        self,
        at: Point,
        error: str | int = "busy",
        *,
        effect: Effect = "refused",
        after: int = 0,
        times: int = 1,
    ) -> None:
        """Have the next operations of a kind fail, on every writer of the file.

        - ``at``: ``"begin"`` (taking the lock), ``"statement"`` (each row of ``executemany``),
          ``"commit"``, ``"checkpoint"`` or ``"flush"`` (the sync of the log after COMMIT, with
          ``durability="pipelined"``).
        - ``error``: ``"busy"``, ``"busy_snapshot"``, ``"full"``, ``"ioerr"``, ``"nomem"``,
          ``"corrupt"``, ``"readonly"``, ``"interrupt"``, ``"constraint"``, or any (extended) result
          code of SQLite.
        - ``effect``: ``"refused"``: nothing was done; ``"rolled_back"``: nor is anything left of
          the transaction, as after a full disk; ``"done"``, of a COMMIT in doubt (``"ioerr"``,
          ``"nomem"``): it was done, and reported as failed all the same; ``"panicked"``, of a
          statement: turnwise itself fails.
        - ``after``: operations that pass first.
        - ``times``: operations that fail.

        Raises:
            InvalidSettingError: An unknown word, or a count out of range.
        """
        code = _CODES.get(error) if isinstance(error, str) else error
        if code is None:
            from turnwise.errors import InvalidSettingError

            raise InvalidSettingError(
                f"error={error!r} is unknown: it must be a result code or one of {sorted(_CODES)}"
            )
        self._writer._arm(at, code, effect, after, times)  # noqa: SLF001 - the other half

    def clear(self) -> int:
        """Call off what has not struck as often as it should; return how many that were."""
        return self._writer._disarm()  # noqa: SLF001 - the other half


@contextmanager
def faults(writer: BatchWriter) -> Iterator[Faults]:
    """Make a writer's file fail on purpose; at the end the rest is called off.

    ``with faults(writer) as disk: disk.strike("commit", "ioerr")``
    """
    armed = Faults(writer)
    try:
        yield armed
    finally:
        armed.clear()
