"""The lines of a live input: a growing file that may be rotated, or a pipe.

Beside lines it yields events, so that whoever reads can do something else while nothing
comes. Standard library only.
"""

from __future__ import annotations

import enum
import logging
import os
import pathlib
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

POLL_S = 0.2
"""Between two looks at an input from which nothing came."""

LONGEST_LINE = 10_000
"""Characters; what is longer is no row and comes in pieces."""

QUEUED = 10_000
"""Lines that are read ahead of a pipe or a broker."""


class Event(enum.Enum):
    """What may come instead of a line."""

    IDLE = "all that has come is read"
    NEW_FILE = "what follows is from another file, or from the start of this one"


def whole(source: Any) -> Iterator[str]:
    """Yields the lines of an open text file to its end."""
    while line := source.readline(LONGEST_LINE):
        yield line


def piped(source: Any) -> Iterator[str | Event]:
    """Yields the lines of a pipe until it is closed; read in a thread of its own."""
    lines: queue.Queue[str | None] = queue.Queue(QUEUED)

    def read() -> None:
        try:
            for line in whole(source):
                lines.put(line)
        except (OSError, ValueError) as error:
            logging.warning("the input cannot be read any more: %s", error)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    yield from queued(lines)


def queued(lines: queue.Queue[str | None]) -> Iterator[str | Event]:
    """Yields the lines that another thread puts into a queue, until there is None."""
    idle_s = time.monotonic()
    while True:
        # Rows may come so densely that nothing is ever waited for.
        if lines.empty() and time.monotonic() - idle_s >= POLL_S:
            idle_s = time.monotonic()
            yield Event.IDLE
        try:
            line = lines.get(timeout=POLL_S)
        except queue.Empty:
            continue
        if line is None:
            return
        yield line


def followed(path: pathlib.Path) -> Iterator[str | Event]:
    """Yields the lines of a file for ever, as they are added.

    Goes on as ``tail -F`` does: in the new file when this one is renamed or replaced,
    from the start when it is cut, and when it comes back after it was deleted. What was
    still added to the old file is read first.

    Raises:
      OSError: the file is not there at first, or may not be read.
    """
    source = _open(path)
    rest, waiting, leaving = "", False, False
    try:
        while True:
            if source is None:
                yield Event.IDLE
                time.sleep(POLL_S)
                try:
                    source = _open(path)
                except OSError:
                    continue
                logging.warning("%s: reading on in a new file", path)
                waiting = leaving = False
                yield Event.NEW_FILE
            piece = source.readline(LONGEST_LINE)
            if piece.endswith("\n") or len(piece) == LONGEST_LINE:
                yield rest + piece
                rest = ""
                continue
            if piece:
                rest += piece  # a line that is being written
                continue
            if leaving:
                if rest:
                    yield rest
                    rest = ""
                source.close()
                source = None
                continue
            found = _status(path)
            own = os.fstat(source.fileno())
            if found is None and not waiting:
                waiting = True
                logging.warning("%s: is gone; waiting until it comes back", path)
            if found is not None and not os.path.samestat(found, own):
                leaving = True  # once more to the end of the old one
                continue
            if found is not None and found.st_size < source.tell():
                logging.warning("%s: was cut; reading it from its start", path)
                source.seek(0)
                rest = ""
                yield Event.NEW_FILE
                continue
            yield Event.IDLE
            time.sleep(POLL_S)
    finally:
        if source is not None:
            source.close()


def _open(path: pathlib.Path) -> Any:
    return open(path, encoding="utf-8-sig", errors="replace")


def _status(path: pathlib.Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None
