"""Whether a live input still says anything: no data, or the same values for ever."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from fmalign_jax.alarm.live import Monitor

NORMAL, NO_DATA, FROZEN = "data again", "NO DATA", "FROZEN"


class Watchdog:
    """Looks at a monitor from time to time.

    Attributes:
      state: NORMAL, NO_DATA or FROZEN.
    """

    def __init__(
        self,
        monitor: Monitor,
        *,
        no_data_after_s: float,
        frozen_after_s: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts now.

        Args:
          monitor: that is fed.
          no_data_after_s: without a usable row, by the clock of this machine, until the
            state is NO_DATA: also when lines come of which none can be used, or whose
            time stands still.
          frozen_after_s: of the same values, by the clock of the input, until the state
            is FROZEN; infinite for never.
          now: a clock.
        """
        self.state = NORMAL
        self._monitor = monitor
        self._no_data_after_s, self._frozen_after_s = no_data_after_s, frozen_after_s
        self._now = now
        self._rows, self._seen_s = monitor.rows, now()

    @property
    def silent_s(self) -> float:
        """Returns for how long no usable row came."""
        return self._now() - self._seen_s

    def look(self) -> str | None:
        """Returns the state if it is another than before."""
        monitor = self._monitor
        if monitor.rows != self._rows:
            self._rows, self._seen_s = monitor.rows, self._now()
        state = NORMAL
        row = monitor.last_row
        if self.silent_s > self._no_data_after_s:
            state = NO_DATA
        elif row is not None and not math.isinf(self._frozen_after_s):
            same_s = row.time_s - monitor.changed_s
            state = FROZEN if same_s > self._frozen_after_s else NORMAL
        changed = state != self.state
        self.state = state
        return state if changed else None
