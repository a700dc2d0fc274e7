"""
Imported as `turnwise._native`.
"""

from _typeshed import SupportsGetItem
from typing import Any, Final, SupportsFloat, SupportsIndex, final
from typing_extensions import disjoint_base

__all__ = ["VERSION", "Budget", "Constraint", "Event", "Finding", "Learner", "Lease", "NativePending", "NativePlace", "NativeTracker", "NativeTransaction", "NativeTurn", "NativeTurnLock", "NativeWriter", "Override", "Owner", "Pickups", "Retry", "RetryPolicy", "StatementHook", "Verdict", "WriteResult", "classify_code", "drain_all", "draws", "enums", "error_states", "fingerprint", "rehearse", "rules", "sqlstate"]

VERSION: Final[str]

@final
class Budget:
    """
    A shared allowance of retries: redone work takes 5 tokens, a new connection 14, a wait for a
    lock none; a clean success returns 1.
    """
    def __new__(cls, /, capacity: SupportsIndex = 500) -> Budget: ...
    def __repr__(self, /) -> str: ...
    @property
    def capacity(self, /) -> int:
        """
        Tokens of a full budget.
        """
    @property
    def denied(self, /) -> int:
        """
        Retries that were refused.
        """
    def succeed(self, /) -> None:
        """
        Records a success that needed no retry.
        """
    def take(self, /, retry: str) -> bool:
        """
        Takes the tokens for a retry of this kind (`"redo"`, `"unavailable"`, …), all or none.
        """
    @property
    def tokens(self, /) -> int:
        """
        Tokens left.
        """

@final
class Constraint:
    """
    A violated constraint, as far as it is known.
    """
    def __eq__(self, value: object, /) -> bool: ...
    def __hash__(self, /) -> int: ...
    def __ne__(self, value: object, /) -> bool: ...
    def __new__(cls, /, kind: str, *, name: str | None = None, table: str | None = None, columns: SupportsGetItem[int, str] = ...) -> Constraint: ...
    def __repr__(self, /) -> str: ...
    @property
    def columns(self, /) -> tuple[str, ...]:
        """
        The columns that it names; empty if not known.
        """
    @property
    def kind(self, /) -> str:
        """
        `"unique"`, `"foreign_key"`, `"not_null"`, `"check"` or `"exclusion"`.
        """
    @property
    def kind_code(self, /) -> int:
        """
        The number of `kind`.
        """
    @property
    def name(self, /) -> str | None:
        """
        The constraint's name; of an unnamed CHECK in SQLite the expression. `None` if not known.
        """
    @property
    def table(self, /) -> str | None:
        """
        The table that it is on; `None` if not known.
        """

@final
class Event:
    """
    One step of a write that met trouble. Holds no SQL text and no parameter.
    """
    def __repr__(self, /) -> str: ...
    @property
    def attempt(self, /) -> int:
        """
        How often it was tried so far; the first try is 1.
        """
    @property
    def class_(self, /) -> str:
        """
        The class of the (last) error, such as `"contention"`.
        """
    @property
    def code(self, /) -> int:
        """
        SQLite's extended code of the (last) error; 0 where SQLite was not asked.
        """
    @property
    def deadline_left(self, /) -> float:
        """
        Seconds until the deadline.
        """
    @property
    def delay(self, /) -> float:
        """
        Seconds until the next try; 0 if there is none.
        """
    @property
    def error(self, /) -> str | None:
        """
        The kind of the error that is raised, such as `"Constraint"`; `None` unless it is a failure.
        """
    @property
    def kind(self, /) -> str:
        """
        What happened: `"retry"`, `"recovery"` or `"failure"`.
        """
    @property
    def path(self, /) -> str:
        """
        The database file.
        """
    @property
    def statement(self, /) -> str:
        """
        A number that stands for the SQL text, in 16 hexadecimal digits; empty where there is none.
        """
    @property
    def stop(self, /) -> str | None:
        """
        Why it is not tried again, such as `"deadline"`; `None` unless it is a failure.
        """

