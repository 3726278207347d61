"""The two short digests by which folders, files and arrays are told apart."""

from __future__ import annotations

import hashlib


def short_digest(content: bytes | str, *, size: int) -> str:
    """Returns a BLAKE2b digest of `size` bytes, as hexadecimal digits."""
    content = content.encode() if isinstance(content, str) else content
    return hashlib.blake2b(content, digest_size=size).hexdigest()


def source_digest(text: str, *, digits: int) -> str:
    """Returns the first hexadecimal digits of a SHA-256 of what raw data are made of.

    By it the folders of prepared and simulated data sets are named.
    """
    return hashlib.sha256(text.encode()).hexdigest()[:digits]
