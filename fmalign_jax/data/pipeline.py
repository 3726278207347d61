"""From the window index to batches: the one file that knows Grain.

The order of the windows is a function of the seed alone: whole global batches of window
indices are drawn first, and each process then assembles its own contiguous rows. Hence
the state is one number, the same on all processes, and resumes exactly over another
number of processes or threads. (Grain's ElasticIterator deals rows out in turn instead,
so that the place of a window in the global batch changes with the number of processes.)
"""

from __future__ import annotations

import functools
import logging
import math
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypedDict

import grain
import numpy as np
from jaxtyping import Int, Int32, Shaped
from numpy import ndarray

from fmalign_jax.data.store import RecordingStore
from fmalign_jax.data.windows.index import WindowIndex
from fmalign_jax.data.windows.ticks import smallest_int
from fmalign_jax.structs import UNLABELLED, Batch

_DIGESTED = 1 << 16  # rows of a table at a time

_Read = Callable[[Int[ndarray, " B"]], Any]


class WindowIndices(TypedDict):
    """A batch of windows that are on the device: their indices alone.

    Keys:
      window: int32 [B], index of each window; past the last it is padding.
    """

    window: Int32[ndarray, " B"]


class TrainingBatches:
    """Endless training batches, shuffled again in every epoch; iterate once.

    Each is a `Batch`, or `WindowIndices` where those were asked for.

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
        raw_files: str,
        read_options: grain.ReadOptions,
    ) -> None:
        self.steps_per_epoch = steps_per_epoch
        self._order = dict(order)
        self._raw_files = raw_files
        self._iterator = iter(batches.to_iter_dataset(read_options))

    def __iter__(self) -> TrainingBatches:
        return self

    def __next__(self) -> Mapping[str, Any]:
        return next(self._iterator)

    def get_state(self) -> dict[str, Any]:
        """Returns how far the batches were drawn, and of which order, for JSON."""
        return {
            "next_batch": self._iterator.get_state()["next_index"],
            "raw_files": self._raw_files,
            **self._order,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues where a state was taken; warns if raw files look changed since.

        Raises:
          ValueError: the state belongs to another order of windows.
        """
        other = {k: v for k, v in state.items() if k not in ("next_batch", "raw_files")}
        if other != self._order:
            raise ValueError(
                "a data state continues only the order it was taken from; got "
                f"{other} for {self._order}; resume with the same data, windows, seed "
                "and global batch size, or start a new run"
            )
        if state["raw_files"] != self._raw_files:
            logging.warning(
                "the raw files have other dates or sizes than when this run was saved; "
                "their clocks are the same, and the run continues with them"
            )
        self._iterator.set_state({"next_index": int(state["next_batch"])})

    def close(self) -> None:
        """Stops reading ahead."""
        self._iterator.close()