@final
class Finding:
    """
    Something that the tracker is sure or suspects is wrong.
    """
    def __repr__(self, /) -> str: ...
    def __str__(self, /) -> str: ...
    @property
    def age(self, /) -> float:
        """
        For how many seconds it had lasted; 0 where that says nothing.
        """
    @property
    def backend_pid(self, /) -> int:
        """
        The server's number of the connection; 0 where it is not known.
        """
    @property
    def code(self, /) -> str:
        """
        What was found, such as `"idle-in-transaction"`.
        """
    @property
    def detail(self, /) -> str:
        """
        What else there is to say.
        """
    @property
    def exact(self, /) -> bool:
        """
        Whether it cannot be a false alarm under its rule.
        """
    @property
    def hint(self, /) -> str:
        """
        What to change.
        """
    def json(self, /) -> str:
        """
        The finding as one JSON object.
        """
    @property
    def last(self, /) -> str:
        """
        The line that did it.
        """
    @property
    def lease(self, /) -> int:
        """
        The lease's number; 0 where there is none.
        """
    @property
    def number(self, /) -> int:
        """
        Its number, which no other finding of this process has.
        """
    @property
    def opened(self, /) -> str:
        """
        The line that took the connection.
        """
    @property
    def owner_id(self, /) -> str:
        """
        What tells the owner from others of the same name.
        """
    @property
    def owner_kind(self, /) -> str:
        """
        What did it, such as `"request"`; empty where nothing is known.
        """
    @property
    def owner_name(self, /) -> str:
        """
        The owner's name, such as a route.
        """
    @property
    def phase(self, /) -> str:
        """
        How far the owner was.
        """
    @property
    def pool(self, /) -> str:
        """
        The pool of the connection.
        """
    @property
    def repeats(self, /) -> int:
        """
        How many of its kind and place were left out of the log since the last one.
        """
    @property
    def severity(self, /) -> str:
        """
        How bad it is: `"info"`, `"warning"` or `"error"`.
        """
    @property
    def state(self, /) -> str:
        """
        What the connection did.
        """
    @property
    def statement(self, /) -> str:
        """
        The statement, with placeholders for its parameters.
        """
    @property
    def text(self, /) -> str:
        """
        Everything in one line.
        """

@final
class Learner:
    """
    What a process has learned of one lock: for locks that cannot be queued for. Made by
    `RetryPolicy.learner`.

    Share one between all who ask for the same lock, and keep it for as long as the lock is used;
    threads may. Tell it of each failure, sleep as long as it says, and tell it of each success with
    the time that the lock was held. It never sleeps and reads no clock.

    The mean sleep `mu` grows by a tenth with a failure (at most once in `mu / 2`: what fails sooner
    is another waiter who met the same hold) and shrinks to `1.1**-3` of it with a success, so that
    about three of four tries fail and the lock is idle for a quarter of the time, however long it is
    held. It is at least half of one's own hold time, and at most 8 times that, half of the time for
    which others have the lock, or an eighth of the present wait, whichever is most. It begins at 5 ms,
    and is never below 50 µs or above the policy's `max_delay`. A sleep is from `0.5 * mu` to
    `1.5 * mu`.
    """
    def __repr__(self, /) -> str: ...
    def failed(self, /, now_ns: SupportsIndex) -> int:
        """
        The lock was asked for at `now_ns` and taken: nanoseconds to sleep before asking again. All
        times are of one clock, such as `time.monotonic_ns()`.
        """
    @property
    def hold_ns(self, /) -> int:
        """
        How long the lock is held at a time, in nanoseconds, as far as is known.
        """
    @property
    def mean_ns(self, /) -> int:
        """
        The mean sleep, in nanoseconds.
        """
    @property
    def others_ns(self, /) -> int:
        """
        For how long others were seen to have the lock before it was had, in nanoseconds.
        """
    def succeeded(self, /, hold_ns: SupportsIndex) -> None:
        """
        The lock was had, held for `hold_ns`, and let go.
        """

