"""A live current: from lines of text to samples, ticks and windows.

Lines come one by one, as a plant writes them: late, twice, cut short or not at all.
What cannot be used is left out and counted, and only what the next window needs is
kept. The ticks are those of `data/windows/align.py`: each slot of a tick takes the
sample nearest to its middle. NumPy and the standard library only.
"""

from __future__ import annotations

import collections
import csv
import logging
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from fmalign_jax.data import clocks

GARBAGE = "lines that are no row of numbers"
OUT_OF_ORDER = "rows older than the one before"
DUPLICATES = "rows that came twice"
JUMPS = "rows with a time that nothing followed"
RESTARTS = "times the clock was set back"
LOST = "ticks without a sample near enough"

PLACEHOLDER = "channel "
"""How the names of channels begin that a recording gave no names."""

_LATEST_S = 2.5e11  # the year 9892; a number beyond it is no time
_JUMP_S = 3600.0  # a leap in time that the next row must confirm
_RESTART_ROWS = 20  # older rows in a row, in their own order: another clock
_LINES_TO_UNDERSTAND = 100
_TIE = 1e-3  # as in data/windows/align.py
_ROUNDING = 1e-6


class Row(NamedTuple):
    """One line: seconds, and a value a channel."""

    time_s: float
    values: tuple[float, ...]


class Warnings:
    """Counts what was left out, and says so at the 1st, 10th, 100th ... time."""

    def __init__(self) -> None:
        self.counts: collections.Counter[str] = collections.Counter()

    def add(self, kind: str, detail: str, number: int = 1) -> None:
        """Counts, and warns whenever the count gains a digit."""
        before, self.counts[kind] = self.counts[kind], self.counts[kind] + number
        digits = len(str(self.counts[kind]))
        if not before or digits > len(str(before)):
            logging.warning("%s: %d (now %s)", kind, self.counts[kind], detail)


