"""Where readings go: the screen and a log, neither of which can stop a monitor."""

from __future__ import annotations

import csv
import datetime
import logging
import os
import pathlib
import sys
import time
from collections.abc import Container, Sequence
from typing import Any

from fmalign_jax.data.clocks import instant, is_number, is_time
from fmalign_jax.data.files import csv_cell

STATES = ("normal", "ALARM")
"""What a reading says of the alarm, in its fourth cell: that it is off, or on."""

RETRY_S = 5.0
"""After a log could not be written, before it is tried again."""

_TAIL_BYTES = 1 << 16
"""Of a log: enough for its last readings."""


def written(seconds: float, as_dates: bool) -> str:
    """Returns a moment as text: seconds, or a date and time."""
    if not as_dates:
        return f"{seconds:.1f}"
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def seconds_of(text: str) -> float:
    """Returns the moment that `written` wrote."""
    return float(text) if is_number(text) else instant(text)


def last_rows(log: pathlib.Path) -> list[list[str]]:
    """Returns the cells of the last whole rows of a log, oldest first.

    Args:
      log: as `ReadingsOut` writes it; without it there are none.
    """
    if not log.is_file():
        return []
    with log.open("rb") as file:
        skipped = max(0, log.stat().st_size - _TAIL_BYTES)
        file.seek(skipped)
        # What follows the last end of a line was being written.
        whole = file.read().decode(errors="replace").split("\n")[:-1]
    # The first may have begun before.
    lines = (line.rstrip("\r") for line in whole[bool(skipped) :])
    return [next(csv.reader([line]), []) for line in lines]


def last_logged(log: pathlib.Path, states: Container[str]) -> str | None:
    """Returns the time of the last whole reading of a log; None where there is none.

    Args:
      log: as `ReadingsOut` writes it.
      states: what its fourth cell says of a reading.
    """
    for cells in reversed(last_rows(log)):
        if len(cells) > 3 and cells[3] in states and is_time(cells[0]):
            return cells[0]
    return None


class ScreenGone(Exception):
    """Nobody reads the screen any more, and there is no log."""


class ReadingsOut:
    """Writes rows of cells to standard output and appends them to a log.

    Attributes:
      not_logged: rows that the log lacks.
    """

    def __init__(
        self, log: pathlib.Path | None, header: Sequence[str], *, flush: bool
    ) -> None:
        """Opens the log if there is one.

        Args:
          log: a CSV file to which rows are added; a new one gets the header.
          header: of the log.
          flush: show every row at once.

        Raises:
          OSError: the log cannot be opened at first; the file is named.
        """
        self.not_logged = 0
        self._path, self._header, self._flush = log, header, flush
        self._screen, self._fresh = True, True
        self._file: Any = None
        self._retry_s = 0.0
        if log is not None:
            self._open(log)

    def __enter__(self) -> ReadingsOut:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def write(self, cells: Sequence[str], *, shown: bool) -> None:
        """Writes a row.

        Args:
          cells: of the row.
          shown: on the screen too, not in the log alone.

        Raises:
          ScreenGone: the screen was closed, and there is no log.
        """
        if shown and self._screen:
            self._show(cells)
        if self._path is not None:
            self._log(self._path, cells)

    def _show(self, cells: Sequence[str]) -> None:
        try:
            print("  ".join(cells), flush=self._flush)
        except (OSError, ValueError) as error:
            self._screen = False
            if isinstance(error, OSError):
                # Python writes once more when it ends; let that go nowhere.
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, sys.stdout.fileno())
                os.close(nowhere)
            if self._path is None:
                raise ScreenGone from None
            logging.warning("the screen is closed; readings go to %s", self._path)

    def _log(self, path: pathlib.Path, cells: Sequence[str]) -> None:
        if self._file is None and time.monotonic() < self._retry_s:
            self.not_logged += 1
            return
        try:
            if self._file is None:
                self._open(path)
                logging.warning("%s: readings are logged again", path)
            rows = [self._header, cells] if self._fresh else [cells]
            csv.writer(self._file).writerows(map(csv_cell, row) for row in rows)
            self._file.flush()
            self._fresh = False
        except OSError as error:
            self._close()
            self.not_logged += 1
            self._retry_s = time.monotonic() + RETRY_S
            logging.warning("%s: cannot be written, tried again: %s", path, error)

    def _open(self, path: pathlib.Path) -> None:
        self._fresh = not path.is_file() or not path.stat().st_size
        torn = not self._fresh and not _ends_a_line(path)
        self._file = path.open("a", newline="", encoding="utf-8", buffering=1)
        if torn:  # whoever wrote it was stopped within a row
            self._file.write("\n")

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError:
                return  # what was in its buffer is lost, and counted


def _ends_a_line(path: pathlib.Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"
