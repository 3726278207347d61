"""The windows of one split as flat tables: values once, and where each window reads.

Windows overlap, and native rates are higher than what ticks read. Each sample that any
window reads is kept once, as stored, so that the tables of a whole split may fit a
device; a window is then read by its number alone. Any clocks, gaps and numbers of
samples a tick are allowed, since every tick says which samples it reads.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from jaxtyping import Shaped
from numpy import ndarray

from fmalign_jax.data.store import RecordingStore
from fmalign_jax.data.windows.index import WindowIndex


class WindowTables(TypedDict):
    """N windows of T ticks each, which read n ticks (NumPy or jax.Array).

    Keys:
      values: by stream [S, ...], each sample that any window reads, in the dtype it was
        recorded in.
      samples: by stream int32 [n, R], the rows of `values` that a tick reads.
      label: int32 [n], class of each tick, -1 unknown.
      start: int32 [N], first tick of each window; its ticks follow one another.
      recording: int32 [N], position of the window's recording in the data set.
      time_s: float64 [N], centre of the window; on the device float32 [N, 2], two
        numbers whose sum it is.
    """

    values: dict[str, ndarray]
    samples: dict[str, ndarray]
    label: ndarray
    start: ndarray
    recording: ndarray
    time_s: ndarray


def tables_bytes(store: RecordingStore, index: WindowIndex) -> int:
    """Returns how many bytes the values and samples of `window_tables` take."""
    ticks = len(index.read_ticks())
    return sum(
        len(index.read_keys(name)) * store.streams[name].sample_bytes
        + ticks * slots.shape[1] * np.dtype(np.int32).itemsize
        for name, slots in index.ticks.samples.items()
    )


def window_tables(store: RecordingStore, index: WindowIndex) -> WindowTables:
    """Reads all windows of a split into memory.

    Args:
      store: the values.
      index: the windows.

    Raises:
      ValueError: the stored data are damaged.
    """
    tick = index.read_ticks()
    streams = sorted(index.ticks.samples)
    return WindowTables(
        values={name: _values(store, index, name) for name in streams},
        samples={
            name: np.searchsorted(index.read_keys(name), index.keys(name, tick)).astype(
                np.int32
            )
            for name in streams
        },
        label=index.ticks.label[tick],
        # All ticks of a window are among those read, so they still follow one another.
        start=np.searchsorted(tick, index.start).astype(np.int32),
        recording=index.recording,
        time_s=index.time_s,
    )


def _values(
    store: RecordingStore, index: WindowIndex, name: str
) -> Shaped[ndarray, "S ..."]:
    recordings, samples = index.reads(name)
    info = store.streams[name]
    values = np.empty((len(samples), *info.value_shape), info.dtype)
    filled = 0
    for portion in store.portions(name, recordings, samples):
        values[filled : filled + len(portion)] = portion
        filled += len(portion)
    return values
