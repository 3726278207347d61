"""An exported alarm on a live current: lines in, readings out."""

from __future__ import annotations

import collections
import logging
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from fmalign_jax.alarm import rule
from fmalign_jax.alarm.alarm_file import NO_CODE, ExportedAlarm
from fmalign_jax.alarm.csv_stream import (
    Row,
    RowReader,
    Tick,
    TickAssembler,
    Warnings,
    Windows,
)

_LATENCIES = 10_000  # of the latest ticks, for a summary
_WIDER = 0.5  # of its width, on each side of the range: a furnace is not the training's
_ROUNDING = 1e-6  # of a value: recordings hold float32
_ROWS_TO_JUDGE = 60  # the rate at which rows come


class Reading(NamedTuple):
    """What is known after one tick; times in seconds on the clock of the input.

    Attributes:
      time_s: end of the tick.
      probability: of the abnormal class, from the window that ends now.
      code: of the last tick; None for a system without codes.
      active: whether the alarm is on.
      changed: whether it was raised or cleared just now.
      visible_s: while it is on, when the condition is expected to be seen: at the
        earliest, in the middle, at the latest.
    """

    time_s: float
    probability: float
    code: int | None
    active: bool
    changed: bool
    visible_s: tuple[float, float, float] | None


class Monitor:
    """Lines in, readings out; keeps the last window and the state of the alarm.

    `rows` counts the usable rows, `last_row` is the latest, and `changed_s` the time of
    the first row with its values. `outside_s` is the time of the first of the rows that
    lie outside the range of training, up to the last; NaN while that lies inside.

    A replay scores B ticks in one call of the compiled program, a live monitor one. A
    tick takes the same row of the program either way, so that the readings are the
    same bits.
    """

    def __init__(
        self,
        alarm: ExportedAlarm,
        *,
        live: bool,
        origin_s: float | None = None,
        on_row: Callable[[Row], None] | None = None,
    ) -> None:
        """Starts before the first line.

        Args:
          alarm: as loaded.
          live: score every tick when it is complete.
          origin_s: where a tick begins; by default as `TickAssembler` has it.
          on_row: called with every usable row.
        """
        own = alarm.settings
        self.warnings = Warnings()
        self.latencies_s: collections.deque[float] = collections.deque(
            maxlen=_LATENCIES
        )
        self.ticks = 0
        self.rows = 0
        self.last_row: Row | None = None
        self.changed_s = self.outside_s = math.nan
        self._bounds = [_widened(low, high) for low, high in own.value_range]
        self._alarm, self._live, self._on_row = alarm, live, on_row
        self._reader = RowReader(
            own.channels,
            self.warnings,
            rows_a_second=max(1, round(1 / own.sample_period_s)),
        )
        self._assembler = TickAssembler(
            tick_s=own.tick_s,
            samples_per_tick=own.samples_per_tick,
            period_s=own.sample_period_s,
            max_gap_s=own.max_gap_s,
            warnings=self.warnings,
            origin_s=origin_s,
        )
        self._windows = Windows(own.window_ticks)
        self._state = rule.start(own.rule)
        self._raised_s = math.nan
        self._first_rows_s: list[float] = []
        self._waiting: list[tuple[Tick, Float[ndarray, "T R C"], float]] = []

    def begin_file(self) -> None:
        """Says that the next line is the first of another file."""
        self._reader.begin_file()

    @property
    def written_times(self) -> bool:
        """Says whether the input writes dates and times, not seconds."""
        return self._reader.written_times

    def outside(self) -> dict[str, float]:
        """Returns the values of the last row outside the widened range of training.

        By channel; nothing of an alarm that does not know the range.
        """
        values = () if self.last_row is None else self.last_row.values
        known = zip(self._alarm.settings.channels, values, self._bounds, strict=False)
        return {name: x for name, x, (low, high) in known if not low <= x <= high}

    def feed(self, line: str) -> list[Reading]:
        """Returns the readings that this line completes, oldest first.

        Raises:
          ValueError: the input is of another kind; see `RowReader.feed`.
        """
        return self._take(self._reader.feed(line))

    def flush(self) -> list[Reading]:
        """Returns what is left when no more lines will come."""
        return self._take(self._reader.flush()) + self._score()

    def _take(self, rows: list[Row]) -> list[Reading]:
        readings: list[Reading] = []
        for row in rows:
            self._note(row)
            if self._on_row is not None:
                self._on_row(row)
            if len(self._first_rows_s) < _ROWS_TO_JUDGE:
                self._judge_rate(row.time_s)
            for tick in self._assembler.feed(row):
                window = self._windows.feed(tick)
                if window is None:
                    continue
                self._waiting.append((tick, window, time.perf_counter()))
                first = self.ticks % self._alarm.settings.rows
                full = first + len(self._waiting) == self._alarm.settings.rows
                if self._live or full:
                    readings += self._score()
        return readings

    def _note(self, row: Row) -> None:
        """Takes a row for the latest, and notes since when it is as it is."""
        last, self.last_row = self.last_row, row
        self.rows += 1
        if last is not None and row.time_s < last.time_s:  # the clock was set back
            self.changed_s -= last.time_s - row.time_s
            self.outside_s -= last.time_s - row.time_s
        if last is None or row.values != last.values:
            self.changed_s = row.time_s
        if not self.outside():
            self.outside_s = math.nan
        elif math.isnan(self.outside_s):
            self.outside_s = row.time_s

    def _judge_rate(self, time_s: float) -> None:
        """Warns once if rows come at another rate than in training."""
        self._first_rows_s.append(time_s)
        if len(self._first_rows_s) < _ROWS_TO_JUDGE:
            return
        period_s = float(np.median(np.diff(self._first_rows_s)))
        trained_s = self._alarm.settings.sample_period_s
        if not 2 / 3 < period_s / trained_s < 3 / 2:
            logging.warning(
                "rows come every %.3g s, those of training came every %.3g s: scores "
                "may be wrong; give the rate of training",
                period_s,
                trained_s,
            )

    def _score(self) -> list[Reading]:
        """Scores the windows that wait, in the rows that are theirs."""
        if not self._waiting:
            return []
        waiting, self._waiting = self._waiting, []
        windows = np.stack([window for _, window, _ in waiting])
        probability, code = self._alarm(windows, self.ticks % self._alarm.settings.rows)
        self.ticks += len(waiting)
        readings = [
            self._reading(tick, float(p), None if c == NO_CODE else int(c))
            for (tick, _, _), p, c in zip(waiting, probability, code, strict=True)
        ]
        now = time.perf_counter()
        self.latencies_s.extend(now - since for _, _, since in waiting)
        return readings

    def _reading(self, tick: Tick, probability: float, code: int | None) -> Reading:
        own = self._alarm.settings
        before = bool(self._state.active)
        self._state = rule.step(own.rule, self._state, tick.number, probability)
        active = bool(self._state.active)
        if active and not before:
            self._raised_s = tick.end_s
        low, middle, high = (self._raised_s + after for after in own.until_visible_s)
        visible_s = (low, middle, high) if active else None
        return Reading(
            tick.end_s, probability, code, active, active != before, visible_s
        )


def _widened(low: float, high: float) -> tuple[float, float]:
    wider = max(_WIDER * (high - low), _ROUNDING * max(abs(low), abs(high)))
    return low - wider, high + wider
