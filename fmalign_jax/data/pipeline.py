"""From the window index to batches: the one file that knows Grain.

The order of the windows is a function of the seed alone: whole global batches of window
numbers are drawn first, and each process then assembles its own contiguous rows. Hence
the state is one number, the same on all processes, and resumes exactly over another
number of processes or threads. (Grain's ElasticIterator deals rows out in turn instead,
so that the place of a window in the global batch changes with the number of processes.)
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping

import grain
import numpy as np
from jaxtyping import Int, Int32, Shaped
from numpy import ndarray

from fmalign_jax.data.alignment import WindowIndex
from fmalign_jax.data.store import RecordingStore
from fmalign_jax.structs import UNLABELLED, Batch, StreamStatistics

_STATISTICS_BYTES = 32 << 20
_CONSTANT = 1e-6  # of the mean's size: a smaller deviation is rounding


class TrainingBatches:
    """Endless training batches, shuffled anew in every epoch; iterate once.

    The windows that do not fill a batch at the end of an epoch are left out of it;
    they are others in each epoch. Close it when done.

    Attributes:
      steps_per_epoch: batches in an epoch.
    """

    def __init__(
        self,
        batches: grain.MapDataset,
        *,
        steps_per_epoch: int,
        order: Mapping[str, int],
        read_options: grain.ReadOptions,
    ) -> None:
        self.steps_per_epoch = steps_per_epoch
        self._order = dict(order)
        self._iterator = iter(batches.to_iter_dataset(read_options))

    def __iter__(self) -> TrainingBatches:
        return self

    def __next__(self) -> Batch:
        return next(self._iterator)

    def get_state(self) -> dict[str, int]:
        """Returns how far the batches were drawn, and of which order, for JSON."""
        return {"next_batch": self._iterator.get_state()["next_index"], **self._order}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Continues where a state was taken.

        Raises:
          ValueError: the state belongs to another order of windows.
        """
        other = {k: v for k, v in state.items() if k != "next_batch"}
        if other != self._order:
            raise ValueError(
                "a data state continues only the order it was taken from; got "
                f"{other} for {self._order}; resume with the same data, windows, seed "
                "and global batch size, or start a new run"
            )
        self._iterator.set_state({"next_index": int(state["next_batch"])})

    def close(self) -> None:
        """Stops reading ahead."""
        self._iterator.close()


class EvaluationBatches:
    """Every window once, in order; the last batch padded, with mask False there.

    Each process gets its contiguous rows of every batch, and all the same number of
    batches. Can be iterated any number of times.
    """

    def __init__(
        self,
        store: RecordingStore,
        index: WindowIndex,
        *,
        batch_size: int,
        rows: slice,
        read_options: grain.ReadOptions,
    ) -> None:
        self._store = store
        self._index = index
        self._batch_size = batch_size
        self._rows = rows
        self._read_options = read_options

    def __len__(self) -> int:
        return math.ceil(len(self._index) / self._batch_size)

    def __getitem__(self, batch: int) -> Batch:
        if not 0 <= batch < len(self):
            raise IndexError(f"batch {batch} of {len(self)}")
        windows = batch * self._batch_size + np.arange(self._batch_size)[self._rows]
        return assemble(self._store, self._index, windows)

    def __iter__(self) -> Iterator[Batch]:
        if not len(self):
            return
        numbers = grain.MapDataset.range(len(self))
        batches = iter(
            numbers.map(self.__getitem__).to_iter_dataset(self._read_options)
        )
        try:
            yield from batches
        finally:
            batches.close()


