"""Puts a session's pending work back as it was before a flush that came to nothing.

A flush, and the rollback after it, leave nothing to try again: new objects keep the keys that were
generated for them, changed ones have lost what was changed, collections pass for saved. So the
state of every object is kept before the flush, as SQLAlchemy keeps it (values, what they were when
loaded, what is expired, which objects are new or to be deleted), and put back without events or
validators, which have seen these values once. Neither emits SQL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import inspect
from sqlalchemy.ext.mutable import MutableBase
from sqlalchemy.orm.attributes import flag_dirty, instance_state
from sqlalchemy.orm.collections import collection_adapter
from sqlalchemy.sql import ClauseElement

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy.orm import InstanceState, Mapper, Session

_SHAPE = "turnwise.shape"
_FACTS = {
    "_orphaned_outside_of_session",
    "_pending_mutations",  # What was appended to collections that are not loaded.
    "callables",
    "expired",
    "insert_order",
    "parents",  # Who may have an orphan of this.
}
"""What a state holds beside its values, in its ``__dict__``."""


class NotRestoredError(Exception):
    """The session is not as it was. Says why."""


class PendingWork:
    """What a session is about to write, and every object that it holds.

    With ``names_only`` it cannot be restored, and costs nothing for objects that are not written.
    """

    def __init__(self, session: Session, *, names_only: bool = False) -> None:
        self._session = session
        self._new = sorted(
            (Kept(one) for one in session.new),
            key=lambda kept: kept.state.insert_order or 0,
        )
        self._deleted = list(session.deleted)
        self._persistent = [
            Kept(one)
            for one in (session.dirty if names_only else session.identity_map.values())
            if not _is_merely_expired(instance_state(one))
        ]

    def obstacle(self) -> str | None:
        """Why it cannot be put back; ``None`` if it can be."""
        for kept in (*self._new, *self._persistent):
            for key in kept.committed:
                impl = kept.state.manager[key].impl
                if getattr(impl, "dynamic", False):
                    return f"{kept.name}.{key} has changed, a collection that is never loaded"
        return None

    def names(self) -> list[str]:
        """What would be lost: the objects with class and primary key."""
        deleted = {inspect(one): one for one in self._deleted}
        changed = (kept for kept in self._persistent if kept.modified)
        return [
            *(f"new {kept.name}" for kept in self._new),
            *(f"changed {kept.name}" for kept in changed if kept.state not in deleted),
            *(f"deleted {name_of(state)}" for state in deleted),
        ]

    @property
    def states(self) -> set[InstanceState[Any]]:
        """The states of the objects that are written."""
        kept = [*self._new, *(kept for kept in self._persistent if kept.modified)]
        return {one.state for one in kept} | {inspect(one) for one in self._deleted}

    def restore(self) -> None:
        """Put it back into the session, which was rolled back meanwhile.

        Raises:
            NotRestoredError: Something has come between. The session is to be rolled back.
        """
        session = self._session
        if not session.autobegin and not session.in_transaction():
            session.begin()
        with session.no_autoflush:
            for kept in self._persistent:
                kept.require(kept.state.key == kept.key, "has another primary key")
                kept.require(kept.obj in session, "has left the session")
            for kept in self._new:
                kept.require(kept.state.transient, "is not transient")
                session._save_impl(kept.state)  # Not `add`: it cascades to what was not new.
            for kept in (*self._persistent, *self._new):
                kept.put_back()
            for one in self._deleted:
                # Not `delete`: it loads what it cascades to.
                session._delete_impl(inspect(one), one, head=False)
        self._check()

    def _check(self) -> None:
        """Listeners that attach, expire or add objects may have changed what was put back."""
        now = PendingWork(self._session)
        same = (
            [kept.state for kept in self._new] == [kept.state for kept in now._new]
            and {id(one) for one in self._deleted} == {id(one) for one in now._deleted}
            and self._modified() == now._modified()
        )
        if not same:
            raise NotRestoredError("an event listener has changed the session meanwhile")

    def _modified(self) -> set[InstanceState[Any]]:
        return {kept.state for kept in self._persistent if kept.modified}


def _shape(manager: Any) -> tuple[int, frozenset[str], frozenset[str]]:
    """Of a class: how many attributes, the keys of what is mapped, and those of relationships."""
    shape: tuple[int, frozenset[str], frozenset[str]] | None = manager.info.get(_SHAPE)
    if shape is None or shape[0] != len(manager):
        mapper = manager.mapper
        keys, relationships = mapper.attrs.keys(), mapper.relationships.keys()
        shape = manager.info[_SHAPE] = len(manager), frozenset(keys), frozenset(relationships)
    return shape


class Kept:
    """One object as it was."""

    def __init__(self, obj: object) -> None:
        self.obj = obj  # Nobody else may hold on to it.
        self.state = state = instance_state(obj)
        self.key, self.modified = state.key, state.modified
        _, self._keys, relationships = _shape(state.manager)
        self._values = values = {
            key: value for key, value in state.dict.items() if key in self._keys
        }
        self.committed = state.committed_state.copy()
        self._expired_attributes = state.expired_attributes.copy()
        self._facts = {
            name: _copied(value) for name, value in state.__dict__.items() if name in _FACTS
        }
        self._mutables = [
            (value, _content(value)) for value in values.values() if isinstance(value, MutableBase)
        ]
        self._collections = [
            _Collection(values[key])
            for key in relationships.intersection(values)
            if hasattr(values[key], "_sa_adapter")
        ]

    def let_go(self) -> None:
        """Refer to the object no more, which may then refer to this."""
        self.obj = self.state = None  # type: ignore[assignment] # until it is put back

    @property
    def name(self) -> str:
        """The object by its class and the primary key that it had."""
        return _name(self.state.mapper, self.key, self._values)

    def require(self, holds: bool, otherwise: str) -> None:  # noqa: FBT001 - a condition
        """Check what has become of the object."""
        if not holds:
            raise NotRestoredError(f"{self.name} {otherwise}")

    def put_back(self, obj: object = None) -> None:
        """Make the object's state what it was; ``obj`` if it was let go."""
        if obj is not None:
            self.obj, self.state = obj, instance_state(obj)
        state = self.state
        for key in self._keys:
            state.dict.pop(key, None)
        state.dict.update(self._values)
        for value, content in self._mutables:
            _put_content(value, content)
        for collection in self._collections:
            self.require(collection.put_back(), "has a collection that was changed meanwhile")
        state.expired_attributes = set(self._expired_attributes)
        for name in _FACTS:
            state.__dict__.pop(name, None)
        state.__dict__.update({name: _copied(value) for name, value in self._facts.items()})
        state.committed_state = dict(self.committed)
        if self.modified:
            flag_dirty(self.obj)


