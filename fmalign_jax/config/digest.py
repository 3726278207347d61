"""The digest by which settings and arrays are told apart; raw data: `data.files`."""

from __future__ import annotations

import hashlib


def short_digest(content: bytes | str, *, size: int) -> str:
    """Returns a BLAKE2b digest of `size` bytes, as hexadecimal digits."""
    content = content.encode() if isinstance(content, str) else content
    return hashlib.blake2b(content, digest_size=size).hexdigest()
