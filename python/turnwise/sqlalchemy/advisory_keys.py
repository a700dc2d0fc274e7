"""The number that stands for the key of an advisory lock."""

from __future__ import annotations

import hashlib

Key = str | int | tuple[str | int, ...]


def advisory_key(key: Key, *, namespace: str = "") -> int:
    """The number that stands for a key: 64 bits with sign, the same in every language and release.

    The first 8 bytes, big-endian, of SHA-256 over the namespace and the parts of the key, each
    written as a letter (``s`` text, ``i`` integer), its length in bytes, a colon and its bytes
    (UTF-8, or decimal): ``advisory_key(("user", 7), namespace="shop")`` hashes
    ``s4:shops4:useri1:7``. A key alone and a tuple of it alone are the same key.

    Raises:
        TypeError: The key is no text, integer or tuple of these, or it is an empty tuple.
    """
    parts = key if isinstance(key, tuple) else (key,)
    if not parts:
        raise TypeError("the key of an advisory lock is an empty tuple")
    written = b"".join(map(_written, (namespace, *parts)))
    return int.from_bytes(hashlib.sha256(written).digest()[:8], "big", signed=True)


def _written(part: object) -> bytes:
    if isinstance(part, str):
        kind, content = b"s", part.encode()
    elif isinstance(part, int) and not isinstance(part, bool):
        kind, content = b"i", str(part).encode()
    else:
        raise TypeError(
            f"the key of an advisory lock holds text and integers, not {type(part).__name__}"
        )
    return b"%s%d:%s" % (kind, len(content), content)
