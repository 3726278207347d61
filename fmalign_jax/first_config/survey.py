"""What a folder of recordings holds, as a first config has to know it.

Frames and sensor values are gone; what stays are clocks, labels and shapes.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from fmalign_jax.data import clock_report
from fmalign_jax.data.store.timelines import Timeline
from fmalign_jax.structs import UNLABELLED

REFERENCE, LEADING = "video", "current"
"""The streams that the model of a first config is made of; the second may have a name
of its own (`Survey.leading`)."""

NO_LABEL = "(no label)"
"""What the time without a label is called, among the classes."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a sample of a stream is; recordings of one data set must agree in it.

    Attributes:
      shape: of one sample.
      dtype: its name.
      channel_names: names of the last axis, or empty.
    """

    shape: tuple[int, ...]
    dtype: str
    channel_names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Seen:
    """A recording that was read.

    Attributes:
      file: name of its file in the folder.
      timeline: its clocks and labels; its number is its position in the survey.
      kinds: by stream.
      units: by stream, empty where not known.
      label_names: names of its classes, or empty.
      first_time: the first time of its CSV, as it is written, where the clocks of CSV
        and video do not meet: for this look its video begins there. Empty: they meet.
    """

    file: str
    timeline: Timeline
    kinds: Mapping[str, Kind]
    units: Mapping[str, str]
    label_names: tuple[str, ...]
    first_time: str = ""

    @property
    def name(self) -> str:
        """Returns the name of the recording."""
        return self.timeline.name

    @property
    def is_npz(self) -> bool:
        """Says whether it is one file of arrays."""
        return self.file.lower().endswith(".npz")


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """What lies in a folder and is not taken.

    Attributes:
      what: a file, or several.
      why: the rule, what came, and what to do.
      is_recording: whether it is one, which cannot be used.
    """

    what: str
    why: str
    is_recording: bool = False


@dataclasses.dataclass(frozen=True)
class Survey:
    """What a folder holds.

    Attributes:
      folder: the folder.
      source: dotted name of what reads it.
      seen: the recordings that can be trained on, by name.
      left_out: everything else.
      leading: name of the sensor's stream.
    """

    folder: pathlib.Path
    source: str
    seen: tuple[Seen, ...]
    left_out: tuple[LeftOut, ...]
    leading: str = LEADING

    @functools.cached_property
    def timelines(self) -> list[Timeline]:
        """Returns the clocks of all recordings."""
        return [seen.timeline for seen in self.seen]

    @functools.cached_property
    def clocks(self) -> list[clock_report.StreamClock]:
        """Returns how regular the clocks are."""
        return clock_report.measure(self.timelines, reference=REFERENCE)

    def rate_hz(self, stream: str) -> float:
        """Returns the samples a second of a stream, the median over the recordings."""
        rates = [clock.rate_hz for clock in self.clocks if clock.stream == stream]
        return float(np.median(rates))

    def common_s(self) -> Float[np.ndarray, " clips"]:
        """Returns for how long both streams run in each clip, seconds."""
        return np.concatenate(
            [common_s(timeline, self.leading) for timeline in self.timelines]
        )

    def class_seconds(self) -> dict[str, float]:
        """Returns by name how long each class lasts, `NO_LABEL` last.

        A sample of the stream that has the labels stands for its interval.
        """
        total: dict[str, float] = collections.defaultdict(float)
        for seen in self.seen:
            for name, seconds in _class_seconds(seen).items():
                total[name] += seconds
        return dict(sorted(total.items(), key=lambda item: item[0] == NO_LABEL))


def common_s(timeline: Timeline, leading: str) -> Float[np.ndarray, " clips"]:
    """Returns for how long both streams of a recording run in each clip, seconds.

    Args:
      timeline: of the recording.
      leading: name of the sensor's stream.
    """
    spans = [
        {
            clip: (stream.time_s[own][0], stream.time_s[own][-1])
            for clip in np.unique(stream.clip).tolist()
            for own in [stream.clip == clip]
        }
        for stream in (timeline.streams[REFERENCE], timeline.streams[leading])
    ]
    both = [
        min(spans[0][clip][1], spans[1][clip][1])
        - max(spans[0][clip][0], spans[1][clip][0])
        for clip in spans[0]
    ]
    return np.maximum(np.array(both, np.float64), 0.0)


def _class_seconds(seen: Seen) -> dict[str, float]:
    """Returns how long each class lasts in a recording; nothing without labels."""
    streams = seen.timeline.streams
    for name in (REFERENCE, *sorted(set(streams) - {REFERENCE})):
        label = streams[name].label
        if (label == UNLABELLED).all():
            continue
        steps = np.diff(streams[name].time_s)[np.diff(streams[name].clip) == 0]
        interval_s = float(np.median(steps[steps > 0]))
        numbers, counts = np.unique(label, return_counts=True)
        return {
            _class(number, seen.label_names): count * interval_s
            for number, count in zip(numbers.tolist(), counts.tolist(), strict=True)
        }
    return {}


def _class(number: int, label_names: Sequence[str]) -> str:
    if number == UNLABELLED:
        return NO_LABEL
    return label_names[number] if label_names else f"class {number}"
