"""Raw files: their fingerprint, and writing them whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fmalign_jax.data.clocks import is_number

_SAFE = re.compile(r"[^\W_][\w. ()+,=@-]*", re.UNICODE)
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_LONGEST = 120  # bytes; file systems take 255, and suffixes are added
_MARKED = 1000  # characters of a page in which the mark of its command stands
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def file_name(text: str) -> str:
    """Returns a name for a file or folder made of a name that somebody gave.

    A name that any file system takes stays as it is. Of others, such as one with a
    separator, the characters that are safe stay, with a digest of the whole: two names
    never share a file.
    """
    safe = (
        _SAFE.fullmatch(text)
        and text.isprintable()
        and not text.endswith((".", " "))
        and not _RESERVED.fullmatch(text)
        and len(text.encode("utf-8", "surrogatepass")) <= _LONGEST
    )
    if safe:
        return text
    kept = re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:40]
    return f"{kept or 'name'}-{source_digest(text, digits=12)}"


def csv_cell(value: object) -> object:
    """Returns a cell that no spreadsheet takes for a formula.

    Text that begins like one gets an apostrophe in front; numbers stay.
    """
    if isinstance(value, str) and value.startswith(_FORMULA) and not is_number(value):
        return f"'{value}"
    return value


def read_json(path: pathlib.Path) -> dict[str, Any] | None:
    """Reads a file of one JSON object; None without the file.

    Raises:
      ValueError: the file holds something else.
    """
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} must hold JSON; got {error}; restore a copy, or write it again "
            "with the command that made it"
        ) from error
    if not isinstance(found, dict):
        raise ValueError(
            f"{path} must hold a JSON object; got {type(found).__name__}; restore a "
            "copy, or write it again with the command that made it"
        )
    return found


def source_digest(text: str, *, digits: int) -> str:
    """Returns the first hexadecimal digits of a SHA-256 of what raw data are made of.

    By it the folders of prepared and simulated data sets are named.
    """
    content = text.encode("utf-8", "surrogatepass")
    return hashlib.sha256(content).hexdigest()[:digits]


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


def check_new(path: pathlib.Path) -> None:
    """Refuses to write where something is.

    Raises:
      ValueError: something is there, a link that leads nowhere included.
    """
    if path.exists() or path.is_symlink():
        raise ValueError(
            f"{path}: must be a new file; got one that is there; give another name, or "
            "move it away"
        )


def check_replaceable(path: pathlib.Path, mark: str, what: str) -> None:
    """Refuses to write over anything but an earlier page of the same command.

    Args:
      path: the file to write.
      mark: text near the beginning of such a page, by which it is known.
      what: what such a page is called.

    Raises:
      ValueError: something else is there.
    """
    if path.is_dir() or path.is_symlink() or (path.exists() and not _holds(path, mark)):
        raise ValueError(
            f"--out must be a new file or an earlier {what}; got {path}, which is "
            "something else; choose another name"
        )


def _holds(path: pathlib.Path, mark: str) -> bool:
    with path.open(encoding="utf-8", errors="replace") as file:
        return mark in file.read(_MARKED)


def write_new(path: pathlib.Path, text: str) -> None:
    """Writes a file that is not there yet, whole or not at all.

    Raises:
      ValueError: something is there.
    """
    check_new(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x", encoding="utf-8") as file:  # nor what came there since
        try:
            file.write(text)
        except BaseException:
            path.unlink()
            raise


def json_text(value: Mapping[str, Any], *, allow_nan: bool = False) -> str:
    """Returns JSON as files hold it: indented, keys in order."""
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=allow_nan) + "\n"


def beside(path: pathlib.Path, suffix: str) -> pathlib.Path:
    """Returns the file of the same stem with another suffix, such as ".labels.csv".

    Cameras write suffixes in capitals too. Where there is no such file, returns where
    it should be. The stem of a folder is its name.
    """
    stem = path.name if path.is_dir() else path.stem
    wanted = path.with_name(f"{stem}{suffix}")
    if wanted.is_file():
        return wanted
    for other in sorted(path.parent.glob(f"{glob.escape(stem)}.*")):
        if other.name.removeprefix(stem).lower() == suffix:
            return other
    return wanted
