"""The file of rows that could not be written, as JSON Lines."""

from __future__ import annotations

import json
import os
import threading
from typing import TextIO


class Rejects:
    """Appends one JSON object per row: `line`, `kind`, `message` and `row`.

    Where the input gave no row it is `text` instead of `row`.

    The file appears with the first reject. A fresh run empties the file of an earlier run, a
    resumed run adds to it. Safe to use from many threads.
    """

    def __init__(self, path: str, *, resumed: bool) -> None:
        self.path = path
        self._file: TextIO | None = None
        self._lock = threading.Lock()
        if not resumed and os.path.isfile(path):
            os.truncate(path, 0)

    def add(
        self,
        line: int,
        kind: str,
        message: str,
        row: dict[str, object] | None,
        text: str | None = None,
    ) -> None:
        """Writes one reject; on return the operating system has it. Raises `OSError`."""
        entry: dict[str, object] = {"line": line, "kind": kind, "message": message}
        entry.update({"row": row} if row is not None else {"text": text})
        encoded = json.dumps(entry, ensure_ascii=False)
        if not encoded.isascii():
            try:
                encoded.encode()
            except UnicodeEncodeError:
                # Bytes that are no text came in as lone surrogates; only an escape can carry them.
                encoded = json.dumps(entry)
        with self._lock:
            if self._file is None:
                self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - close() closes it
            self._file.write(encoded + "\n")
            self._file.flush()

    def close(self) -> None:
        """Closes the file, if there is one."""
        if self._file is not None:
            self._file.close()
