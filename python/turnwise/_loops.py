"""Writes of coroutines: their futures in the event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from turnwise._process import known_task
from turnwise.errors import QueueFullError

if TYPE_CHECKING:
    from turnwise._native import NativePlace, Pickups, WriteResult
    from turnwise.writer import BatchWriter, Parameters


class _LoopFuture(asyncio.Future["WriteResult"]):
    """A future whose cancellation waits for a write that has begun."""

    place: NativePlace | None = None

    def cancel(self, msg: object = None) -> bool:
        """Take the write back, unless it has begun; the task is then cancelled after it."""
        if self.done() or self.place is None or not self.place.withdraw():
            return False
        return super().cancel(msg)


async def aexecute(
    writer: BatchWriter, sql: str, params: Parameters, timeout: float | None
) -> WriteResult:
    """Queue a write from an event loop and wait for it."""
    if task := known_task(asyncio.current_task()):
        writer._check_task(task)  # noqa: SLF001 - the other half
    loop = asyncio.get_running_loop()
    began = loop.time()
    # As the caller gave it, so that it is checked; what is left of it once the queue was full.
    left = timeout
    future = _LoopFuture(loop=loop)
    try:
        while (place := writer._submit(future, loop, sql, params, left)) is None:  # noqa: SLF001
            patience = writer.settings.policy.deadline if timeout is None else timeout
            give_up = began + patience
            room: asyncio.Future[None] = loop.create_future()
            writer._when_room(room, loop, sql, params)  # noqa: SLF001
            # `wait_for` loses a cancellation that comes together with the result (Python < 3.12).
            await asyncio.wait({room}, timeout=give_up - loop.time())
            if not room.done():
                message = "the queue stayed full until the deadline; the write is not in the file"
                raise QueueFullError(message)
            left = max(0.0, give_up - loop.time())
        future.place = place
        return await future
    except asyncio.CancelledError as error:
        _tell(error, future)
        raise


def _tell(error: asyncio.CancelledError, future: _LoopFuture) -> None:
    if future.cancelled() or not future.done():
        note = "the cancelled write had not begun; it is not in the file"
    elif failure := future.exception():
        note = f"the cancelled write had begun, and failed: {failure}"
    else:
        note = "the cancelled write had begun, and was committed"
    if hasattr(error, "add_note"):
        error.add_note(note)
    else:
        error.args = (*error.args, note)


def land(
    batch: list[tuple[asyncio.Future[object], object, BaseException | None]],
    pickups: Pickups | None,
) -> None:
    """Complete the futures of one group in their loop, then report that its coroutines have run."""
    loop = None
    for future, value, error in batch:
        if future.done():
            continue
        loop = future.get_loop()
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)
    if pickups is not None:
        if loop is None:
            pickups.close()
        else:
            # Behind the coroutines that were just woken: by then they have written again.
            loop.call_soon(pickups.close)