class RowReader:
    """Lines to rows in order of time.

    Rows of one written second are spread evenly within it, as in
    `clocks.spread_within_seconds`: a row is given out when a later one has come.
    """

    def __init__(
        self, channels: tuple[str, ...], warnings: Warnings, *, rows_a_second: int
    ) -> None:
        """Expects a time and these channels.

        Args:
          channels: names; if the first line is a header, it must have them all, in any
            case and order and among others; without one they are the columns after
            the time, and there are no others.
          warnings: where to count.
          rows_a_second: as many rows of a second may be alike without being doubled.
        """
        self.written_times = False
        self._channels = channels
        self._columns: list[int] | None = None
        self._cells = len(channels) + 1
        self._may_be_header = True
        self._header: list[str] = []
        self._warnings = warnings
        self._alike = rows_a_second
        self._held: list[Row] = []
        self._far: Row | None = None
        self._older: list[float] = []
        self._understood = False
        self._failed = 0
        self._refused = ""

    def feed(self, line: str) -> list[Row]:
        """Returns the rows that are complete after this line.

        Raises:
          ValueError: of the first hundred lines none could be read, or a header names
            other channels.
        """
        cells = _cells(line)
        if not cells:
            return []
        if self._may_be_header:
            self._may_be_header = False
            if self._take_header(cells):
                self._header = cells
                return []
        if cells == self._header:
            return []  # once more
        row = self._parsed(cells)
        if row is None:
            self._refuse(line)
            return []
        self._understood = True
        return self._ordered(row)

    def begin_file(self) -> None:
        """Says that the next line is the first of a file: it may be a header."""
        self._may_be_header = True

    def flush(self) -> list[Row]:
        """Returns what was kept back, when no more lines will come.

        Raises:
          ValueError: none of the lines that came could be read.
        """
        if self._failed and not self._understood:
            raise self._not_understood()
        held, self._held = self._held, []
        return _spread(held)

    def _take_header(self, cells: list[str]) -> bool:
        """Notes where the columns stand, at the first line; says if it was a header."""
        in_order = list(range(len(self._channels) + 1))
        if len(cells) < 2 or any(map(clocks.is_number, cells)):
            self._columns = self._columns or in_order
            return False
        lower = [cell.lower() for cell in cells]
        wanted = [name.lower() for name in self._channels]
        unnamed = all(name.startswith(PLACEHOLDER) for name in wanted)
        if set(wanted) <= set(lower):
            named = [i for i, name in enumerate(lower) if name in clocks.TIMES]
            time = named[0] if named else 0
            self._columns = [time, *(lower.index(name) for name in wanted)]
        elif unnamed and len(cells) == len(in_order):
            self._columns = in_order
        else:
            raise ValueError(
                "the header must name a time and the channels of the alarm, "
                f"{', '.join(self._channels)}; got the columns {', '.join(cells)[:200]}"
                "; rename them, or write no header: the time first, then the channels"
            )
        self._cells = len(cells)
        return True

    def _parsed(self, cells: list[str]) -> Row | None:
        assert self._columns is not None
        if len(cells) != self._cells:
            return None  # one cell more or less, and every value may be another's
        try:
            time, *values = (cells[column] for column in self._columns)
            found = tuple(map(float, values))
            if clocks.is_number(time):
                seconds = float(time)
            else:
                seconds, self.written_times = clocks.instant(time), True
        except (ValueError, IndexError):
            return None
        # Larger ones are no amperes, and no float32.
        usable = all(abs(value) < 1e30 for value in found) and abs(seconds) < _LATEST_S
        return Row(seconds, found) if usable else None

    def _refuse(self, line: str) -> None:
        self._failed += 1
        self._refused = repr(line[:80])
        self._warnings.add(GARBAGE, self._refused)
        if not self._understood and self._failed == _LINES_TO_UNDERSTAND:
            raise self._not_understood()

    def _not_understood(self) -> ValueError:
        return ValueError(
            "the input must be lines of a time (seconds, or YYYY-MM-DD HH:MM:SS) and a "
            f"number for each of the channels {', '.join(self._channels)}, with commas "
            f"between; got {self._failed} of another kind, the last {self._refused}; "
            "write them as docs/monitor.md shows"
        )

    def _ordered(self, row: Row) -> list[Row]:
        last = self._held[-1].time_s if self._held else row.time_s
        if self._far is not None:
            far, self._far = self._far, None
            if 0 <= row.time_s - far.time_s <= _JUMP_S:
                released, self._held = _spread(self._held), [far]
                return released + self._ordered(row)
            self._warnings.add(JUMPS, f"{far.time_s:.0f} s")
        if row.time_s - last > _JUMP_S:
            self._far = row
            return []
        if row.time_s < last:
            return self._set_back(row)
        self._older.clear()
        if row.time_s > last:
            released, self._held = _spread(self._held), [row]
            return released
        if self._doubled(row):
            self._warnings.add(DUPLICATES, f"{row.time_s:.1f} s")
        else:
            self._held.append(row)
        return []

    def _doubled(self, row: Row) -> bool:
        if row.time_s % 1:
            return bool(self._held)
        return row in self._held and len(self._held) >= self._alike

    def _set_back(self, row: Row) -> list[Row]:
        if self._older and row.time_s < self._older[-1]:
            self._older.clear()
        self._older.append(row.time_s)
        if len(self._older) < _RESTART_ROWS:
            self._warnings.add(OUT_OF_ORDER, f"{row.time_s:.1f} s")
            return []
        self._warnings.add(RESTARTS, f"to {row.time_s:.1f} s")
        self._older.clear()
        released, self._held = _spread(self._held), [row]
        return released


def _cells(line: str) -> list[str]:
    if '"' not in line:
        return [cell.strip() for cell in line.split(",")] if line.strip() else []
    try:
        return [cell.strip() for cell in next(csv.reader([line.strip()]), [])]
    except csv.Error:
        return [line]


def _spread(rows: list[Row]) -> list[Row]:
    n = len(rows)
    return [Row(row.time_s + i / n, row.values) for i, row in enumerate(rows)]


class Tick(NamedTuple):
    """A complete tick: its number, its end in seconds, its samples [R, C]."""

    number: int
    end_s: float
    samples: Float[ndarray, "R C"]


