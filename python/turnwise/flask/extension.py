"""turnwise's functions on the session of Flask-SQLAlchemy."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from turnwise.errors import InvalidSettingError
from turnwise.flask.tracking import begin_owners
from turnwise.sqlalchemy.advisory import advisory_lock
from turnwise.sqlalchemy.batches import batch_commit_with_retry
from turnwise.sqlalchemy.claims import claim
from turnwise.sqlalchemy.commit import commit_with_retry
from turnwise.sqlalchemy.installing import install
from turnwise.sqlalchemy.lock_keys import BY_PRIMARY_KEY
from turnwise.sqlalchemy.skip_locked import get_for_update_skip_locked
from turnwise.tracking.watching import watch_also
from turnwise.units import retry, retry_on_deadlock, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Literal

    from flask import Flask
    from flask_sqlalchemy import SQLAlchemy
    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import InstrumentedAttribute, Session
    from typing_extensions import Unpack

    from turnwise._native import Override
    from turnwise.attempts import Settings
    from turnwise.sqlalchemy.advisory import AdvisoryLock
    from turnwise.sqlalchemy.advisory_keys import Key
    from turnwise.sqlalchemy.batch_report import BatchReport
    from turnwise.sqlalchemy.batches import Progress
    from turnwise.sqlalchemy.claims import Claims
    from turnwise.sqlalchemy.lock_keys import LockKey

T = TypeVar("T")

_NAME = "turnwise"


class Turnwise:
    """Flask-SQLAlchemy whose writes take turns: ``Turnwise(app, db)``, or ``init_app(app, db)``.

    Installs turnwise on every engine of ``db``, whose ``init_app`` has been called. The functions
    are those of ``turnwise``, without their session: it is ``db.session``, and where each unit of
    work needs one of its own, a new one of the same kind. With ``watch``, each request is the owner
    of its sessions and the engines are watched: see ``turnwise.watch``, which changes the settings.
    The other settings are those of ``turnwise.install``.
    """

    def __init__(
        self,
        app: Flask | None = None,
        db: SQLAlchemy | None = None,
        *,
        strict: bool = False,
        begin: str = "auto",
        timeout: float | None = None,
        overrides: Sequence[Override] = (),
        watch: bool = True,
    ) -> None:
        # Of the instance, because type checkers lose the parameters in a staticmethod of overloads.
        self.retry, self.retry_on_deadlock = retry, retry_on_deadlock
        self._db = db
        self._watch = watch
        self._install = partial(
            install, strict=strict, begin=begin, timeout=timeout, overrides=overrides
        )
        if app is not None:
            self.init_app(app)

    @property
    def db(self) -> SQLAlchemy:
        """The extension object of Flask-SQLAlchemy.

        Raises:
            InvalidSettingError: None was given, and no application tells which one it is.
        """
        if self._db is None:
            raise InvalidSettingError(
                "no Flask-SQLAlchemy: write Turnwise(app, db) or init_app(app, db)"
            )
        return self._db

    def init_app(self, app: Flask, db: SQLAlchemy | None = None) -> None:
        """Install turnwise on the engines that ``db`` has for this application, and watch them.

        Raises:
            InvalidSettingError: ``db`` is missing, or its own ``init_app`` was not called before.
        """
        self._db = db or self._db or app.extensions.get("sqlalchemy")
        if app.extensions.get("sqlalchemy") is not self.db:
            raise InvalidSettingError("call db.init_app(app) before Turnwise.init_app(app)")
        with app.app_context():
            self._install(self.db)
            if self._watch:
                for engine in self.db.engines.values():
                    watch_also(engine)
                begin_owners(app)
        app.extensions[_NAME] = self

    def commit_with_retry(
        self, *, verify: Callable[[], bool] | None = None, **settings: Unpack[Settings]
    ) -> Literal[True]:
        """Commit ``db.session``: see ``turnwise.commit_with_retry``."""
        return commit_with_retry(self.db.session, verify=verify, **settings)

    def run(
        self,
        function: Callable[[Session], T],
        *,
        verify: Callable[[], object] | None = None,
        **settings: Unpack[Settings],
    ) -> T:
        """Call a function with a session of its own and commit: see ``turnwise.run``."""
        return run(function, session_factory=self._new_session, verify=verify, **settings)

    def batch_commit_with_retry(
        self,
        items: Iterable[T],
        fn: Callable[[Session, T], object],
        batch_size: int = 50,
        *,
        key: LockKey = BY_PRIMARY_KEY,
        progress: Progress | None = None,
        verify: Callable[[Sequence[T]], object] | None = None,
        **settings: Unpack[Settings],
    ) -> BatchReport[T]:
        """Commit items in batches: see ``turnwise.batch_commit_with_retry``."""
        return batch_commit_with_retry(
            items,
            fn,
            batch_size,
            session_factory=self._new_session,
            key=key,
            progress=progress,
            verify=verify,
            **settings,
        )

    def get_for_update_skip_locked(
        self,
        model: type[T],
        *conditions: ColumnElement[bool],
        limit: int | None = None,
        order_by: object = None,
        of: object = None,
    ) -> list[T]:
        """Lock rows in the transaction of ``db.session``: as the function of ``turnwise``."""
        return get_for_update_skip_locked(
            model, *conditions, session=self.db.session, limit=limit, order_by=order_by, of=of
        )

    def claim(
        self,
        model: type[T],
        *conditions: ColumnElement[bool],
        limit: int = 1,
        order_by: object = None,
        lease: InstrumentedAttribute[Any] | None = None,
        lease_for: float = 300.0,
        **settings: Unpack[Settings],
    ) -> Claims[T]:
        """Iterate over rows that no other worker has: see ``turnwise.claim``."""
        return claim(
            model,
            *conditions,
            session_factory=self._new_session,
            limit=limit,
            order_by=order_by,
            lease=lease,
            lease_for=lease_for,
            **settings,
        )

    def advisory_lock(
        self, key: Key, *, timeout: float | None = 30.0, namespace: str = ""
    ) -> AdvisoryLock:
        """Hold a key in the transaction of ``db.session``: see ``turnwise.advisory_lock``."""
        return advisory_lock(self.db.session, key, timeout=timeout, namespace=namespace)

    def _new_session(self) -> Session:
        return self.db.session.session_factory()
