"""The lines of a live input: a growing file that may be rotated, or a pipe.

Beside lines it yields events, so that whoever reads can do something else while nothing
comes. Inputs are read as bytes, whose encoding each line tells (`data.encodings`).
Standard library only.
"""

from __future__ import annotations

import codecs
import enum
import logging
import os
import pathlib
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

from fmalign_jax.data import encodings

POLL_S = 0.2
"""Between two looks at an input from which nothing came."""

LONGEST_LINE = 10_000
"""Bytes; what is longer is no row and comes in pieces."""

QUEUED = 10_000
"""Lines that are read ahead of a pipe or a broker."""


class Event(enum.Enum):
    """What may come instead of a line."""

    IDLE = "all that has come is read"
    NEW_FILE = "what follows is from another file, or from the start of this one"


class Lines:
    """The bytes of one input, as they come, to lines of text.

    Characters, marks and ends of lines may be cut anywhere. Empty lines are left out.
    """

    def __init__(self) -> None:
        self._start = b""
        self._began = False
        self._utf16: codecs.IncrementalDecoder | None = None
        self._rest = b""  # a line that is being written
        self._said = False

    def feed(self, data: bytes) -> Iterator[str]:
        """Yields the lines that are complete with these bytes."""
        if not self._began:
            data = self._start = self._start + data
            if len(data) < len(codecs.BOM_UTF16):
                return
            self._began = True
            if encodings.begins_utf16(data):
                self._say(encodings.UTF16)
                decoder = codecs.getincrementaldecoder(encodings.UTF16)
                self._utf16 = decoder(errors="replace")
        if self._utf16 is not None:
            data = self._utf16.decode(data).encode()
        *lines, self._rest = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
        yield from map(self._text, filter(None, lines))
        while len(self._rest) >= LONGEST_LINE:
            piece = self._rest[:LONGEST_LINE]
            self._rest = self._rest[LONGEST_LINE:]
            yield self._text(piece)

    def end(self) -> Iterator[str]:
        """Yields what is left, when no more bytes will come."""
        rest = self._rest if self._began else self._start
        self._rest = self._start = b""
        if rest:
            yield self._text(rest)

    def _text(self, line: bytes) -> str:
        text, encoding = encodings.text_of(line)
        self._say(encoding)
        return text

    def _say(self, encoding: str) -> None:
        if not self._said and encodings.said(encoding):
            self._said = True
            logging.warning("the input is no UTF-8%s", encodings.said(encoding))


def whole(source: Any) -> Iterator[str]:
    """Yields the lines of an open file or pipe of bytes to its end."""
    lines = Lines()
    # Of a pipe what has come, without waiting for more.
    read = getattr(source, "read1", source.read)
    while data := read(LONGEST_LINE):
        yield from lines.feed(data)
    yield from lines.end()


def piped(source: Any) -> Iterator[str | Event]:
    """Yields the lines of a pipe of bytes until it is closed; a thread reads them."""
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
    source: BinaryIO | None = _open(path)
    lines, waiting, leaving = Lines(), False, False
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
                lines, waiting, leaving = Lines(), False, False
                yield Event.NEW_FILE
            if data := source.read(LONGEST_LINE):
                yield from lines.feed(data)
                continue
            if leaving:
                yield from lines.end()
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
                lines = Lines()
                yield Event.NEW_FILE
                continue
            yield Event.IDLE
            time.sleep(POLL_S)
    finally:
        if source is not None:
            source.close()


def _open(path: pathlib.Path) -> BinaryIO:
    return open(path, "rb")


def _status(path: pathlib.Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None