class TickAssembler:
    """Rows to ticks, numbered; a tick that lacks a sample is left out."""

    def __init__(
        self,
        *,
        tick_s: float,
        samples_per_tick: int,
        period_s: float,
        max_gap_s: float,
        warnings: Warnings,
        origin_s: float | None = None,
    ) -> None:
        """Lays the ticks.

        Args:
          tick_s: length of a tick.
          samples_per_tick: R.
          period_s: between two samples, as a rule.
          max_gap_s: how far a sample may be from the middle of its slot.
          warnings: where to count.
          origin_s: where a tick begins; by default half a period before the first row.
        """
        self._tick_s = tick_s
        self._slots = samples_per_tick
        self._tie_s = _TIE * period_s
        self._period_s = period_s
        self._most_s = max_gap_s * (1 + _ROUNDING)
        self._warnings = warnings
        self._origin_s = origin_s
        self._first = 0  # number of the tick that begins at the origin
        self._number = 0
        self._chosen: list[tuple[float, ...] | None] = []
        self._last: Row | None = None

    def feed(self, row: Row) -> list[Tick]:
        """Returns the ticks that are complete with this row."""
        last = self._last
        if self._origin_s is None:
            self._origin_s = row.time_s - self._period_s / 2
        elif last is not None and row.time_s < last.time_s:
            self._begin_anew(row)
        elif last is not None and row.time_s - last.time_s > _JUMP_S:
            self._skip_to(row.time_s)
        found = []
        while (target_s := self._target_s()) <= row.time_s:
            self._chosen.append(self._nearest(target_s, row))
            if len(self._chosen) == self._slots:
                found += self._complete()
        self._last = row
        return found

    def _target_s(self) -> float:
        assert self._origin_s is not None
        slot = (len(self._chosen) + 0.5) / self._slots
        return self._origin_s + (self._number - self._first + slot) * self._tick_s

    def _nearest(self, target_s: float, after: Row) -> tuple[float, ...] | None:
        before = self._last
        gap_s, chosen = after.time_s - target_s, after
        if before is not None and target_s - before.time_s <= gap_s + self._tie_s:
            gap_s, chosen = target_s - before.time_s, before
        return chosen.values if gap_s <= self._most_s else None

    def _complete(self) -> list[Tick]:
        assert self._origin_s is not None
        number, chosen = self._number, self._chosen
        self._number, self._chosen = number + 1, []
        end_s = self._origin_s + (number + 1 - self._first) * self._tick_s
        samples = [values for values in chosen if values is not None]
        if len(samples) < self._slots:
            if self._last is not None:  # before the first row there is nothing to lack
                self._warnings.add(LOST, f"the one that ends at {end_s:.1f} s")
            return []
        return [Tick(number, end_s, np.array(samples, np.float32))]

    def _skip_to(self, time_s: float) -> None:
        """Leaves out the ticks of a long gap without counting them one by one."""
        assert self._origin_s is not None
        number = self._first + math.floor((time_s - self._origin_s) / self._tick_s)
        if number > self._number:
            self._warnings.add(LOST, f"before {time_s:.1f} s", number - self._number)
            self._number, self._chosen = number, []

    def _begin_anew(self, row: Row) -> None:
        """Lays the ticks again from a row whose clock was set back."""
        self._origin_s = row.time_s - self._period_s / 2
        self._number += 2  # no window reaches across
        self._first, self._chosen, self._last = self._number, [], None


class Windows:
    """The last T ticks, as far as they are consecutive."""

    def __init__(self, window_ticks: int) -> None:
        self._ticks: collections.deque[Tick] = collections.deque(maxlen=window_ticks)

    def feed(self, tick: Tick) -> Float[ndarray, "T R C"] | None:
        """Returns the window that ends with this tick, None while it has holes."""
        if self._ticks and tick.number != self._ticks[-1].number + 1:
            self._ticks.clear()
        self._ticks.append(tick)
        if len(self._ticks) < (self._ticks.maxlen or 0):
            return None
        return np.stack([tick.samples for tick in self._ticks])
