"""The ticks of all recordings: which samples each reads, and what it is called."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float64, Int, Int32, Int64
from numpy import ndarray


@dataclasses.dataclass(frozen=True)
class Segments:
    """The (recording, clip) pairs in order: stretches of ticks that follow one another.

    Attributes:
      first: [G + 1], first tick of each; at the end the number of all ticks.
      recording: [G], number of the recording.
      clip: [G], number of the clip.
      start_s: [G], start of the first tick on the recording's clock.
      tick_s: [G], length of its ticks.
    """

    first: Int64[ndarray, " _"]
    recording: Int32[ndarray, " G"]
    clip: Int32[ndarray, " G"]
    start_s: Float64[ndarray, " G"]
    tick_s: Float64[ndarray, " G"]

    @property
    def lengths(self) -> Int64[ndarray, " G"]:
        """Returns how many ticks each has."""
        return np.diff(self.first)

    def of(self, tick: Int[ndarray, "..."]) -> Int64[ndarray, "..."]:
        """Returns which segment ticks lie in."""
        return np.searchsorted(self.first, tick, side="right") - 1

    def by_recording(self) -> dict[int, slice]:
        """Returns the ticks of each recording that has any, in order of its number."""
        if not len(self.recording):
            return {}
        begins = np.flatnonzero(np.diff(self.recording, prepend=-1))
        ends = self.first[np.append(begins[1:], len(self.recording))].tolist()
        numbers = self.recording[begins].tolist()
        own = map(slice, self.first[begins].tolist(), ends)
        return dict(sorted(zip(numbers, own, strict=True), key=lambda item: item[0]))


@dataclasses.dataclass(frozen=True)
class Ticks:
    """All ticks of all recordings, in order of recording name, clip and time.

    What is the same for all ticks of a segment is stored once for it. `recording` and
    the like are arrays of one number a tick, made and kept when they are first asked
    for: evaluation asks, training does not.

    Attributes:
      samples: by stream [n, R], positions of the samples each tick reads; of a leading
        stream that is read at L leads [n, L * R], those at `lead_s` first, or at those
        of a range, the longest first.
      usable: [n], whether every one of those samples is near enough.
      label: [n], class of the tick, -1 unknown.
      segments: the (recording, clip) pairs; no window crosses from one to another.
    """

    samples: Mapping[str, Int[ndarray, "n _"]]
    usable: Bool[ndarray, " n"]
    label: Int32[ndarray, " n"]
    segments: Segments

    def __len__(self) -> int:
        return len(self.usable)

    @functools.cached_property
    def segment(self) -> Int64[ndarray, " n"]:
        """Returns the number of each tick's segment."""
        return np.repeat(np.arange(len(self.segments.clip)), self.segments.lengths)

    @functools.cached_property
    def recording(self) -> Int32[ndarray, " n"]:
        """Returns the number of each tick's recording."""
        return self.segments.recording[self.segment]

    @functools.cached_property
    def clip(self) -> Int32[ndarray, " n"]:
        """Returns the number of each tick's clip."""
        return self.segments.clip[self.segment]

    @functools.cached_property
    def start_s(self) -> Float64[ndarray, " n"]:
        """Returns the start of each tick on the recording's clock."""
        return self.span_s(np.arange(len(self)))[0]

    @functools.cached_property
    def end_s(self) -> Float64[ndarray, " n"]:
        """Returns the end of each tick on the recording's clock."""
        return self.span_s(np.arange(len(self)))[1]

    def span_s(
        self, tick: Int[ndarray, "..."]
    ) -> tuple[Float64[ndarray, "..."], Float64[ndarray, "..."]]:
        """Returns start and end of ticks on the clocks of their recordings."""
        segment = self.segments.of(tick)
        place = tick - self.segments.first[segment]
        start_s, tick_s = self.segments.start_s[segment], self.segments.tick_s[segment]
        return start_s + place * tick_s, start_s + (place + 1) * tick_s


def smallest_int(number: int) -> type[np.signedinteger]:
    """Returns int32 where numbers up to this one fit, else int64."""
    return np.int32 if number <= np.iinfo(np.int32).max else np.int64