@final
class Lease:
    """
    One checkout of a connection that has not come back, as it was when it was asked for.
    """
    def __repr__(self, /) -> str: ...
    @property
    def age(self, /) -> float:
        """
        Seconds since it was taken.
        """
    @property
    def backend_pid(self, /) -> int:
        """
        The server's number of the connection; 0 where it is not known.
        """
    def json(self, /) -> str:
        """
        The lease as one JSON object.
        """
    @property
    def last(self, /) -> str:
        """
        The line of its last statement; empty unless `watch(sites="statement")`.
        """
    @property
    def number(self, /) -> int:
        """
        Its number, which no other lease of this process has.
        """
    @property
    def opened(self, /) -> str:
        """
        The line that took it: `"app/items.py:41 in list_items"`.
        """
    @property
    def owner_id(self, /) -> str:
        """
        What tells the owner from others of the same name.
        """
    @property
    def owner_kind(self, /) -> str:
        """
        What it belongs to, such as `"request"`; empty where nothing is known.
        """
    @property
    def owner_name(self, /) -> str:
        """
        The owner's name, such as a route.
        """
    @property
    def owner_number(self, /) -> int:
        """
        The owner's number; 0 where there is none.
        """
    @property
    def phase(self, /) -> str:
        """
        How far the owner is.
        """
    @property
    def pool(self, /) -> str:
        """
        The pool that the connection is from.
        """
    @property
    def state(self, /) -> str:
        """
        `"checked_out"`, `"active"`, `"idle_in_tx"`, `"aborted_tx"` or `"resetting"`.
        """
    @property
    def state_age(self, /) -> float:
        """
        Seconds since it is in its state, a quarter of a second fewer or more.
        """
    @property
    def statement(self, /) -> str:
        """
        Its last statement, with placeholders for its parameters.
        """
    @property
    def statements(self, /) -> int:
        """
        How many statements have run.
        """
    @staticmethod
    def table(leases: SupportsGetItem[int, Lease]) -> str:
        """
        Leases as a table.
        """
    @property
    def thread(self, /) -> int:
        """
        `threading.get_ident()` of the thread of its last statement; 0: none.
        """
    @property
    def wrote(self, /) -> bool:
        """
        Whether its transaction may hold locks of a write.
        """

@final
class NativePending:
    """
    A request for a turn.
    """
    def withdraw(self, /) -> bool:
        """
        Takes the request back. `False`: the turn has come, or is coming.
        """

@final
class NativePlace:
    """
    A submitted write's place in the queue.
    """
    def withdraw(self, /) -> bool:
        """
        Takes the write back. `False`: it has begun, and its outcome will come.
        """

@final
class NativeTracker:
    """
    Slots for the leases of this process, and the listeners that fill them.
    """
    def __new__(cls, /, owner: Any, watcher: Any, places: Any) -> NativeTracker:
        """
        `owner` gives the owner of the context; `watcher` and `places` answer the calls below.
        """
    def clear(self, /) -> None:
        """
        Forgets the findings, and what was reported.
        """
    def configure(self, /, *, idle_in_transaction: SupportsFloat | SupportsIndex, task_idle_in_transaction: SupportsFloat | SupportsIndex, lock_held: SupportsFloat | SupportsIndex, grace: SupportsFloat | SupportsIndex, each_site: bool, strict: bool) -> None:
        """
        Changes the thresholds, in seconds, whether each statement's line is kept, and whether findings are
        raised.
        """
    def counts(self, /) -> dict[str, int]:
        """
        How often each code was found since the start.
        """
    def findings(self, /) -> list[Finding]:
        """
        The newest findings, the oldest of them first.
        """
    def forget(self, /) -> None:
        """
        Forgets every connection: they are another process's, or nobody listens any more.
        """
    def here(self, /) -> str:
        """
        The application's line that runs now; empty where there is none.
        """
    def leases(self, /) -> list[Lease]:
        """
        Every lease that is out, the oldest first.
        """
    def on_after_begin(self, /, session: Any, transaction: Any, connection: Any) -> None:
        """
        A session has begun a transaction on a connection.
        """
    def on_checkin(self, /, dbapi_connection: Any, connection_record: Any) -> None:
        """
        A connection is back in its pool. `None`: it was thrown away meanwhile.
        """
    def on_checkout(self, /, dbapi_connection: Any, connection_record: Any, connection_proxy: Any) -> None:
        """
        A connection was taken from its pool.
        """
    def on_close(self, /, dbapi_connection: Any, connection_record: Any) -> None:
        """
        A connection is about to be closed.
        """
    def on_invalidate(self, /, dbapi_connection: Any, connection_record: Any, exception: Any) -> None:
        """
        A connection is not usable any more.
        """
    def on_reset(self, /, dbapi_connection: Any, connection_record: Any, reset_state: Any) -> None:
        """
        A connection is about to be reset, before it goes back to its pool.
        """
    def on_transaction(self, /, session: Any, transaction: Any) -> None:
        """
        A session has begun a transaction, which has no connection yet.
        """
    def report(self, /, code: str, *, detail: str = "", connection: Any | None = None, age: SupportsFloat | SupportsIndex = 0.0, severity: str | None = None, here: str | None = None, owner: Owner | None = None) -> None:
        """
        Reports what was found in Python. `connection` is the driver's; `here` and `owner` are those of
        whoever did it, where that is not the caller.
        """
    def scan(self, /) -> None:
        """
        Looks for leases that wait too long, without the GIL.
        """

