"""Labels in place of a modality: how late an encoder responds to what is labelled.

What a person labels and what an encoder sees of it are not at the same time: on a
furnace the glow grows for a minute after the label begins. On the recordings of the
training, where they are labelled, the delay is measured as a lead is: labels are slid
along the features of the video. A lead to the video's features, less that delay, is one
to what is labelled. No label of the searched recordings is used.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict
from scipy.stats import median_abs_deviation, t

from fmalign_jax.data.store import RecordingStore
from fmalign_jax.lead import curves, indicators, layout as lead_layout, statistics
from fmalign_jax.lead.recordings import encode, training_data
from fmalign_jax.lead.tick_features import Clip, TickFeatures, lay_windows
from fmalign_jax.run.restore import OpenedRun
from fmalign_jax.structs import UNLABELLED

KIND = "canonical"
MOST_RECORDINGS = 8
"""Labelled recordings on which the delay is measured; more tell little more."""

LEAST_RECORDINGS = 3
"""Fewer do not say how much the delay differs between recordings."""

_RANGE_WINDOWS = 1.5  # to either side


@dataclasses.dataclass(frozen=True)
class Response:
    """How much later than the labels an encoder responds.

    Attributes:
      delay_s: between the centres of ticks.
      interval_s: 95 %, over recordings and stretches of time.
      recordings: on which it was measured.
      spread_s: standard deviation from recording to recording.
    """

    delay_s: float
    interval_s: tuple[float, float]
    recordings: int
    spread_s: float

    def error_s(self, recordings: int) -> float:
        """Returns how far off the mean delay of other recordings may be, 95 %.

        Args:
          recordings: how many those are.
        """
        level = float(t.ppf(0.975, self.recordings - 1))
        parts = 1 / recordings + 1 / self.recordings
        return level * self.spread_s * math.sqrt(parts)


def with_labels(
    clips: Sequence[Clip], store: RecordingStore, data: ConfigDict
) -> list[Clip]:
    """Returns clips whose reference is the labels, of the reference's own ticks.

    Clips without a label, or with the same one throughout, are left out: a change is
    what has a time.
    """
    modality = data.reference_stream
    ticks = lay_windows(store, data, modality, stride_ticks=data.window_ticks).ticks
    classes = np.unique(ticks.label[ticks.label != UNLABELLED])
    numbers = {name: number for number, name in enumerate(store.names)}
    found = []
    for clip in clips:
        own = (ticks.recording == numbers[clip.recording]) & (ticks.clip == clip.number)
        label = ticks.label[own]
        known = label != UNLABELLED
        if len(np.unique(label[known])) < 2:
            continue
        one_hot = (label[:, None] == classes).astype(np.float32)
        reference = TickFeatures(
            start_s=float(ticks.start_s[own][0]),
            known=known,
            semantic=one_hot,
            code=None,
            plain=one_hot,
            motion=one_hot,
        )
        found.append(dataclasses.replace(clip, reference=reference))
    return found


def response_in_training(
    config: ConfigDict, run: OpenedRun, keep_in: pathlib.Path
) -> Response | None:
    """Measures the delay of the reference's encoder on recordings of the training.

    Args:
      config: of the search.
      run: whose encoders.
      keep_in: where features are kept.

    Returns:
      None where these recordings are gone or have no labels, or as `response`.
    """
    material = training_data(run)
    if material is None:
        return None
    some = dataclasses.replace(material, numbers=material.numbers[:MOST_RECORDINGS])
    data, store = run.config.data, material.store
    if (store.timelines()[0].streams[data.reference_stream].label == UNLABELLED).all():
        return None
    return response(encode(config, run, some, keep_in), store, config, data)


def response(
    clips: Sequence[Clip], store: RecordingStore, config: ConfigDict, data: ConfigDict
) -> Response | None:
    """Measures how late the reference's encoder responds to what is labelled.

    Args:
      clips: of labelled recordings.
      store: the recordings.
      config: of the search.
      data: the run's settings of data.

    Returns:
      None where there are no labels that change within a clip, or where they say too
      little: fewer than three recordings, an interval wider than a window, or a peak at
      the edge of the range.
    """
    window_s = data.window_ticks * data.tick_s
    by_place = {(clip.recording, clip.number): clip for clip in clips}
    # The labels lead, the features follow.
    pairs = [
        dataclasses.replace(
            own,
            reference=by_place[own.recording, own.number].reference,
            leading=own.reference,
        )
        for own in with_labels(clips, store, data)
    ]
    if len({pair.recording for pair in pairs}) < LEAST_RECORDINGS:
        return None
    layout = lead_layout.layout(
        pairs,
        tick_s=data.tick_s,
        least_s=-_RANGE_WINDOWS * window_s,
        most_s=_RANGE_WINDOWS * window_s,
        unit_ticks=lead_layout.UNIT_WINDOWS * data.window_ticks,
    )
    rows = indicators.make_rows(
        layout, [KIND], window_ticks=data.window_ticks, dimensions=config.dimensions
    )
    kinds = {KIND: indicators.INDICATORS[KIND]}
    sums = curves.lead_sums(rows, kinds, layout.leads, unit_ticks=layout.unit_ticks)
    curve = sums[KIND].curve()
    weights = statistics.bootstrap_weights(
        layout.unit_recording(), draws=config.bootstrap_draws, seed=config.seed
    )
    units = layout.unit_recording()
    members = [units == number for number in range(len(layout.names))]
    alone = [sums[KIND].chosen(own).curve() for own in members]
    found = statistics.peaks(
        np.concatenate([curve[None], alone, sums[KIND].curves(weights)]),
        layout.lead_s,
        half_width=max(1, round(window_s / data.tick_s / statistics.PEAK_SHARE)),
    )
    delay_s, own, drawn = found[0], found[1 : 1 + len(alone)], found[1 + len(alone) :]
    low, high = statistics.interval(drawn, float(delay_s), units=len(units))
    if np.nanargmax(curve) in (0, len(curve) - 1) or high - low > window_s:
        return None
    # Robust, since a recording of few events may be anywhere.
    spread_s = float(median_abs_deviation(own, scale="normal"))
    return Response(float(delay_s), (low, high), len(alone), spread_s)
