"""`python -m turnwise` is the command `turnwise`."""

from __future__ import annotations

from turnwise.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
