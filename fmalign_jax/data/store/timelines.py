"""When each sample of a stored recording was taken, without its values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from jaxtyping import Float64, Int32
from numpy import ndarray


@dataclasses.dataclass(frozen=True)
class StreamTimeline:
    """The clock, clips and labels of one stream; see `structs.Stream`.

    Attributes:
      time_s: [N] seconds on the recording's clock.
      clip: [N] clip of each sample.
      label: [N] class of each sample, -1 where unknown.
    """

    time_s: Float64[ndarray, " N"]
    clip: Int32[ndarray, " N"]
    label: Int32[ndarray, " N"]


@dataclasses.dataclass(frozen=True)
class Timeline:
    """One recording without its values; see `structs.Recording`.

    Attributes:
      name: unique within the data set.
      number: position of the recording in the data set.
      streams: the clock of each stream by name.
      clip_names: names of the clips, or empty.
      partition: splits that came with the data, as spans of seconds.
    """

    name: str
    number: int
    streams: Mapping[str, StreamTimeline]
    clip_names: tuple[str, ...] = ()
    partition: Mapping[str, tuple[tuple[float, float], ...]] = dataclasses.field(
        default_factory=dict
    )