@final
class NativeTransaction:
    """
    The native half of `turnwise.Transaction`.
    """
    def commit(self, /) -> None:
        """
        Commits.
        """
    def execute(self, /, sql: str, params: Any | None = None) -> WriteResult:
        """
        Runs one statement in the transaction.
        """
    def executemany(self, /, sql: str, rows: Any) -> WriteResult:
        """
        Runs one statement for every row in the transaction, all rows or none.
        """
    def rollback(self, /) -> None:
        """
        Rolls back. Harmless when the transaction has ended.
        """

@final
class NativeTurn:
    """
    A turn, or leave to go on without one.
    """
    def disclaim(self, /) -> None:
        """
        From here on it is no thread's: any may give it back, and whoever asks again waits.
        """
    @property
    def held(self, /) -> bool:
        """
        Whether it is one. `False`: the turn stood still, or there is no turn lock here.
        """
    def note_outsider(self, /) -> None:
        """
        SQLite's own lock was taken in this turn: a writer that knows nothing of turns has it.
        """
    def release(self, /) -> None:
        """
        Gives it back. Harmless when it was given back.
        """
    def take_up(self, /) -> bool:
        """
        Begins a turn that has come. `False`: its thread has had it meanwhile, and this is none.
        """

@disjoint_base
class NativeTurnLock:
    """
    The native half of `TurnLock`.
    """
    def __new__(cls, /, path: Any, *, turn_timeout: SupportsFloat | SupportsIndex | None = ...) -> NativeTurnLock: ...
    def _stats(self, /) -> dict: ...
    def acquire(self, /, timeout: SupportsFloat | SupportsIndex | None, site: str, task: SupportsIndex | None = None) -> NativeTurn:
        """
        Waits up to `timeout` seconds for the turn; `None` waits without end. `task` is the number
        of the asyncio task that asks.
        """
    def fall_through(self, /) -> NativeTurn:
        """
        Leave to go on without a turn.
        """
    @property
    def holder(self, /) -> str | None:
        """
        Who has the turn, in words; `None` when nobody has.
        """
    def is_stuck(self, /) -> bool:
        """
        Whether the turn has stood still for `turn_timeout`.
        """
    @property
    def path(self, /) -> str:
        """
        The database, by its resolved path.
        """
    def request(self, /, event_loop: Any, came: Any, site: str, task: SupportsIndex | None = None, *, first: bool = False) -> NativePending | None:
        """
        Lines up without blocking, `first` in line after a turn that could not be taken up. `came`, a
        future of `event_loop`, gets the turn, to be taken up. `None`: no thread is to be had that
        would bring it. Fails for a task that has it.
        """
    def try_acquire(self, /, timeout: SupportsFloat | SupportsIndex | None, site: str, task: SupportsIndex | None = None) -> NativeTurn | None:
        """
        The turn, or leave to go on without one, if nobody has it, waits for it or asks for it in
        this thread; never blocks. `timeout` is that of the wait which may follow.
        """
    @property
    def turn_timeout(self, /) -> float | None:
        """
        The seconds that the turn may stand still before a waiter goes on without it.
        """
    @property
    def unavailable(self, /) -> str | None:
        """
        Why there is no turn lock for this database; `None` when there is one, or nobody has tried.
        """