def training_batches(
    store: RecordingStore,
    index: WindowIndex,
    *,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
    prefetch: int = 4,
) -> TrainingBatches:
    """Starts endless shuffled batches.

    Args:
      store: the values.
      index: the training windows.
      batch_size: windows in a batch of all processes together.
      seed: of the order; every epoch has its own.
      process_index: which rows of each batch to assemble.
      process_count: processes that share each batch, evenly.
      threads: threads that assemble batches; 0 for none.
      prefetch: batches assembled ahead.

    Raises:
      ValueError: fewer windows than a batch, or an uneven share.
    """
    rows = _process_rows(batch_size, process_index, process_count)
    if len(index) < batch_size:
        raise ValueError(
            f"a batch takes {batch_size} windows; got {len(index)} training windows; "
            "use a smaller batch, a smaller stride or more recordings"
        )

    def read(windows: Int[ndarray, " G"]) -> Batch:
        return assemble(store, index, windows[rows])

    batches = (
        grain.MapDataset.range(len(index))
        .seed(seed)
        .shuffle()
        .batch(batch_size, drop_remainder=True, batch_fn=np.asarray)
        .repeat()
        .map(read)
    )
    return TrainingBatches(
        batches,
        steps_per_epoch=len(index) // batch_size,
        order={
            "seed": seed,
            "batch_size": batch_size,
            "windows": len(index),
            "windows_crc32": windows_digest(store, index),
        },
        read_options=grain.ReadOptions(threads, prefetch),
    )


def evaluation_batches(
    store: RecordingStore,
    index: WindowIndex,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
    prefetch: int = 4,
) -> EvaluationBatches:
    """Lays out batches that count every window once; see `training_batches`.

    Raises:
      ValueError: an uneven share of rows.
    """
    return EvaluationBatches(
        store,
        index,
        batch_size=batch_size,
        rows=_process_rows(batch_size, process_index, process_count),
        read_options=grain.ReadOptions(threads, prefetch),
    )


def assemble(
    store: RecordingStore, index: WindowIndex, windows: Int[ndarray, " B"]
) -> Batch:
    """Reads windows by number; those past the last are padding, masked out."""
    mask = windows < len(index)
    windows = np.minimum(windows, len(index) - 1)
    recording = index.recording[windows]
    return Batch(
        streams={
            name: _values(store, name, recording, samples)
            for name, samples in index.samples(windows).items()
        },
        label=np.where(mask[:, None], index.label(windows), np.int32(UNLABELLED)),
        mask=mask,
        recording=recording,
        time_s=index.time_s[windows],
    )


def windows_digest(store: RecordingStore, index: WindowIndex) -> int:
    """Returns a number that changes when the windows or the raw data do."""
    parts = [store.fingerprint.encode(), index.start.tobytes()]
    parts += [
        index.ticks.samples[name].tobytes() for name in sorted(index.ticks.samples)
    ]
    return functools.reduce(lambda crc, part: zlib.crc32(part, crc), parts, 0)


def statistics(
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
    recording, sample = index.reads(name)
    n = min(max_samples, len(sample))
    picked = ((np.arange(n) + 0.5) * len(sample) / n).astype(np.int64)
    count, mean, squares = 0, np.zeros(1), np.zeros(1)
    for values in _portions(store, name, recording[picked], sample[picked]):
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


def _portions(
    store: RecordingStore,
    name: str,
    recording: Int[ndarray, " S"],
    sample: Int[ndarray, " S"],
) -> Iterator[Shaped[ndarray, "S ..."]]:
    """Reads samples that are in order, a bounded portion at a time."""
    size = max(1, _STATISTICS_BYTES // (8 * store.streams[name].sample_bytes))
    for number in np.unique(recording):
        own = sample[recording == number]
        for start in range(0, len(own), size):
            yield store.gather(name, int(number), own[start : start + size])


def _values(
    store: RecordingStore,
    name: str,
    recording: Int32[ndarray, " B"],
    samples: Int[ndarray, "B T R"],
) -> Shaped[ndarray, "B T R ..."]:
    info = store.streams[name]
    values = np.empty((*samples.shape, *info.value_shape), info.dtype)
    for row, number in enumerate(recording.tolist()):
        values[row] = store.gather(name, number, samples[row])
    return values


def _process_rows(batch_size: int, process_index: int, process_count: int) -> slice:
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            "a batch must divide evenly over the processes; got batch_size="
            f"{batch_size} for {process_count}; use a multiple of {process_count}"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(
            f"process_index must lie in [0, {process_count}); got {process_index}"
        )
    share = batch_size // process_count
    return slice(process_index * share, (process_index + 1) * share)