class EvaluationBatches:
    """Every window once, in order; the last batch padded, with mask False there.

    Each is a `Batch`, or `WindowIndices` where those were asked for.

    Each process gets its contiguous rows of every batch, and all the same number of
    batches. Can be iterated any number of times.
    """

    def __init__(
        self,
        read: _Read,
        *,
        windows: int,
        batch_size: int,
        rows: slice,
        read_options: grain.ReadOptions,
    ) -> None:
        self._read = read
        self._windows = windows
        self._batch_size = batch_size
        self._rows = rows
        self._read_options = read_options

    def __len__(self) -> int:
        return math.ceil(self._windows / self._batch_size)

    def __getitem__(self, batch: int) -> Mapping[str, Any]:
        if not 0 <= batch < len(self):
            raise IndexError(f"batch {batch} of {len(self)}")
        windows = batch * self._batch_size + np.arange(self._batch_size)[self._rows]
        return self._read(windows)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
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
    batch_from: str = "all",
    indices_only: bool = False,
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
      batch_from: "all" mixes the windows of all recordings; "recording" takes those of
        a batch from one recording. Recordings with fewer windows than a batch share
        batches; if they do not fill one, it is topped up with windows of the others.
      indices_only: give `WindowIndices`, for windows that are on the device; they come
        in the same order and continue the same states.
      process_index: which rows of each batch to assemble.
      process_count: processes that share each batch, evenly.
      threads: threads that assemble batches; 0 for none.
      prefetch: batches assembled ahead.

    Raises:
      ValueError: fewer windows than a batch, an uneven share, or an unknown
        `batch_from`.
    """
    rows = _process_rows(batch_size, process_index, process_count)
    steps_per_epoch = batches_per_epoch(index, batch_size, batch_from)

    read = _reader(store, index, indices_only)

    if batch_from == "all":
        windows = (
            grain.MapDataset.range(len(index))
            .seed(seed)
            .shuffle()
            .batch(batch_size, drop_remainder=True, batch_fn=np.asarray)
            .repeat()
        )
    else:
        windows = grain.MapDataset.source(
            _RecordingBatches(index.by_recording(), batch_size, steps_per_epoch, seed)
        )
    order = {
        "seed": seed,
        "batch_size": batch_size,
        "windows": len(index),
        "windows_crc32": windows_digest(store, index, batch_from),
    }
    shared = len(short_recordings(index, batch_size, batch_from))
    if shared:  # other batches than those of a run that left them out
        order["recordings_sharing_batches"] = shared
    return TrainingBatches(
        windows.map(lambda numbers: read(numbers[rows])),
        steps_per_epoch=steps_per_epoch,
        order=order,
        raw_files=store.fingerprint,
        read_options=grain.ReadOptions(threads, prefetch),
    )


def batches_per_epoch(index: WindowIndex, batch_size: int, batch_from: str) -> int:
    """Returns how many training batches one pass over the windows gives.

    Raises:
      ValueError: as `training_batches`.
    """
    if batch_from not in ("all", "recording"):
        raise ValueError(
            f"batch_from must be 'all' or 'recording'; got {batch_from!r}; correct "
            "the config"
        )
    counts = np.array([len(index)])
    short = 0
    if batch_from == "recording":
        counts = _lengths(index.by_recording())
        short = int(counts[counts < batch_size].sum())
    steps = int((counts // batch_size).sum()) + _short_batches(short, batch_size)
    if len(index) < batch_size:
        raise ValueError(
            f"a batch takes {batch_size} windows; got {len(index)} training windows in "
            "all; use a smaller batch, a smaller stride or more recordings"
        )
    return steps


def short_recordings(
    index: WindowIndex, batch_size: int, batch_from: str
) -> Int[ndarray, " n"]:
    """Returns which recordings have too few windows for a batch of their own."""
    if batch_from != "recording":
        return np.zeros(0, np.int64)
    windows = index.by_recording()
    return np.array(list(windows), np.int64)[_lengths(windows) < batch_size]


def _lengths(windows: Mapping[int, slice]) -> Int[ndarray, " n"]:
    return np.array([own.stop - own.start for own in windows.values()], np.int64)


def _short_batches(windows: int, batch_size: int) -> int:
    """Returns how many batches the windows of all short recordings make."""
    return max(windows // batch_size, min(windows, 1))


class _RecordingBatches:
    """Window indices of batch after batch, each of one recording, shuffled by epoch."""

    _EPOCHS = 1 << 30

    def __init__(
        self,
        windows: Mapping[int, slice],
        batch_size: int,
        steps_per_epoch: int,
        seed: int,
    ) -> None:
        self._windows = windows
        self._batch_size = batch_size
        self._steps = steps_per_epoch
        self._seed = seed
        self._epoch = functools.lru_cache(maxsize=2)(self._draw)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._EPOCHS * self._steps

    def __repr__(self) -> str:
        return f"_RecordingBatches(steps={self._steps}, seed={self._seed})"

    def __getitem__(self, number: int) -> Int[ndarray, " G"]:
        epoch, step = divmod(int(number), self._steps)
        with self._lock:  # or each reading thread would draw the same epoch
            batches, order = self._epoch(epoch)
        return batches[order[step]].astype(np.int64)

    def _draw(self, epoch: int) -> tuple[Int[ndarray, "S G"], Int[ndarray, " S"]]:
        """Returns the batches of an epoch by recording, and the order they come in."""
        rng = np.random.default_rng([self._seed, epoch])
        size = self._batch_size
        lengths = _lengths(self._windows)
        few = int(lengths[lengths < size].sum())
        topped_up = few < _short_batches(few, size) * size
        most = max(own.stop for own in self._windows.values())
        batches = np.empty((self._steps, size), smallest_int(most))
        filled = 0
        short, others = [], []
        for own in self._windows.values():
            windows = rng.permutation(np.arange(own.start, own.stop))
            if len(windows) < size:
                short.append(windows)
                continue
            full = len(windows) // size
            batches[filled : filled + full] = windows[: full * size].reshape(-1, size)
            filled += full
            if topped_up:
                others.append(windows)
        if short:
            mixed = rng.permutation(np.concatenate(short))
            if topped_up:
                mixed = np.append(mixed, rng.permutation(np.concatenate(others)))
            batches[filled:] = mixed[: (self._steps - filled) * size].reshape(-1, size)
        return batches, rng.permutation(self._steps)


def evaluation_batches(
    store: RecordingStore,
    index: WindowIndex,
    *,
    batch_size: int,
    indices_only: bool = False,
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
        _reader(store, index, indices_only),
        windows=len(index),
        batch_size=batch_size,
        rows=_process_rows(batch_size, process_index, process_count),
        read_options=grain.ReadOptions(threads, prefetch),
    )


def _reader(store: RecordingStore, index: WindowIndex, indices_only: bool) -> _Read:
    if indices_only:
        return lambda windows: WindowIndices(window=windows.astype(np.int32))
    return functools.partial(assemble, store, index)


def assemble(
    store: RecordingStore, index: WindowIndex, windows: Int[ndarray, " B"]
) -> Batch:
    """Reads windows by index; those past the last are padding, masked out."""
    mask = windows < len(index)
    windows = np.minimum(windows, len(index) - 1)
    recording = index.recording_of(windows)
    return Batch(
        streams={
            name: _values(store, name, recording, samples)
            for name, samples in index.samples(windows).items()
        },
        label=np.where(mask[:, None], index.label(windows), np.int32(UNLABELLED)),
        mask=mask,
        recording=recording,
        time_s=index.centre_s(windows),
    )


def windows_digest(store: RecordingStore, index: WindowIndex, batch_from: str) -> int:
    """Returns a number that changes when the windows or their mixing do.

    Recordings are identified by their names and clocks, so that raw files may be copied
    or moved: dates of files do not count.
    """
    crc = zlib.crc32(batch_from.encode())
    for table in (index.start, *(t for _, t in sorted(index.ticks.samples.items()))):
        for numbers in _as_int64(table):
            crc = zlib.crc32(numbers, crc)
    for timeline in store.timelines():
        crc = zlib.crc32(timeline.name.encode(), crc)
        for name, stream in sorted(timeline.streams.items()):
            for part in (name.encode(), stream.time_s.tobytes(), stream.clip.tobytes()):
                crc = zlib.crc32(part, crc)
    return crc


def _as_int64(table: Int[ndarray, "n ..."]) -> Iterator[memoryview]:
    """Gives the numbers of a table as they are digested, a part at a time.

    Runs were saved with digests of int64, whatever a table is stored as now.
    """
    for begin in range(0, len(table), _DIGESTED):
        yield np.ascontiguousarray(table[begin : begin + _DIGESTED], np.int64).data


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
