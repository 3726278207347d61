"""Labelled windows of one tick, of recordings that have no file."""

from unittest import mock

import numpy as np

from fmalign_jax.data.store import RecordingStore
from fmalign_jax.data.windows.index import WindowIndex
from fmalign_jax.data.windows.ticks import Segments, Ticks
from fmalign_jax.evaluation.labelled_windows import LabelledWindows
from fmalign_jax.evaluation.splits import EvaluationSplits


def evaluation_splits(labels, *, recordings):
    """Returns splits of two classes.

    Args:
      labels: by split [N].
      recordings: of each split, with the same number of windows.
    """
    splits = {name: _split(name, own, recordings) for name, own in labels.items()}
    return EvaluationSplits(("normal", "abnormal"), splits, None)


def segments_of(recording, start_s, tick_s=1.0):
    """Returns the stretches of ticks of one recording each.

    Args:
      recording: [n], of each tick.
      start_s: [n], where each tick starts; evenly within a stretch.
      tick_s: length of a tick.
    """
    recording = np.asarray(recording, np.int32)
    first = np.flatnonzero(np.diff(recording, prepend=-1))
    return Segments(
        first=np.append(first, len(recording)),
        recording=recording[first],
        clip=np.zeros(len(first), np.int32),
        start_s=np.asarray(start_s, np.float64)[first],
        tick_s=np.full(len(first), tick_s),
    )


def _split(name, label, recordings):
    n = len(label)
    number = (np.arange(n) * recordings // n).astype(np.int32)
    ticks = Ticks(
        samples={},
        usable=np.ones(n, bool),
        label=label.astype(np.int32),
        segments=segments_of(number, np.arange(n)),
    )
    store = mock.Mock(spec=RecordingStore)
    store.names = tuple(f"{name}_{number}" for number in range(recordings))
    windows = WindowIndex(ticks, np.arange(n), 1, "recording")
    return LabelledWindows(name, "the run", store, windows, label)
