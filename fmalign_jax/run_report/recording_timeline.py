"""One recording over time, for the report: frames, label, sensors, codes, score.

All times are seconds from the recording's start. The codes of the leading stream are
at the time at which that stream was read, so `lead_s` before the reference's.
"""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy import ndarray
from PIL import Image

from fmalign_jax.data.store import RecordingStore
from fmalign_jax.evaluation.labelled_windows import LabelledWindows, renumbered

Json = dict[str, Any]

_FRAMES = 240  # of a recording
_FRAME_SIDE = 64  # pixels
_BINS = 3000
_CHANNELS = 6


def timeline(
    split: LabelledWindows,
    recording: int,
    codes: Mapping[str, Int[ndarray, "N T"]],
    classes: Sequence[str],
    *,
    leading_stream: str,
    reference_stream: str,
    lead_s: float,
) -> Json:
    """Gathers a recording.

    Args:
      split: windows of this and other recordings.
      recording: its number in the split's store.
      codes: of all windows of the split, by modality.
      classes: names, in the numbering of the report.
      leading_stream: which is read earlier.
      reference_stream: whose clock and labels the ticks follow.
      lead_s: by how much.
    """
    store, ticks = split.store, split.windows.ticks
    clocks = store.timelines()[recording].streams
    start_s = min(float(clock.time_s[0]) for clock in clocks.values())
    end_s = max(float(clock.time_s[-1]) for clock in clocks.values())
    rows = np.flatnonzero(split.windows.recording == recording)
    tick = split.windows.rows(rows).ravel()
    centre_s = (ticks.start_s[tick] + ticks.end_s[tick]) / 2 - start_s
    shift_s = {m: lead_s if m == leading_stream else 0.0 for m in codes}
    reference = clocks[reference_stream]
    label = _renumbered(reference.label, store.label_names, classes)
    return {
        "name": store.names[recording],
        "split": split.name,
        "start_s": start_s,
        "length_s": round(end_s - start_s, 3),
        "window_s": float(
            np.median(
                ticks.end_s[split.windows.start[rows] + split.windows.window_ticks - 1]
                - ticks.start_s[split.windows.start[rows]]
            )
        ),
        "tick_s": float(np.median(ticks.end_s[tick] - ticks.start_s[tick])),
        "label": spans(reference.time_s - start_s, label),
        "frames": frames(store, recording, start_s),
        "sensors": sensors(store, recording, start_s),
        "codes": {
            m: {
                "t": np.round(centre_s - shift_s[m], 3).tolist(),
                "code": codes[m][rows].ravel().tolist(),
            }
            for m in codes
        },
    }


def spans(
    time_s: Float[ndarray, " N"], label: Int[ndarray, " N"]
) -> list[tuple[float, float, int]]:
    """Returns (start, end, class) of each run of equal labels.

    A run ends where the next begins, half way between the two samples; the first and
    the last reach half a sample period beyond their samples.
    """
    if not len(time_s):
        return []
    half = float(np.median(np.diff(time_s))) / 2 if len(time_s) > 1 else 0.0
    change = np.flatnonzero(np.diff(label)) + 1
    edges = np.concatenate(
        [
            [time_s[0] - half],
            (time_s[change - 1] + time_s[change]) / 2,
            [time_s[-1] + half],
        ]
    ).round(3)
    classes = label[np.concatenate([[0], change])]
    return list(
        zip(edges[:-1].tolist(), edges[1:].tolist(), classes.tolist(), strict=True)
    )


def envelope(values: Float[ndarray, " N"], bins: int) -> Int[ndarray, " n"]:
    """Returns which samples show the same picture: in each bin the lowest and highest.

    So a fluctuation keeps its width, which a mean or every n-th sample would lose. With
    at most two samples a bin all are returned.
    """
    if len(values) <= 2 * bins:
        return np.arange(len(values))
    edges = np.linspace(0, len(values), bins + 1).astype(np.int64)
    kept = [
        start + extreme(values[start:end])
        for start, end in itertools.pairwise(edges)
        for extreme in (np.argmin, np.argmax)
    ]
    return np.unique(kept)


def sensors(store: RecordingStore, recording: int, start_s: float) -> dict[str, Json]:
    """Returns the streams of channels over time, such as the three phase currents.

    The first six channels of each; long ones by their `envelope`.
    """
    found = {}
    for name, info in store.streams.items():
        if len(info.value_shape) != 1 or info.dtype.kind != "f":
            continue
        time_s = store.timelines()[recording].streams[name].time_s - start_s
        values = store.gather(name, recording, np.arange(len(time_s)))
        channels = []
        for number in range(min(_CHANNELS, info.value_shape[0])):
            kept = envelope(values[:, number], _BINS)
            known = info.channel_names
            channels.append(
                {
                    "name": known[number] if number < len(known) else str(number),
                    "t": np.round(time_s[kept], 3).tolist(),
                    "v": _significant(values[kept, number]),
                }
            )
        found[name] = {
            "unit": info.unit,
            "channels": channels,
            "all_channels": info.value_shape[0],
        }
    return found


def frames(store: RecordingStore, recording: int, start_s: float) -> Json | None:
    """Returns up to 240 frames as small JPEG pictures, evenly spread in number.

    None where no stream holds frames.
    """
    for name, info in store.streams.items():
        if len(info.value_shape) == 3 and info.dtype == np.uint8:
            time_s = store.timelines()[recording].streams[name].time_s - start_s
            kept = np.unique(np.linspace(0, len(time_s) - 1, _FRAMES).astype(np.int64))
            pictures = store.gather(name, recording, kept)
            return {
                "t": np.round(time_s[kept], 3).tolist(),
                "jpeg": [jpeg(picture) for picture in pictures],
            }
    return None


def jpeg(frame: Shaped[ndarray, "H W C"]) -> str:
    """Returns a frame of one or three channels as a small JPEG in base64."""
    picture = Image.fromarray(frame[..., 0] if frame.shape[-1] != 3 else frame)
    picture.thumbnail((_FRAME_SIDE, _FRAME_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _significant(values: Float[ndarray, " N"]) -> list[float]:
    """Returns numbers to five digits, which keeps the file small."""
    return [float(f"{value:.5g}") for value in values.tolist()]


def _renumbered(
    label: Int[ndarray, " N"], names: Sequence[str], classes: Sequence[str]
) -> Int[ndarray, " N"]:
    """Returns labels of a store in the numbering of the report, -1 unknown."""
    own = names or tuple(map(str, range(int(label.max(initial=-1)) + 1)))
    return renumbered(label, own, tuple(classes))