@disjoint_base
class NativeWriter:
    """
    The native half of `turnwise.BatchWriter`.
    """
    def __new__(cls, /, path: Any, *, policy: RetryPolicy | None = None, max_batch: SupportsIndex = 1000, max_queue_rows: SupportsIndex = 100000, max_queue_bytes: SupportsIndex = 67108864, durability: str = "full", journal_mode: str = "wal", foreign_keys: bool = False, hold_limit: SupportsFloat | SupportsIndex = 5.0, turn_lock: bool = True, turn_timeout: SupportsFloat | SupportsIndex | None = ...) -> NativeWriter: ...
    def _arm(self, /, at: str, code: SupportsIndex, effect: str, after: SupportsIndex, times: SupportsIndex) -> None:
        """
        Has a fault strike the file's connection.
        """
    def _begin(self, /, timeout: SupportsFloat | SupportsIndex | None, site: str, task: SupportsIndex | None) -> NativeTransaction:
        """
        Begins an interactive transaction.
        """
    def _check_task(self, /, task: SupportsIndex) -> None:
        """
        Fails for an asyncio task, by its `id`, that would wait for itself.
        """
    def _disarm(self, /) -> int:
        """
        Calls off the faults that have not struck as often as they should; gives their number.
        """
    def _histograms(self, /) -> "dict[str, tuple[tuple[float, ...], tuple[int, ...], float]]":
        """
        Of each histogram: upper bounds in seconds, counts, and the sum in seconds.
        """
    def _settings(self, /) -> "dict[str, object]": ...
    def _stats(self, /) -> "dict[str, int]": ...
    def _submit(self, /, future: Any, event_loop: Any | None, sql: str, params: Any, timeout: SupportsFloat | SupportsIndex | None) -> NativePlace | None:
        """
        Leaves a write in the queue for `future`, which belongs to `event_loop` unless that is
        `None`. `None` when the queue is full and `event_loop` must not be blocked.
        """
    def _when_room(self, /, future: Any, event_loop: Any, sql: str, params: Any) -> None:
        """
        Completes `future` with `None` once the queue has room for this write.
        """
    def close(self, /, timeout: SupportsFloat | SupportsIndex | None = None) -> None:
        """
        Drains what was accepted, and closes the connection with the last writer on the file.
        Harmless when the writer is closed.
        """
    @property
    def closed(self, /) -> bool:
        """
        Whether `close` was called.
        """
    def execute(self, /, sql: str, params: Any | None = None, *, timeout: SupportsFloat | SupportsIndex | None = None) -> WriteResult:
        """
        Runs one statement and returns once it is committed.

        `params` is a sequence for `?` or a mapping for `:name`. `timeout`, in seconds, bounds the
        wait of a write that has not begun; the default is the policy's deadline.
        """
    def executemany(self, /, sql: str, rows: Any, *, timeout: SupportsFloat | SupportsIndex | None = None) -> WriteResult:
        """
        Runs one statement for every row, all rows or none, and returns once it is committed.
        """
    def flush(self, /, timeout: SupportsFloat | SupportsIndex | None = None) -> None:
        """
        Returns once everything that was accepted before is committed or has failed, and its
        futures are completed.
        """
    @property
    def path(self, /) -> str:
        """
        The database file, by its resolved path.
        """

@final
class Override:
    """
    A rule of the application that wins over the table.

    Raises `InvalidPolicyError` if it contradicts itself: a commit in doubt that may be repeated,
    or a scope of never that is retried.
    """
    def __eq__(self, value: object, /) -> bool: ...
    def __ne__(self, value: object, /) -> bool: ...
    def __new__(cls, /, *, dialect: str, code: SupportsIndex | str, class_: str, fate: str, scope: str, retry: str, phase: str | None = None, constraint: str | None = None) -> Override: ...
    def __repr__(self, /) -> str: ...

@final
class Owner:
    """
    A request, a task or a job: whoever leases belong to.
    """
    def __new__(cls, /, kind: str, name: str, *, id: str = "", parent: Owner | None = None) -> Owner: ...
    def __repr__(self, /) -> str: ...
    @property
    def age(self, /) -> float:
        """
        Seconds since it began.
        """
    @property
    def blocked(self, /) -> float:
        """
        Seconds for which its synchronous calls have blocked an event loop.
        """
    @property
    def id(self, /) -> str:
        """
        What tells it from others of the same name; may be empty.
        """
    @property
    def kind(self, /) -> str:
        """
        What it is: `"request"`, `"websocket"`, `"task"`, `"job"` or `"cli"`.
        """
    @property
    def name(self, /) -> str:
        """
        Its name, such as a route. Can be set: a route is known late.
        """
    @name.setter
    def name(self, /, name: str) -> None: ...
    @property
    def number(self, /) -> int:
        """
        Its number, which no other owner of this process has.
        """
    @property
    def parent(self, /) -> Owner | None:
        """
        The owner that began it, or `None`.
        """
    @property
    def phase(self, /) -> str:
        """
        How far it is: `"running"`, `"streaming"`, `"responded"` or `"ended"`. Can be set to a later
        one; an earlier one is ignored.
        """
    @phase.setter
    def phase(self, /, phase: str) -> None: ...

