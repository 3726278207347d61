"""The data structures: recordings, statistics and batches.

Nothing here needs JAX, so that data-loading workers stay light.

Dimension letters, used in every docstring and type of the project:

    B  windows in a batch             T  ticks in a window
    R  samples of a stream in a tick  C  channels of a stream
    H  frame height, pixels           W  frame width, pixels
    D  code width                     M  codes in the codebook
    K  prediction steps of Cross-CPC  N  samples of one stream of a recording

Words: a *recording* is one continuous measurement (or a set of short clips) of one
furnace; a *stream* is one modality of it at its native rate; a *tick* is the common
time step of all streams; a *window* is T consecutive ticks; a *code* is an index
into the codebook.

The sign of the lead: ``lead_s > 0`` means that the leading stream (the current) is
read EARLIER. A window pairs the video around time t with the current around
t - lead_s; both windows have the same length, so the lead is between their centres.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np

UNLABELLED = -1
"""The label of a sample whose class is not known."""

LARGEST = 1e18
"""No value may be larger: squares would leave float32, and meters write 9.9e37 where
they were overloaded."""

_NORMAL = ("normal", "ok", "good", "\u6b63\u5e38", "\u5408\u683c")


def is_normal(label_name: str) -> bool:
    """Says whether a class is called as one that nobody is warned of."""
    return label_name.strip().lower() in _NORMAL


@dataclasses.dataclass(frozen=True)
class Stream:
    """One modality of one recording, at its native rate.

    Attributes:
      values: [N, ...] samples: frames uint8 [N, H, W, 3], sensors float32 [N, C],
        tokens int32 [N], or precomputed feature maps float32 [N, h, w, C].
      time_s: float64 [N], seconds on the recording's clock, never decreasing within
        a clip. All streams of a recording share this clock.
      clip: int32 [N], the clip each sample belongs to; 0 everywhere for one
        continuous recording. No window crosses a clip.
      label: int32 [N], the class of each sample, UNLABELLED (-1) where unknown.
      unit: unit of the values, such as "A" or "grey level".
      channel_names: names of the last axis of values, or empty.
    """

    values: np.ndarray
    time_s: np.ndarray
    clip: np.ndarray
    label: np.ndarray
    unit: str = ""
    channel_names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Recording:
    """Everything measured on one furnace in one go.

    Attributes:
      name: unique within its data set.
      streams: the modalities by name, such as "video" and "current".
      label_names: names of the classes, or empty.
      clip_names: names of the clips, or empty.
      partition: splits that came with the data, as spans of seconds on the
        recording's clock: ``{"train": ((0.0, 400.0),), "test": ((440.0, 840.0),)}``.
        Empty when the data came without.
      provenance: where the recording came from, one line or a JSON string.
      file: the file it was read from, named in errors; empty if there is none.
      taken: what each file was taken as, by file, in words for people; files of
        which the same is said are of one kind. Empty: the streams say it.
    """

    name: str
    streams: Mapping[str, Stream]
    label_names: tuple[str, ...] = ()
    clip_names: tuple[str, ...] = ()
    partition: Mapping[str, tuple[tuple[float, float], ...]] = dataclasses.field(
        default_factory=dict
    )
    provenance: str = ""
    file: str = ""
    taken: Mapping[str, str] = dataclasses.field(default_factory=dict)


class StreamStatistics(TypedDict):
    """Mean and standard deviation per channel over the training split, float32 [C]."""

    mean: np.ndarray
    std: np.ndarray


class Batch(TypedDict):
    """Aligned windows: NumPy on the host, jax.Array on the device.

    Keys:
      streams: by name [B, T, R, ...], in the dtype they were recorded in; uint8
        frames are normalised on the device. Where training draws one of L leads, the
        leading stream is [B, T, L * R, ...].
      label: int32 [B, T], class of each tick of the reference stream, -1 unknown.
      mask: bool [B], False for rows that only pad the last evaluation batch.
      recording: int32 [B], position of the recording in the data set.
      time_s: float64 [B], centre of the reference window; on the device float32
        [B, 2], two numbers whose sum it is.
    """

    streams: dict[str, Any]
    label: Any
    mask: Any
    recording: Any
    time_s: Any
