"""What the page of the control room shows of a monitor: bounded, as one JSON text.

The monitor's thread writes here what it logs, and goes on; threads of the page's server
read. What is kept has a greatest length, and the text is made once for all who ask.
"""

from __future__ import annotations

import collections
import json
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fmalign_jax.alarm.alarm_file import AlarmSettings
from fmalign_jax.alarm.csv_stream import Row
from fmalign_jax.alarm.live import Monitor
from fmalign_jax.alarm.readings_out import STATES, seconds_of
from fmalign_jax.alarm.watchdog import NORMAL, Watchdog
from fmalign_jax.data.clocks import is_number, is_time

SHOWN_S = 600.0
"""Of the current and of the probability, on the clock of the input."""

_SPAN_S = 1.0  # of the current that one point of the chart stands for
_MOST_READINGS = 1200  # ticks of half a second, as long as the current
_MOST_EVENTS = 50
_AGAIN_S = 0.5  # before the text is made anew
_DIGITS = 6
_Values = tuple[float, ...]


class LivePage:
    """The data of the page; filled by one thread and read by others."""

    def __init__(
        self, settings: AlarmSettings, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Starts with nothing to show.

        Args:
          settings: of the alarm, with the level that is used.
          now: seconds since any moment, by the clock of this machine.
        """
        self._alarm = {
            "abnormal": settings.abnormal,
            "channels": settings.channels,
            "unit": settings.unit,
            "raise_at": settings.raise_at,
            "clear_at": settings.clear_at,
        }
        self._now = now
        self._data, self._encoding = threading.Lock(), threading.Lock()
        self._spans: collections.deque[tuple[int, _Values, _Values]] = (
            collections.deque(maxlen=round(SHOWN_S / _SPAN_S))
        )
        self._readings: collections.deque[tuple[float, Sequence[str]]] = (
            collections.deque(maxlen=_MOST_READINGS)
        )
        self._events: collections.deque[Sequence[str]] = collections.deque(
            maxlen=_MOST_EVENTS
        )
        self._last: Row | None = None
        self._last_came_s = self._looked_s = now()
        self._rows = 0
        self._state: str | None = None
        self._dates = False
        self._health, self._ahead_s = NORMAL, 0.0
        self._outside: dict[str, float] = {}
        self._left_out: dict[str, int] = {}
        self._text, self._made_s = b"", -math.inf

    def take_row(self, row: Row) -> None:
        """Takes a usable row: of each second the chart keeps least and greatest."""
        number = math.floor(row.time_s / _SPAN_S)
        with self._data:
            self._last, self._last_came_s = row, self._now()
            self._rows += 1
            if self._spans and number < self._spans[-1][0]:  # the clock was set back
                self._spans.clear()
                self._readings.clear()
            low = high = row.values
            if self._spans and number == self._spans[-1][0]:
                _, least, greatest = self._spans.pop()
                low = tuple(map(min, least, low))
                high = tuple(map(max, greatest, high))
            self._spans.append((number, low, high))

    def write(self, cells: Sequence[str]) -> None:
        """Takes a row of cells that is logged: a reading, or a state of the input.

        Args:
          cells: as `ReadingsOut.write` has them.
        """
        time_text, probability, _, state, *_ = cells
        with self._data:
            if not probability:
                self._events.append(cells)
                return
            self._readings.append((seconds_of(time_text), cells))
            if state != self._state and (self._state or state == STATES[True]):
                self._events.append(cells)
            self._state = state

    def remember(self, rows: Iterable[Sequence[str]]) -> None:
        """Takes what an earlier monitor has logged; leaves out what it cannot be of."""
        for cells in rows:
            if len(cells) < 4:
                continue
            reading = cells[3] in STATES and is_number(cells[1])
            moments = (cells[0], *cells[4:7])
            if (reading or not cells[1]) and all(map(_is_moment, moments)):
                self.write(cells)

    def look(self, monitor: Monitor, watchdog: Watchdog) -> None:
        """Notes what watchdog and monitor say of the input, by the monitor's thread."""
        left_out, outside = dict(monitor.warnings.counts), monitor.outside()
        with self._data:
            self._looked_s = self._now()
            self._dates = monitor.written_times
            self._health, self._ahead_s = watchdog.state, watchdog.ahead_s
            self._left_out, self._outside = left_out, outside

    def text(self) -> bytes:
        """Returns all that is shown, as JSON; half a second old at most."""
        with self._encoding:
            if self._now() - self._made_s >= _AGAIN_S:
                self._made_s = self._now()
                shown = self._shown()
                self._text = json.dumps(shown, allow_nan=False).encode()
            return self._text

    def _shown(self) -> dict[str, Any]:
        with self._data:
            now_s, last = self._now(), self._last
            spans, readings = list(self._spans), list(self._readings)
            events = list(self._events)
            shown: dict[str, Any] = {
                "alarm": self._alarm,
                "dates": self._dates,
                "rows": self._rows,
                "row_age_s": None if last is None else now_s - self._last_came_s,
                "looked_age_s": now_s - self._looked_s,
                "health": None if self._health == NORMAL else self._health,
                "outside": self._outside,
                "ahead_s": self._ahead_s,
                "left_out": self._left_out,
                "row": None,
                "reading": None,
                "visible_s": [],
            }
        since_s = -math.inf
        if last is not None:
            since_s = last.time_s - SHOWN_S
            shown["row"] = {"time_s": last.time_s, "values": last.values}
        if readings:
            _, reading = readings[-1]
            shown["reading"] = reading
            shown["visible_s"] = [seconds_of(text) for text in reading[4:7]]
        return shown | {
            "spans": [
                [number * _SPAN_S, *map(_rounded, (low, high))]
                for number, low, high in spans
                if number * _SPAN_S >= since_s
            ],
            "readings": [
                [time_s, _finite(cells[1]), cells[3] == STATES[True]]
                for time_s, cells in readings
                if time_s >= since_s
            ],
            "events": events[::-1],
            "shown_s": SHOWN_S,
        }


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in values]


def _is_moment(text: str) -> bool:
    return is_time(text) and math.isfinite(seconds_of(text))


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None
