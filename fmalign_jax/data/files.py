"""Raw files: their fingerprint, and writing them whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
from collections.abc import Iterable, Iterator


def fingerprint(files: Iterable[pathlib.Path], *, options: object = None) -> str:
    """Digest of file names, sizes and times of change, and of options.

    Contents are not read, so that gigabytes take no time; renaming the folder above
    changes nothing.

    Args:
      files: in any order.
      options: anything whose repr tells two settings apart.

    Returns:
      16 hexadecimal digits.
    """
    entries = [
        (path.parent.name, path.name, path.stat().st_size, path.stat().st_mtime_ns)
        for path in files
    ]
    return hashlib.sha256(repr((sorted(entries), options)).encode()).hexdigest()[:16]


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary neighbour of a file, which takes its place when all went well.

    Args:
      path: the file to write; its folder is made as needed.

    Yields:
      where to write meanwhile; it has the same suffix.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
