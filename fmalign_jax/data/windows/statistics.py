"""Mean and deviation of each channel over the training windows."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from fmalign_jax.data.store import RecordingStore
from fmalign_jax.data.windows.index import WindowIndex
from fmalign_jax.structs import StreamStatistics

_CONSTANT = 1e-6  # of the mean's size: a smaller deviation is rounding


def channel_statistics(
    store: RecordingStore,
    index: WindowIndex,
    streams: Iterable[str],
    *,
    max_samples: int = 10_000,
) -> dict[str, StreamStatistics]:
    """Measures mean and standard deviation per channel over training windows.

    Each sample counts once, however many windows read it. Of more than max_samples, an
    even subsample is taken, one of each stretch of equal length. A channel whose
    deviation is within rounding of 0 (at most 1e-6 of its mean) gets deviation 1.

    Args:
      store: the values.
      index: the training windows.
      streams: names; streams of integers other than uint8 (tokens) are passed over.
      max_samples: samples of a stream to read at most.

    Returns:
      By stream, float32 [C] each, C the last axis of the values (1 for none).
    """
    return {
        name: _stream_statistics(store, index, name, max_samples)
        for name in streams
        if _is_continuous(store.streams[name].dtype)
    }


def _is_continuous(dtype: np.dtype) -> bool:
    return dtype == np.uint8 or np.issubdtype(dtype, np.floating)


def _stream_statistics(
    store: RecordingStore, index: WindowIndex, name: str, max_samples: int
) -> StreamStatistics:
    recording, sample = _picked(index, name, max_samples)
    count, mean, squares = 0, np.zeros(1), np.zeros(1)
    for values in store.portions(name, recording, sample):
        # Channels first: NumPy sums long rows fast, and pairwise, so exactly.
        flat = values.reshape(-1, values.shape[-1] if values.ndim > 1 else 1)
        part = np.ascontiguousarray(flat.T, dtype=np.float64)
        # Merging (count, mean, squared deviations) is Chan, Golub and LeVeque 1979.
        shift, n_part = part.mean(axis=1) - mean, part.shape[1]
        total = count + n_part
        squares = squares + part.var(axis=1) * n_part
        squares += shift**2 * (count * n_part / total)
        mean = mean + shift * (n_part / total)
        count = total
    std = np.sqrt(squares / count)
    std = np.where(std <= _CONSTANT * np.abs(mean), 1.0, std)
    return StreamStatistics(mean=mean.astype(np.float32), std=std.astype(np.float32))


def _picked(
    index: WindowIndex, name: str, most: int
) -> tuple[Int64[ndarray, " n"], Int64[ndarray, " n"]]:
    """Returns recording and position of at most so many samples that windows read."""
    total = sum(len(samples) for _, samples in index.read_samples(name))
    n = min(most, total)
    picked = ((np.arange(n) + 0.5) * total / n).astype(np.int64)
    recordings, parts = [], []
    begin = 0
    for number, samples in index.read_samples(name):
        end = begin + len(samples)
        own = picked[(picked >= begin) & (picked < end)] - begin
        recordings.append(np.full(len(own), number, np.int64))
        parts.append(samples[own])
        begin = end
    return np.concatenate(recordings), np.concatenate(parts)