@final
class Pickups:
    """
    Tells the writer thread, when closed or dropped, that a loop has run the coroutines it woke.
    """
    def close(self, /) -> None:
        """
        The coroutines have run.
        """

@final
class Retry:
    """
    One unit of work under a policy. Decides, but never sleeps: the caller does. Learns nothing from
    other units: for `jitter="adaptive"` ask `RetryPolicy.learner` how long to wait for a lock.
    """
    def __new__(cls, /, policy: RetryPolicy, seed: SupportsIndex, started_at_ns: SupportsIndex = 0, *, budget: Budget | None = None) -> Retry: ...
    @property
    def attempts(self, /) -> int:
        """
        Attempts so far, the first included. Waits for a lock do not count.
        """
    def deadline_left_ns(self, /, now_ns: SupportsIndex) -> int:
        """
        Nanoseconds left at `now_ns`.
        """
    def next(self, /, now_ns: SupportsIndex, verdict: Verdict) -> int | None:
        """
        After a failure at `now_ns`: nanoseconds to sleep before trying again, or `None` to stop,
        and then `stop_reason` says why. `now_ns` and `started_at_ns` are of one clock.
        """
    @property
    def stop_reason(self, /) -> str | None:
        """
        Why the last answer was to stop: `"not_retryable"`, `"outcome_unknown"`, `"attempts"`,
        `"deadline"` or `"budget"`.
        """
    def succeed(self, /) -> None:
        """
        Records success in the budget, if there is one: returns what the last retry took, or 1.
        """
    @property
    def waits(self, /) -> int:
        """
        Waits for a lock so far.
        """

@final
class RetryPolicy:
    """
    Immutable retry settings. Durations are in seconds.

    Raises `InvalidPolicyError` for a setting out of range; the message names the setting, its
    value and the range.

    - `max_attempts`: attempts in all, the first included; `None` for as many as the deadline
      allows. Waits for a lock do not count.
    - `initial_delay`: the first delay before jitter, 0 to 90 days.
    - `backoff_factor`: what a delay is multiplied by to give the next, 1 to 1000.
    - `max_delay`: the bound of a delay before jitter, `initial_delay` to 90 days.
    - `jitter`: `"none"`, `"additive"`, `"equal"`, `"full"`, `"decorrelated"` or `"adaptive"`, which
      learns how long the lock is held (see `Learner`) and uses neither `initial_delay` nor
      `backoff_factor`.
    - `deadline`: the time for everything, sleeps included, 0 to 90 days.
    """
    def __eq__(self, value: object, /) -> bool: ...
    def __getnewargs_ex__(self, /) -> "tuple[tuple[()], dict[str, object]]":
        """
        For pickle and copy, which know nothing of keyword-only settings.
        """
    def __hash__(self, /) -> int: ...
    def __ne__(self, value: object, /) -> bool: ...
    def __new__(cls, /, *, max_attempts: SupportsIndex | None = ..., initial_delay: SupportsFloat | SupportsIndex = 0.1, backoff_factor: SupportsFloat | SupportsIndex = 2.0, max_delay: SupportsFloat | SupportsIndex = 10.0, jitter: str = "full", deadline: SupportsFloat | SupportsIndex = 30.0) -> RetryPolicy: ...
    def __repr__(self, /) -> str: ...
    @property
    def backoff_factor(self, /) -> float:
        """
        What a delay is multiplied by to give the next.
        """
    @property
    def deadline(self, /) -> float:
        """
        The time for everything, in seconds.
        """
    def delays(self, /, seed: SupportsIndex, count: SupportsIndex) -> list[float]:
        """
        The first `count` delays that `seed` gives, in seconds. Neither attempts nor deadline are
        looked at. Of `"adaptive"` those of a learner that never succeeds.
        """
    def delays_ns(self, /, seed: SupportsIndex, count: SupportsIndex) -> list[int]:
        """
        The same delays in whole nanoseconds.
        """
    @staticmethod
    def for_locks(*, deadline: SupportsFloat | SupportsIndex = 30.0) -> RetryPolicy:
        """
        The policy of a `BatchWriter` that is given none, with another `deadline`: 1 ms, doubling to
        50 ms, full jitter.
        """
    @property
    def initial_delay(self, /) -> float:
        """
        The first delay before jitter, in seconds.
        """
    @property
    def jitter(self, /) -> str:
        """
        How a delay is drawn.
        """
    def learner(self, /, seed: SupportsIndex) -> Learner:
        """
        What learns, across waits, how long to wait for one lock.

        Raises `InvalidPolicyError` unless `jitter` is `"adaptive"`.
        """
    @property
    def max_attempts(self, /) -> int | None:
        """
        Attempts in all, the first included; `None` for no limit.
        """
    @property
    def max_delay(self, /) -> float:
        """
        The bound of a delay before jitter, in seconds.
        """

