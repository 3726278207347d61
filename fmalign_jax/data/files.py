"""Raw files: their fingerprint, and writing them whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def source_digest(text: str, *, digits: int) -> str:
    """Returns the first hexadecimal digits of a SHA-256 of what raw data are made of.

    By it the folders of prepared and simulated data sets are named.
    """
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def fingerprint(files: Iterable[pathlib.Path], *, options: object = None) -> str:
    """Digest of file names, sizes and times of change, and of options.

    Contents are not read, so that gigabytes take no time; renaming the folder above
    changes nothing.

    Args:
      files: in any order.
      options: anything whose repr differs between settings.

    Returns:
      16 hexadecimal digits.
    """
    entries = [
        (path.parent.name, path.name, path.stat().st_size, path.stat().st_mtime_ns)
        for path in files
    ]
    return source_digest(repr((sorted(entries), options)), digits=16)


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


def write_json(
    path: pathlib.Path, value: Mapping[str, Any], *, allow_nan: bool = False
) -> None:
    """Writes a JSON file whole or not at all, the same for the same values.

    Raises:
      ValueError: a number is not finite; `allow_nan` writes it as NaN instead.
    """
    write_text(path, json_text(value, allow_nan=allow_nan))


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def json_text(value: Mapping[str, Any], *, allow_nan: bool = False) -> str:
    """Returns JSON as files hold it: indented, keys in order."""
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=allow_nan) + "\n"
