"""The one place where a dialect's functions are wrapped.

Layers stand around a dialect's own function in a fixed order, whoever came first, and can leave in
any order. They are instance attributes of the dialect: event listeners on cursor events cost ten
times as much, and BEGIN, COMMIT and ROLLBACK have none that could replace them.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine.interfaces import Dialect

    Function = Callable[..., Any]

ORDER = ("tracker", "disconnects", "journal", "guard", "sqlite_turns", "sorting")
"""The names of the layers, the outermost first."""

METHODS = (
    "do_begin",
    "do_commit",
    "do_rollback",
    "do_execute",
    "do_executemany",
    "do_execute_no_params",
    "do_rollback_to_savepoint",
    "do_begin_twophase",
    "do_prepare_twophase",
    "do_rollback_twophase",
    "do_commit_twophase",
    "is_disconnect",
)
"""What a layer may wrap: it has a method of that name, which takes the next one first.

``do_execute(self, proceed, cursor, statement, parameters, context)`` calls
``proceed(cursor, statement, parameters, context)`` once, more often or not at all, and returns what
that returned. ``is_disconnect`` is asked about every error of the driver, also while fetching.
"""

_STATE = "_turnwise_layers"
_SLOT = "turnwise_slot"
_changing = threading.RLock()


def add(dialect: Dialect, name: str, layer: object) -> None:
    """Wrap the dialect in a layer, in the place of its name; one of the same name is replaced.

    Statements that run meanwhile keep the layers that they began with.

    Raises:
        ValueError: there is no such name in ``ORDER``.
    """
    if name not in ORDER:
        raise ValueError(f"a layer is one of {', '.join(ORDER)}, not {name!r}")
    with _changing:
        state = vars(dialect).setdefault(_STATE, _State())
        state.layers[name] = layer
        state.compose(dialect)


def remove(dialect: Dialect, name: str) -> None:
    """Take a layer away. After the last one the dialect is as it was. Harmless without the layer.

    A wrapper that somebody else has put around ours stays; what it wraps then does nothing.
    """
    with _changing:
        state = vars(dialect).get(_STATE)
        if state is None or state.layers.pop(name, None) is None:
            return
        state.compose(dialect)
        if not state.layers:
            del vars(dialect)[_STATE]


def layer_of(dialect: Dialect, name: str) -> Any:
    """The layer of that name, or None."""
    state = vars(dialect).get(_STATE)
    return None if state is None else state.layers.get(name)


class _State:
    """The layers of one dialect, and the functions that they wrap."""

    def __init__(self) -> None:
        self.layers: dict[str, object] = {}
        self.slots: dict[str, _Slot] = {}

    def compose(self, dialect: Dialect) -> None:
        """Build the chain of every function anew, from the layers that there are."""
        layers = [self.layers[name] for name in ORDER if name in self.layers]
        for method in METHODS:
            steps = [getattr(layer, method) for layer in layers if hasattr(layer, method)]
            if steps:
                if method not in self.slots:
                    self.slots[method] = _Slot(dialect, method)
                self.slots[method].compose(steps)
            elif method in self.slots:
                self.slots.pop(method).leave(dialect)


class _Slot:
    """One wrapped function of a dialect."""

    def __init__(self, dialect: Dialect, method: str) -> None:
        own = vars(dialect)
        self.method = method
        self.is_own = method in own
        self.base: Function = getattr(dialect, method)
        # Somebody may have put back what we had long left.
        while (left := getattr(self.base, _SLOT, None)) is not None:
            self.is_own, self.base = left.is_own, left.base
        make = {4: _with_four, 3: _with_three}.get(_arity(method), _with_any)
        self.entry, self.switch = make(self.base)
        vars(self.entry)[_SLOT] = self
        own[method] = self.entry

    def compose(self, steps: list[Function]) -> None:
        """Let a call go through these, the outermost first."""
        proceed = self.base
        for step in reversed(steps[1:]):
            proceed = _inner(step, proceed, self.method)
        self.switch((steps[0], proceed))

    def leave(self, dialect: Dialect) -> None:
        """Put the dialect's own function back, or do nothing inside a foreign wrapper."""
        self.switch((_straight, self.base))
        own = vars(dialect)
        if own.get(self.method) is not self.entry:
            return
        if self.is_own:
            own[self.method] = self.base
        else:
            del own[self.method]


def _arity(method: str) -> int:
    return {"do_execute": 4, "do_executemany": 4, "do_execute_no_params": 3}.get(method, 0)


def _straight(proceed: Function, *arguments: Any, **options: Any) -> Any:
    return proceed(*arguments, **options)


# The layers that a call goes through are read at once, as one pair: they may change meanwhile.
# Fixed parameters are half as dear as `*arguments`.


def _with_four(base: Function) -> tuple[Function, Function]:
    head: tuple[Function, Function] = (_straight, base)

    def entry(cursor: Any, statement: Any, parameters: Any, context: Any = None) -> Any:
        first, proceed = head
        return first(proceed, cursor, statement, parameters, context)

    def switch(to: tuple[Function, Function]) -> None:
        nonlocal head
        head = to

    return entry, switch


def _with_three(base: Function) -> tuple[Function, Function]:
    head: tuple[Function, Function] = (_straight, base)

    def entry(cursor: Any, statement: Any, context: Any = None) -> Any:
        first, proceed = head
        return first(proceed, cursor, statement, context)

    def switch(to: tuple[Function, Function]) -> None:
        nonlocal head
        head = to

    return entry, switch


def _with_any(base: Function) -> tuple[Function, Function]:
    head: tuple[Function, Function] = (_straight, base)

    def entry(*arguments: Any, **options: Any) -> Any:
        first, proceed = head
        return first(proceed, *arguments, **options)

    def switch(to: tuple[Function, Function]) -> None:
        nonlocal head
        head = to

    return entry, switch


def _inner(step: Function, proceed: Function, method: str) -> Function:
    """A layer inside another one, as the function that the outer one calls."""
    if _arity(method) != 4:
        return lambda *arguments, **options: step(proceed, *arguments, **options)

    def run(cursor: Any, statement: Any, parameters: Any, context: Any = None) -> Any:
        return step(proceed, cursor, statement, parameters, context)

    return run


__all__ = ["METHODS", "ORDER", "add", "layer_of", "remove"]
