"""A blob that is open for writing and has the turn."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import sqlite3

    from typing_extensions import Self

    from turnwise.sqlite3._turns import Turns


class WritableBlob:
    """Stands for a ``sqlite3.Blob``, whose class cannot be derived from.

    Outside of a transaction an open blob is one, and holds the write lock until it is closed.
    """

    __slots__ = ("__weakref__", "_blob", "_connection", "_turns")

    def __init__(self, blob: Any, connection: sqlite3.Connection, turns: Turns) -> None:
        self._blob = blob
        self._connection = connection
        self._turns: Turns | None = turns
        turns.blobs += 1

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._blob)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._blob, name)

    def __len__(self) -> int:
        return len(self._blob)

    def __getitem__(self, key: Any) -> Any:
        return self._blob[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._blob[key] = value

    def __enter__(self) -> Self:
        self._blob.__enter__()
        return self

    def __exit__(self, *error: object) -> Literal[False]:
        try:
            self._blob.__exit__(*error)
        finally:
            self._give_back()
        return False

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # Its connection may be closed, or another thread's.
            self.close()

    def close(self) -> None:
        """Close the blob and give the turn back."""
        try:
            self._blob.close()
        finally:
            self._give_back()

    def _give_back(self) -> None:
        turns, self._turns = self._turns, None
        if turns is not None and turns.blobs:
            turns.blobs -= 1
            turns.settle(self._connection)
