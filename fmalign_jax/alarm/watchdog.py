"""Whether a live input can be believed: it comes, it changes, and it is of its time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from fmalign_jax.alarm.live import Monitor

NORMAL, NO_DATA, FROZEN = "data again", "NO DATA", "FROZEN"
OUT_OF_RANGE, STALE_CLOCK = "OUT OF RANGE", "STALE CLOCK"


class Watchdog:
    """Looks at a monitor from time to time.

    Attributes:
      state: NO_DATA, FROZEN, OUT_OF_RANGE or STALE_CLOCK, the first of them that holds;
        else NORMAL.
      ahead_s: by which the dates of the input are ahead of this machine's clock; 0
        while that is not known.
    """

    def __init__(
        self,
        monitor: Monitor,
        *,
        no_data_after_s: float = math.inf,
        frozen_after_s: float = math.inf,
        out_of_range_after_s: float = math.inf,
        stale_clock_after_s: float = math.inf,
        now: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Starts now. A time that is infinite means never.

        Args:
          monitor: that is fed.
          no_data_after_s: without a usable row, by the clock of this machine, until the
            state is NO_DATA: also when lines come of which none can be used, or whose
            time stands still.
          frozen_after_s: of the same values, by the clock of the input, until the state
            is FROZEN.
          out_of_range_after_s: of rows outside the range of training, by the clock of
            the input, until the state is OUT_OF_RANGE.
          stale_clock_after_s: by which dates of the input may differ from this
            machine's, until the state is STALE_CLOCK.
          now: seconds since any moment.
          clock: seconds since 1970.
        """
        self.state = NORMAL
        self._monitor = monitor
        self._no_data_after_s, self._frozen_after_s = no_data_after_s, frozen_after_s
        self._out_of_range_after_s = out_of_range_after_s
        self._stale_clock_after_s = stale_clock_after_s
        self._now, self._clock = now, clock
        self._rows, self._seen_s = monitor.rows, now()
        self._rows_compared: int | None = None
        self.ahead_s = 0.0

    @property
    def silent_s(self) -> float:
        """Returns for how long no usable row came."""
        return self._now() - self._seen_s

    @property
    def said(self) -> str:
        """Returns the state, with what makes it so."""
        if self.state == OUT_OF_RANGE:
            outside = self._monitor.outside().items()
            values = ", ".join(f"{name} {value:g}" for name, value in outside)
            return f"{self.state} of training: {values}"
        if self.state == STALE_CLOCK:
            side = "ahead of" if self.ahead_s > 0 else "behind"
            return (
                f"{self.state}: the input is {abs(self.ahead_s):.0f} s {side} this "
                "machine"
            )
        return self.state

    def look(self, *, caught_up: bool = False) -> str | None:
        """Returns the state if it is another than before.

        Args:
          caught_up: all lines that have come are read.
        """
        if self._monitor.rows != self._rows:
            self._rows, self._seen_s = self._monitor.rows, self._now()
        if caught_up:
            self._compare_clocks()
        before, self.state = self.state, self._found()
        return self.state if self.state != before else None

    def _found(self) -> str:
        monitor, row = self._monitor, self._monitor.last_row
        if self.silent_s > self._no_data_after_s:
            return NO_DATA
        if row is None:
            return NORMAL
        if row.time_s - monitor.changed_s > self._frozen_after_s:
            return FROZEN
        if row.time_s - monitor.outside_s > self._out_of_range_after_s:
            return OUT_OF_RANGE
        if abs(self.ahead_s) > self._stale_clock_after_s:
            return STALE_CLOCK
        return NORMAL

    def _compare_clocks(self) -> None:
        """Notes how far the input is ahead, where a row has come since the last time.

        What was there at first may be of any time, and so may all but the latest row.
        """
        before, self._rows_compared = self._rows_compared, self._rows
        row = self._monitor.last_row
        if before in (None, self._rows) or row is None:
            return
        if not self._monitor.written_times:
            return
        ahead_s = row.time_s - self._clock()
        # Of a date without an offset nobody knows whether it is local or UTC.
        zone_s = time.localtime(self._clock()).tm_gmtoff
        self.ahead_s = min(ahead_s, ahead_s - zone_s, key=abs)