@final
class StatementHook:
    """
    The layer `"tracker"` of one dialect.
    """
    def __new__(cls, /, tracker: NativeTracker, *, is_async: bool, is_memory: bool, aborts: bool, autocommits: bool) -> StatementHook: ...
    def do_commit(self, /, proceed: Any, connection: Any) -> Any: ...
    def do_execute(self, /, proceed: Any, cursor: Any, statement: Any, parameters: Any, context: Any) -> Any: ...
    def do_execute_no_params(self, /, proceed: Any, cursor: Any, statement: Any, context: Any) -> Any: ...
    def do_executemany(self, /, proceed: Any, cursor: Any, statement: Any, parameters: Any, context: Any) -> Any: ...
    def do_rollback(self, /, proceed: Any, connection: Any) -> Any: ...

@final
class Verdict:
    """
    What an error means. Every word comes as its name, and as its number under `…_code`.
    """
    def __eq__(self, value: object, /) -> bool: ...
    def __hash__(self, /) -> int: ...
    def __ne__(self, value: object, /) -> bool: ...
    def __new__(cls, /, *, fate: str, scope: str, retry: str, class_: str = "unlisted") -> Verdict:
        """
        A verdict of the application's own, for `Retry.next`.
        """
    def __repr__(self, /) -> str: ...
    @property
    def class_(self, /) -> str:
        """
        What kind of trouble it is.
        """
    @property
    def class_code(self, /) -> int:
        """
        The number of `class_`.
        """
    @property
    def code(self, /) -> int:
        """
        The code that was judged.
        """
    @property
    def constraint(self, /) -> Constraint | None:
        """
        The constraint that was violated, if it was one.
        """
    @property
    def dialect(self, /) -> str | None:
        """
        Whose error it is; `None` if no database's.
        """
    @property
    def fate(self, /) -> str:
        """
        What has become of the transaction.
        """
    @property
    def fate_code(self, /) -> int:
        """
        The number of `fate`.
        """
    @staticmethod
    def foreign() -> Verdict:
        """
        The verdict on an error that is not one of a database: rule `"default.foreign"`.
        """
    @property
    def is_in_doubt(self, /) -> bool:
        """
        Whether COMMIT may or may not have taken effect.
        """
    @property
    def is_retryable(self, /) -> bool:
        """
        Whether the work may be done again without asking anybody.
        """
    @property
    def retry(self, /) -> str:
        """
        How it is retried.
        """
    @property
    def retry_code(self, /) -> int:
        """
        The number of `retry`.
        """
    @property
    def rule(self, /) -> str:
        """
        The rule that decided: an id of the table, `"override"`, `"default.…"` or `"own"`.
        """
    @property
    def scope(self, /) -> str:
        """
        What may be done again.
        """
    @property
    def scope_code(self, /) -> int:
        """
        The number of `scope`.
        """
    @property
    def sqlstate(self, /) -> str | None:
        """
        The SQLSTATE, where one is known.
        """
    @property
    def why(self, /) -> str:
        """
        The reason, and where it comes from.
        """
    def with_constraint(self, /, constraint: Constraint | None) -> Verdict:
        """
        The same verdict with what the driver's own fields say of the constraint.
        """