class _Collection:
    """A loaded collection and its members."""

    def __init__(self, collection: Any) -> None:
        self._collection = collection
        self._adapter = collection_adapter(collection)
        self._members = self._now()

    def _now(self) -> list[Any]:
        if isinstance(self._collection, dict):
            return list(self._collection.items())
        return list(self._adapter)

    def put_back(self) -> bool:
        """Link the collection to its object again, with the members that it had."""
        self._collection._sa_adapter = self._adapter
        self._adapter.invalidated = False
        if self._is_as_it_was():
            return True
        # The plain classes' own methods tell no listener.
        for plain, put in _PLAIN:
            if isinstance(self._collection, plain):
                put(self._collection, self._members)
                return self._is_as_it_was()
        return False

    def _is_as_it_was(self) -> bool:
        now = self._now()
        return len(now) == len(self._members) and all(
            _is_same(one, other) for one, other in zip(now, self._members, strict=True)
        )


def _put_list(collection: list[Any], members: list[Any]) -> None:
    list.__setitem__(collection, slice(None), members)


def _put_set(collection: set[Any], members: list[Any]) -> None:
    set.clear(collection)
    set.update(collection, members)


def _put_dict(collection: dict[Any, Any], members: list[Any]) -> None:
    dict.clear(collection)
    dict.update(collection, members)


_PLAIN: tuple[tuple[type, Any], ...] = ((list, _put_list), (set, _put_set), (dict, _put_dict))


def _content(value: Any) -> Any:
    """What is in a value of ``sqlalchemy.ext.mutable``: a copy."""
    kind = next((plain for plain, _ in _PLAIN if isinstance(value, plain)), None)
    return dict(getattr(value, "__dict__", {})) if kind is None else kind(value)


def _put_content(value: Any, content: Any) -> None:
    """Put it back into the same value, which its owner watches."""
    for plain, put in _PLAIN:
        if isinstance(value, plain):
            put(value, content)
            return
    getattr(value, "__dict__", {}).update(content)


def _is_same(one: object, other: object) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple):
        return bool(one[0] == other[0]) and one[1] is other[1]
    return one is other


def _copied(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else value


def _is_merely_expired(state: InstanceState[Any]) -> bool:
    """Whether a rollback leaves the object as it is."""
    return state.expired and not state.modified and state.manager.keys().isdisjoint(state.dict)


def name_of(state: InstanceState[Any]) -> str:
    """An object by its class and primary key, as far as it has one."""
    return _name(state.mapper, state.key, state.dict)


def _name(mapper: Mapper[Any], key: Any, values: Mapping[str, Any]) -> str:
    names = [mapper.get_property_by_column(column).key for column in mapper.primary_key]
    parts = [values.get(name) for name in names] if key is None else key[1]
    known = [f"{name}={part!r}" for name, part in zip(names, parts, strict=True) if _is_plain(part)]
    return f"{mapper.class_.__name__}({', '.join(known)})"


def _is_plain(value: object) -> bool:
    """Whether it is a value, and not missing or a SQL expression."""
    return value is not None and not isinstance(value, ClauseElement)


def flushed(session: Session, pending: PendingWork) -> Iterator[str]:
    """What earlier flushes of the session's transaction have written, and a rollback loses."""
    transaction = session.get_nested_transaction() or session.get_transaction()
    while transaction is not None:
        for word, name in (("new", "_new"), ("changed", "_dirty"), ("deleted", "_deleted")):
            for state in list(getattr(transaction, name)):
                if state not in pending.states:
                    yield f"{word} {name_of(state)}"
        transaction = transaction.parent
