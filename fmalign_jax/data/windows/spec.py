"""How windows are laid over recordings: their ticks, stride, streams and leads."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

MODES = ("sliding", "clip")

ROUNDING = 1e-6
"""Ticks by which a length may miss a whole number."""


def whole_ticks(name: str, seconds: float, tick_s: float) -> int:
    """Converts a length in seconds to ticks.

    Raises:
      ValueError: the length is not a whole, positive number of ticks.
    """
    if not tick_s > 0:
        raise ValueError(f"tick_s must be positive; got {tick_s}")
    ticks = round(seconds / tick_s)
    if ticks < 1 or abs(seconds / tick_s - ticks) > ROUNDING:
        below, above = (max(1, f(seconds / tick_s)) for f in (math.floor, math.ceil))
        raise ValueError(
            f"{name} must be a whole, positive number of ticks; got {seconds} s / "
            f"{tick_s} s = {seconds / tick_s:g}; use {name}={below * tick_s:g} or "
            f"{max(above, below) * tick_s:g}"
        )
    return ticks


@dataclasses.dataclass(frozen=True, kw_only=True)
class WindowSpec:
    """How windows are laid over recordings.

    Attributes:
      samples_per_tick: the streams to read, and the samples R each gives to a tick.
      window_ticks: ticks T in a window.
      stride_ticks: ticks from the start of one window to that of the next.
      tick_s: length of a tick in seconds; with mode "clip" the clip decides.
      lead_s: how much EARLIER the leading stream is read, in seconds; may be negative.
      other_leads_s: further leads at which every window must be readable too: at each
        of them all windows, and their splits, are then the same.
      read_all_leads: read the leading stream at every one of these leads, side by side.
      lead_range_s: least and most lead; the leading stream is read over all leads
        between them, in stretches of one window that follow one another, the earliest
        first, side by side. Empty: at `lead_s`, which else is their middle.
      leading_stream: the stream that the lead shifts.
      reference_stream: the stream whose clock and labels the ticks follow.
      mode: "sliding" for windows at every stride, "clip" for one window per clip: T
        equal segments of the time that all streams of the clip cover.
      max_gap_s: how far the nearest sample may lie from where it is wanted; by
        default, for each stream, its share of a tick or 3 of its sample periods,
        whichever is longer. Ticks that miss it are left out of every window.
    """

    samples_per_tick: Mapping[str, int]
    window_ticks: int
    stride_ticks: int = 1
    tick_s: float = 1.0
    lead_s: float = 0.0
    other_leads_s: tuple[float, ...] = ()
    read_all_leads: bool = False
    lead_range_s: tuple[float, ...] = ()
    leading_stream: str = "current"
    reference_stream: str = "video"
    mode: str = "sliding"
    max_gap_s: float | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {MODES}; got {self.mode!r}")
        counts = {"window_ticks": self.window_ticks, "stride_ticks": self.stride_ticks}
        counts |= {
            f"samples_per_tick[{k!r}]": n for k, n in self.samples_per_tick.items()
        }
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"{name} must be at least 1; got {count}")
        for name in ("reference_stream", "leading_stream"):
            stream = getattr(self, name)
            needed = name == "reference_stream" or any(self._leads_s)
            if needed and stream not in self.samples_per_tick:
                raise ValueError(
                    f"{name} must be one of the streams of samples_per_tick, "
                    f"{sorted(self.samples_per_tick)}; got {stream!r}"
                )
        for name in ("tick_s", "max_gap_s"):
            seconds = getattr(self, name)
            if seconds is not None and not (seconds > 0 and math.isfinite(seconds)):
                raise ValueError(f"{name} must be positive; got {seconds}")
        self._check_lead()

    @property
    def _leads_s(self) -> tuple[float, ...]:
        if self.lead_range_s:
            return self._range_leads_s()
        return (self.lead_s, *self.other_leads_s)

    def _range_leads_s(self) -> tuple[float, ...]:
        """Returns the leads of the stretches, the earliest stretch first.

        Raises:
          ValueError: the range is not one, or no whole number of windows wide.
        """
        window_s = self.window_ticks * self.tick_s
        given = self.lead_range_s
        if len(given) != 2 or not all(map(math.isfinite, given)):
            raise ValueError(
                f"lead_range_s must be the least and the most lead; got {given}; use "
                "such as (150.0, 330.0), or () for one lead"
            )
        least_s, most_s = given
        stretches = (most_s - least_s) / window_s
        if stretches < 1 - ROUNDING or abs(stretches - round(stretches)) > ROUNDING:
            wide_s = max(1, round(stretches)) * window_s
            raise ValueError(
                "lead_range_s must be one window wide or several; got "
                f"{most_s:g} - {least_s:g} s = {stretches:g} windows of {window_s:g} s"
                f"; use lead_range_s=({least_s:g}, {least_s + wide_s:g})"
            )
        middle_s = (least_s + most_s) / 2
        if abs(self.lead_s - middle_s) > ROUNDING * window_s or self.other_leads_s:
            moved = tuple(end_s - middle_s + self.lead_s for end_s in given)
            raise ValueError(
                "lead_s must be the middle of lead_range_s, and other_leads_s be empty "
                f"beside it; got {self.lead_s:g} for {given} and {self.other_leads_s}; "
                f"use lead_s={middle_s:g}, or lead_range_s={moved}"
            )
        return tuple(most_s - window_s * n for n in range(round(stretches) + 1))

    def _check_lead(self) -> None:
        for lead_s in self._leads_s:
            if not math.isfinite(lead_s):
                raise ValueError(f"lead_s must be finite; got {lead_s}")
            if lead_s and self.leading_stream == self.reference_stream:
                raise ValueError(
                    "a lead shifts one stream against another; got leading_stream = "
                    f"reference_stream = {self.leading_stream!r}; name two"
                )
            if lead_s and self.mode == "clip":
                raise ValueError(
                    f"mode 'clip' takes whole clips, so lead_s must be 0; got {lead_s}"
                    "; use mode 'sliding'"
                )

    @property
    def guard_ticks(self) -> int:
        """Returns the ticks that keep two windows from sharing any moment."""
        lead_s = max(map(abs, self._leads_s))
        return self.window_ticks + math.ceil(lead_s / self.tick_s - ROUNDING)

    def leads_read(self, stream: str) -> int:
        """Returns at how many leads L a stream is read."""
        several = self.read_all_leads or self.lead_range_s
        return len(self.shifts_s(stream)) if several else 1

    def shift_s(self, stream: str) -> float:
        """Returns how much later than the tick a stream is read, in seconds.

        Of a range of leads, at `lead_s`.
        """
        if stream != self.leading_stream or not self.lead_s:
            return 0.0
        return -self.lead_s

    def last_shift_s(self, stream: str) -> float:
        """Returns the same of the last sample that a tick reads.

        Of a range of leads, at the least of them.
        """
        if self.lead_range_s and stream == self.leading_stream:
            return -self.lead_range_s[0]
        return self.shift_s(stream)

    def shifts_s(self, stream: str) -> tuple[float, ...]:
        """Returns the shifts at which a stream must be readable, in seconds.

        At the window's own lead and at the other leads, or at those of a range.
        """
        if stream != self.leading_stream:
            return (0.0,)
        return tuple(-lead_s if lead_s else 0.0 for lead_s in self._leads_s)
