"""Labelled windows of one tick, of recordings that have no file."""

from unittest import mock

import numpy as np

from fmalign_jax.data.store import RecordingStore
from fmalign_jax.data.windows.index import WindowIndex
from fmalign_jax.data.windows.ticks import Ticks
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


def _split(name, label, recordings):
    n = len(label)
    number = (np.arange(n) * recordings // n).astype(np.int32)
    ticks = Ticks(
        samples={},
        usable=np.ones(n, bool),
        label=label.astype(np.int32),
        recording=number,
        clip=np.zeros(n, np.int32),
        segment=number.astype(np.int64),
        start_s=np.arange(n, dtype=np.float64),
        end_s=np.arange(n) + 1.0,
    )
    store = mock.Mock(spec=RecordingStore)
    store.names = tuple(f"{name}_{number}" for number in range(recordings))
    windows = WindowIndex(ticks, np.arange(n), 1, "recording")
    return LabelledWindows(name, "the run", store, windows, label)