@final
class WriteResult:
    """
    What a committed write came to.
    """
    def __repr__(self, /) -> str: ...
    @property
    def lastrowid(self, /) -> int | None:
        """
        The row id of the last inserted row; `None` unless an INSERT or REPLACE inserted one.
        """
    @property
    def rowcount(self, /) -> int:
        """
        Rows that INSERT, UPDATE, DELETE or REPLACE touched; -1 for other statements.
        """
    @property
    def rows(self, /) -> list:
        """
        The rows that RETURNING or SELECT gave, as tuples.
        """

def classify_code(dialect: str, code: SupportsIndex | str | None, *, phase: str = "statement", in_transaction: bool | None = None, was_in_transaction: bool | None = None, has_read: bool = False, is_read: bool = False, is_ddl: bool = False, is_user_lock: bool = False, is_read_only: bool = False, is_lost: bool = False, journal: str | None = None, rolls_back_on_timeout: bool = False, sqlstate: str | None = None, message: str | None = None, overrides: SupportsGetItem[int, Override] = ...) -> Verdict:
    """
    Judges an error by its code, the phase and what is known of the transaction.

    - `code`: SQLite's extended code, PostgreSQL's SQLSTATE (as text or number), the error number;
      `None` or 0 where the driver gives none.
    - `phase`: `"connect"`, `"begin"`, `"statement"`, `"savepoint"`, `"commit"` or `"rollback"`.
    - `in_transaction`: what the driver reports *after* the error; `None` if it was not asked. It
      overrides the table, but never lifts a commit in doubt. In MySQL and MariaDB `True` proves
      nothing, in PostgreSQL it means aborted.
    - `was_in_transaction`: a transaction was open when the statement began, or began with it;
      `None` is taken as open.
    - `has_read`: the transaction had read, and not yet written. `is_read`: the statement only
      reads. `is_ddl`: it changes the schema. `is_user_lock`: it asks for one (`GET_LOCK`).
    - `is_read_only`: the transaction was declared READ ONLY.
    - `is_lost`: the driver says that the connection is gone.
    - `journal`: SQLite's journal mode, `None` if it is not known.
    - `rolls_back_on_timeout`: the server runs with `innodb_rollback_on_timeout`.
    - `sqlstate`: the one that came with an error number (MySQL, MariaDB).
    - `message`: the database's own words, read where a driver gives no code (the start of SQLite's,
      a few of PostgreSQL's in English) and for the names of a constraint. Not kept.
    - `overrides`: rules that win over the table; the first that fits.

    Raises `ValueError` for a word that it does not know.
    """

def drain_all(timeout: SupportsFloat | SupportsIndex) -> str | None:
    """
    Waits up to `timeout` seconds until every writer of this process is drained, every outcome that
    came is with its future, and every event with the hooks. Gives the text of the first error.

    Python kills a thread that is in its code when the interpreter ends; the delivery thread must not
    be met there, because the end of a Rust thread's stack cannot be unwound that way and aborts.
    """

def draws(seed: SupportsIndex, count: SupportsIndex, below: SupportsIndex | None = None) -> list[int]:
    """
    `count` raw draws of the generator behind every delay, or numbers below `below`.
    """

def enums() -> "dict[str, dict[str, int]]":
    """
    Every numbered enum: its name, and its values' names and numbers.
    """

def error_states() -> "dict[str, str]":
    """
    The state of every kind of error: `"transient"`, `"permanent"` or `"exhausted"`.
    """

def fingerprint(sql: str) -> int:
    """
    A number that stands for a statement in events: 64-bit FNV-1a of its SQL text.
    """

def rehearse(rehearsal: tuple[SupportsIndex, SupportsIndex] | None) -> "tuple[int, int] | None":
    """
    Sets how writers wait: at most so many tries, without sleep and with this seed; `None`: as their
    policies say. Gives what was set before.
    """

def rules() -> "list[dict[str, object]]":
    """
    Every rule, in the order in which they are tried; a dialect's in one piece.

    Each is a dict with `dialect`, `id`, `codes` (PostgreSQL: SQLSTATE), `phases`, `when`,
    `sqlstate`, `class_`, `fate`, `fate_if_open`, `scope`, `retry`, `constraint` and `why`. Code 0 is
    a connection that was lost without a code.
    """

def sqlstate(text: str) -> int | None:
    """
    Packs a SQLSTATE into the number that `classify` takes; `None` if the text is none.
    """
